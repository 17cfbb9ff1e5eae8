"""True cells, read from tables and label maps, and average precision of predicted cells joined to them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from wsss.core import rle
from wsss.core.checks import DataError, some
from wsss.core.console import say_notes
from wsss.core.csv_text import check_no_decimals, first_of, numbers, read_text, unguard_text
from wsss.core.labels import LABEL_COLUMNS as OF_TABLES
from wsss.core.labels import ClassList, LabelReader
from wsss.core.rasters import image_names
from wsss.metrics.classify import (
    average_precision,
    check_same_shape,
    f1,
    mean_of_classes,
    reliability,
    several_class_precision,
)

CELL_COLUMNS = ("cell_id", "cell", "Cell_index")
"""Names of the column with the cell's number in its label map, in order of preference."""
LABEL_COLUMNS = ("Cell_Label", *OF_TABLES)
"""Names of the column with the cell's classes; beside the first, `Label` holds those of the image."""
MARK_COLUMN, WEIGHT_COLUMN = "image_mark", "weight"
"""Names of columns in tables of wsss review: the digest of the image's pixels and label map, and how many cells of the
prediction a cell stands for."""


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
    weights: np.ndarray | None = None
    """(N,) float64 > 0, how many cells each stands for, in tables of wsss review; None where each stands for itself."""

    def rows(self) -> dict[str, np.ndarray]:
        """Return for each image the (n,) rows of its cells, images in the order of the table."""
        groups = pd.Series(np.arange(len(self.ids))).groupby(self.ids, sort=False)
        return {str(name): rows.to_numpy() for name, rows in groups}

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
    table["ID"] = pd.Series(image_names(table.ID.tolist(), path), table.index, dtype="str")
    cell, notes = first_of(CELL_COLUMNS, table, path)
    of_cells = LABEL_COLUMNS[:1] if LABEL_COLUMNS[0] in table else OF_TABLES
    label, others = first_of(of_cells, table, path)
    say_notes([*notes, *others])
    for name, names in ((cell, CELL_COLUMNS), (label, LABEL_COLUMNS)):
        if not name:
            raise DataError(f"{path} lacks a column {' or '.join(names)}; it has {some(table.columns, 8)}.")
    cells = numbers(table, cell, path, whole=True, low=1)
    twice = np.flatnonzero(table.assign(**{cell: cells}).duplicated(["ID", cell]))
    if twice.size:
        row = table.iloc[twice[0]]
        raise DataError(f"{path} row {table.index[twice[0]]}: cell {row[cell]} of {row.ID} comes twice.")
    check_no_decimals(table, label, path)
    labels = _encode(table[label], classes, path)
    of_image: dict[str, np.ndarray] = {}
    if label == LABEL_COLUMNS[0] and "Label" in table:
        first = ~table.duplicated("ID").to_numpy()
        of_image = dict(zip(table.ID[first], _encode(table.Label[first], classes, path), strict=True))
    marks = dict(zip(table.ID, table[MARK_COLUMN], strict=True)) if MARK_COLUMN in table else {}
    weights = None
    if marks and WEIGHT_COLUMN in table:
        weights = numbers(table, WEIGHT_COLUMN, path, low=1).astype(np.float64)
    return CellTruth(table.ID.to_numpy(str), cells, labels, of_image, marks, weights)


def _encode(texts: pd.Series, classes: ClassList, path: Path) -> np.ndarray:
    """Return (N, K) float32 of 0/1; a label without a counterpart among the classes is left out where others stay."""
    reader, known = LabelReader(classes), dict[str, np.ndarray]()
    out = np.zeros((len(texts), len(classes)), np.float32)
    for i, text in enumerate(texts):
        if text not in known:
            try:
                shown, _ = reader.read(text)
                if not shown:
                    raise ValueError(f"the label is '{text}', expected class ids such as 8|5|0, or class names")
                known[text] = classes.encode(shown)
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

    def iou(self, masks: list[bytes]) -> np.ndarray:
        """Return the (len(masks), T) IoU of other masks of the image with the true ones."""
        return rle.iou(masks, self.masks, self.size)


class TrueMasks:
    """The label maps of true cells, and the table that labels them.

    Args:
        cells: returns the (H, W) int32 label map of an image, by its ID and (H, W) of its original.
    """

    def __init__(self, cells: Callable[[str, tuple[int, int]], np.ndarray], truth: CellTruth) -> None:
        self._cells = cells
        self.truth = truth
        self._rows = truth.rows()

    @property
    def image_ids(self) -> list[str]:
        """The images of the truth table, in its order."""
        return list(self._rows)

    def labels(self, image_id: str) -> np.ndarray:
        """Return the (n, K) float32 labels of an image's cells in the table."""
        return self.truth.labels[self._rows[image_id]]

    def read(self, image_id: str, size: tuple[int, int]) -> TrueImage:
        """Read the true cells of an image whose original is (H, W) `size`.

        Raises:
            DataError: its masks are missing, broken, or of another size.
        """
        label_map = self._cells(image_id, size)
        rows = self._rows[image_id]
        listed = self.truth.cells[rows].tolist()
        mask_of = rle.encode_label_map(label_map)
        extra = sorted(set(mask_of) - set(listed))
        none = rle.encode_label_map(label_map, ids=[-1])[-1]
        labels = np.zeros((len(listed) + len(extra), self.truth.labels.shape[1]), np.float32)
        labels[: len(listed)] = self.truth.labels[rows]
        masks = [mask_of.get(k, none) for k in [*listed, *extra]]
        return TrueImage(size, masks, rows, labels, np.arange(len(masks)) < len(listed))


@dataclass(frozen=True)
class Join:
    """Which predicted cell stands for which true one."""

    rows: np.ndarray
    """(N,) row of the prediction of each true cell, -1 where there is none."""
    unknown: int
    """Predicted cells, in images the truth knows, that stand for no true cell; they are left out."""
    other_images: int
    """Predicted cells in images that the truth does not know; they are left out too."""

    @property
    def missing(self) -> int:
        """True cells without a prediction; they score 0 in every class."""
        return int((self.rows < 0).sum())

    def scores(self, scores: np.ndarray) -> np.ndarray:
        """Turn the (P, K) scores of predicted cells into the (N, K) scores of the true ones."""
        return np.pad(scores, ((0, 1), (0, 0)))[self.rows]  # row -1 is the one of zeros


def join_by_number(truth: CellTruth, ids: np.ndarray, cells: np.ndarray) -> Join:
    """Join cells that have the same number in the same image: for predictions on the true masks.

    Args:
        ids: (P,) image of each predicted cell.
        cells: (P,) its number; a pair of image and number comes once.
    """
    predicted = pd.MultiIndex.from_arrays([np.asarray(ids, object), cells])
    rows = predicted.get_indexer(pd.MultiIndex.from_arrays([truth.ids.astype(object), truth.cells]))
    return joined(truth, np.asarray(rows), ids)


def joined(truth: CellTruth, rows: np.ndarray, ids: np.ndarray) -> Join:
    """Wrap up a join whose (N,) `rows` are known, counting what it leaves out of the predicted cells' `ids`."""
    inside = int(np.isin(np.asarray(ids, str), truth.ids).sum()) if len(ids) else 0
    return Join(rows, inside - int((rows >= 0).sum()), len(ids) - inside)


def score_table(truth: np.ndarray, scores: np.ndarray, classes: ClassList, threshold: float = 0.5) -> dict[str, object]:
    """Return what there is to say about (N, K) scores of cells or images, as a JSON-like record.

    Means go over the classes that occur in the truth, Negative included; a second mean leaves Negative out. A class
    that does not occur has NaN. The AP of several classes is that of `several_class_precision`.
    """
    several = several_class_precision(truth, scores)
    ap, f1s = average_precision(truth, scores), f1(truth, scores, threshold)
    return {
        "count": len(truth),
        "classes": int(np.isfinite(ap).sum()),
        "mean_ap": mean_of_classes(ap),
        "mean_ap_without_negative": mean_of_classes(ap, classes.negative),
        "several_class_count": int(((truth > 0).sum(axis=1) > 1).sum()),
        "mean_ap_of_several_classes": mean_of_classes(several),
        "mean_f1": mean_of_classes(f1s),
        "threshold": threshold,
        "calibration_error": reliability(truth, scores).error,
        "per_class": [
            {
                "id": k,
                "name": name,
                "count": int(truth[:, k].sum()),
                "ap": float(ap[k]),
                "ap_of_several_classes": float(several[k]),
                "f1": float(f1s[k]),
            }
            for k, name in enumerate(classes.names)
        ],
    }


def copy_to_cells(truth: CellTruth, of_image: dict[str, np.ndarray], classes: ClassList) -> np.ndarray:
    """Give every true cell its image's values: (N, K), zeros where the image has none."""
    none = np.zeros(len(classes), np.float32)
    return np.stack([of_image.get(name, none) for name in truth.ids]) if len(truth.ids) else none[None][:0]


Mistake = dict[str, object]
NOTHING = "no score"
"""Name of what a cell is taken for whose scores are all 0, such as one that no prediction stands for."""


def confusion(truth: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Count the cells of each true class by the class with their highest score.

    A cell of several classes is right if its highest score is one of them, and counts for that class alone; if it is
    not, the mistake is shared equally among its true classes. Equal scores: the first class. Cells without a true
    class are left out.

    Args:
        truth: (N, K) of 0/1.
        scores: (N, K) in [0, 1].

    Returns:
        (K, K + 1) float64; row the true class, column the predicted one, the last for cells whose scores are all 0.
    """
    check_same_shape(truth, scores)
    count, classes = truth.shape
    out = np.zeros((classes, classes + 1))
    if not count:
        return out
    best = np.where(scores.max(axis=1) > 0, scores.argmax(axis=1), classes)
    padded = np.pad(truth > 0, ((0, 0), (0, 1)))
    right = padded[np.arange(count), best]
    shares = truth / np.maximum(truth.sum(axis=1, keepdims=True), 1)
    shares = np.where(right[:, None], np.arange(classes) == best[:, None], shares)
    np.add.at(out.T, best, shares)
    return out


def confusion_rows(truth: np.ndarray, scores: np.ndarray, classes: ClassList) -> list[Mistake]:
    """Return the entries of the table that are not 0 as records, rights included, the most frequent first.

    Each has true and predicted (class ids, -1 for no score), their names, cells, and share: of the true class's cells.
    """
    table = confusion(truth, scores)
    names = [*classes.names, NOTHING]
    rows: list[Mistake] = [
        {
            "true": int(k),
            "predicted": int(j) if j < len(classes) else -1,
            "true_name": names[k],
            "predicted_name": names[j],
            "cells": float(table[k, j]),
            "share": float(table[k, j] / table[k].sum()),
        }
        for k, j in zip(*np.nonzero(table), strict=True)
    ]
    return sorted(rows, key=lambda row: (-float(str(row["cells"])), row["true"], row["predicted"]))
