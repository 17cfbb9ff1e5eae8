"""What a network learns from masks: targets of every kind, and the weights of pixels in gaps."""

import math

import numpy as np
from scipy import ndimage

from wsss.options.masks import IGNORE, MOST


def make_target(label_map: np.ndarray, ignored: np.ndarray, kind: str, border_px: int = 2) -> np.ndarray:
    """Turn objects into a target.

    Args:
        label_map: (H, W) int, 0 background.
        ignored: (H, W) bool, pixels that must not count.
        kind: binary, border, softmax or distance, see `MaskConfig.target`.
        border_px: width of the border on each side of the line between two objects.

    Returns:
        (K, H, W) uint8 of 0, 1 and 255 (must not count): the mask; or the mask without border, and the border; or
        background, inside and border, which exclude each other; or the mask, and `MOST` x `inner_distance`.
    """
    mask = label_map > 0
    if kind == "binary":
        channels = [mask]
    elif kind == "distance":
        channels = [mask, np.rint(MOST * inner_distance(label_map))]
    else:
        border = touching_border(label_map, border_px)
        channels = [mask & ~border, border]
        if kind == "softmax":
            channels.insert(0, ~mask & ~border)
    target = np.stack(channels).astype(np.uint8)
    target[:, ignored] = IGNORE
    return target


def inner_distance(label_map: np.ndarray) -> np.ndarray:
    """Return each pixel's distance to the edge of its object, over the largest in the object; 0 outside objects.

    The image's edge is no edge of an object.

    Returns:
        (H, W) float32 in [0, 1].
    """
    out = np.zeros(label_map.shape, np.float32)
    for k, box in enumerate(ndimage.find_objects(label_map), 1):
        if box is None:
            continue
        window = tuple(slice(max(0, axis.start - 1), axis.stop + 1) for axis in box)
        inside = label_map[window] == k
        distance = ndimage.distance_transform_edt(inside) if not inside.all() else np.ones(inside.shape)
        out[window][inside] = (distance / distance.max())[inside]
    return out


def touching_border(label_map: np.ndarray, width: int) -> np.ndarray:
    """Return the (H, W) bool pixels of objects within about `width` px of the line to a neighbour.

    A neighbour touches, or lies so near that the line in the middle of the gap is within `width` px. An object's free
    edge is no border, and neither is the gap itself.
    """
    if not label_map.any():
        return np.zeros(label_map.shape, bool)
    distance, nearest = ndimage.distance_transform_edt(label_map == 0, return_indices=True)
    grown = np.where(distance <= width, label_map[tuple(nearest)], 0)
    line = np.zeros(label_map.shape, bool)
    for one, other in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        differ = (grown[one] != grown[other]) & (grown[one] > 0) & (grown[other] > 0)
        line[one] |= differ
        line[other] |= differ
    if width > 1:
        line = ndimage.binary_dilation(line, iterations=width - 1)
    return line & (label_map > 0)


def gap_weights(label_map: np.ndarray, weight: float, sigma: float) -> np.ndarray:
    """Return 1 + weight * exp(-(d1 + d2)^2 / (2 sigma^2)), d1 and d2 the distances to the two nearest objects.

    Distances beyond 4 sigma count as infinite. Pixels of objects have weight 1.

    Returns:
        (H, W) float32.

    Source: Ronneberger, Fischer and Brox, arXiv 1505.04597.
    """
    reach = math.ceil(4 * sigma)
    near = np.full((2, *label_map.shape), np.inf, np.float32)  # the two smallest distances so far
    for k, box in enumerate(ndimage.find_objects(label_map), 1):
        if box is None:
            continue
        window = tuple(
            slice(max(0, side.start - reach), min(edge, side.stop + reach))
            for side, edge in zip(box, label_map.shape, strict=True)
        )
        distance = ndimage.distance_transform_edt(label_map[window] != k).astype(np.float32)
        both = near[:, *window]
        second = np.minimum(both[1], np.maximum(both[0], distance))
        near[:, *window] = np.stack([np.minimum(both[0], distance), second])
    weights = 1 + weight * np.exp(-np.square(near.sum(axis=0)) / (2 * sigma**2))
    return np.where(label_map > 0, 1, weights).astype(np.float32)
