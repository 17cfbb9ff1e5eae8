"""Large images in overlapping tiles, blended with weights that fall off to the tile's border.

Tiles are gone through in bands from top to bottom; rows that no further tile touches are handed on at once. So memory
grows with tile x width of the image, not with its height, and reader and writer may be files.
"""

from collections.abc import Callable, Iterator

import numpy as np

from wsss.core.checks import check_range

ROWS = 128
"""Rows that are handed on at a time."""

Read = Callable[[int, int, int, int], np.ndarray]
"""(y0, y1, x0, x1) -> (C, y1 - y0, x1 - x0) uint8."""


def tile_starts(length: int, tile: int, overlap: float) -> list[int]:
    """Return where tiles begin along an axis: evenly spaced, `overlap` of a tile in common at least, none outside."""
    check_range("overlap", overlap, 0, 0.9)
    if length <= tile:
        return [0]
    step = max(1, int(tile * (1 - overlap)))
    count = -(-(length - tile) // step) + 1
    return [round(k * (length - tile) / (count - 1)) for k in range(count)]


def fall_off(length: int) -> np.ndarray:
    """Return weights along an axis: a raised cosine, highest in the middle, nearly 0 at the ends; (length,) float32."""
    places = (np.arange(length) + 0.5) / length
    return np.asarray(np.sin(np.pi * places) ** 2, np.float32)


def predict_tiles(
    read: Read,
    predict: Callable[[np.ndarray], np.ndarray],
    size: tuple[int, int],
    *,
    tile: int = 1024,
    overlap: float = 0.5,
) -> Iterator[tuple[int, np.ndarray]]:
    """Predict an image tile by tile.

    Args:
        read: gives a part of the image.
        predict: (C, h, w) -> (K, h, w) float maps.
        size: (H, W) of the image.
        tile: edge of the tiles, px; smaller where the image is.
        overlap: share of a tile that its neighbour covers too, 0 to .9.

    Yields:
        (first row, (K, rows, W) float32) from top to bottom, every row once.
    """
    height, width = size
    edge_y, edge_x = min(tile, height), min(tile, width)
    starts_y, starts_x = tile_starts(height, edge_y, overlap), tile_starts(width, edge_x, overlap)
    window = fall_off(edge_y)[:, None] * fall_off(edge_x)
    down, across = _weights(starts_y, edge_y, height), _weights(starts_x, edge_x, width)
    sums = np.zeros((0, edge_y, width), np.float32)
    for k, y in enumerate(starts_y):
        for x in starts_x:
            maps = predict(read(y, y + edge_y, x, x + edge_x))
            if not len(sums):
                sums = np.zeros((len(maps), edge_y, width), np.float32)
            sums[:, :, x : x + edge_x] += maps * window
        done = (starts_y[k + 1] if k + 1 < len(starts_y) else height) - y
        for row in range(0, done, ROWS):
            last = min(row + ROWS, done)
            yield y + row, sums[:, row:last] / (down[y + row : y + last, None] * across)
        for row in range(edge_y - done):  # row by row: a second copy would double the memory
            sums[:, row] = sums[:, row + done]
        sums[:, edge_y - done :] = 0


def _weights(starts: list[int], tile: int, length: int) -> np.ndarray:
    """Return the sum of all tiles' weights along an axis; those of both axes multiply, for tiles lie on a grid."""
    out = np.zeros(length, np.float32)
    for start in starts:
        out[start : start + tile] += fall_off(tile)
    return out
