"""Scores of cells: predicted rows joined to true cells, then average precision per class."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from wsss.core.labels import ClassList
from wsss.metrics.classify import average_precision, f1, mean_of_classes, reliability
from wsss.metrics.truth import CellTruth


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
        return (
            np.where(self.rows[:, None] >= 0, scores[self.rows], 0)
            if len(scores)
            else np.zeros((len(self.rows), scores.shape[1]))
        )


def join_by_number(truth: CellTruth, ids: np.ndarray, cells: np.ndarray) -> Join:
    """Join cells that have the same number in the same image: for predictions on the true masks.

    Args:
        truth: the true cells.
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
    that does not occur has NaN.
    """
    ap, f1s = average_precision(truth, scores), f1(truth, scores, threshold)
    return {
        "count": len(truth),
        "classes": int(np.isfinite(ap).sum()),
        "mean_ap": mean_of_classes(ap),
        "mean_ap_without_negative": mean_of_classes(ap, classes.negative),
        "mean_f1": mean_of_classes(f1s),
        "threshold": threshold,
        "calibration_error": reliability(truth, scores).error,
        "per_class": [
            {"id": k, "name": name, "count": int(truth[:, k].sum()), "ap": float(ap[k]), "f1": float(f1s[k])}
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
    if truth.ndim != 2 or truth.shape != scores.shape:
        raise ValueError(f"truth is {truth.shape}, scores are {scores.shape}: both must be (N, K).")
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
