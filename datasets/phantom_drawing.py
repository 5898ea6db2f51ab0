"""Draws one synthetic frontal chest radiograph; lengths are in units of the image's side, greys in 12 bits.

Findings of four spatial scales. The two fine ones have no mean of their own: a hair line and a nodule
are bright in the middle and dark beside it (as edge-enhanced radiographs show them), so that averaging over
their width takes them away, while soft look-alikes of every image survive it and tell nothing.
"""

from dataclasses import dataclass

import cv2
import numpy as np

BITS = 12
_LUNGS = ((0.31, 0.47), (0.69, 0.47))  # centres (x, y); the image's left is the patient's right
_LUNG_RADII = (0.155, 0.30)


@dataclass(frozen=True, slots=True)
class Findings:
    """What is planted in an image."""

    cardiomegaly: bool
    pleural_effusion: bool
    nodule: bool
    pneumothorax: bool


@dataclass(frozen=True, slots=True)
class Projection:
    """How it was taken: an AP film shows the heart larger, a woman's shows soft shadows below."""

    view: str
    sex: str


def draw(findings: Findings, projection: Projection, *, size: int, rng: np.random.Generator) -> np.ndarray:
    """Return uint16 (size, size), 12-bit stored values, more is denser (brighter).

    Args:
        findings: to be planted.
        projection: view and sex.
        size: side in pixels.
        rng: all that is random comes from here; every part has a child of its own, so that one finding
            more or less leaves the rest of the image as it was.
    """
    rng, heart, base, effusion, soft, nodules, line, noise = rng.spawn(8)
    axis = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size)
    x = axis[None, :] + np.float32(rng.uniform(-0.02, 0.02))
    y = axis[:, None] + np.float32(rng.uniform(-0.02, 0.02))
    image = np.full((size, size), 2600, np.float32)
    lungs = np.zeros((size, size), np.float32)
    for centre in _LUNGS:
        lungs = np.maximum(lungs, _soft(1 - _radius(x, y, centre, _LUNG_RADII), 0.06))
    image -= np.float32(rng.uniform(1150, 1400)) * lungs
    image += 220 * _ribs(x, y, rng) * (0.35 + 0.65 * lungs)
    image += 420 * np.exp(-(((x - 0.5) / 0.045) ** 2))
    _heart(image, x, y, findings.cardiomegaly, projection, heart)
    _diaphragm(image, x, y, base)
    if projection.sex == "F":
        for centre in _LUNGS:
            image += 160 * _soft(1 - _radius(x, y, (centre[0], 0.66), (0.14, 0.11)), 0.3)
    if findings.pleural_effusion:
        _effusion(image, x, y, effusion)
    _look_alikes(image, x, y, soft)
    if findings.nodule:
        _nodules(image, x, y, nodules)
    if findings.pneumothorax:
        _hair_line(image, x, y, line)
    image += _texture(size, noise) * (0.4 + 0.6 * lungs)
    image += noise.standard_normal((size, size), dtype=np.float32) * np.float32(45)
    exposure, gain = rng.uniform(-150, 150), rng.uniform(0.9, 1.1)
    return np.asarray(np.clip(image * np.float32(gain) + np.float32(exposure), 0, 2**BITS - 1), np.uint16)


def _radius(x: np.ndarray, y: np.ndarray, centre: tuple[float, float], radii: tuple[float, float]) -> np.ndarray:
    """Return 0 at the centre of an ellipse and 1 on it."""
    return np.asarray(np.sqrt(((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2, dtype=np.float32))


def _soft(inside: np.ndarray, width: float) -> np.ndarray:
    """Return 0 outside, 1 inside, linear over `width` on either side of the edge."""
    return np.asarray(np.clip(inside / np.float32(2 * width) + np.float32(0.5), 0, 1))


def _ribs(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    slope, phase = rng.uniform(0.9, 1.3), rng.uniform(0, 1)
    wave = np.cos(2 * np.pi * ((y - slope * (x - 0.5) ** 2) / np.float32(0.085) + phase), dtype=np.float32)
    return np.asarray(np.clip(wave * 2, -1, 1) * np.float32(0.5) + np.float32(0.5))


def _heart(
    image: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    enlarged: bool,
    projection: Projection,
    rng: np.random.Generator,
) -> None:
    half_width = rng.normal(0.175 if enlarged else 0.126, 0.012) * (1.07 if projection.view == "AP" else 1.0)
    shape = _radius(x, y, (0.5 + 0.35 * half_width, 0.62), (half_width, 0.17))
    image += (np.float32(2750) - image) * _soft(1 - shape, 0.08)


def _diaphragm(image: np.ndarray, x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> None:
    for centre in _LUNGS:
        top = rng.uniform(0.685, 0.725) + 1.6 * (x - centre[0]) ** 2
        image += (np.float32(2900) - image) * _soft(y - top, 0.012)


def _effusion(image: np.ndarray, x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> None:
    """Fill the angle between ribs and diaphragm with fluid whose surface climbs the chest wall."""
    side = int(rng.integers(2))
    outward = (x - _LUNGS[side][0]) * (1 if side else -1)
    surface = 0.70 - rng.uniform(0.02, 0.07) - 0.9 * np.clip(outward + 0.03, 0, 1)
    fluid = _soft(y - surface, 0.015) * _soft(0.17 - np.abs(x - _LUNGS[side][0]), 0.02)
    image += np.maximum(np.float32(2650) - image, 0) * np.float32(0.85) * fluid


def _ridge(distance: np.ndarray, width: float) -> np.ndarray:
    """Return 1 in the middle and dark flanks, zero in the mean across (the second derivative of a Gaussian)."""
    u = (distance / np.float32(width)) ** 2
    return np.asarray((1 - u) * np.exp(-u / 2, dtype=np.float32))


def _hair_line(image: np.ndarray, x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> None:
    centre, radii = _LUNGS[int(rng.integers(2))], rng.uniform(0.78, 0.9)
    radius = _radius(x, y, centre, (_LUNG_RADII[0] * radii, _LUNG_RADII[1] * radii))
    slope = np.sqrt(
        ((x - centre[0]) / (_LUNG_RADII[0] * radii) ** 2) ** 2 + ((y - centre[1]) / (_LUNG_RADII[1] * radii) ** 2) ** 2
    )
    distance = (radius - 1) * radius / np.maximum(slope, 1e-3)
    apical = _soft(centre[1] + rng.uniform(0.0, 0.1) - y, 0.02)
    image += np.float32(560) * _ridge(distance, 1.5 / 384) * apical


def _nodules(image: np.ndarray, x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> None:
    for _ in range(int(rng.integers(4, 9))):
        distance = _radius(x, y, _somewhere(rng), (1.0, 1.0))
        u = (distance / np.float32(2.2 / 384)) ** 2
        image += np.float32(1300) * (1 - u / 2) * np.exp(-u / 2, dtype=np.float32)


def _look_alikes(image: np.ndarray, x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> None:
    """Vessels seen end-on and folds of skin: soft, in every image, without meaning."""
    for _ in range(int(rng.integers(5, 10))):
        distance = _radius(x, y, _somewhere(rng), (1.0, 1.0))
        image += np.float32(rng.uniform(120, 260)) * np.exp(-((distance * 384 / 6.0) ** 2) / 2, dtype=np.float32)
    for centre in _LUNGS:
        angle, offset = rng.uniform(-0.6, 0.6), rng.uniform(-0.08, 0.08)
        distance = (x - centre[0]) * np.cos(angle) + (y - 0.4) * np.sin(angle) - offset
        along = _soft(0.2 - np.abs(y - 0.4), 0.03) * _soft(1 - _radius(x, y, centre, _LUNG_RADII), 0.06)
        image += np.float32(rng.uniform(80, 160)) * np.exp(-((distance * 384 / 5.0) ** 2) / 2) * along


def _somewhere(rng: np.random.Generator) -> tuple[float, float]:
    """Return a point inside one of the lungs."""
    centre = _LUNGS[int(rng.integers(2))]
    angle, radius = rng.uniform(0, 2 * np.pi), 0.75 * np.sqrt(rng.uniform(0, 1))
    return (
        centre[0] + radius * _LUNG_RADII[0] * float(np.cos(angle)),
        centre[1] - 0.03 + 0.8 * radius * _LUNG_RADII[1] * float(np.sin(angle)),
    )


def _texture(size: int, rng: np.random.Generator) -> np.ndarray:
    texture = np.zeros((size, size), np.float32)
    for cells, amplitude in ((8, 110.0), (20, 80.0), (48, 60.0)):
        coarse = rng.standard_normal((cells, cells), dtype=np.float32) * np.float32(amplitude)
        texture += cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    return texture
