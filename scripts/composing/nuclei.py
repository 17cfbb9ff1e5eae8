"""Drawn fields of one nuclear stain with nuclei of six shapes, like those of genome-wide screens for mitosis."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

SHAPES = ("interphase", "metaphase", "anaphase", "polylobed", "micronuclei", "apoptotic")
RADIUS = 9.0
"""Of a nucleus in interphase, px."""
REACH = 16
"""Half the edge of the square that a nucleus has to itself, px."""

Blob = tuple[float, float, float, float, float]
"""y, x from the middle of the nucleus, half axes along y and x, brightness in [0, 1]."""


@dataclass(frozen=True)
class NucleiField:
    """One field."""

    image: np.ndarray
    """(H, W) uint8."""
    label_map: np.ndarray
    """(H, W) int32, 0 background."""
    shapes: list[int]
    """The shape of each nucleus, from 1 up: places in SHAPES."""


def draw_nuclei(rng: np.random.Generator, size: int, shapes: list[int]) -> NucleiField:
    """Draw a field of `size` px edge whose nuclei have the given shapes, each at least once."""
    side = 2 * REACH
    places = [(y, x) for y in range(REACH, size - REACH + 1, side) for x in range(REACH, size - REACH + 1, side)]
    chosen = rng.permutation(len(places))[: max(len(shapes), int(0.8 * len(places)))]
    kinds = [*shapes, *rng.choice(shapes, len(chosen) - len(shapes))]
    canvas, label_map = np.zeros((size, size), np.float32), np.zeros((size, size), np.int32)
    for number, (place, kind) in enumerate(zip(chosen, kinds, strict=True), 1):
        patch = _patch(_BLOBS[kind](rng, RADIUS * rng.uniform(0.85, 1.15)), rng)
        y, x = places[place]
        box = slice(y - REACH, y + REACH), slice(x - REACH, x + REACH)
        canvas[box] = np.maximum(canvas[box], patch)
        hull = cv2.convexHull(np.argwhere(patch > 0.15)[:, ::-1].astype(np.int32))
        label_map[box] = cv2.fillConvexPoly(label_map[box].copy(), hull, number)
    canvas = cv2.GaussianBlur(canvas, (0, 0), 0.8) * rng.uniform(0.6, 1.0) + 0.03
    image = rng.poisson(canvas * 120) / 120 * 230
    return NucleiField(np.clip(image, 0, 255).astype(np.uint8), label_map, [int(k) for k in kinds])


def _patch(blobs: list[Blob], rng: np.random.Generator) -> np.ndarray:
    """Draw blobs, turned by any angle, (2 REACH, 2 REACH) in [0, 1]."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[-REACH:REACH, -REACH:REACH] + 0.5
    y, x = y * np.cos(angle) - x * np.sin(angle), y * np.sin(angle) + x * np.cos(angle)
    grain = cv2.GaussianBlur(rng.normal(0, 1, y.shape).astype(np.float32), (0, 0), 1.5)
    patch = np.zeros(y.shape, np.float32)
    for cy, cx, a, b, light in blobs:
        inside = ((y - cy) / a) ** 2 + ((x - cx) / b) ** 2 <= 1
        patch = np.maximum(patch, inside * np.float32(light) * np.clip(1 + 0.4 * grain, 0.4, 1.6))
    return patch


def _around(rng: np.random.Generator, count: int, away: float, radius: float, light: float) -> list[Blob]:
    turns = np.arange(count) * 2 * np.pi / count + rng.uniform(0, 0.6, count)
    return [(away * np.sin(t), away * np.cos(t), radius, radius, light) for t in turns]


def _interphase(rng: np.random.Generator, r: float) -> list[Blob]:
    return [(0, 0, r, r * rng.uniform(0.7, 1), 0.5)]


def _metaphase(rng: np.random.Generator, r: float) -> list[Blob]:
    return [(0, 0, 0.3 * r, r * rng.uniform(0.9, 1.1), 0.95)]


def _anaphase(rng: np.random.Generator, r: float) -> list[Blob]:
    away = r * rng.uniform(0.5, 0.9)
    return [(side * away, 0, 0.25 * r, 0.75 * r, 0.9) for side in (-1, 1)]


def _polylobed(rng: np.random.Generator, r: float) -> list[Blob]:
    return [(0, 0, 0.4 * r, 0.4 * r, 0.5), *_around(rng, int(rng.integers(3, 6)), 0.6 * r, 0.45 * r, 0.5)]


def _micronuclei(rng: np.random.Generator, r: float) -> list[Blob]:
    return [(0, 0, 0.6 * r, 0.55 * r, 0.5), *_around(rng, int(rng.integers(2, 5)), 1.1 * r, 0.22 * r, 0.5)]


def _apoptotic(rng: np.random.Generator, r: float) -> list[Blob]:
    return [(0, 0, 0.3 * r, 0.3 * r, 1.0), *_around(rng, int(rng.integers(2, 4)), 0.6 * r, 0.15 * r, 1.0)]


_BLOBS: tuple[Callable[[np.random.Generator, float], list[Blob]], ...] = (
    _interphase,
    _metaphase,
    _anaphase,
    _polylobed,
    _micronuclei,
    _apoptotic,
)
