"""Outlines of the cells of one image in JSON: GeoJSON of QuPath, StarDist and others, and files of labelme."""

import io
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wsss.core.checks import DataError, some
from wsss.core.files import read_json
from wsss.core.reading import opening

MOST_ID = 2**31 - 1
MOST_CROSSINGS = 1 << 26
"""Times that the outlines of an image may cross its rows of pixels, together: each crossing is kept in memory."""
OVAL_POINTS = 129
SUFFIXES = (".geojson", ".geojson.gz", ".json")
"""Endings of files of outlines; `.json` is that of much else, see `holds_outlines`."""
_MARKS = (b'"shapes"', b'"shape_type"', b'"Feature"', b'"FeatureCollection"')
_LOOKED_AT = 4096
"""Bytes at the beginning and at the end of a JSON file in which one of _MARKS stands if it is of outlines."""


def is_number(value: object) -> bool:
    """Return whether a value is a whole number, and not true or false."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_ids(ids: list[int], where: str) -> None:
    """Raise DataError unless `ids` are distinct whole numbers from 1 up that a label map can hold."""
    wrong = [k for k in ids if not is_number(k) or not 1 <= k <= MOST_ID]
    if wrong:
        raise DataError(f"{where}: a cell has the number {some(wrong)}, expected whole numbers from 1 to {MOST_ID}.")
    if len(set(ids)) < len(ids):
        twice = sorted(k for k, count in Counter(ids).items() if count > 1)
        raise DataError(f"{where}: cell {some(twice)} comes twice.")


class Outlines(NamedTuple):
    """The cells of one image as outlines."""

    ids: list[int]
    cells: list[list[list[np.ndarray]]]
    """Polygons of each cell; a polygon is rings, (n, 2) of x, y in pixels: what an odd number of them encloses is
    inside, so that the second of two is a hole."""
    nuclei: list[list[list[np.ndarray]]]
    """Those of its nucleus; empty where there is none."""
    size: tuple[int, int] | None = None
    """(H, W) of the image as the file says, None where it does not."""


def holds_outlines(path: Path) -> bool:
    """Return whether a file is of outlines, GeoJSON or labelme; of JSON, that is seen at its beginning and end."""
    if path.suffix.lower() != ".json":
        return path.name.lower().endswith(SUFFIXES)
    with opening(path), path.open("rb") as stream:
        ends = stream.read(_LOOKED_AT)
        stream.seek(max(0, stream.seek(0, io.SEEK_END) - _LOOKED_AT))
        ends += stream.read()
    return any(mark in ends for mark in _MARKS)


def read_outlines(path: Path) -> Outlines:
    """Read a FeatureCollection, a list of features, or a file of labelme.

    Points, lines and outlines without an area do not count. Where there are cells, or else detections, other objects
    are left out: regions around them, and spots and tiles within. Cells have the numbers of their measurement cell_id
    if all have one, else 1..N.

    Raises:
        DataError: the file is no such JSON, holds features but no outline, outlines of several planes of a stack, or in
            labelme of several labels.
    """
    content = read_json(path)
    if isinstance(content, dict) and isinstance(content.get("shapes"), list):
        return _of_labelme(content, path)
    features = content.get("features") if isinstance(content, dict) else content
    if isinstance(content, dict) and content.get("type") == "Feature":
        features = [content]
    if not isinstance(features, list) or not all(isinstance(feature, dict) for feature in features):
        raise DataError(
            f"{path} is no GeoJSON of outlines: expected a FeatureCollection, a list of features, or a file of labelme."
        )
    outlined = [(feature, shape) for feature in features if (shape := _shapes(feature.get("geometry"), path))]
    if features and not outlined:
        raise DataError(f"{path} has {len(features)} features, but no Polygon or MultiPolygon: it shows no cell.")
    kinds = {_kind(feature) for feature, _ in outlined}
    if finest := next((kind for kind in ("cell", "detection", "tile") if kind in kinds), ""):
        outlined = [(feature, shape) for feature, shape in outlined if _kind(feature) in (finest, "")]
    places = [_table(feature["geometry"].get("plane")) for feature, _ in outlined]
    planes = {f"{place.get('z', 0)} {place.get('t', 0)}" for place in places}
    if len(planes) > 1:
        raise DataError(f"{path} holds outlines of {len(planes)} planes of a stack (z, t), expected those of one.")
    measured = (_table(_table(feature.get("properties")).get("measurements")) for feature, _ in outlined)
    numbers = [table.get("cell_id") for table in measured]
    numbered = all(is_number(k) or (isinstance(k, float) and k.is_integer()) for k in numbers)
    ids = [int(k) for k in numbers] if numbered else list(range(1, len(outlined) + 1))  # type: ignore[arg-type]
    check_ids(ids, str(path))
    nuclei = [_shapes(feature.get("nucleusGeometry"), path) for feature, _ in outlined]
    return Outlines(ids, [shape for _, shape in outlined], nuclei)


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


_KINDS = {"PathCellObject": "cell", "PathDetectionObject": "detection", "PathTileObject": "tile"}
_KINDS |= {"PathAnnotationObject": "annotation", "PathRootObject": "root", "TMACoreObject": "tma_core"}


def _kind(feature: dict[str, Any]) -> str:
    """Return what QuPath calls an object, '' where it is not said: 0.2 says it as id, 0.3 as object_type."""
    properties = _table(feature.get("properties"))
    said = properties.get("objectType") or properties.get("object_type")
    return str(said or _KINDS.get(str(feature.get("id")), ""))


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _of_labelme(content: dict[str, Any], path: Path) -> Outlines:
    """Return the shapes of a file of labelme that have an area; those of one group are one cell."""
    cells: dict[Any, list[list[np.ndarray]]] = defaultdict(list)
    labels = set()
    for k, shape in enumerate(map(_table, content["shapes"])):
        if shape.get("shape_type") == "mask":
            raise DataError(f"{path} has a shape of the type mask, expected polygons: save the masks as label maps.")
        try:
            ring = _labelme_ring(shape)
        except (TypeError, ValueError, IndexError) as error:
            raise DataError(f"{path} has a shape whose points are no list of x, y ({error}).") from error
        if ring is not None:
            group = shape.get("group_id")
            cells[f"alone {k}" if group is None else str(group)].append([ring])
            labels.add(str(shape.get("label")))
    if content["shapes"] and not cells:
        raise DataError(f"{path} has {len(content['shapes'])} shapes, but no polygon, rectangle or circle.")
    if len(labels) > 1:
        raise DataError(f"{path} has outlines with the labels {some(sorted(labels))}: keep those of cells alone.")
    height, width = content.get("imageHeight"), content.get("imageWidth")
    size = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    return Outlines(list(range(1, len(cells) + 1)), list(cells.values()), [[]] * len(cells), size)


def _labelme_ring(shape: dict[str, Any]) -> np.ndarray | None:
    """Return the outline of a shape, (n, 2) of x, y; None where it has no area."""
    kind, points = shape.get("shape_type", "polygon"), np.array(shape.get("points"), np.float64).reshape(-1, 2)
    if not np.isfinite(points).all():
        return None
    if kind == "rectangle" and len(points) == 2:
        (left, top), (right, bottom) = points
        return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    if kind == "circle" and len(points) == 2:
        radius = np.hypot(*(points[1] - points[0]))
        return oval(points[0] - radius, points[0] + radius)
    return points if kind in ("polygon", "rectangle") and len(points) >= 3 else None


def oval(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return the ring, (n, 2) of x, y, of the oval in the box from `low` to `high`, (2,) each."""
    angles = np.linspace(0, 2 * np.pi, OVAL_POINTS)
    return low + (high - low) / 2 * (1 + np.column_stack([np.cos(angles), np.sin(angles)]))


def check_crossings(rings: Iterable[np.ndarray], size: tuple[int, int], where: object) -> None:
    """Refuse outlines that cross the rows of an image of (H, W) `size` too often to be painted.

    Raises:
        DataError: they do.
    """
    crossings = 0.0
    for ring in rings:
        rows = ring[:, 1].clip(0, size[0])
        crossings += float(np.abs(np.diff(rows, append=rows[:1])).sum())
    if crossings > MOST_CROSSINGS:
        raise DataError(f"{where}: its outlines cross rows of pixels {crossings:.0f} times: they are no cells.")


IN_CORNER = (
    "all cells lie in the upper left of the image, as those drawn in micrometres or on a smaller copy do",
    "check that they are in pixels of the image",
)
"""What is wrong where they do, and what to do."""
MOST_REACH = 0.7
"""Share of the image's edges up to which cells may be taken for those of a smaller one."""
CHANCE = 0.01


def in_corner(count: int, box: tuple[float, float, float, float], size: tuple[int, int]) -> bool:
    """Return whether cells lie in the upper left of an image alone, as those drawn in µm or on a smaller copy do.

    Cells that may lie anywhere would do so by a chance of less than CHANCE.

    Args:
        count: of the cells.
        box: of all of them: top, left, bottom, right.
        size: (H, W).
    """
    top, left, bottom, right = box
    reach = max(bottom / size[0], right / size[1])
    margin = max(top / size[0], left / size[1])
    return reach <= MOST_REACH and reach ** (2 * count) < CHANCE and margin < (1 - reach) / 2
