"""Augmentations by name, drawn for every image from (seed, epoch, row) and applied to a batch at once."""

from dataclasses import dataclass

import numpy as np
import torch

from datasets.errors import DatasetError

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Ranges of the random changes; all zero leaves the images alone.

    Attributes:
        flip: probability of a horizontal flip.
        degrees: largest rotation to either side.
        zoom: largest relative change of scale.
        shift: largest shift as a share of the side.
        contrast: largest relative change of contrast around the mean grey.
        brightness: largest shift of grey, as a share of the range.
        nearest: take the nearest pixel, as PIL's rotation does; otherwise interpolate linearly.
    """

    flip: float = 0.0
    degrees: float = 0.0
    zoom: float = 0.0
    shift: float = 0.0
    contrast: float = 0.0
    brightness: float = 0.0
    nearest: bool = False

    def __call__(self, images: torch.Tensor, *, rows: np.ndarray, seed: int, epoch: int) -> torch.Tensor:
        """Return uint8 (B, 1, R, R), changed; what moves in from outside is 0.

        Args:
            images: uint8 (B, 1, R, R), on any device.
            rows: int64 (B,), row numbers in the manifest: with seed and epoch all that the draws depend on.
            seed: of the trial.
            epoch: from 1.
        """
        if self == Augmentation():
            return images
        draws = uniform(seed, epoch, rows, count=7)
        flipped = torch.from_numpy(draws[:, 0] < self.flip).to(images.device)
        if not (self.degrees or self.zoom or self.shift or self.contrast or self.brightness):
            return torch.where(flipped[:, None, None, None], images.flip(-1), images)
        matrices = torch.from_numpy(self._matrices(draws)).to(images.device)
        grid = torch.nn.functional.affine_grid(matrices, list(images.shape), align_corners=False)
        moved = torch.nn.functional.grid_sample(
            images.float(), grid, mode="nearest" if self.nearest else "bilinear", align_corners=False
        )
        if self.contrast or self.brightness:
            moved = self._shaded(moved, draws)
        return moved.round_().clamp_(0, 255).to(torch.uint8)

    def _matrices(self, draws: np.ndarray) -> np.ndarray:
        """Return float32 (B, 2, 3): from output to input coordinates, each from -1 to 1."""
        angle = np.deg2rad(self.degrees) * (2 * draws[:, 1] - 1)
        scale = 1 / (1 + self.zoom * (2 * draws[:, 2] - 1))
        mirror = np.where(draws[:, 0] < self.flip, -1.0, 1.0)
        cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
        shift = 2 * self.shift * (2 * draws[:, 3:5] - 1)
        rows = [[mirror * cosine, -mirror * sine, shift[:, 0]], [sine, cosine, shift[:, 1]]]
        return np.moveaxis(np.array(rows), -1, 0).astype(np.float32)

    def _shaded(self, images: torch.Tensor, draws: np.ndarray) -> torch.Tensor:
        factors = np.stack([1 + self.contrast * (2 * draws[:, 5] - 1), 255 * self.brightness * (2 * draws[:, 6] - 1)])
        contrast, brightness = torch.from_numpy(factors.astype(np.float32)).to(images.device)[:, :, None, None, None]
        mean = images.mean(dim=(1, 2, 3), keepdim=True)
        return torch.addcmul(mean + brightness, images - mean, contrast)


AUGMENTATIONS = {
    "none": Augmentation(),
    "flip": Augmentation(flip=0.5),
    # tayebiarasteh/vit-med data_provider.py: RandomHorizontalFlip(0.5), RandomRotation(7), nearest pixel.
    "paper": Augmentation(flip=0.5, degrees=7, nearest=True),
    "strong": Augmentation(flip=0.5, degrees=15, zoom=0.15, shift=0.05, contrast=0.3, brightness=0.15),
}


def resolve(name: str) -> Augmentation:
    """Return the augmentation of that name.

    Raises:
        DatasetError: there is none; lists those that exist.
    """
    if name not in AUGMENTATIONS:
        raise DatasetError(f"unknown augmentation {name!r}", "key `augmentation`", f"one of {', '.join(AUGMENTATIONS)}")
    return AUGMENTATIONS[name]


def uniform(seed: int, epoch: int, rows: np.ndarray, *, count: int) -> np.ndarray:
    """Return float64 (rows, count) in [0, 1), a pure function of its arguments.

    SplitMix64 (Steele, Lea, Flood 2014) as a hash of (seed, epoch, row, draw): no state to carry, so the
    number of workers and the place where an epoch is resumed cannot matter.
    """
    with np.errstate(over="ignore"):
        state = _mix(_mix(np.uint64(seed) + _GOLDEN) ^ (np.uint64(epoch) * _GOLDEN))
        per_row = _mix(state ^ _mix(rows.astype(np.uint64) + _GOLDEN))
        steps = per_row[:, None] + _GOLDEN * np.arange(1, count + 1, dtype=np.uint64)
    return (_mix(steps) >> np.uint64(11)).astype(np.float64) / 2.0**53


def _mix(value: "np.ndarray | np.uint64") -> np.ndarray:
    with np.errstate(over="ignore"):
        mixed = np.asarray(value, dtype=np.uint64)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(mixed ^ (mixed >> np.uint64(31)))
