"""Masks of large images, read part by part: run-length text, or polygons."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from skimage.draw import polygon

from wsss.core.checks import DataError
from wsss.core.files import read_json
from wsss.core.geometry import check_filling
from wsss.core.run_length import parse


class LargeMask(Protocol):
    """What is asked of the mask of a large image."""

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """Return a part: (y1 - y0, x1 - x0) int32, 0 background, else the number of the object."""


class RunMask:
    """One mask as run-length text down the columns (Kaggle).

    Args:
        text: starts from 1, and lengths.
        size: (H, W) of the image.
        where: what it belongs to, for messages.

    Raises:
        DataError: the text is broken, or leaves the image.
    """

    def __init__(self, text: str, size: tuple[int, int], where: str) -> None:
        starts, stops = parse(text, size, where)
        self.height = size[0]
        self.edges = np.stack([starts, stops], axis=1).ravel()  # rising: the mask turns on, off, on, ...

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """Return a part: (y1 - y0, x1 - x0) int32 of 0 and 1."""
        columns = np.arange(x0, x1)
        turns = np.zeros((len(columns), y1 - y0), np.int64)
        turns[:, 0] = np.searchsorted(self.edges, columns * self.height + y0, side="right")
        own = self.edges[slice(*np.searchsorted(self.edges, [x0 * self.height, x1 * self.height]))]
        column, row = own // self.height - x0, own % self.height - y0
        inside = (row > 0) & (row < y1 - y0)
        np.add.at(turns, (column[inside], row[inside]), 1)
        return (np.cumsum(turns, axis=1) % 2).T.astype(np.int32)


class PolygonMask:
    """Objects as polygons, GeoJSON or a list of its features; further rings of a polygon are holes.

    Where objects overlap, the one of the smaller box shows.

    Args:
        path: the file; coordinates are x, y in pixels.
        size: (H, W) of the image.

    Raises:
        DataError: no such polygons, or one that leaves the image; see also `check_filling`.
    """

    def __init__(self, path: Path, size: tuple[int, int]) -> None:
        self.objects = [_rings(path, part, size) for part in _polygons(path)]
        check_filling((ring for rings in self.objects for ring in rings), size, path)
        boxes = [np.concatenate([rings[0].min(axis=0), rings[0].max(axis=0)]) for rings in self.objects]
        self.boxes = np.array(boxes, np.float64).reshape(-1, 4)  # x0, y0, x1, y1
        extent = self.boxes[:, 2:] - self.boxes[:, :2]
        self.order = np.argsort(-extent.prod(axis=1), kind="stable")

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """Return a part: (y1 - y0, x1 - x0) int32, object k of the file as k + 1."""
        out = np.zeros((y1 - y0, x1 - x0), np.int32)
        left, top, right, bottom = self.boxes.T
        near = (left < x1) & (right >= x0) & (top < y1) & (bottom >= y0)
        for k in self.order[near[self.order]]:
            inside = np.zeros(out.shape, bool)
            for number, ring in enumerate(self.objects[k]):
                rows, columns = polygon(ring[:, 1] - y0, ring[:, 0] - x0, out.shape)
                inside[rows, columns] = number == 0
            out[inside] = k + 1
        return out


def _polygons(path: Path) -> list[Any]:
    """Return the coordinates of every polygon of a file: lists of rings."""
    try:
        found = read_json(path)
        features = found["features"] if isinstance(found, dict) else found
        shapes = [feature["geometry"] for feature in features]
        kinds = {shape["type"] for shape in shapes}
        if not kinds <= {"Polygon", "MultiPolygon"}:
            raise ValueError(f"a {sorted(kinds - {'Polygon', 'MultiPolygon'})[0]}")
        return [
            part
            for shape in shapes
            for part in ([shape["coordinates"]] if shape["type"] == "Polygon" else shape["coordinates"])
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} cannot be read as polygons ({' '.join(str(error).split())}): expected GeoJSON features of the "
            "types Polygon or MultiPolygon."
        ) from error


def _rings(path: Path, rings: Any, size: tuple[int, int]) -> list[np.ndarray]:
    """Return the rings of a polygon as (n, 2) arrays of x and y."""
    try:
        found = [np.array(ring, np.float64).reshape(-1, 2) for ring in rings]
    except (ValueError, TypeError) as error:
        raise DataError(f"{path} holds a ring that is no list of x, y pairs: mend it.") from error
    if not found or min(len(ring) for ring in found) < 3:
        raise DataError(f"{path} holds a polygon of fewer than three points: mend it.")
    points = np.concatenate(found)
    if not np.isfinite(points).all() or (points < -1).any() or (points > [size[1] + 1, size[0] + 1]).any():
        raise DataError(
            f"{path} holds a polygon that reaches from {points.min(axis=0)} to {points.max(axis=0)} (x, y), its image "
            f"is {size[1]} wide and {size[0]} high: check that they belong together."
        )
    return found
