"""A decoded radiograph, still at its true bit depth."""

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True, slots=True)
class Radiograph:
    """One grey image before it is windowed and resized.

    Attributes:
        values: uint8 or uint16 (H, W), stored values from 0 to 2**bits - 1, more is brighter.
        bits: true bit depth.
        table: float32 (2**bits,), display value in [0, 1] of each stored value; None: value / (2**bits - 1).
    """

    values: np.ndarray
    bits: int
    table: np.ndarray | None = None

    def displayed(self) -> np.ndarray:
        """Return float32 (H, W) in [0, 1]: one gather from the table, at any bit depth."""
        if self.table is None:
            return self.values.astype(np.float32) * np.float32(1 / (2**self.bits - 1))
        return gather(self.table, self.values)


def gather(table: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return table[values], more than twice as fast: OpenCV reads the table without indices of 64 bits.

    Args:
        table: float32 or float64, one entry per stored value; values beyond it get its last entry.
        values: uint8 or uint16, any shape of two dimensions.
    """
    whole = np.full(2 ** (8 * values.dtype.itemsize), table[-1], dtype=table.dtype)
    whole[: len(table)] = table[: len(whole)]
    return np.asarray(cv2.LUT(values, whole))


def luma(colour: np.ndarray) -> np.ndarray:
    """Return uint8 (H, W) grey of uint8 (H, W, 3) RGB by ITU-R BT.601, exact where R = G = B."""
    weights = np.array([4899, 9617, 1868], dtype=np.uint32)  # 0.299, 0.587, 0.114 in 1/16384; their sum is 16384
    return ((colour[..., :3].astype(np.uint32) @ weights + 8192) >> 14).astype(np.uint8)
