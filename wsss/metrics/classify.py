"""Scores of multi-label classification, one row a sample (an image or a cell), one column a class.

Truth is (N, K) of 0/1, scores are (N, K) in [0, 1]. A class without a positive sample has no score: it is
NaN, and is left out of every mean.
"""

from dataclasses import dataclass

import numpy as np

FEW, MANY = 0.1, 0.4
"""A label whose mean score over the image's cells is below FEW is doubted, and so is a missing one above MANY."""


@dataclass(frozen=True)
class LabelDoubt:
    """A label of an image, or a missing one, that its cells contradict."""

    image: int
    """Row of the image."""
    label: int
    """Class id."""
    missing: bool
    """True: the image lacks the label, but its cells show the class; False: it bears the label, and they do not."""
    share: float
    """Mean score of the class over the image's cells, in [0, 1]."""

    @property
    def strength(self) -> float:
        """How far the share lies beyond what is doubted, in [0, 1]."""
        return (self.share - MANY) / (1 - MANY) if self.missing else (FEW - self.share) / FEW


def label_doubts(shares: np.ndarray, labels: np.ndarray, negative: int | None) -> list[LabelDoubt]:
    """List doubtful image labels, the most doubtful first.

    Args:
        shares: (M, K) in [0, 1], mean scores over the cells of each image, of a classifier that did not learn from the
            image's labels; NaN for images without cells, which are left out.
        labels: (M, K) 0/1, the image labels; images without any are left out.
        negative: class 'no specific signal', or None. It may be shown by cells of any image, so it is never missing.
    """
    known = np.asarray(labels) > 0
    labelled = known.any(axis=1, keepdims=True) & ~np.isnan(shares)
    wrong = known & (shares < FEW) & labelled
    missing = ~known & (shares > MANY) & labelled
    if negative is not None:
        missing[:, negative] = False
    doubts = [
        LabelDoubt(int(image), int(label), bool(missing[image, label]), float(shares[image, label]))
        for image, label in np.argwhere(wrong | missing)
    ]
    return sorted(doubts, key=lambda doubt: -doubt.strength)


def average_precision(truth: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return the (K,) float64 average precision of each class, as scikit-learn defines it.

    Raises:
        ValueError: the shapes differ, or a score of a class that occurs is NaN.
    """
    check_same_shape(truth, scores)
    out = np.full(truth.shape[1], np.nan)
    for k in np.flatnonzero(truth.sum(axis=0)):
        order = np.argsort(scores[:, k], kind="stable")[::-1]
        ranked = scores[order, k]
        if np.isnan(ranked).any():
            raise ValueError(f"scores of class {k} are NaN.")
        last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)  # equal scores count together
        hits = np.cumsum(truth[order, k] > 0)[last]
        gained = np.diff(hits / hits[-1], prepend=0.0)
        out[k] = np.sum((gained * (hits / (last + 1)))[::-1])
    return out


def several_class_precision(truth: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return the (K,) float64 average precision of each class on samples of several classes.

    Positives are the samples that bear the class and at least one other, negatives those that lack the class; samples
    of that class alone are left out. NaN for a class without such positives.
    """
    several = (truth > 0).sum(axis=1) > 1
    out = np.full(truth.shape[1], np.nan)
    for k in range(truth.shape[1]):
        kept = (truth[:, k] == 0) | several
        out[k] = average_precision(truth[kept, k : k + 1], scores[kept, k : k + 1])[0]
    return out


def mean_of_classes(values: np.ndarray, without: int | None = None) -> float:
    """Return the mean of (K,) values over the classes that have one, NaN if none has.

    Args:
        values: one value a class, NaN for a class to leave out.
        without: one more class to leave out, such as Negative.
    """
    kept = np.isfinite(values)
    if without is not None:
        kept[without] = False
    return float(values[kept].mean()) if kept.any() else float("nan")


def f1(truth: np.ndarray, scores: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Return the (K,) float64 F1 of each class when scores >= threshold count as found."""
    check_same_shape(truth, scores)
    decided = scores >= threshold
    hits = (decided & (truth > 0)).sum(axis=0)
    positives = (truth > 0).sum(axis=0)
    return np.where(positives > 0, 2 * hits / np.maximum(decided.sum(axis=0) + positives, 1), np.nan)


def precision_recall(truth: np.ndarray, decided: np.ndarray) -> tuple[float, float]:
    """Return precision and recall of 0/1 decisions, all classes together; NaN where none is found or true."""
    check_same_shape(truth, decided)
    hits = float(((truth > 0) & (decided > 0)).sum())
    wanted, given = float((truth > 0).sum()), float((decided > 0).sum())
    return hits / given if given else float("nan"), hits / wanted if wanted else float("nan")


@dataclass(frozen=True)
class Reliability:
    """How often a score of this height is right, by bins of equal width over [0, 1]; empty bins are NaN."""

    count: np.ndarray
    """(bins,) float64, scores in the bin, by their weights."""
    score: np.ndarray
    """(bins,) float64, their mean."""
    truth: np.ndarray
    """(bins,) float64, the share of them that is true."""

    @property
    def error(self) -> float:
        """The expected calibration error: mean |score - truth| weighted by count; NaN without scores."""
        if not self.count.sum():
            return float("nan")
        return float(np.nansum(self.count * np.abs(self.score - self.truth)) / self.count.sum())


def reliability(
    truth: np.ndarray, scores: np.ndarray, bins: int = 15, weights: np.ndarray | None = None
) -> Reliability:
    """Compare scores with how often they are right (truth may be how likely it is); every (sample, class) is one event.

    Args:
        truth, scores: (N, K) in [0, 1].
        bins: of equal width.
        weights: (N,) > 0, how many samples each stands for; None for one each.

    Source: expected calibration error, Naeini et al. 2015; Guo et al. 2017 use 15 bins.
    """
    check_same_shape(truth, scores)
    flat = np.asarray(scores, np.float64).ravel()
    place = np.minimum((flat * bins).astype(np.intp), bins - 1)
    each = np.ones(len(flat)) if weights is None else np.repeat(weights / weights.mean(), truth.shape[1])
    count = np.bincount(place, weights=each, minlength=bins)
    total = np.bincount(place, weights=each * flat, minlength=bins)
    right = np.bincount(place, weights=each * np.asarray(truth, np.float64).ravel(), minlength=bins)
    some = np.where(count > 0, count, np.nan)
    return Reliability(count, total / some, right / some)


def check_same_shape(truth: np.ndarray, scores: np.ndarray) -> None:
    """Raise ValueError unless both are (N, K)."""
    if truth.ndim != 2 or truth.shape != scores.shape:
        raise ValueError(f"truth is {truth.shape}, scores are {scores.shape}: both must be (N, K).")
