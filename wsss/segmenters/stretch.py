"""Bring a field's stains to a common brightness before a network sees them."""

import numpy as np

LOW, HIGH = 1.0, 99.8
LEAST = 24.0
"""A plane that spans fewer grey levels than this is not stretched to the whole range."""
BLOCK, LEAST_SIGNAL = 4, 5.0
"""A plane whose means over blocks of 4 x 4 pixels span fewer grey levels than this shows nothing but noise."""


def stretch(image: np.ndarray) -> np.ndarray:
    """Stretch every plane of (C, H, W) uint8 between two of its quantiles, on a square-root scale: uint8."""
    out = np.empty(image.shape, np.uint8)
    for plane, target in zip(image, out, strict=True):
        cumulated = np.cumsum(np.bincount(plane.ravel(), minlength=256)) / plane.size
        low, high = (float(np.searchsorted(cumulated, q / 100)) for q in (LOW, HIGH))
        levels = (np.arange(256) - low) / max(high - low, LEAST)
        target[:] = np.rint(255 * np.sqrt(np.clip(levels, 0, 1))).astype(np.uint8)[plane] if _shows(plane) else 0
    return out


def _shows(plane: np.ndarray) -> bool:
    height, width = (n // BLOCK for n in plane.shape)
    if not height or not width:
        return bool(np.ptp(plane) >= LEAST_SIGNAL)
    blocks = plane[: height * BLOCK, : width * BLOCK].reshape(height, BLOCK, width, BLOCK).mean(axis=(1, 3))
    return bool(np.ptp(blocks) >= LEAST_SIGNAL)
