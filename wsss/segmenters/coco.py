"""Masks from a COCO JSON: polygons or run lengths, images told apart by their file names."""

import re
from collections import defaultdict
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
from pycocotools import mask as coco

from wsss.core.checks import DataError, some
from wsss.core.files import read_json
from wsss.core.label_maps import MOST_PIXELS
from wsss.segmenters.painted import GivenMasks

LONGEST = 1 << 20
"""Pixels round a polygon, at most: pycocotools keeps each in memory several times, and does not ask whether it may."""
_COLOUR = re.compile(r"_(red|green|blue|yellow)$")


class CocoMasks:
    """A COCO file, read whole. The number of a cell is the id of its annotation."""

    def __init__(self, path: Path) -> None:
        content = read_json(path)
        if not isinstance(content, dict) or not all(
            isinstance(content.get(k), list) for k in ("images", "annotations")
        ):
            raise DataError(f"{path} is no COCO file: it lacks the lists 'images' and 'annotations'.")
        self.path = path
        self._images: dict[str, tuple[Any, tuple[int, int]]] = {}
        for image in content["images"]:
            name, *rest = _image(image, path)
            if name in self._images:
                raise DataError(f"{path} has two images for the ID {name}: keep one file name of each image.")
            self._images[name] = (rest[0], (rest[1], rest[2]))
        self._cells = defaultdict(list)
        for annotation in content["annotations"]:
            if not isinstance(annotation, dict) or not {"id", "image_id", "segmentation"} <= set(annotation):
                raise DataError(f"{path}: an annotation lacks id, image_id or segmentation: {str(annotation)[:80]}.")
            _check_id(annotation["image_id"], path)
            self._cells[annotation["image_id"]].append(annotation)
        missing = set(self._cells) - {own for own, _ in self._images.values()}
        if missing:
            raise DataError(f"{path}: annotations belong to the image {some(missing)}, which 'images' does not list.")

    def masks(self, name: str, size: tuple[int, int]) -> GivenMasks:
        """Return the cells of the image `name`; `size` is not needed here.

        Raises:
            DataError: the file does not list the image, or a segmentation is broken.
        """
        if name not in self._images:
            raise DataError(f"{self.path} lists no image {name}: expected a file name {name}.png or {name}_red.png.")
        own, size = self._images[name]
        where = f"{self.path} ({name})"
        cells = self._cells.get(own, [])
        counts = [_counts(a["segmentation"], size, f"{where}: annotation {a['id']}") for a in cells]
        return GivenMasks(where, size, [a["id"] for a in cells], counts)


def _image(image: Any, path: Path) -> tuple[str, Any, int, int]:
    """Return ID, COCO id, height and width of an entry of 'images'."""
    try:
        file = PurePosixPath(PureWindowsPath(image["file_name"]).as_posix())
        found = _COLOUR.sub("", file.stem), image["id"], int(image["height"]), int(image["width"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: an image lacks id, file_name, height or width: {str(image)[:80]}.") from error
    _check_id(found[1], path)
    if min(found[2:]) < 1 or found[2] * found[3] > MOST_PIXELS:
        raise DataError(f"{path}: {file} is {found[2]} x {found[3]}, expected 1 to {MOST_PIXELS} pixels.")
    return found


def _check_id(value: Any, path: Path) -> None:
    if not isinstance(value, int | str):
        raise DataError(f"{path}: the id of an image is {str(value)[:80]}, expected a number or a word.")


def _counts(segmentation: Any, size: tuple[int, int], where: str) -> bytes:
    """Return a segmentation in any of COCO's three forms as compressed counts."""
    if isinstance(segmentation, list):
        return _from_polygons(segmentation, size, where)
    counts = segmentation.get("counts") if isinstance(segmentation, dict) else None
    if not isinstance(counts, str | list) or segmentation.get("size") != list(size):
        raise DataError(f"{where} is neither polygons nor run lengths of {size[0]} x {size[1]}.")
    if isinstance(counts, str):
        return counts.encode("ascii", "replace")
    if not all(isinstance(n, int) and 0 <= n < 2**31 for n in counts) or sum(counts) != size[0] * size[1]:
        raise DataError(f"{where}: the run lengths do not add up to {size[0]} x {size[1]} pixels.")
    packed: bytes = coco.frPyObjects({"size": list(size), "counts": counts}, *size)["counts"]
    return packed


def _from_polygons(polygons: list[Any], size: tuple[int, int], where: str) -> bytes:
    for polygon in polygons or [None]:
        numbers = isinstance(polygon, list) and all(isinstance(n, int | float) and abs(n) < 1e6 for n in polygon)
        if not numbers or len(polygon) < 6 or len(polygon) % 2:
            raise DataError(f"{where}: a polygon is no list x, y, x, y, ... of at least three corners.")
        corners = np.array(polygon, np.float64).reshape(-1, 2)
        around = np.abs(np.diff(corners, axis=0, append=corners[:1])).max(axis=1).sum()
        if around > LONGEST:
            raise DataError(f"{where}: a polygon is {around:.0f} pixels round, more than {LONGEST} are refused.")
    packed: bytes = coco.merge(coco.frPyObjects(polygons, *size))["counts"]
    return packed
