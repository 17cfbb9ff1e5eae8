"""Cells in COCO files."""

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
from pycocotools import mask as coco

from wsss.core.channels import split_channel
from wsss.core.checks import ConfigError, DataError, nearest, some
from wsss.core.files import composed, read_json
from wsss.core.label_maps import MOST_PIXELS
from wsss.core.labels import HPA_CHANNELS
from wsss.core.rle import check_covered
from wsss.data.ids import without_suffix
from wsss.segmenters.painted import GivenMasks, is_number

LONGEST = 1 << 20
"""Pixels round a polygon, at most: pycocotools keeps each in memory several times, and does not ask whether it may."""
LONGEST_TOGETHER = 1 << 24
"""The same of all polygons of an image, unless it has more pixels than this."""
_NUCLEUS = re.compile(r"nucle(us|i|ar)|\bdapi\b|hoechst", re.IGNORECASE)
ALL = "all"
"""Value of --category that takes every category for cells."""


class CocoMasks:
    """A COCO file, read whole. The number of a cell is the id of its annotation, or its cell_id in a file of ours.

    Crowds (`iscrowd`) are left out. Of several categories, that of the cells must be given, or be the only
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
        plain = [a for a in annotations if str(a.get("iscrowd") or 0).lower() not in ("1", "true")]
        if crowds := len(annotations) - len(plain):
            self.notes.append(f"{self.path}: {crowds} annotations of crowds (iscrowd) are left out.")
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
        sizes, gone = dict(self._images.values()), []
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
        if gone:
            self.notes.append(
                f"{self.path}: polygons of fewer than three corners, of no area or outside their image are left out, "
                f"of annotation {some(gone)}."
            )


def _roles(names: dict[Any, str], counts: Counter[Any], category: str | None, path: Path) -> tuple[set[Any], set[Any]]:
    """Return which categories are cells and which nuclei.

    Raises:
        ConfigError: it has to be said, or what was said is no category.
    """
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


def _checked(annotations: list[Any], path: Path) -> list[dict[str, Any]]:
    for annotation in annotations:
        if not isinstance(annotation, dict) or not {"id", "image_id", "segmentation"} <= set(annotation):
            raise DataError(f"{path}: an annotation lacks id, image_id or segmentation: {str(annotation)[:80]}.")
        _check_id(_whole(annotation["image_id"]), "image", path)
        _check_id(_whole(annotation.get("category_id") or 0), "category", path)
        annotation.update({name: _whole(annotation[name]) for name in _NUMBERED if name in annotation})
        if isinstance(annotation["id"], str) and annotation["id"].isdecimal():
            annotation["id"] = int(annotation["id"])
    return annotations


def _whole(value: Any) -> Any:
    """Return a whole float, such as pandas writes, as int; anything else as it is."""
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
    """Return the polygons of a segmentation, also without the outer list; [] if it is empty, None of run lengths."""
    if not segmentation:
        return []
    if not isinstance(segmentation, list):
        return None
    return [segmentation] if all(isinstance(n, int | float) for n in segmentation) else segmentation


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
