"""Cells of one image from outlines: GeoJSON (QuPath, StarDist, wsss export) and ImageJ regions (<ID>.zip or .roi)."""

import logging
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from roifile import ROI_SUBTYPE, ROI_TYPE, ImagejRoi
from skimage.draw import polygon

from wsss.core.checks import DataError
from wsss.core.files import read_json
from wsss.core.geometry import check_filling
from wsss.core.rasters import check_regular, named
from wsss.segmenters.painted import check_ids

GEOJSON_SUFFIXES = (".geojson", ".geojson.gz")


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
    outlined = [(feature, shape) for feature in features if (shape := _polygons(feature.get("geometry"), path))]
    kinds = {_kind(feature) for feature, _ in outlined}
    if kinds & {"cell", "detection", "tile"}:
        outlined = [(feature, shape) for feature, shape in outlined if _kind(feature) != "annotation"]
    numbers = [_measured(feature).get("cell_id") for feature, _ in outlined]
    numbered = all(isinstance(k, int | float) and k == int(k) for k in numbers if k is not None) and None not in numbers
    ids = [int(k) for k in numbers] if numbered else list(range(1, len(outlined) + 1))  # type: ignore[arg-type]
    check_ids(ids, str(path))
    nuclei = [_polygons(feature.get("nucleusGeometry"), path) for feature, _ in outlined]
    return Outlines(ids, [shape for _, shape in outlined], nuclei)


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
    properties = feature.get("properties")
    return properties if isinstance(properties, dict) else {}


def _kind(feature: dict[str, Any]) -> str:
    return str(_properties(feature).get("objectType", ""))


def _measured(feature: dict[str, Any]) -> dict[str, Any]:
    measurements = _properties(feature).get("measurements")
    return measurements if isinstance(measurements, dict) else {}


REGION_SUFFIXES = (".zip", ".roi")
MOST_REGIONS = 200_000
MOST_BYTES = 2**28
"""Bytes of a set when unpacked, at most."""
OVAL_POINTS = 129

_AREAS = (ROI_TYPE.POLYGON, ROI_TYPE.FREEHAND, ROI_TYPE.TRACED, ROI_TYPE.RECT, ROI_TYPE.OVAL)
_NO_AREAS = (ROI_SUBTYPE.TEXT, ROI_SUBTYPE.ARROW, ROI_SUBTYPE.IMAGE)

logging.getLogger("roifile").setLevel(logging.CRITICAL)  # what it cannot read has no coordinates, and is left out


def read_regions(path: Path) -> Outlines:
    """Read the regions that have an area, numbered 1..N in the order of the set; points and lines do not count.

    Raises:
        DataError: it is no such file, holds no region with an area, or regions of several slices of a stack.
    """
    check_regular(path)
    with named(str(path)):
        regions = [ImagejRoi.frombytes(content) for content in _contents(path)]
        outlined = [(region, rings) for region in regions if (rings := _rings(region))]
    if not outlined:
        raise DataError(f"{path} holds no region with an area (polygon, freehand, oval, rectangle): it shows no cell.")
    slices = {(region.z_position, region.t_position, region.position) for region, _ in outlined}
    if len(slices) > 1:
        raise DataError(
            f"{path} holds regions of {len(slices)} slices of a stack, expected those of one plane: save these alone, "
            "or take the positions away (ROI Manager: More, Remove Positions)."
        )
    return Outlines(list(range(1, len(outlined) + 1)), [[rings] for _, rings in outlined], [[] for _ in outlined])


def _contents(path: Path) -> list[bytes]:
    """Return the regions of a file as bytes; a set's sizes are checked before it is unpacked."""
    if path.suffix.lower() == ".roi":
        if path.stat().st_size > MOST_BYTES:
            raise DataError(f"{path} is larger than {MOST_BYTES} bytes: it is no region of ImageJ.")
        return [path.read_bytes()]
    with zipfile.ZipFile(path) as archive:
        files = [file for file in archive.infolist() if file.filename.lower().endswith(".roi")]
        if len(files) > MOST_REGIONS or sum(file.file_size for file in files) > MOST_BYTES:
            raise DataError(f"{path} holds more than {MOST_REGIONS} regions or {MOST_BYTES} bytes: refused.")
        return [archive.read(file) for file in files]


def _rings(region: ImagejRoi) -> list[np.ndarray]:
    """Return the rings of a region, (n, 2) of x, y; of several, what an odd number of them encloses is inside."""
    if region.roitype not in _AREAS or region.subtype in _NO_AREAS:
        return []
    if region.roitype == ROI_TYPE.OVAL:
        angles = np.linspace(0, 2 * np.pi, OVAL_POINTS)
        half = np.array([region.right - region.left, region.bottom - region.top]) / 2
        rings: Any = [
            np.array([region.left, region.top]) + half * (1 + np.column_stack([np.cos(angles), np.sin(angles)]))
        ]
    else:
        rings = region.coordinates(multi=True)
    whole = [np.asarray(ring, np.float64).reshape(-1, 2) for ring in rings]
    return [ring for ring in whole if len(ring) >= 3 and np.isfinite(ring).all()]
