"""Which cells of uncertain label are worth learning from, and how often each."""

import numpy as np


def class_balance(soft: np.ndarray) -> np.ndarray:
    """Weigh cells so that all classes together weigh the same: 1 / cells of the same strongest class.

    Args:
        soft: (N, K) soft labels.

    Returns:
        (N,) float64 above 0.
    """
    strongest = soft.argmax(axis=1)
    return 1.0 / np.bincount(strongest, minlength=soft.shape[1])[strongest]


def choose_cells(soft: np.ndarray, confidence: float, most: int, seed: int) -> np.ndarray:
    """Choose the cells to learn from: confident ones, balanced by class where there are too many.

    Args:
        soft: (N, K) soft labels in [0, 1].
        confidence: least strongest label of a chosen cell.
        most: cells at most.
        seed: of the choice.

    Returns:
        Their rows, rising; maybe none.
    """
    sure = np.flatnonzero(soft.max(axis=1, initial=0) >= confidence)
    if len(sure) <= most:
        return sure
    weights = class_balance(soft[sure])
    drawn = np.random.default_rng(seed).choice(len(sure), most, replace=False, p=weights / weights.sum())
    return np.sort(sure[drawn])
