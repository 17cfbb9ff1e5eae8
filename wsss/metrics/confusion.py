"""Which class is mistaken for which: the class with the highest score of each cell against its true ones."""

import numpy as np

from wsss.core.labels import ClassList

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
