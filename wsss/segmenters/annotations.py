"""Cells as somebody gave them, and the label map that they make.

Outlines are read from GeoJSON of QuPath and StarDist, regions of ImageJ and Fiji, and COCO; masks one by one, or as run
lengths in a table.
"""

import itertools
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import pandas as pd
from pycocotools import mask as coco
from roifile import ROI_SUBTYPE, ROI_TYPE, ImagejRoi

from wsss.core import rle
from wsss.core.channels import split_channel
from wsss.core.checks import ConfigError, DataError, nearest, some
from wsss.core.csv_text import any_case, check_columns, first_of, numbers, read_text, unguard_text
from wsss.core.files import composed, read_json
from wsss.core.label_maps import MOST_PIXELS
from wsss.core.labels import HPA_CHANNELS
from wsss.core.outlines import Outlines, check_crossings, check_ids, is_number, oval
from wsss.core.parquet import read_parquet
from wsss.core.rasters import image_names, named, without_suffix
from wsss.core.reading import check_regular, open_zip, read_bytes
from wsss.core.rle import check_covered, fill


@dataclass(frozen=True)
class GivenMasks:
    """The cells of one image."""

    where: str
    """File and image, for messages."""
    size: tuple[int, int]
    """(H, W) of the masks."""
    ids: list[int]
    """The number of each cell, as it was given."""
    counts: list[bytes]
    """The mask of each cell as COCO counts."""


def paint(given: GivenMasks) -> np.ndarray:
    """Make a label map (H, W) int32; where masks overlap, the smaller cell lies on top.

    Raises:
        DataError: a number that is none or comes twice, or a mask that is broken or of another size.
    """
    check_ids(given.ids, given.where)
    if min(given.size) < 1 or given.size[0] * given.size[1] > MOST_PIXELS:
        size = f"{given.size[0]} x {given.size[1]}"
        raise DataError(f"{given.where} has masks of {size}, expected 1 to {MOST_PIXELS} pixels.")
    try:
        runs = rle.check(given.counts, given.size)
    except DataError as error:
        raise DataError(f"{given.where}: {error}") from None
    areas = np.array([run[1::2].sum() for run in runs], np.int64)
    check_covered(int(areas.sum()), given.size, given.where)
    flat = np.zeros(given.size[0] * given.size[1], np.int32)  # column after column
    for cell in np.argsort(-areas, kind="stable"):
        turns = np.cumsum(runs[cell]).tolist()  # the mask turns on, off, on, ...
        for start, stop in zip(turns[0::2], turns[1::2], strict=False):
            flat[start:stop] = given.ids[cell]
    return np.ascontiguousarray(flat.reshape(given.size, order="F"))


BESIDE = "images.csv"
"""Beside a table of masks: names the images without cells, which have no row there."""
SUBMISSION = "PredictionString"
NUMBERS = ("cell_id", "cell")
PAIRS = ("EncodedPixels", "rle_mask", "encoding", "annotation")
"""Columns of Kaggle's tables of runs."""
_OF_PAIRS = (
    "holds pairs of start and length, which do not say whether they follow rows or columns: convert them to label "
    "maps, or to COCO run lengths, in a column rle."
)
SIZES = ("ImageHeight", "ImageWidth")


class TableMasks:
    """A table of masks, read whole.

    The column `rle` holds COCO counts; cells are numbered by `cell_id` (or `cell`), or 1..N in the order of rows. Of
    a submission, each distinct mask of an image is a cell, 1..N in the order of their first mention. Masks have the
    size that `ImageHeight` and `ImageWidth` give, or else that of the original image.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        table = _read(path)
        self.submission = SUBMISSION in table
        pairs = next((name for name in PAIRS if name in table), "")
        if not self.submission and "rle" not in table and pairs:
            raise DataError(f"{path}: {pairs} {_OF_PAIRS}")
        check_columns(table, ["ID", SUBMISSION if self.submission else "rle"], path)
        self._number, self.notes = first_of(NUMBERS, table, path)
        """The column of the numbers; what the user should know, a line each."""
        names = np.array(image_names([composed(str(ID)) for ID in table["ID"]], path), object)
        self._rows = {str(name): rows for name, rows in table.groupby(names, sort=False)}
        self._empty = _without_cells(path)

    def masks(self, name: str, size: tuple[int, int]) -> GivenMasks:
        """Return the cells of the image `name`, whose original is (H, W) `size`.

        Raises:
            DataError: the table has no row of it, or a row is broken.
        """
        where = f"{self.path} ({name})"
        rows = self._rows.get(_name(name))
        if rows is None:
            if _name(name) in self._empty:
                return GivenMasks(where, size, [], [])
            raise DataError(f"{self.path} has no row of {name}; an image without cells needs one in images.csv.")
        size = self._size(rows, size, where)
        if self.submission:
            counts = _submitted(rows[SUBMISSION].tolist(), where)
        else:
            if any(isinstance(text, str) and re.fullmatch(r"\d+( \d+)+", text) for text in rows["rle"]):
                raise DataError(f"{where}: rle {_OF_PAIRS}")
            counts = [text if isinstance(text, bytes) else str(text).encode("ascii", "replace") for text in rows["rle"]]
        return GivenMasks(where, size, self._ids(rows, len(counts), where), counts)

    def _size(self, rows: pd.DataFrame, size: tuple[int, int], where: str) -> tuple[int, int]:
        if not set(SIZES) <= set(rows):
            return size
        height, width = (numbers(rows, name, self.path, whole=True) for name in SIZES)
        if (height != height[0]).any() or (width != width[0]).any():
            raise DataError(f"{where}: the rows give different sizes of the image.")
        return int(height[0]), int(width[0])

    def _ids(self, rows: pd.DataFrame, count: int, where: str) -> list[int]:
        if self.submission or not self._number:
            return list(range(1, count + 1))
        return numbers(rows, self._number, self.path, whole=True).tolist()


def _read(path: Path) -> pd.DataFrame:
    if path.suffix.lower() != ".parquet":
        table = read_text(path, ["ID"], [SUBMISSION, "rle", *NUMBERS, *SIZES])
        return table if SUBMISSION in table else unguard_text(table)
    table = read_parquet(path, again="Check the path, or make it again.")
    table = any_case(table, ["ID", SUBMISSION, "rle", *NUMBERS, *SIZES], path)
    check_columns(table, ["ID"], path)
    return table.set_axis(pd.RangeIndex(1, len(table) + 1), axis=0)


def _without_cells(path: Path) -> set[str]:
    """Return the images that images.csv next to a table of cells lists with no cell."""
    images_csv = path.with_name(BESIDE)
    if not images_csv.is_file():
        return set()
    table = unguard_text(read_text(images_csv, ["ID", "n_cells"]))
    return set(table.ID[table.n_cells == "0"].map(_name))


def _name(ID: object) -> str:
    return without_suffix(composed(str(ID)))


def _submitted(texts: list[str], where: str) -> list[bytes]:
    """Return the distinct masks of a PredictionString `class confidence mask ...`."""
    if len(texts) > 1:
        raise DataError(f"{where}: the image comes twice.")
    words = texts[0].split()
    if len(words) % 3:
        raise DataError(f"{where}: {len(words)} words in {SUBMISSION}, expected class, confidence, mask each.")
    try:
        return [rle.from_submission(word) for word in dict.fromkeys(words[2::3])]
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def paint_outlines(
    ids: list[int], shapes: list[list[list[np.ndarray]]], size: tuple[int, int], where: object
) -> np.ndarray:
    """Make a label map (H, W) int32 of outlines that run between pixels; of overlapping ones the smaller is on top.

    Raises:
        DataError: they cross the rows of pixels too often, or cover the image over and over.
    """
    check_crossings((ring for shape in shapes for part in shape for ring in part), size, where)
    runs = [np.concatenate([fill(rings, size) for rings in shape] or [fill([], size)]) for shape in shapes]
    areas = [int((stops - starts).sum()) for starts, stops in (part.T for part in runs)]
    check_covered(sum(areas), size, where)
    flat = np.zeros(size[0] * size[1], np.int32)
    for k in sorted(range(len(ids)), key=lambda k: -areas[k]):
        for start, stop in runs[k].tolist():
            flat[start:stop] = ids[k]
    return flat.reshape(size)


REGION_SUFFIXES = (".zip", ".roi")
MOST_REGIONS = 200_000
MOST_BYTES = 2**28
"""Bytes of a set when unpacked, at most."""
MOST_SMALL, MOST_RATIO = 2**24, 10
"""Bytes of any set, and the largest ratio by which larger ones may be packed."""
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
        rings: Any = [oval(np.array([region.left, region.top]), np.array([region.right, region.bottom]))]
    else:
        rings = region.coordinates(multi=True)
    whole = [np.asarray(ring, np.float64).reshape(-1, 2) for ring in rings]
    return [ring for ring in whole if len(ring) >= 3 and np.isfinite(ring).all()]


LONGEST = 1 << 20
"""Pixels round a polygon, at most: pycocotools keeps each in memory several times, and does not ask whether it may."""
LONGEST_TOGETHER = 1 << 24
"""The same of all polygons of an image, unless it has more pixels than this."""
_NUCLEUS = re.compile(r"(?<![a-z])nucle(us|i|ar)(?!.*\bcells?$)|\bdapi\b|hoechst", re.IGNORECASE)
"""Names of categories of nuclei; multinuclear cells are cells."""
ALL = "all"
"""Value of --category that takes every category for cells."""


class CocoMasks:
    """A COCO file, read whole. The number of a cell is the id of its annotation, or its cell_id in a file of ours.

    Crowds (`iscrowd`, `ignore`) are left out. Of several categories, that of the cells must be given, or be the only
    one besides that of the nuclei, which are then paired with the cells.

    Args:
        category: names or ids of the categories that are cells, separated by commas; 'all'; '' for no choice; None
            where there is no option to choose by.
        channels: names that files of single channels bear.
    """

    def __init__(self, path: Path, category: str | None = "", channels: Iterable[str] = HPA_CHANNELS) -> None:
        content = read_json(path)
        images, annotations = (_list(content, name) for name in ("images", "annotations"))
        if images is None or annotations is None:
            raise DataError(
                f"{path} is no COCO file: it lacks the lists 'images' and 'annotations': export it as COCO."
            )
        self.path = path
        self.notes: list[str] = []
        """What the user should know, a line each."""
        info = content.get("info")
        self._is_ours = isinstance(info, dict) and str(info.get("description", "")).startswith("wsss:")
        self._images: dict[str, tuple[Any, tuple[int, int]]] = {}
        for image in images:
            name, *rest = _image(image, path, None if self._is_ours else channels)
            if name in self._images:
                raise DataError(f"{path} has two images for the ID {name}: keep one file name of each image.")
            self._images[name] = (rest[0], (rest[1], rest[2]))
        if twice := [k for k, count in Counter(k for k, _ in self._images.values()).items() if count > 1]:
            raise DataError(f"{path} has several images of the id {some(twice)}: give each an id of its own.")
        self._cells: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        self._nuclei: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        self._sort(_checked(annotations, path), content.get("categories"), category)
        self._drop_unlisted(path)
        self._drop_strays()

    def _drop_unlisted(self, path: Path) -> None:
        """Leave out the annotations of images that are not listed, and note them; refuse a file that has no others."""
        missing = (set(self._cells) | set(self._nuclei)) - {number for number, _ in self._images.values()}
        for number in missing:
            self._cells.pop(number, None)
            self._nuclei.pop(number, None)
        if not missing:
            return
        what = f"{path}: annotations belong to the image {some(missing)}, which 'images' does not list"
        if not self._cells and not self._nuclei:
            raise DataError(f"{what}, and none to a listed one.")
        self.notes.append(f"{what}: they are left out.")

    def masks(self, name: str, size: tuple[int, int]) -> GivenMasks:
        """Return the cells of the image `name`; `size` is not needed here.

        Raises:
            DataError: the file does not list the image, or a segmentation is broken.
        """
        return self._given(self._cells, name)

    def nuclei(self, name: str) -> GivenMasks | None:
        """Return the nuclei of the image `name`, numbered by themselves; None for a file without nuclei."""
        return self._given(self._nuclei, name) if self._nuclei else None

    def _given(self, annotations: dict[Any, list[dict[str, Any]]], name: str) -> GivenMasks:
        if name not in self._images:
            raise DataError(f"{self.path} lists no image {name}: expected a file name {name}.png or {name}_red.png.")
        number, size = self._images[name]
        where = f"{self.path} ({name})"
        listed = annotations.get(number, [])
        if self._is_ours:  # one annotation a class: the mask of a cell may come several times
            listed = list({a.get("cell_id", a["id"]): a for a in listed}.values())
        counts = _packed(listed, size, where)
        numbers = [a.get("cell_id", a["id"]) if self._is_ours else self._number(a["id"]) for a in listed]
        return GivenMasks(where, size, numbers, counts)

    def _number(self, annotation: Any) -> Any:
        """Return the number of a cell by the id of its annotation; what is no number is left to be refused."""
        return annotation + 1 if self._from_zero and is_number(annotation) else annotation

    def _sort(self, annotations: list[dict[str, Any]], categories: Any, category: str | None) -> None:
        """Put the annotations to cells or nuclei."""
        plain = [a for a in annotations if not any(str(a.get(name)).lower() in ("1", "true") for name in _NO_CELL)]
        if (crowds := len(annotations) - len(plain)) and not plain:
            raise DataError(
                f"{self.path}: all {crowds} annotations are crowds (iscrowd or ignore 1), which are no cells: if each "
                "is one, as programs mark run lengths, set their iscrowd to 0."
            )
        if crowds:
            self.notes.append(f"{self.path}: {crowds} annotations of crowds (iscrowd, ignore) are left out.")
        self._from_zero = not self._is_ours and any(is_number(a["id"]) and a["id"] == 0 for a in plain)
        if self._from_zero:
            self.notes.append(f"{self.path}: an annotation has the id 0, which is background: cell = id + 1.")
        named = {
            _whole(c["id"]): str(c.get("name", c["id"])) for c in categories or [] if isinstance(c, dict) and "id" in c
        }
        counts = Counter(a.get("category_id") for a in plain)
        names = {k: named.get(k, str(k)) for k in counts}
        cells, nuclei = (set(counts), set()) if self._is_ours else _roles(names, counts, category, self.path)
        if nuclei or cells != set(counts):
            roles = f"{some(names[k] for k in cells)} are the cells"
            roles += f", {some(names[k] for k in nuclei)} their nuclei" if nuclei else ""
            self.notes.append(f"{self.path}: of the categories {some(names.values())}, {roles}.")
        for annotation in plain:
            for kinds, into in ((cells, self._cells), (nuclei, self._nuclei)):
                if annotation.get("category_id") in kinds:
                    into[annotation["image_id"]].append(annotation)

    def _drop_strays(self) -> None:
        """Take out polygons that outline nothing in their image, and annotations that have no other."""
        sizes, gone, left = dict(self._images.values()), [], 0
        for annotations in (self._cells, self._nuclei):
            every = [a for listed in annotations.values() for a in listed]
            outlined = [(a, polygons) for a in every if (polygons := _polygons(a["segmentation"])) is not None]
            flat = [(polygon, sizes[a["image_id"]]) for a, polygons in outlined for polygon in polygons]
            good = iter(_outline(flat))
            for a, polygons in outlined:
                a["segmentation"] = [polygon for polygon, is_good in zip(polygons, good) if is_good]  # noqa: B905
                gone += [str(a["id"])] * (len(a["segmentation"]) < max(1, len(polygons)))
            for image, listed in annotations.items():
                annotations[image] = [a for a in listed if a["segmentation"]]
                left += len(annotations[image])
        if gone and not left:
            raise DataError(
                f"{self.path}: no annotation outlines anything in its image: expected polygons x, y, x, y, ... in "
                "pixels of the original image, or run lengths."
            )
        if gone:
            self.notes.append(
                f"{self.path}: polygons of fewer than three corners, of no area or outside their image are left out, "
                f"of annotation {some(gone)}."
            )


def _roles(names: dict[Any, str], counts: Counter[Any], category: str | None, path: Path) -> tuple[set[Any], set[Any]]:
    """Return which categories are cells and which nuclei."""
    nuclei = {k for k, name in names.items() if _NUCLEUS.search(name)}
    if category == ALL:
        return set(names), set()
    if category:
        cells: set[Any] = set()
        for word in (part.strip() for part in category.split(",")):
            alike = {k for k, name in names.items() if word.casefold() == name.casefold() or word == str(k)}
            if not alike:
                raise ConfigError(
                    f"--category is '{word}', {path} has {some(names.values())}.{nearest(word, names.values())}"
                )
            cells |= alike
        return cells, nuclei - cells
    if len(names) <= 1:
        return set(names), set()
    if len(nuclei) == 1 and len(names) == 2:
        return set(names) - nuclei, nuclei
    counted = some(f"{names[k]} ({count} annotations)" for k, count in counts.items())
    way_out = f"say which are cells, --category {next(iter(names.values()))}, or --category {ALL}"
    raise ConfigError(
        f"{path} has the categories {counted}: {'keep those of cells alone' if category is None else way_out}."
    )


_NUMBERED = ("id", "image_id", "category_id")
_NO_CELL = ("iscrowd", "ignore")
"""What is 1 in annotations that are none of a single object."""


def _checked(annotations: list[Any], path: Path) -> list[dict[str, Any]]:
    for annotation in annotations:
        if not isinstance(annotation, dict) or not {"id", "image_id", "segmentation"} <= set(annotation):
            raise DataError(f"{path}: an annotation lacks id, image_id or segmentation: {str(annotation)[:80]}.")
        _check_id(_whole(annotation["image_id"]), "image", path)
        _check_id(_whole(annotation.get("category_id") or 0), "category", path)
        annotation.update({name: _whole(annotation[name]) for name in _NUMBERED if name in annotation})
    return annotations


def _whole(value: Any) -> Any:
    """Return a whole float, such as pandas writes, and a text of digits as int; anything else as it is."""
    if isinstance(value, str) and re.fullmatch("[0-9]{1,15}", value):
        return int(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _list(content: Any, name: str) -> list[Any] | None:
    """Return a list of a COCO file, which LIVECell writes as a table of its numbers; None if there is none."""
    entries = content.get(name) if isinstance(content, dict) else None
    entries = list(entries.values()) if isinstance(entries, dict) else entries
    return entries if isinstance(entries, list) else None


def _image(image: Any, path: Path, channels: Iterable[str] | None) -> tuple[str, Any, int, int]:
    """Return ID, COCO id, height and width of an entry of 'images'; its name is taken whole without channels."""
    try:
        file = PurePosixPath(PureWindowsPath(image["file_name"]).as_posix()).name
        name = image["file_name"] if channels is None else split_channel(without_suffix(file), channels)[0]
        entry = composed(name), _whole(image["id"]), int(image["height"]), int(image["width"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: an image lacks id, file_name, height or width: {str(image)[:80]}.") from error
    _check_id(entry[1], "image", path)
    if min(entry[2:]) < 1 or entry[2] * entry[3] > MOST_PIXELS:
        raise DataError(f"{path}: {file} is {entry[2]} x {entry[3]}, expected pixels, {MOST_PIXELS} at most.")
    return entry


def _check_id(value: Any, what: str, path: Path) -> None:
    if not isinstance(value, int | str):
        raise DataError(f"{path}: {what} {str(value)[:80]} is no id, expected a number or a word.")


def _polygons(segmentation: Any) -> list[Any] | None:
    """Return the polygons of a segmentation, [] if it is empty, None of run lengths.

    They may be without the outer list, and their corners pairs of x and y.
    """
    if not segmentation:
        return []
    if not isinstance(segmentation, list):
        return None
    depth = 1
    inner: Any = next((part for part in segmentation if part != []), [])
    while isinstance(inner, list):
        depth, inner = depth + 1, inner[0] if inner else None
    if depth == 2 and _is_pairs(segmentation):
        segmentation, depth = [segmentation], 3
    if depth == 3:
        return [[*itertools.chain(*polygon)] if _is_pairs(polygon) else polygon for polygon in segmentation]
    return [segmentation] if depth == 1 else segmentation


def _is_pairs(polygon: Any) -> bool:
    return isinstance(polygon, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in polygon)


_NUMBERS = {int, float}
BLOCK = 1 << 13
"""Polygons that are measured at once."""


def _outline(polygons: Sequence[tuple[Any, tuple[int, int]]]) -> list[bool]:
    """Say of each polygon x, y, x, y, ... and size of its image whether it has an area, and a part inside."""
    formed = [k for k, (polygon, _) in enumerate(polygons) if _is_ring(polygon)]
    good = np.zeros(len(polygons), bool)
    for block in (formed[first : first + BLOCK] for first in range(0, len(formed), BLOCK)):
        points, follow, begins = _corners([polygons[k][0] for k in block])
        twice = np.add.reduceat(points[:, 0] * follow[:, 1] - points[:, 1] * follow[:, 0], begins)
        low, high = np.minimum.reduceat(points, begins), np.maximum.reduceat(points, begins)
        edges = np.array([polygons[k][1][::-1] for k in block])
        good[block] = (np.abs(twice) >= 1) & (high > 0).all(axis=1) & (low < edges).all(axis=1)
    return good.tolist()


def _is_ring(polygon: Any) -> bool:
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        return False
    return {*map(type, polygon)} <= _NUMBERS and bool(min(polygon) > -1e6 and max(polygon) < 1e6)


def _corners(polygons: Sequence[list[float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return all corners (n, 2), the next corner of each, and where each polygon begins."""
    lengths = np.array([len(polygon) // 2 for polygon in polygons])
    points = np.fromiter(itertools.chain.from_iterable(polygons), np.float64, 2 * int(lengths.sum())).reshape(-1, 2)
    behind = np.cumsum(lengths)
    follow = np.arange(1, len(points) + 1)
    follow[behind - 1] = behind - lengths
    return points, points[follow], behind - lengths


def _around(polygons: Sequence[list[float]]) -> np.ndarray:
    """Return how many pixels each polygon is round."""
    points, follow, begins = _corners(polygons)
    return np.asarray(np.add.reduceat(np.abs(follow - points).max(axis=1), begins))


def _packed(annotations: list[dict[str, Any]], size: tuple[int, int], where: str) -> list[bytes]:
    """Return the segmentations of an image, in any of COCO's three forms, as compressed counts."""
    owned = [(p, a["id"]) for a in annotations if isinstance(a["segmentation"], list) for p in a["segmentation"]]
    polygons = [polygon for polygon, _ in owned]
    around = _around(polygons) if polygons else np.zeros(1)
    if around.max() > LONGEST:
        name, longest = owned[int(around.argmax())][1], around.max()
        raise DataError(f"{where}: annotation {name} is {longest:.0f} pixels round, more than {LONGEST} are refused.")
    most = max(LONGEST_TOGETHER, size[0] * size[1])
    if around.sum() > most:
        raise DataError(f"{where}: its polygons are {around.sum():.0f} pixels round, more than {most} are refused.")
    packed = coco.frPyObjects(polygons, *size) if polygons else []
    blocks = (packed[first : first + 255] for first in range(0, len(packed), 255))  # `area` takes no more
    check_covered(sum(int(coco.area(block).sum()) for block in blocks), size, where)
    turn = iter(packed)
    return [_counts(a["segmentation"], turn, size, f"{where}: annotation {a['id']}") for a in annotations]


def _counts(segmentation: Any, packed: Iterator[Any], size: tuple[int, int], where: str) -> bytes:
    """Return the compressed counts of a segmentation; those of polygons are joined from `packed`."""
    if isinstance(segmentation, list):
        parts = list(itertools.islice(packed, len(segmentation)))
        joined: bytes = (parts[0] if len(parts) == 1 else coco.merge(parts))["counts"]
        return joined
    counts = segmentation.get("counts") if isinstance(segmentation, dict) else None
    counts = [_whole(n) for n in counts] if isinstance(counts, list) else counts
    if not isinstance(counts, str | list) or segmentation.get("size") != list(size):
        raise DataError(f"{where} is neither polygons nor run lengths of {size[0]} x {size[1]}.")
    if isinstance(counts, str):
        return counts.encode("ascii", "replace")
    if not all(isinstance(n, int) and 0 <= n < 2**31 for n in counts) or sum(counts) != size[0] * size[1]:
        raise DataError(f"{where}: the run lengths do not add up to {size[0]} x {size[1]} pixels.")
    unpacked: bytes = coco.frPyObjects({"size": list(size), "counts": counts}, *size)["counts"]
    return unpacked
