"""Outlines of cells along the edges of their pixels: exact, with holes, piece by piece."""

from collections.abc import Iterator

import numpy as np
from skimage.measure import find_contours, label, regionprops

Polygon = list[np.ndarray]
"""The outer ring and then its holes: (n, 2) int64 of x, y at pixel corners, first corner repeated at the end."""


def cell_polygons(label_map: np.ndarray) -> dict[int, list[Polygon]]:
    """Trace every cell of a label map.

    Args:
        label_map: (H, W) integers, 0 background.

    Returns:
        Cell id -> one polygon a 4-connected piece. A polygon covers exactly the pixels of its piece, pixel (y, x)
        being the square from corner (x, y) to (x + 1, y + 1); no ring touches itself.
    """
    out: dict[int, list[Polygon]] = {}
    for piece in regionprops(label(label_map, background=0, connectivity=1)):
        y, x = piece.coords[0]
        corner = np.array([piece.bbox[1], piece.bbox[0]])
        rings = [ring + corner for ring in _rings(piece.image)]
        rings.sort(key=lambda ring: -abs(signed_area(ring)))  # the outer ring encloses all others
        out.setdefault(int(label_map[y, x]), []).append(rings)
    return dict(sorted(out.items()))


def signed_area(ring: np.ndarray) -> float:
    """Return the area inside a closed ring, positive or negative by its sense of rotation."""
    x, y = ring.T.astype(np.float64)
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)


def _rings(mask: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the rings around a mask and its holes.

    find_contours gives the middles of all pixel edges between inside and outside, in order. Where one edge runs along
    a row and the next along a column, the corner between them has the row of the first and the column of the second.
    """
    for middles in find_contours(np.pad(mask, 1).astype(np.float32), 0.5):
        middles = middles[:-1]  # the last repeats the first
        following = np.roll(middles, -1, axis=0)
        along_row = middles[:, 0] % 1 != 0
        turns = along_row != np.roll(along_row, -1)
        here = np.where(along_row[:, None], middles, following)  # the edge that has the row
        there = np.where(along_row[:, None], following, middles)  # the edge that has the column
        corners = np.stack([there[:, 1], here[:, 0]], axis=1)[turns]
        yield from _simple_rings((corners - 0.5).astype(np.int64))


def _simple_rings(corners: np.ndarray) -> Iterator[np.ndarray]:
    """Cut a closed path where it meets itself; yield closed rings that do not."""
    path: list[tuple[int, int]] = []
    place: dict[tuple[int, int], int] = {}
    for corner in map(tuple, corners.tolist()):
        if corner in place:
            start = place[corner]
            yield np.array([*path[start:], corner], np.int64)
            for dropped in path[start + 1 :]:
                del place[dropped]
            del path[start + 1 :]
        else:
            place[corner] = len(path)
            path.append(corner)
    yield np.array([*path, path[0]], np.int64)
