"""The pens of the synthetic fields: curves, dots, noise and points in a mask, on small float arrays.

Every strength is chosen so that the drawing looks the same at any scale once the microscope's blur is on it.
"""

import numpy as np
from scipy import ndimage

Shape = tuple[int, int]


def noise(shape: Shape, scale: float, rng: np.random.Generator) -> np.ndarray:
    """Return smooth noise of mean 0 and standard deviation about 1, its grains about 2 * `scale` px wide."""
    # The standard deviation of blurred white noise is 1 / (2 sqrt(pi) scale); dividing by the sample's own
    # would make the contrast depend on the size of the patch.
    white = rng.standard_normal(shape, np.float32)
    return ndimage.gaussian_filter(white, scale, mode="wrap", truncate=3) * np.float32(2 * np.pi**0.5 * scale)


def pick(mask: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return (count, 2) points y, x drawn evenly from `mask`; (0, 2) where the mask is empty."""
    where = np.flatnonzero(mask)
    if len(where) == 0:
        return np.zeros((0, 2))
    points = np.stack(np.unravel_index(rng.choice(where, count), mask.shape), axis=1)
    return points + rng.uniform(-0.5, 0.5, (count, 2))


def dots(shape: Shape, centres: np.ndarray, sigma: float | np.ndarray, height: float | np.ndarray) -> np.ndarray:
    """Return the (H, W) sum of Gaussian dots at `centres` (N, 2); sigma and height are one or N values."""
    narrow = -0.5 / np.broadcast_to(np.asarray(sigma, np.float32), len(centres))[:, None] ** 2
    rows = np.exp(narrow * (np.arange(shape[0]) - centres[:, :1]) ** 2)  # (N, H)
    columns = np.exp(narrow * (np.arange(shape[1]) - centres[:, 1:]) ** 2)  # (N, W)
    heights = np.broadcast_to(np.asarray(height, np.float32), len(centres))[:, None]
    return ((rows * heights).T @ columns).astype(np.float32)


def curves(
    starts: np.ndarray,
    headings: np.ndarray,
    length: float,
    stride: float,
    wobble: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Walk from every start, turning a little at each step.

    Args:
        starts: (N, 2) points y, x.
        headings: (N,) first directions in radians, 0 along +x.
        length: length of every curve in px.
        stride: step in px.
        wobble: standard deviation of the turn at a step, radians; 0 draws straight lines.
        rng: source of the turns.

    Returns:
        (N, T, 2) points, with T = length / stride.
    """
    steps = max(2, round(length / stride))
    turns = wobble * np.cumsum(rng.standard_normal((len(starts), steps)), axis=1)
    heading = headings[:, None] + turns
    walk = np.cumsum(np.stack([np.sin(heading), np.cos(heading)], axis=-1), axis=1)
    return starts[:, None, :] + stride * walk


def draw(shape: Shape, points: np.ndarray, weight: float | np.ndarray) -> np.ndarray:
    """Drop `weight` at every point (..., 2), shared by the four nearest pixels; points outside are lost."""
    spots = points.reshape(-1, 2)
    weights = np.broadcast_to(np.asarray(weight, np.float64), points.shape[:-1]).ravel()
    corner = np.floor(spots).astype(np.intp)
    part = spots - corner
    out = np.zeros(shape[0] * shape[1])
    for dy in (0, 1):
        for dx in (0, 1):
            y, x = corner[:, 0] + dy, corner[:, 1] + dx
            share = np.abs(1 - dy - part[:, 0]) * np.abs(1 - dx - part[:, 1])
            inside = (y >= 0) & (y < shape[0]) & (x >= 0) & (x < shape[1])
            flat = y[inside] * shape[1] + x[inside]
            out += np.bincount(flat, (weights * share)[inside], minlength=len(out))
    return out.reshape(shape).astype(np.float32)
