"""Single cells cut out of an image, as the network's second stage sees them."""

from collections.abc import Iterable, Iterator
from itertools import islice

import cv2
import numpy as np

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
