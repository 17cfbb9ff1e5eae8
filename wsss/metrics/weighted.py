"""Figures of all cells, estimated from a sample of known probabilities; shares of classes in groups of images.

Every sampled cell stands for `weight` cells (the inverse of its inclusion probability). Intervals cover the true value
of the whole set with a probability of 95 %. Shares have Wilson's interval with the effective sample size of Kish;
average precision has the logit interval of Boyd, Eng and Page (2013) by its effective number of positives, widened to
the spread of a bootstrap over the sampled cells where that is larger.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import expit, logit

LEVELS = (2.5, 97.5)
"""Percentiles of the resamples between which a 95 % interval lies."""
LEAST_IMAGES = 3
"""Images of a group, at least, for an interval: with fewer, the spread between images is unknown."""


@dataclass(frozen=True)
class GroupShares:
    """Shares of one group of images; intervals are NaN where it has fewer than LEAST_IMAGES images."""

    name: str
    images: int
    cells: int
    share: np.ndarray
    """(K,) float64 in [0, 1]."""
    low: np.ndarray
    """(K,)"""
    high: np.ndarray
    """(K,)"""
    resampled: np.ndarray
    """(rounds, K), shares of resampled images; no rows where there are too few."""


def group_shares(
    counted: np.ndarray, image: np.ndarray, group: np.ndarray, names: Sequence[str], rounds: int = 2000, seed: int = 0
) -> list[GroupShares]:
    """Return the shares of each group, in the order of `names`.

    Args:
        counted: (N, K) in [0, 1], how far each cell counts for each class.
        image: (N,) number of each cell's image.
        group: (N,) number of each cell's group, the same for all cells of an image.
        seed: the same input and seed give the same intervals.
    """
    out = []
    for number, name in enumerate(names):
        inside = group == number
        _, place = np.unique(image[inside], return_inverse=True)
        count = int(place.max()) + 1 if len(place) else 0
        cells = np.bincount(place, minlength=count).astype(np.float64)
        hits = np.zeros((count, counted.shape[1]))
        np.add.at(hits, place, counted[inside])
        share = hits.sum(axis=0) / max(cells.sum(), 1)
        resampled = np.zeros((0, counted.shape[1]))
        low = high = np.full(counted.shape[1], np.nan)
        if count >= LEAST_IMAGES:
            rng = np.random.default_rng([seed, number])
            draws = (rng.multinomial(count, np.full(count, 1 / count)) for _ in range(rounds))
            resampled = np.stack([(drawn @ hits) / (drawn @ cells) for drawn in draws])
            low, high = np.percentile(resampled, LEVELS, axis=0)
        out.append(GroupShares(name, count, int(inside.sum()), share, low, high, resampled))
    return out


def difference(group: GroupShares, reference: GroupShares) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return how much larger the shares of a group are than those of a reference: (K,) value, low and high."""
    value = group.share - reference.share
    if not len(group.resampled) or not len(reference.resampled):
        nothing = np.full(len(value), np.nan)
        return value, nothing, nothing
    low, high = np.percentile(group.resampled - reference.resampled, LEVELS, axis=0)
    return value, low, high


Z = 1.959964
"""Half width of a 95 % interval in standard deviations."""
ROUNDS = 300
"""Resamples of the bootstrap."""
LEAST_POSITIVES = 5
"""Sampled cells of a class, at least, for an average precision to be given."""
WANTED = 0.05
"""Half width of an interval that is narrow enough."""


@dataclass(frozen=True)
class Estimate:
    """A figure in [0, 1] with its 95 % interval; NaN where nothing is known."""

    value: float
    low: float
    high: float
    count: int
    """Sampled cells that it rests on."""

    @property
    def half_width(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2

    def more(self, answers: int, wanted: float = WANTED) -> int | None:
        """Return how many more answers, beyond `answers`, make the interval `wanted` narrow; None if nothing is known.

        The width falls with the square root of the number of answers, as long as cells are chosen as before.
        """
        if not math.isfinite(self.half_width):
            return None
        return max(0, math.ceil(answers * ((self.half_width / wanted) ** 2 - 1)))


NOTHING = Estimate(math.nan, math.nan, math.nan, 0)


def share(hits: np.ndarray, weights: np.ndarray) -> Estimate:
    """Estimate the share of cells that are hits.

    Args:
        hits: (n,) bool, of the sampled cells.
        weights: (n,) > 0.
    """
    if not len(hits):
        return NOTHING
    value = float((weights * hits).sum() / weights.sum())
    low, high = wilson(value, effective_size(weights))
    return Estimate(value, low, high, len(hits))


def effective_size(weights: np.ndarray) -> float:
    """Return the effective sample size of (n,) weights (Kish): as many equal weights are as precise; 0 for none."""
    return float(weights.sum() ** 2 / (weights**2).sum()) if len(weights) else 0.0


def wilson(value: float, size: float) -> tuple[float, float]:
    """Return Wilson's interval of a share found in `size` cells."""
    centre = (value + Z**2 / (2 * size)) / (1 + Z**2 / size)
    half = Z * math.sqrt(value * (1 - value) / size + Z**2 / (4 * size**2)) / (1 + Z**2 / size)
    return max(0.0, centre - half), min(1.0, centre + half)


def weighted_precision(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the average precision of one class under several weightings at once.

    Args:
        truth: (n,) of 0/1.
        scores: (n,); equal ones share a threshold, as in scikit-learn.
        weights: (B, n) >= 0.

    Returns:
        (B,) float64, NaN where no weight lies on a positive.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    sorted_weights = weights[:, order]
    hits = np.cumsum(sorted_weights * (truth[order] > 0), axis=1)[:, ends]
    taken = np.cumsum(sorted_weights, axis=1)[:, ends]
    precision = hits / np.maximum(taken, 1e-300)
    steps = np.diff(hits, axis=1, prepend=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((precision * steps).sum(axis=1) / hits[:, -1])


@dataclass(frozen=True)
class ClassFigures:
    """What is known of one class; precision and recall count scores from a threshold on as found."""

    class_id: int
    name: str
    positives: int
    """Sampled cells that bear the class."""
    prevalence: Estimate
    """Share of all cells that bear it."""
    precision: Estimate
    recall: Estimate
    ap: Estimate


@dataclass(frozen=True)
class SampleFigures:
    """Estimates for all cells from a weighted sample."""

    count: int
    """Sampled cells with an answer."""
    effective: float
    """Effective sample size: cells drawn at random that estimate a share equally well."""
    top_right: Estimate
    """Share of cells whose highest score is on a class that they bear."""
    mean_ap: Estimate
    """Over the classes that have an average precision."""
    classes: Sequence[ClassFigures]

    def record(self) -> dict[str, Any]:
        """Return all of it as a JSON-like record, with `more` next to each interval: answers until it is +-.05."""

        def shown(value: Any) -> Any:
            if isinstance(value, Estimate):
                return asdict(value) | {"half_width": value.half_width, "more": value.more(self.count)}
            return value

        rows = [{name: shown(value) for name, value in vars(figures).items()} for figures in self.classes]
        plain = {name: shown(value) for name, value in vars(self).items() if name != "classes"}
        return plain | {"classes": rows}


def sample_figures(
    truth: np.ndarray,
    scores: np.ndarray,
    weights: np.ndarray,
    names: Sequence[str],
    threshold: float = 0.5,
    rounds: int = ROUNDS,
) -> SampleFigures:
    """Estimate how good the scores of all cells are from the true classes of a sample.

    Args:
        truth: (n, K) of 0/1, of the sampled cells.
        scores: (n, K) in [0, 1].
        weights: (n,) > 0, inverse inclusion probabilities.
        names: of the K classes.
        threshold: scores from here on count as found.
        rounds: resamples of the bootstrap; the same input gives the same figures.
    """
    count = len(truth)
    if not count:
        rows = [ClassFigures(k, name, 0, NOTHING, NOTHING, NOTHING, NOTHING) for k, name in enumerate(names)]
        return SampleFigures(0, 0.0, NOTHING, NOTHING, rows)
    rng = np.random.default_rng(0)
    resampled = rng.multinomial(count, np.full(count, 1 / count), size=rounds) * weights
    classes, spreads = [], []
    for k, name in enumerate(names):
        true, decided = truth[:, k] > 0, scores[:, k] >= threshold
        ap, spread = _average_precision(true, scores[:, k], weights, resampled, rng)
        if spread is not None:
            spreads.append((ap.value, spread))
        classes.append(
            ClassFigures(
                k,
                name,
                int(true.sum()),
                share(true, weights),
                share(true[decided], weights[decided]),
                share(decided[true], weights[true]),
                ap,
            )
        )
    right = truth[np.arange(count), scores.argmax(axis=1)] > 0
    return SampleFigures(count, effective_size(weights), share(right, weights), _mean(spreads, count), classes)


def _average_precision(
    true: np.ndarray, scores: np.ndarray, weights: np.ndarray, resampled: np.ndarray, rng: np.random.Generator
) -> tuple[Estimate, np.ndarray | None]:
    """Return the estimate, and the (B,) resampled values relative to it on the scale of log odds."""
    positives = int(true.sum())
    if positives < LEAST_POSITIVES:
        return Estimate(math.nan, math.nan, math.nan, positives), None
    value = float(weighted_precision(true, scores, weights[None])[0])
    size = effective_size(weights[true])
    inside = 1 / (2 * size + 2)  # a sample without a mistake does not prove that there is none
    centre = float(logit(np.clip(value, inside, 1 - inside)))
    again = logit(np.clip(weighted_precision(true, scores, resampled), inside, 1 - inside))
    rate = float(expit(centre))
    deviation = max(1 / math.sqrt(size * rate * (1 - rate)), float(np.nanstd(again)))
    low, high = (float(expit(centre + side * Z * deviation)) for side in (-1, 1))
    noise = rng.standard_normal(len(again)) * deviation
    # the bootstrap alone is too narrow for few positives, so each class spreads as its interval does
    return Estimate(value, min(low, value), max(high, value), positives), expit(centre + noise)


def _mean(spreads: Sequence[tuple[float, np.ndarray]], count: int) -> Estimate:
    """Estimate the mean of several classes' average precisions, each with its spread."""
    if not spreads:
        return Estimate(math.nan, math.nan, math.nan, count)
    value = float(np.mean([mean for mean, _ in spreads]))
    low, high = np.percentile(np.mean([spread for _, spread in spreads], axis=0), LEVELS)
    return Estimate(value, min(float(low), value), max(float(high), value), count)
