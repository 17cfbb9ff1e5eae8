"""Why a cell has its label: the named features that speak most for it, from the linear half of the second opinion."""

from dataclasses import dataclass

import numpy as np

from wsss.cells.features import DESCRIPTIONS
from wsss.cells.weak_store import Opinion

TOP = 3
"""How many reasons are given."""


@dataclass(frozen=True)
class Reason:
    """One feature that speaks for a label."""

    feature: str
    level: str
    """high or low: how the cell's value stands among the training cells."""
    words: str
    """The feature in words."""
    weight: float
    """How much it raises the log-odds of the label above the mean of all labels."""


def contributions(opinion: Opinion, features: np.ndarray) -> np.ndarray:
    """Return what each feature of each cell adds to the log-odds of each class.

    Args:
        opinion: the fitted second opinion.
        features: (N, F) float32, from `cell_features`.

    Returns:
        (N, C, F) float64 for the classes in `opinion.classes`; over the classes they sum to 0.
    """
    scaled = opinion.linear.scale(np.asarray(features, np.float32))
    return scaled[:, None, :] * _centred(opinion)


def explain_cell(opinion: Opinion, features: np.ndarray, label: int) -> list[Reason]:
    """Return the features that speak most for a label of one cell, the strongest first.

    Args:
        opinion: the fitted second opinion.
        features: (F,) float32, the cell's row of `cell_features`.
        label: class id.

    Raises:
        ValueError: the opinion does not know the class.
    """
    known = opinion.classes.tolist()
    if label not in known:
        raise ValueError(f"the opinion knows the classes {known}, not {label}.")
    scaled = opinion.linear.scale(np.asarray(features, np.float32)[None])[0]
    own = scaled * _centred(opinion)[known.index(label)]
    return [_reason(opinion, k, scaled[k], own[k]) for k in np.argsort(-own)[:TOP] if own[k] > 0]


def explain_classes(opinion: Opinion) -> dict[int, list[Reason]]:
    """Return for each class that the opinion knows the features that tell it from the others most."""
    found = {}
    for label, own in zip(opinion.classes.tolist(), _centred(opinion), strict=True):
        order = np.argsort(-np.abs(own))[:TOP]
        found[label] = [_reason(opinion, k, own[k], abs(own[k])) for k in order]
    return found


def _centred(opinion: Opinion) -> np.ndarray:
    weights = opinion.linear.weights
    return np.asarray(weights - weights.mean(axis=0))


def _reason(opinion: Opinion, k: int, value: float, weight: float) -> Reason:
    name = opinion.meta["names"][k]
    return Reason(name, "high" if value > 0 else "low", DESCRIPTIONS[name], round(float(weight), 4))
