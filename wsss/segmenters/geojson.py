"""Cells of one image from GeoJSON, as QuPath, StarDist in QuPath and `export --to geojson` write them."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from skimage.draw import polygon

from wsss.core.checks import DataError
from wsss.core.files import read_json
from wsss.core.geometry import check_filling
from wsss.segmenters.painted import check_ids

SUFFIXES = (".geojson", ".geojson.gz")


class Outlines(NamedTuple):
    """The cells of one image as outlines."""

    ids: list[int]
    cells: list[list[list[np.ndarray]]]
    """Polygons of each cell; a polygon is rings, (n, 2) of x, y in pixels: what an odd number of them encloses is
    inside, so that the second of two is a hole."""
    nuclei: list[list[list[np.ndarray]]]
    """Those of its nucleus; empty where there is none."""


def read_outlines(path: Path) -> Outlines:
    """Read a FeatureCollection or a list of features; points, lines and outlines without an area do not count.

    Where there are cells or detections, annotations (regions around them) are left out. Cells have the numbers of their
    measurement cell_id if all have one, else 1..N.

    Raises:
        DataError: the file is no such JSON.
    """
    content = read_json(path)
    features = content.get("features") if isinstance(content, dict) else content
    if isinstance(content, dict) and content.get("type") == "Feature":
        features = [content]
    if not isinstance(features, list) or not all(isinstance(feature, dict) for feature in features):
        raise DataError(f"{path} is no GeoJSON of outlines: expected a FeatureCollection, or a list of features.")
    found = [(feature, shape) for feature in features if (shape := _polygons(feature.get("geometry"), path))]
    kinds = {_kind(feature) for feature, _ in found}
    if kinds & {"cell", "detection", "tile"}:
        found = [(feature, shape) for feature, shape in found if _kind(feature) != "annotation"]
    numbers = [_measured(feature).get("cell_id") for feature, _ in found]
    own = all(isinstance(k, int | float) and k == int(k) for k in numbers if k is not None) and None not in numbers
    ids = [int(k) for k in numbers] if own else list(range(1, len(found) + 1))  # type: ignore[arg-type]
    check_ids(ids, str(path))
    nuclei = [_polygons(feature.get("nucleusGeometry"), path) for feature, _ in found]
    return Outlines(ids, [shape for _, shape in found], nuclei)


def paint_outlines(
    ids: list[int], shapes: list[list[list[np.ndarray]]], size: tuple[int, int], where: object
) -> np.ndarray:
    """Make a label map (H, W) int32 of outlines that run between pixels; of overlapping ones the smaller is on top.

    Raises:
        DataError: see `check_filling`.
    """
    check_filling((ring for shape in shapes for part in shape for ring in part), size, where)
    pixels = [_pixels(shape, size) for shape in shapes]
    flat = np.zeros(size[0] * size[1], np.int32)
    for k in sorted(range(len(ids)), key=lambda k: -len(pixels[k])):
        flat[pixels[k]] = ids[k]
    return flat.reshape(size)


def _pixels(shape: list[list[np.ndarray]], size: tuple[int, int]) -> np.ndarray:
    """Return the flat numbers of the pixels whose centres lie in the polygons."""
    parts = []
    for rings in shape:
        inside = np.zeros(0, np.int64)
        for ring in rings:
            inside = np.setxor1d(inside, _ring(ring, size), assume_unique=True)
        parts.append(inside)
    return np.unique(np.concatenate(parts)) if parts else np.zeros(0, np.int64)


def _ring(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    rows, columns = polygon(points[:, 1] - 0.5, points[:, 0] - 0.5, size)
    return rows * size[1] + columns


def _polygons(geometry: Any, path: Path) -> list[list[np.ndarray]]:
    """Return the polygons of a geometry, none if it is of another kind."""
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if kind not in ("Polygon", "MultiPolygon"):
        return []
    try:
        shapes = geometry["coordinates"] if kind == "MultiPolygon" else [geometry["coordinates"]]
        rings = [[np.array(ring, np.float64).reshape(len(ring), -1)[:, :2] for ring in shape] for shape in shapes]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError(f"{path} has a polygon that is no list of rings of x, y ({error}).") from error
    whole = [[ring for ring in shape if len(ring) >= 3 and np.isfinite(ring).all()] for shape in rings]
    return [shape for shape in whole if shape]


def _properties(feature: dict[str, Any]) -> dict[str, Any]:
    found = feature.get("properties")
    return found if isinstance(found, dict) else {}


def _kind(feature: dict[str, Any]) -> str:
    return str(_properties(feature).get("objectType", ""))


def _measured(feature: dict[str, Any]) -> dict[str, Any]:
    found = _properties(feature).get("measurements")
    return found if isinstance(found, dict) else {}
