"""Image files of every kind into radiographs: what a file is decides its first bytes, not its name."""

from pathlib import Path

import cv2
import numpy as np

from datasets.headers import JPEG, PNG, check_size, jpeg_size, png_size
from datasets.limits import Limits, NotRead, Unreadable
from datasets.radiograph import Radiograph, luma


def read(path: Path, *, cover: int | None = None, window: int | None = 0, limits: Limits | None = None) -> Radiograph:
    """Read and decode one file; see `decode`."""
    return decode(content_of(path), cover=cover, window=window, limits=limits or Limits())


def content_of(path: Path) -> bytes:
    """Return a file's content.

    Raises:
        NotRead: with the reason, free of identifiers.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise NotRead("file is missing") from None
    except OSError as error:
        raise NotRead(f"file cannot be read: {type(error).__name__}") from None


def decode(content: bytes, *, cover: int | None, window: int | None, limits: Limits) -> Radiograph:
    """Decode PNG (8 or 16 bits, grey, RGB or RGBA), JPEG or DICOM.

    Args:
        content: the whole file.
        cover: shorter side, in pixels, below which detail is not needed; JPEG 2000 is then decoded reduced.
        window: which window or VOI LUT of a DICOM file to apply; None, none.
        limits: on declared pixels and inflated bytes. Memory and time are bounded by the process, so
            files that are not trusted belong into `datasets.decoding.decode_all`.

    Raises:
        Unreadable: with the reason, free of identifiers.
    """
    if content.startswith(PNG):
        check_size(*png_size(content), limits)
        return _by_opencv(content)
    if content.startswith(JPEG):
        check_size(*jpeg_size(content), limits)
        return _by_opencv(content)
    if not content:
        raise Unreadable("file is empty")
    from datasets import dicom  # pydicom costs 0.3 s, and PNG collections never need it

    if dicom.is_dicom(content[:132]):
        return dicom.read(content, cover=cover, window=window, limits=limits)
    raise Unreadable("neither PNG, JPEG nor DICOM")


def _by_opencv(content: bytes) -> Radiograph:
    try:
        values = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise (MemoryError() if "memory" in str(error).lower() else Unreadable("OpenCV cannot decode it")) from None
    if values is None:
        raise Unreadable("OpenCV cannot decode it")
    if values.dtype not in (np.uint8, np.uint16):
        raise Unreadable(f"{values.dtype} values")
    bits = 8 * values.dtype.itemsize
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if values.ndim == 3:
        if bits != 8 or values.shape[2] not in (3, 4):
            raise Unreadable(f"{values.shape[2]} channels of {bits} bits")
        values = luma(values[..., 2::-1])  # OpenCV says BGR; an alpha channel is dropped, as NIH's RGBA files need
    return Radiograph(values, bits)
