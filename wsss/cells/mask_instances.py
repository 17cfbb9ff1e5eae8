"""From the maps of a mask network to objects: threshold, watershed with the border channel, minimum size."""

import numpy as np
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.segmentation import watershed

EIGHT = np.ones((3, 3), bool)
SMOOTH_PX = 1.0
"""Smoothing of the distance map before its peaks are taken as seeds, px."""


def mask_channel(probs: np.ndarray, kind: str) -> np.ndarray:
    """Return the (H, W) probability of the whole mask, border included; probs (K, H, W) of `MaskConfig.target`."""
    if kind == "binary":
        return probs[0]
    if kind == "border":
        return np.maximum(probs[0], probs[1])  # learnt apart, each may be sure alone
    return 1 - probs[0]


def decode(probs: np.ndarray, kind: str, threshold: float, min_size: int, *, objects: bool) -> np.ndarray:
    """Return `objects_of`, or without `objects` the whole mask as object 1, empty below the minimum size."""
    if objects:
        return objects_of(probs, kind, threshold=threshold, min_size=min_size)
    return drop_small((mask_channel(probs, kind) >= threshold).astype(np.int32), min_size)


def objects_of(probs: np.ndarray, kind: str, *, threshold: float = 0.5, min_size: int = 0) -> np.ndarray:
    """Find the objects of one image.

    With a border channel, what is inside and not border makes the seeds, and a watershed of the probability gives
    the border pixels back to them; without, seeds are the peaks of the distance to the background.

    Args:
        probs: (K, H, W) float in [0, 1].
        kind: binary, border or softmax.
        threshold: probability from which a pixel is of the mask.
        min_size: objects of fewer pixels are dropped.

    Returns:
        (H, W) int32, objects 1..N without gaps, 0 background.
    """
    mask = mask_channel(probs, kind) >= threshold
    if kind == "binary":
        distance = ndimage.gaussian_filter(ndimage.distance_transform_edt(mask), SMOOTH_PX)
        seeds = _peaks(distance, mask)
        found = watershed(-distance, seeds, mask=mask)
    else:
        inside, border = (probs[0], probs[1]) if kind == "border" else (probs[1], probs[2])
        sure = (inside >= threshold) & (border < threshold) & mask
        seeds = ndimage.label(sure, EIGHT)[0]
        found = watershed(border - inside, seeds, mask=mask)
    return drop_small(found, min_size)


def _peaks(distance: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Number the peaks of the distance map that lie at least one median object radius apart."""
    parts = ndimage.label(mask, EIGHT)[0]
    if not parts.any():
        return np.zeros(mask.shape, np.int32)
    apart = max(2, int(np.median(ndimage.maximum(distance, parts, np.arange(1, parts.max() + 1)))))
    seeds = np.zeros(mask.shape, np.int32)
    places = peak_local_max(distance, min_distance=apart, labels=parts, exclude_border=False)
    seeds[tuple(places.T)] = np.arange(1, len(places) + 1)
    return seeds


def drop_small(label_map: np.ndarray, min_size: int) -> np.ndarray:
    """Drop objects of fewer than `min_size` pixels and number the others 1..N: (H, W) int32."""
    areas = np.bincount(label_map.ravel())
    keep = areas >= max(1, min_size)
    keep[0] = False
    return np.where(keep, np.cumsum(keep), 0).astype(np.int32)[label_map]
