"""Single cells cut out of an image, as the network's second stage sees them."""

from collections.abc import Iterator

import cv2
import numpy as np
from scipy import ndimage

from wsss.cells.regions import group_pixels
from wsss.core.score_config import CropConfig


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
    if image.shape[1:] != label_map.shape:
        raise ValueError(f"the image is {image.shape[1:]}, the label map is {label_map.shape}.")
    ids, boxes = cell_boxes(label_map)
    for start in range(0, len(ids), config.batch):
        part = slice(start, start + config.batch)
        crops = np.zeros((len(ids[part]), len(image), config.size, config.size), np.uint8)
        for crop, cell, box in zip(crops, ids[part], boxes[part], strict=True):
            _cut(image, label_map, int(cell), box, config, crop)
        yield ids[part], crops


def cell_boxes(label_map: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids (N,) int32 in rising order and the boxes (N, 4) int64, y0 x0 y1 x1 half-open, of all cells."""
    cells = group_pixels(label_map)
    dense = np.zeros(label_map.size, np.int32)  # find_objects makes one entry for every number up to the highest
    dense[cells.order] = cells.owner + 1
    found = ndimage.find_objects(dense.reshape(label_map.shape))
    boxes = [(y.start, x.start, y.stop, x.stop) for y, x in found]
    return cells.ids, np.array(boxes, np.int64).reshape(-1, 4)


def _cut(
    image: np.ndarray, label_map: np.ndarray, cell: int, box: np.ndarray, config: CropConfig, out: np.ndarray
) -> None:
    """Write one cell into `out` (C, size, size), which is black."""
    y0, x0, y1, x1 = box
    size = config.size
    mask = label_map[y0:y1, x0:x1] == cell
    pixels = np.where(mask[..., None], image[:, y0:y1, x0:x1].transpose(1, 2, 0), 0).astype(np.uint8)
    longest = max(mask.shape)
    scale = size / (longest * (1 + 2 * config.margin))
    if config.mode == "stored":
        scale = min(scale, 1.0)
    if scale != 1:
        height, width = (max(1, min(size, round(edge * scale))) for edge in mask.shape)
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        scaled = cv2.resize(pixels, (width, height), interpolation=method)
        pixels = np.asarray(scaled, np.uint8).reshape(height, width, len(image))
    height, width = pixels.shape[:2]
    y, x = (size - height) // 2, (size - width) // 2
    out[:, y : y + height, x : x + width] = pixels.transpose(2, 0, 1)
