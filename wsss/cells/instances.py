"""Cells cut out as crops, and objects found in the maps of a mask network (threshold, seeds, watershed, size)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import cv2
import numpy as np
from scipy import ndimage
from skimage.morphology import reconstruction
from skimage.segmentation import watershed

from wsss.cells.regions import cell_ids, cell_runs
from wsss.options.scoring import CropConfig

MOST_CHANNELS = 4
"""Channels that OpenCV scales at once."""


def cell_crops(image: np.ndarray, label_map: np.ndarray, config: CropConfig) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Cut out every cell of an image, its surroundings black, batch by batch: memory does not grow with the cells.

    Args:
        image: (C, H, W) uint8.
        label_map: (H, W) int, 0 background; ids may have gaps.
        config: size and mode, and most crops at a time.

    Yields:
        The ids (n,) int32 in rising order and the crops (n, C, size, size) uint8.

    Raises:
        ValueError: image and label map differ in size.
    """
    ids = cell_ids(label_map)
    for k, crops in enumerate(crop_batches([(image, label_map)], config)):
        yield ids[k * config.batch : k * config.batch + len(crops)], crops


def crop_batches(fields: Iterable[tuple[np.ndarray, np.ndarray]], config: CropConfig) -> Iterator[np.ndarray]:
    """Cut out the cells of several images, each an image and its label map as `cell_crops` takes them.

    Yields:
        (n, C, size, size) uint8, image after image and by rising id; a batch goes on into the next image.
    """
    cells = (place for field in fields for place in _places(*field))
    while part := list(islice(cells, config.batch)):
        channels = len(part[0][0])
        crops = np.zeros((len(part), channels, config.size, config.size), np.uint8)
        for crop, (image, label_map, cell, box) in zip(crops, part, strict=True):
            _cut(image, label_map, cell, box, config, crop)
        yield crops


@dataclass(frozen=True)
class Window:
    """How networks that know the size of things want each cell: in the middle of a square of fixed width."""

    size: int
    """Edge of a crop in px."""
    pixel_um: float
    """Micrometres per pixel of a crop."""
    rim_um: float
    """How far around the cell its surroundings stay, in micrometres; beyond they are black."""


def window_batches(
    fields: Iterable[tuple[np.ndarray, np.ndarray, float]], window: Window, batch: int
) -> Iterator[np.ndarray]:
    """Cut out the cells of several images, each an image, its label map and the micrometres per pixel of both.

    Yields:
        (n, C, size, size) uint8 with n up to `batch`, image after image and by rising id; black beyond the image.
    """
    cells = ((*place, um) for image, label_map, um in fields for place in _places(image, label_map))
    while part := list(islice(cells, batch)):
        yield np.stack([_cut_window(*cell, window) for cell in part])


def _cut_window(
    image: np.ndarray, label_map: np.ndarray, cell: int, box: np.ndarray, um: float, window: Window
) -> np.ndarray:
    """Return one cell, (C, size, size): the square around the middle of its box, scaled, its surroundings black."""
    scale = window.pixel_um / um
    edge, rim = max(1, round(window.size * scale)), round(window.rim_um / um)
    top, left = ((int(box[k]) + int(box[k + 2])) // 2 - edge // 2 for k in (0, 1))
    height, width = label_map.shape
    rows, columns = slice(max(0, top), min(height, top + edge)), slice(max(0, left), min(width, left + edge))
    place = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
    planes = np.zeros((len(image) + 1, edge, edge), np.uint8)
    planes[:-1, *place], planes[-1, *place] = image[:, rows, columns], label_map[rows, columns] == cell
    planes[-1] = cv2.dilate(planes[-1], np.ones((2 * rim + 1, 2 * rim + 1), np.uint8))
    size, method = (window.size, window.size), cv2.INTER_AREA if scale > 1 else cv2.INTER_LINEAR
    *scaled, mask = (cv2.resize(plane, size, interpolation=method) for plane in planes)
    return np.stack(scaled) * mask


def cell_boxes(label_map: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids (N,) int32 in rising order and the boxes (N, 4) int64, y0 x0 y1 x1 half-open, of all cells."""
    cells = cell_runs(label_map)
    return cells.ids, cells.boxes()


def _places(image: np.ndarray, label_map: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, int, np.ndarray]]:
    """Yield the image, its label map, the id and the box of every cell."""
    if image.shape[1:] != label_map.shape:
        raise ValueError(f"the image is {image.shape[1:]}, the label map is {label_map.shape}.")
    for cell, box in zip(*cell_boxes(label_map), strict=True):
        yield image, label_map, int(cell), box


def _cut(
    image: np.ndarray, label_map: np.ndarray, cell: int, box: np.ndarray, config: CropConfig, out: np.ndarray
) -> None:
    """Write one cell into `out` (C, size, size), which is black."""
    y0, x0, y1, x1 = box
    size = config.size
    mask = label_map[y0:y1, x0:x1] == cell
    pixels = np.where(mask[..., None], image[:, y0:y1, x0:x1].transpose(1, 2, 0), np.uint8(0))
    longest = max(mask.shape)
    scale = size / (longest * (1 + 2 * config.margin))
    if config.mode == "stored":
        scale = min(scale, 1.0)
    if scale != 1:
        height, width = (max(1, min(size, round(edge * scale))) for edge in mask.shape)
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        parts = [
            cv2.resize(pixels[..., k : k + MOST_CHANNELS], (width, height), interpolation=method)
            for k in range(0, len(image), MOST_CHANNELS)
        ]
        pixels = np.concatenate([part.reshape(height, width, -1) for part in parts], axis=-1)
    height, width = pixels.shape[:2]
    y, x = (size - height) // 2, (size - width) // 2
    out[:, y : y + height, x : x + width] = pixels.transpose(2, 0, 1)


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


def drop_small(label_map: np.ndarray, min_size: int) -> np.ndarray:
    """Drop objects of fewer than `min_size` pixels and number the others 1..N: (H, W) int32."""
    areas = np.bincount(label_map.ravel())
    keep = areas >= max(1, min_size)
    keep[0] = False
    return np.where(keep, np.cumsum(keep), 0).astype(np.int32)[label_map]
