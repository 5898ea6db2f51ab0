"""From a radiograph at its true bit depth to the uint8 square that a network sees, under a name."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import cv2
import numpy as np

from datasets.errors import DatasetError
from datasets.limits import Unreadable
from datasets.radiograph import Radiograph

VERSION = 1
"""Raised whenever the same settings begin to give other pixels; part of every cache's key."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """One way from file to square, and what the network is given.

    Attributes:
        name: under which studies ask for it.
        window: DICOM window or VOI LUT that is applied, from 0; None works on stored values, without rescale.
        geometry: `squash` ignores the aspect ratio, `pad` keeps it with black borders, `crop` keeps it and
            cuts the longer side to its centre.
        resampling: `area` averages what falls into a pixel; `spline` interpolates (order 2) without averaging.
        intensity: `percentile` stretches the 0.5th–99.5th percentile to 0–255; `minmax` the whole range;
            `fixed` keeps the range of the bit depth.
        equalize: histogram equalisation of the uint8 square.
        normalization: `backbone` subtracts the backbone's mean and divides by its deviation; `none` gives [0, 1].
        reduced: JPEG 2000 may be decoded at a reduced resolution that still covers the target.
        effort: how many times the usual processor time one file may take.
    """

    name: str
    window: int | None
    geometry: Literal["squash", "pad", "crop"]
    resampling: Literal["area", "spline"]
    intensity: Literal["percentile", "minmax", "fixed"]
    equalize: bool
    normalization: Literal["backbone", "none"]
    reduced: bool = True
    effort: float = 1.0

    def description(self) -> dict[str, Any]:
        """Return everything that decides about the network's input, as JSON: for runs and packaged models."""
        described = asdict(self)
        del described["effort"]
        return {**described, "version": VERSION}

    def pixels(self) -> dict[str, Any]:
        """Return what decides about the uint8 square alone; specifications equal in this share a cache."""
        return {key: value for key, value in self.description().items() if key not in ("name", "normalization")}

    def cover(self, resolution: int) -> int | None:
        """Return the shorter side that a decoder has to deliver, None for all there is."""
        return resolution if self.reduced else None

    def square(self, radiograph: Radiograph, resolution: int) -> np.ndarray:
        """Return uint8 (resolution, resolution); the bit depth is cut last.

        Raises:
            Unreadable: there is nothing to see; stretched, it would be a black square with labels.
        """
        image = radiograph.values if self.window is None else radiograph.displayed()
        if image.min() == image.max():
            raise Unreadable("all its pixels have one value")
        resized = self._resized(image, resolution)
        pixels = self._quantized(resized, radiograph)
        if self.equalize:
            pixels = np.asarray(cv2.equalizeHist(pixels))
        return pixels if self.geometry != "pad" else _padded(pixels, resolution)

    def _resized(self, image: np.ndarray, resolution: int) -> np.ndarray:
        height, width = image.shape
        if self.geometry == "crop":
            side = min(height, width)
            top, left = (height - side) // 2, (width - side) // 2
            image = image[top : top + side, left : left + side]
        target = (resolution, resolution)
        if self.geometry == "pad":
            scale = resolution / max(height, width)
            target = (max(1, round(height * scale)), max(1, round(width * scale)))
        if self.resampling == "spline":
            import scipy.ndimage  # imported where it is used: commands that decode nothing do not wait for it

            zoom = (target[0] / image.shape[0], target[1] / image.shape[1])
            return np.asarray(scipy.ndimage.zoom(image, zoom, order=2))  # rounds to whole stored values, as theirs
        enlarging = target[0] > image.shape[0] or target[1] > image.shape[1]
        method = cv2.INTER_LINEAR if enlarging else cv2.INTER_AREA
        return np.asarray(cv2.resize(image.astype(np.float32, copy=False), target[::-1], interpolation=method))

    def _quantized(self, image: np.ndarray, radiograph: Radiograph) -> np.ndarray:
        if self.intensity == "percentile":
            low, high = np.percentile(image, (0.5, 99.5))
        elif self.intensity == "minmax":
            low, high = float(image.min()), float(image.max())
        else:
            low, high = 0.0, 1.0 if self.window is not None else float(2**radiograph.bits - 1)
        if high <= low:
            raise Unreadable("99 % of its pixels or more have one value")
        unit = np.clip((image - low) * (255.0 / (high - low)), 0, 255)
        # The paper's `astype(uint8)` cuts off; the others round.
        return np.asarray(unit if self.intensity == "minmax" else np.rint(unit)).astype(np.uint8)


def _padded(pixels: np.ndarray, resolution: int) -> np.ndarray:
    square = np.zeros((resolution, resolution), np.uint8)
    height, width = pixels.shape
    top, left = (resolution - height) // 2, (resolution - width) // 2
    square[top : top + height, left : left + width] = pixels
    return square


_SPECIFICATIONS = (
    Preprocessing("standard", 0, "pad", "area", "percentile", equalize=False, normalization="backbone"),
    Preprocessing("standard_crop", 0, "crop", "area", "percentile", equalize=False, normalization="backbone"),
    Preprocessing("stored", None, "pad", "area", "percentile", equalize=False, normalization="backbone"),
    Preprocessing("plain", None, "squash", "area", "fixed", equalize=False, normalization="backbone"),
    # tayebiarasteh/chestx csv_data_preprocess.py and vit-med data_provider.py. One deviation: MONOCHROME1 is
    # turned before the cut to uint8, not after, so that it equals its MONOCHROME2 twin (≤ 1 grey level).
    Preprocessing(
        "paper", None, "squash", "spline", "minmax", equalize=True, normalization="none", reduced=False, effort=5.0
    ),
)


def names() -> list[str]:
    """Return the names that a study may ask for."""
    return sorted(specification.name for specification in _SPECIFICATIONS)


def resolve(name: str) -> Preprocessing:
    """Return the specification of that name.

    Raises:
        DatasetError: there is none; lists those that exist.
    """
    for specification in _SPECIFICATIONS:
        if specification.name == name:
            return specification
    raise DatasetError(f"unknown preprocessing {name!r}", "key `preprocessing`", f"one of {', '.join(names())}")
