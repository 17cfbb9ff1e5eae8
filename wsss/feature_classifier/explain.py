"""Why a cell has a label: the named features that speak most for it, from the linear half of the feature classifier."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from wsss.feature_classifier.features import DESCRIPTIONS
from wsss.feature_classifier.store import FeatureClassifier

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
    """How much it raises the log odds of the label above those of a cell of median features."""


def contributions(feature_classifier: FeatureClassifier, features: np.ndarray) -> np.ndarray:
    """Return what each feature of each cell adds to the log-odds of each class.

    Args:
        feature_classifier: the fitted feature classifier.
        features: (N, F) float32, from `cell_features`.

    Returns:
        (N, C, F) float64 for the classes in `feature_classifier.classes`; with the intercept they sum over the
        features to the log odds of the linear half.
    """
    scaled = feature_classifier.linear.scale(np.asarray(features, np.float32))
    return scaled[:, None, :] * feature_classifier.linear.weights


def explain_cell(
    feature_classifier: FeatureClassifier,
    features: np.ndarray,
    label: int,
    words: Mapping[str, str] = DESCRIPTIONS,
) -> list[Reason]:
    """Return the features that speak most for a label of one cell, the strongest first.

    Args:
        feature_classifier: the fitted feature classifier.
        features: (F,) float32, the cell's row of `cell_features`.
        label: class id.
        words: the features in words, by name.

    Raises:
        ValueError: the feature_classifier does not know the class.
    """
    known = feature_classifier.classes.tolist()
    if label not in known:
        raise ValueError(f"the feature_classifier knows the classes {known}, not {label}.")
    scaled = feature_classifier.linear.scale(np.asarray(features, np.float32)[None])[0]
    terms = scaled * feature_classifier.linear.weights[known.index(label)]
    return [
        _reason(feature_classifier, words, k, scaled[k], terms[k]) for k in np.argsort(-terms)[:TOP] if terms[k] > 0
    ]


def explain_classes(
    feature_classifier: FeatureClassifier, words: Mapping[str, str] = DESCRIPTIONS
) -> dict[int, list[Reason]]:
    """Return for each class that the feature_classifier knows the features that tell it from the others most."""
    reasons = {}
    for label, weights in zip(feature_classifier.classes.tolist(), feature_classifier.linear.weights, strict=True):
        order = np.argsort(-np.abs(weights))[:TOP]
        reasons[label] = [_reason(feature_classifier, words, k, weights[k], abs(weights[k])) for k in order]
    return reasons


def _reason(
    feature_classifier: FeatureClassifier, words: Mapping[str, str], k: int, value: float, weight: float
) -> Reason:
    name = feature_classifier.meta["names"][k]
    return Reason(name, "high" if value > 0 else "low", words[name], round(float(weight), 4))
