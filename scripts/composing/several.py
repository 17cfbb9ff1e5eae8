"""Cells that show several classes: the protein of one real cell laid into another, nucleus on nucleus.

Both cells are spread out on a disk: the distance from the middle is 0 to 1 in the nucleus and 1 to 2 around it, the
angle is that in the cell. A pixel of one cell gets the light of the pixels nearest to it on the disk of the other.
"""

import cv2
import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree

GREEN, BLUE = 1, 2
NEAREST = 4
"""Pixels of the other cell that are averaged."""


def nucleus_of(cell: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the nucleus (h, w) bool of a cell (4, h, w): the largest part of its mask that is bright in blue."""
    blue = cv2.GaussianBlur(cell[BLUE], (0, 0), 2)
    levels = np.clip(blue[mask], 0, 255).astype(np.uint8)
    threshold, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    parts, count = ndimage.label((blue > threshold) & mask)
    if not count:
        return mask
    sizes = np.bincount(parts.ravel())[1:]
    return np.asarray(ndimage.binary_fill_holes(parts == 1 + int(sizes.argmax()))) & mask


def on_disk(cell: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the place (P, 2) on the disk of each pixel of a cell's mask, in the order of np.nonzero."""
    nucleus = nucleus_of(cell, mask)
    inside = ndimage.distance_transform_edt(nucleus)
    to_nucleus, to_edge = ndimage.distance_transform_edt(~nucleus), ndimage.distance_transform_edt(np.pad(mask, 1))
    to_edge = to_edge[1:-1, 1:-1]
    depth = np.where(nucleus, 1 - inside / inside.max(), 1 + to_nucleus / np.maximum(to_nucleus + to_edge, 1))
    y, x = np.nonzero(mask)
    middle = ndimage.center_of_mass(nucleus)
    angle = np.arctan2(y - middle[0], x - middle[1])
    return depth[mask][:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def lend(cell: np.ndarray, mask: np.ndarray, other: np.ndarray, other_mask: np.ndarray) -> np.ndarray:
    """Return the protein channel (h, w) float32 of another cell in the shape of this one; 0 outside the mask."""
    distance, near = KDTree(on_disk(other, other_mask)).query(on_disk(cell, mask), NEAREST)
    weight = 1 / (distance + 0.02)
    out = np.zeros(mask.shape, np.float32)
    out[mask] = (weight * other[GREEN][other_mask][near]).sum(axis=1) / weight.sum(axis=1)
    return out


def join(cell: np.ndarray, mask: np.ndarray, lent: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Return a cell whose protein is its own and that of others: each brought to one mean, then weighed by chance."""
    proteins = [cell[GREEN], *lent]
    means = [max(float(protein[mask].mean()), 1.0) for protein in proteins]
    weights = rng.dirichlet(np.full(len(proteins), 8.0))
    level = max(means)
    mixed = sum(weight * protein / mean for weight, protein, mean in zip(weights, proteins, means, strict=True))
    out = cell.copy()
    out[GREEN] = np.minimum(level * mixed, 255)
    return out
