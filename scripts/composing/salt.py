"""Images like those of TGS salt: layered ground of 101 x 101 grey pixels with a smoother body in some of them."""

import numpy as np
from scipy import ndimage

SIZE = 101
EMPTY_SHARE = 0.38
"""Share of images without a body, as in the competition."""


def draw_salt(rng: np.random.Generator, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Draw one image.

    Returns:
        (size, size) uint8 image and (size, size) bool mask; the mask is empty in some.
    """
    rows, columns = np.indices((size, size)) / size
    mask = np.zeros((size, size), bool) if rng.random() < EMPTY_SHARE else _body(rng, rows, columns)
    tilt, waves = rng.uniform(-0.5, 0.5), ndimage.gaussian_filter(rng.normal(size=(size, size)), 12) * 3
    layers = np.sin(2 * np.pi * rng.uniform(5, 12) * (rows + tilt * columns + 0.1 * waves))
    grain = ndimage.gaussian_filter(rng.normal(size=(size, size)), 1.2) * 2
    inside = 0.25 * layers + 1.2 * grain + rng.uniform(-0.5, 0.5)
    edge = ndimage.gaussian_filter(mask.astype(float), 1.5)
    ground = (1 - edge) * (layers + 0.6 * grain) + edge * inside + 1.5 * edge * (1 - edge)
    pixels = 120 + 38 * ground + rng.normal(0, 8, (size, size))
    return np.clip(pixels, 0, 255).astype(np.uint8), mask


def _body(rng: np.random.Generator, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Draw a wavy body that reaches the lower edge or lies free."""
    angles = np.arctan2(rows - 0.5, columns - 0.5)
    y, x = rng.uniform(0.3, 1.1), rng.uniform(0, 1)
    radius = rng.uniform(0.15, 0.6) * (1 + sum(rng.uniform(-0.15, 0.15) * np.sin(k * angles + k) for k in (2, 3, 5)))
    return np.asarray(np.hypot((rows - y) * rng.uniform(0.7, 1.3), columns - x) < radius)
