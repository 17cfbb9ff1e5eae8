"""From the maps of a mask network to objects: threshold, seeds, watershed, minimum size.

What becomes of an object depends on the pixels of its connected part of the mask and on those within `REACH` px of it:
so images larger than memory can be parted piece by piece, with the same objects as in one piece.
"""

import cv2
import numpy as np
from scipy import ndimage
from skimage.morphology import reconstruction
from skimage.segmentation import watershed

EIGHT = np.ones((3, 3), bool)
SMOOTH_PX = 1.0
"""Smoothing of the distance map before its peaks are taken as seeds, px."""
NECKS = {"binary": 0.9, "distance": 0.85}
"""Two peaks are two objects if the way between them falls below this share of the lower one."""
LEAST = 0.01
"""Heights below this are alike."""
REACH = 12
"""Pixels around a connected part of the mask that its objects may depend on: the smoothing's reach, twice over."""


def mask_channel(probs: np.ndarray, kind: str) -> np.ndarray:
    """Return the (H, W) probability of the whole mask, border included; probs (K, H, W) of `MaskConfig.target`."""
    if kind in ("binary", "distance"):
        return probs[0]
    if kind == "border":
        return np.minimum(1, probs[0] + probs[1])  # of two that exclude each other: neither need be likely alone
    return 1 - probs[0]


def decode(probs: np.ndarray, kind: str, threshold: float, min_size: int, *, objects: bool) -> np.ndarray:
    """Return `objects_of`, or without `objects` the whole mask as object 1, empty below the minimum size."""
    if objects:
        return objects_of(probs, kind, threshold=threshold, min_size=min_size)
    return drop_small((mask_channel(probs, kind) >= threshold).astype(np.int32), min_size)


def objects_of(
    probs: np.ndarray, kind: str, *, threshold: float = 0.5, min_size: int = 0, mask: np.ndarray | None = None
) -> np.ndarray:
    """Find the objects of one image.

    With a border channel, what is inside and not border makes the seeds, and a watershed of the probability gives
    the border pixels back to them; else seeds are the peaks of the distance to the background, as the network predicts
    it or as the mask has it. A part of the mask without any seed is one object.

    Args:
        probs: (K, H, W) float in [0, 1].
        kind: binary, border, softmax or distance.
        threshold: probability from which a pixel is of the mask.
        min_size: objects of fewer pixels are dropped.
        mask: (H, W) bool, where objects are; None for `mask_channel` from the threshold on.

    Returns:
        (H, W) int32, objects 1..N without gaps, 0 background.
    """
    mask = mask_channel(probs, kind) >= threshold if mask is None else mask
    if kind == "binary":
        height = ndimage.gaussian_filter(ndimage.distance_transform_edt(mask), SMOOTH_PX)
        seeds = _peaks(height, mask, NECKS[kind])
    elif kind == "distance":
        height = ndimage.gaussian_filter(probs[1], SMOOTH_PX)
        seeds = _peaks(height, mask, NECKS[kind])
    else:
        inside, border = (probs[0], probs[1]) if kind == "border" else (probs[1], probs[2])
        height = inside - border
        seeds = ndimage.label((inside >= threshold) & (border < threshold) & mask, EIGHT)[0]
    return drop_small(watershed(-height, _with_seedless(seeds, mask), mask=mask), min_size)


def _peaks(height: np.ndarray, mask: np.ndarray, neck: float) -> np.ndarray:
    """Number the peaks of a (H, W) map in the mask that stand out from the way to any higher one: (H, W) int32.

    Standing out is relative to a peak's height, so that small objects are separated as large ones are.
    """
    fall = np.float32(-np.log(neck))
    steps = np.where(mask, np.log(np.maximum(height, LEAST)), np.log(LEAST) - fall).astype(np.float32)
    below = reconstruction(steps - fall, steps)
    return ndimage.label(mask & (steps - below >= fall * 0.999), EIGHT)[0]


def _with_seedless(seeds: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the seeds, (H, W) int32, and a seed for each connected part of the mask that has none."""
    parts, count = ndimage.label(mask, EIGHT)
    seeded = np.zeros(count + 1, bool)
    seeded[parts[seeds > 0]] = True
    alone = mask & ~seeded[parts]
    return np.where(alone, seeds.max(initial=0) + parts, seeds)


MOST_ENLARGED = 4.0
"""Times that an image is enlarged at most."""


def enlargement(label_map: np.ndarray, object_px: int) -> float:
    """Return by how much to enlarge an image so that its objects reach a size; 1 if they do, or if there are none.

    Args:
        label_map: (H, W) int, 0 background.
        object_px: wanted square root of the objects' median area, px; 0 for any.
    """
    areas = np.bincount(label_map.ravel())[1:]
    if not object_px or not areas.any():
        return 1.0
    return float(np.clip(object_px / np.sqrt(np.median(areas[areas > 0])), 1, MOST_ENLARGED))


def enlarge(planes: np.ndarray, times: float, *, smooth: bool) -> np.ndarray:
    """Enlarge (C, H, W) planes; `smooth` for pictures, else each pixel takes the nearest value."""
    if times == 1:
        return planes
    size = tuple(max(1, round(length * times)) for length in planes.shape[1:])
    how = cv2.INTER_LINEAR if smooth else cv2.INTER_NEAREST_EXACT
    return np.stack([cv2.resize(plane, size[::-1], interpolation=how) for plane in planes])


def drop_small(label_map: np.ndarray, min_size: int) -> np.ndarray:
    """Drop objects of fewer than `min_size` pixels and number the others 1..N: (H, W) int32."""
    areas = np.bincount(label_map.ravel())
    keep = areas >= max(1, min_size)
    keep[0] = False
    return np.where(keep, np.cumsum(keep), 0).astype(np.int32)[label_map]
