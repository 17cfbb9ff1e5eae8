"""The true labels of cells: one row a cell, in any of the forms such tables come in."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from wsss.core import rle
from wsss.core.checks import DataError, some
from wsss.core.csv_text import numbers, read_text, unguard_text
from wsss.core.label_maps import find_label_map, read_label_map
from wsss.core.labels import ClassList, LabelReader

CELL_COLUMNS = ("cell_id", "cell", "Cell_index")
"""Names of the column with the cell's number in its label map, in order of preference."""
LABEL_COLUMNS = ("Cell_Label", "Label")
"""Names of the column with the cell's classes; where both are, `Label` holds those of the image."""
MARK_COLUMN = "image_mark"
"""Name of the column with the digest of the image's pixels and label map."""


@dataclass(frozen=True)
class CellTruth:
    """True cells in the order of their table."""

    ids: np.ndarray
    """(N,) str, the image of each cell."""
    cells: np.ndarray
    """(N,) int64, the cell's number in its image."""
    labels: np.ndarray
    """(N, K) float32 of 0/1."""
    image_labels: dict[str, np.ndarray]
    """ID -> (K,) float32 the labels of the image where the table has them, else empty."""
    marks: dict[str, str] = field(default_factory=dict)
    """ID -> digest of the pixels and label map that its cells were labelled on, in tables of wsss review."""

    def rows(self) -> dict[str, np.ndarray]:
        """Return for each image the (n,) rows of its cells, images in the order of the table."""
        groups = pd.Series(np.arange(len(self.ids))).groupby(self.ids, sort=False)
        return {str(name): own.to_numpy() for name, own in groups}

    def union(self, negative: int | None) -> dict[str, np.ndarray]:
        """Return ID -> (K,) the labels of its cells together; Negative only where no cell shows another class."""
        out = {}
        for name, rows in self.rows().items():
            out[name] = self.labels[rows].max(axis=0)
            if negative is not None and out[name].sum() > 1:
                out[name][negative] = 0
        return out


def read_cell_truth(path: Path, classes: ClassList) -> CellTruth:
    """Read a table of true cells: ID, the cell's number, and its classes, ids or names, in any form of `LabelReader`.

    Raises:
        DataError: a column is missing, or a row has no number, no or unknown classes, or comes twice.
    """
    table = unguard_text(read_text(path, ["ID"], [*CELL_COLUMNS, *LABEL_COLUMNS]))
    cell = _first_of(CELL_COLUMNS, table, path)
    label = _first_of(LABEL_COLUMNS, table, path)
    cells = numbers(table, cell, path, whole=True, low=1)
    table["ID"] = table.ID.str.strip()
    twice = np.flatnonzero(table.assign(**{cell: cells}).duplicated(["ID", cell]))
    if twice.size:
        row = table.iloc[twice[0]]
        raise DataError(f"{path} row {table.index[twice[0]]}: cell {row[cell]} of {row.ID} comes twice.")
    labels = _encode(table[label], classes, path)
    of_image: dict[str, np.ndarray] = {}
    if label != "Label" and "Label" in table:
        first = ~table.duplicated("ID").to_numpy()
        of_image = dict(zip(table.ID[first], _encode(table.Label[first], classes, path), strict=True))
    marks = dict(zip(table.ID, table[MARK_COLUMN], strict=True)) if MARK_COLUMN in table else {}
    return CellTruth(table.ID.to_numpy(str), cells, labels, of_image, marks)


def _first_of(names: tuple[str, ...], table: pd.DataFrame, path: Path) -> str:
    for name in names:
        if name in table:
            return name
    raise DataError(f"{path} lacks a column {' or '.join(names)}; it has {some(table.columns, 8)}.")


def _encode(texts: pd.Series, classes: ClassList, path: Path) -> np.ndarray:
    """Return (N, K) float32 of 0/1; a label without a counterpart among the classes is left out where others stay."""
    reader, known = LabelReader(classes), dict[str, np.ndarray]()
    out = np.zeros((len(texts), len(classes)), np.float32)
    for i, text in enumerate(texts):
        if text not in known:
            try:
                found, _ = reader.read(text)
                if not found:
                    raise ValueError(f"the label is '{text}', expected class ids such as 8|5|0, or class names")
                known[text] = classes.encode(found)
            except ValueError as error:
                raise DataError(f"{path} row {texts.index[i]}: {error}.") from None
        out[i] = known[text]
    return out


class TrueImage(NamedTuple):
    """The true cells of one image: first those of the truth table, then those that only the label map has."""

    size: tuple[int, int]
    """(H, W) of the label map."""
    masks: list[bytes]
    """T masks as COCO counts; empty for a cell of the table that the map does not show."""
    rows: np.ndarray
    """(n,) rows of the first n of the T cells in the truth table."""
    labels: np.ndarray
    """(T, K) float32 of 0/1; zeros for cells outside the table."""
    known: np.ndarray
    """(T,) bool, whether the cell is in the table."""

    def iou(self, masks: list[bytes], size: tuple[int, int], where: str) -> np.ndarray:
        """Return the (len(masks), T) IoU of other masks of `size` with the true ones.

        Raises:
            DataError: the sizes differ.
        """
        if masks and size != self.size:
            raise DataError(
                f"{where} has masks of {size[0]} x {size[1]}, the true label map is {self.size[0]} x {self.size[1]}: "
                "give true masks at the size of the original image."
            )
        return rle.iou(masks, self.masks, self.size)


class TrueMasks:
    """A folder of true label maps, one file per image, and the table that labels their cells."""

    def __init__(self, folder: Path, truth: CellTruth) -> None:
        self.folder = folder
        self.truth = truth
        self._rows = truth.rows()

    @property
    def image_ids(self) -> list[str]:
        """The images of the truth table, in its order."""
        return list(self._rows)

    def read(self, image_id: str) -> TrueImage:
        """Read the true cells of an image.

        Raises:
            DataError: its label map is missing or broken.
        """
        label_map = read_label_map(find_label_map(self.folder, image_id))
        rows = self._rows[image_id]
        listed = self.truth.cells[rows].tolist()
        found = rle.encode_label_map(label_map)
        extra = sorted(set(found) - set(listed))
        none = rle.encode_label_map(label_map, ids=[-1])[-1]
        labels = np.zeros((len(listed) + len(extra), self.truth.labels.shape[1]), np.float32)
        labels[: len(listed)] = self.truth.labels[rows]
        size = (label_map.shape[0], label_map.shape[1])
        masks = [found.get(k, none) for k in [*listed, *extra]]
        return TrueImage(size, masks, rows, labels, np.arange(len(masks)) < len(listed))
