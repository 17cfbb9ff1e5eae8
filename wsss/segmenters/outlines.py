"""Cells as the outlines that people draw: GeoJSON of QuPath and StarDist, regions of ImageJ and Fiji."""

import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from roifile import ROI_SUBTYPE, ROI_TYPE, ImagejRoi

from wsss.core.checks import DataError
from wsss.core.files import read_json
from wsss.core.rasters import named
from wsss.core.reading import check_regular, open_zip, read_bytes
from wsss.core.rle import check_covered, fill
from wsss.segmenters.painted import check_ids, is_number

GEOJSON_SUFFIXES = (".geojson", ".geojson.gz")
MOST_CROSSINGS = 1 << 26
"""Times that the outlines of an image may cross its rows of pixels, together: each crossing is kept in memory."""


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
    outlined = [(feature, shape) for feature in features if (shape := _shapes(feature.get("geometry"), path))]
    kinds = {_kind(feature) for feature, _ in outlined}
    if kinds & {"cell", "detection", "tile"}:
        outlined = [(feature, shape) for feature, shape in outlined if _kind(feature) != "annotation"]
    measured = (_table(_table(feature.get("properties")).get("measurements")) for feature, _ in outlined)
    numbers = [table.get("cell_id") for table in measured]
    numbered = all(is_number(k) or (isinstance(k, float) and k.is_integer()) for k in numbers)
    ids = [int(k) for k in numbers] if numbered else list(range(1, len(outlined) + 1))  # type: ignore[arg-type]
    check_ids(ids, str(path))
    nuclei = [_shapes(feature.get("nucleusGeometry"), path) for feature, _ in outlined]
    return Outlines(ids, [shape for _, shape in outlined], nuclei)


def paint_outlines(
    ids: list[int], shapes: list[list[list[np.ndarray]]], size: tuple[int, int], where: object
) -> np.ndarray:
    """Make a label map (H, W) int32 of outlines that run between pixels; of overlapping ones the smaller is on top.

    Raises:
        DataError: they cross the rows of pixels too often, or cover the image over and over.
    """
    crossings = 0.0
    for ring in (ring for shape in shapes for part in shape for ring in part):
        crossings += float(np.abs(np.diff(ring[:, 1].clip(0, size[0]), append=ring[:1, 1].clip(0, size[0]))).sum())
    if crossings > MOST_CROSSINGS:
        raise DataError(f"{where}: its outlines cross rows of pixels {crossings:.0f} times: they are no cells.")
    runs = [np.concatenate([fill(rings, size) for rings in shape] or [fill([], size)]) for shape in shapes]
    areas = [int((stops - starts).sum()) for starts, stops in (part.T for part in runs)]
    check_covered(sum(areas), size, where)
    flat = np.zeros(size[0] * size[1], np.int32)
    for k in sorted(range(len(ids)), key=lambda k: -areas[k]):
        for start, stop in runs[k].tolist():
            flat[start:stop] = ids[k]
    return flat.reshape(size)


def _shapes(geometry: Any, path: Path) -> list[list[np.ndarray]]:
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


def _kind(feature: dict[str, Any]) -> str:
    return str(_table(feature.get("properties")).get("objectType", ""))


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


REGION_SUFFIXES = (".zip", ".roi")
MOST_REGIONS = 200_000
MOST_BYTES = 2**28
"""Bytes of a set when unpacked, at most."""
MOST_SMALL, MOST_RATIO = 2**24, 10
"""Bytes of any set, and the largest ratio by which larger ones may be packed."""
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
        return [read_bytes(path, MOST_BYTES, "a region of ImageJ")]
    with open_zip(path) as archive:
        files = [file for file in archive.infolist() if file.filename.lower().endswith(".roi")]
        unpacked, most = sum(file.file_size for file in files), max(MOST_SMALL, MOST_RATIO * path.stat().st_size)
        if len(files) > MOST_REGIONS or unpacked > min(MOST_BYTES, most):
            raise DataError(
                f"{path} holds {len(files)} regions that unpack to {unpacked} bytes, more than are read: it is damaged."
            )
        if sum(file.compress_size for file in files) > path.stat().st_size:
            raise DataError(f"{path} lists more regions than it holds: it is damaged.")
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
