"""Part touching round objects at their necks."""

import cv2
import numpy as np
from skimage.segmentation import watershed


def part_touching(mask: np.ndarray, light: np.ndarray, *, sigma: float, neck: float) -> np.ndarray:
    """Label the objects of a mask, cutting where a neck is thin or dark against both sides.

    Every summit of the distance to the background starts as an object of its own; then neighbours are joined, widest
    neck first, unless their neck (its half width times its relative brightness) is below `neck` times the smaller
    of the two. The ratio has no length in it, so small and large objects part alike.

    Args:
        mask: (H, W) bool.
        light: (H, W) float32 >= 0, brightness over background; a dark line speaks for two objects.
        sigma: smoothing of the distance, in pixels.
        neck: in [0, 1]; higher parts more.

    Returns:
        (H, W) int32, 0 background, objects 1..N.
    """
    depth = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    depth = cv2.GaussianBlur(depth, (0, 0), max(sigma, 0.5))
    summits = (depth >= cv2.dilate(depth, np.ones((3, 3), np.uint8))) & mask
    _, markers = cv2.connectedComponents(summits.astype(np.uint8), connectivity=8)
    parts = watershed(-depth, markers, mask=mask).astype(np.int32)
    return _join(parts, depth, light, neck)


def _join(parts: np.ndarray, depth: np.ndarray, light: np.ndarray, neck: float) -> np.ndarray:
    count = int(parts.max()) + 1
    heights = _maxima(parts.ravel(), depth.ravel(), count)
    means = np.bincount(parts.ravel(), light.ravel(), count) / np.maximum(
        np.bincount(parts.ravel(), minlength=count), 1
    )
    root = np.arange(count)
    for first, second, saddle, shine in zip(*_borders(parts, depth, light), strict=True):
        a, b = _find(root, first), _find(root, second)
        dark = min(1.0, shine / max(min(means[first], means[second]), 1e-6))
        if a != b and saddle * dark >= neck * min(heights[a], heights[b]):
            low, high = sorted((a, b))
            root[high] = low
            heights[low] = max(heights[a], heights[b])
    roots = np.array([_find(root, k) for k in range(count)])
    return np.unique(roots, return_inverse=True)[1].astype(np.int32)[parts]


def _borders(parts: np.ndarray, depth: np.ndarray, light: np.ndarray) -> tuple[list, list, list, list]:
    """Return both sides, greatest depth and mean light of every border between two parts, deepest first."""
    pairs, saddles, lights = [], [], []
    for one, two in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        a, b = parts[one], parts[two]
        at = (a != b) & (a > 0) & (b > 0)
        pairs.append(np.stack([np.minimum(a[at], b[at]), np.maximum(a[at], b[at])], axis=1))
        saddles.append(np.minimum(depth[one][at], depth[two][at]))
        lights.append(np.minimum(light[one][at], light[two][at]))
    keys, border = np.unique(np.concatenate(pairs), axis=0, return_inverse=True)
    border = border.ravel()
    deepest = _maxima(border, np.concatenate(saddles), len(keys))
    shine = np.bincount(border, np.concatenate(lights), len(keys)) / np.maximum(
        np.bincount(border, minlength=len(keys)), 1
    )
    order = np.argsort(-deepest, kind="stable")
    return keys[order, 0].tolist(), keys[order, 1].tolist(), deepest[order].tolist(), shine[order].tolist()


def _maxima(index: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    out = np.zeros(count, values.dtype)
    np.maximum.at(out, index, values)
    return out


def _find(root: np.ndarray, item: int) -> int:
    while root[item] != item:
        item = int(root[item])
    return item
