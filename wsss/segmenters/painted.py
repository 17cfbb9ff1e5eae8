"""Masks of cells as somebody gave them, one by one or as run lengths in a table, and the label map that they make."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from wsss.core import rle
from wsss.core.checks import DataError, some
from wsss.core.csv_text import any_case, check_columns, first_of, numbers, read_text, unguard_text
from wsss.core.label_maps import MOST_PIXELS
from wsss.core.parquet import read_parquet
from wsss.core.rle import check_covered

MOST = 2**31 - 1


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


def is_number(value: object) -> bool:
    """Return whether a value is a whole number, and not true or false."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_ids(ids: list[int], where: str) -> None:
    """Raise DataError unless `ids` are distinct whole numbers from 1 up that a label map can hold."""
    wrong = [k for k in ids if not is_number(k) or not 1 <= k <= MOST]
    if wrong:
        raise DataError(f"{where}: a cell has the number {some(wrong)}, expected whole numbers from 1 to {MOST}.")
    if len(set(ids)) < len(ids):
        twice = sorted(k for k, count in Counter(ids).items() if count > 1)
        raise DataError(f"{where}: cell {some(twice)} comes twice.")


SUBMISSION = "PredictionString"
NUMBERS = ("cell_id", "cell")
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
        check_columns(table, ["ID", SUBMISSION if self.submission else "rle"], path)
        self._number, self.notes = first_of(NUMBERS, table, path)
        """The column of the numbers; what the user should know, a line each."""
        self._rows = {str(name): rows for name, rows in table.groupby("ID", sort=False)}
        self._empty = _without_cells(path)

    def masks(self, name: str, size: tuple[int, int]) -> GivenMasks:
        """Return the cells of the image `name`, whose original is (H, W) `size`.

        Raises:
            DataError: the table has no row of it, or a row is broken.
        """
        where = f"{self.path} ({name})"
        rows = self._rows.get(name)
        if rows is None:
            if name in self._empty:
                return GivenMasks(where, size, [], [])
            raise DataError(f"{self.path} has no row of {name}; an image without cells needs one in images.csv.")
        size = self._size(rows, size, where)
        if self.submission:
            counts = _submitted(rows[SUBMISSION].tolist(), where)
        else:
            counts = [str(text).encode("ascii", "replace") for text in rows["rle"]]
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
    images_csv = path.with_name("images.csv")
    if not images_csv.is_file():
        return set()
    table = unguard_text(read_text(images_csv, ["ID", "n_cells"]))
    return set(table.ID[table.n_cells == "0"])


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
