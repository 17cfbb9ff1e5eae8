"""Near-duplicate images: the same field saved twice, brighter, re-encoded or slightly shifted.

Every image leaves a small thumbnail when it is prepared. Pairs of alike thumbnails are found by blocks of a matrix
product (memory does not grow with the number of pairs), and each is then verified on the stored pixels.
"""

from collections.abc import Callable

import numpy as np

from wsss.core.geometry import Geometry
from wsss.core.runtime import progress

EDGE = 16
"""Edge of a thumbnail."""
COARSE = 8
"""Edge to which thumbnails are pooled for the search."""
ALIKE = 0.6
"""Correlation of pooled thumbnails from which a pair is verified."""
SAME = 0.6
"""Correlation of aligned, high-passed images from which a pair is a near-duplicate."""
BLOCK = 4096
DETAIL = 128
"""Edge to which images are scaled for verification."""
SHIFT = 8
"""Largest shift looked for, in pixels of the detail image (1/16 of the edge)."""
STEPS = 25.0
"""int8 steps per standard deviation of a thumbnail channel."""


def thumbnail(stored: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Return what an image looks like from afar, whatever its brightness.

    Args:
        stored: (C, size, size) uint8.
        geometry: where the image lies in it.

    Returns:
        (C, 16, 16) int8, each channel with mean 0 and standard deviation 25 (clipped); zeros for a constant channel.
    """
    content = stored[:, : geometry.content_height, : geometry.content_width]
    small = _shrink(content, EDGE)
    small -= small.mean((1, 2), keepdims=True)
    spread = small.std((1, 2), keepdims=True)
    scaled = np.divide(small * STEPS, spread, out=np.zeros_like(small), where=spread > 1e-3)
    return np.clip(np.rint(scaled), -127, 127).astype(np.int8)


def find_duplicates(thumbnails: np.ndarray, content: Callable[[int], np.ndarray]) -> list[tuple[int, int, float]]:
    """Find pairs of near-duplicate images.

    Args:
        thumbnails: (N, C, 16, 16) int8.
        content: gives the pixels of image i, (C, h, w) uint8 without padding; called for likely pairs only.

    Returns:
        (a, b, correlation) with a < b, sorted.
    """
    vectors = _vectors(thumbnails)
    found = []
    for a, b in _alike(vectors):
        same = correlation(content(a), content(b))
        if same >= SAME:
            found.append((a, b, round(same, 4)))
    return sorted(found)


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Return the correlation of two images' fine structure, at the best shift of at most 1/16 of the edge.

    Args:
        first: (C, h, w) uint8.
        second: (C, h, w) uint8, possibly of another size.
    """
    one, two = _detail(first), _detail(second)
    spectrum = np.fft.rfft2(one) * np.conj(np.fft.rfft2(two))
    peaks = np.fft.irfft2(spectrum.sum(0), s=one.shape[1:])
    near = np.r_[: SHIFT + 1, -SHIFT:0]
    window = peaks[np.ix_(near, near)]
    row, column = np.unravel_index(np.argmax(window), window.shape)
    dy, dx = int(near[row]), int(near[column])
    a = one[:, max(dy, 0) : DETAIL + min(dy, 0), max(dx, 0) : DETAIL + min(dx, 0)]
    b = two[:, max(-dy, 0) : DETAIL + min(-dy, 0), max(-dx, 0) : DETAIL + min(-dx, 0)]
    norm = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / norm if norm > 0 else 0.0


def _shrink(image: np.ndarray, edge: int) -> np.ndarray:
    import cv2

    return np.stack([cv2.resize(c, (edge, edge), interpolation=cv2.INTER_AREA) for c in image.astype(np.float32)])


def _detail(image: np.ndarray) -> np.ndarray:
    """Return (C, DETAIL, DETAIL) float32 without slow changes of brightness, each channel of unit spread."""
    import cv2

    small = _shrink(image, DETAIL)
    small -= np.stack([cv2.GaussianBlur(channel, (0, 0), DETAIL / 16) for channel in small])
    spread = small.std((1, 2), keepdims=True)
    return np.divide(small, spread, out=np.zeros_like(small), where=spread > 1e-3)


def _vectors(thumbnails: np.ndarray) -> np.ndarray:
    """Pool thumbnails to (N, C * 64) float32 of unit length; zeros stay zeros."""
    count, channels = thumbnails.shape[:2]
    step = EDGE // COARSE
    blocks = thumbnails.reshape(count, channels, COARSE, step, COARSE, step)
    vectors = blocks.mean((3, 5), dtype=np.float32).reshape(count, -1)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)


def _alike(vectors: np.ndarray) -> list[tuple[int, int]]:
    pairs: list[tuple[int, int]] = []
    for i in progress(range(0, len(vectors), BLOCK), "near-duplicates"):
        for j in range(i, len(vectors), BLOCK):
            alike = vectors[i : i + BLOCK] @ vectors[j : j + BLOCK].T >= ALIKE
            rows, columns = np.nonzero(alike)
            pairs += [(int(a), int(b)) for a, b in zip(rows + i, columns + j, strict=True) if a < b]
    return pairs
