"""Calibrated scores: a rising curve per class from a score to the share of such scores that is right.

Curves rise strictly, so the ranking of scores within a class, and with it average precision, stays as it is. They are
kept as points in JSON.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from wsss.core.checks import DataError
from wsss.core.files import read_record, write_json
from wsss.core.reading import one_line
from wsss.metrics.weighted import effective_size

FORMAT = "wsss-calibration-1"
LEAST_ISOTONIC, LEAST_PLATT = 100, 10
"""True (and untrue) events that a class needs to get a curve of that kind."""
SLOPE = 1e-2
"""Share of the score itself in every curve: steps of an isotonic curve would tie scores that differ."""
MOST_POINTS, MOST_EVENTS = 1000, 1_000_000
"""Points of an isotonic curve, and events that a sigmoid is fitted to, at most."""
DIGITS = 9
"""Decimals of the points of a curve."""
LOGIT = 14.0
"""Log odds beyond this count as this: scores of 0 and 1 have infinite ones."""
SLOPE_SPREAD, SHIFT_SPREAD, LEAST_SLOPE = 0.5, 1.0, 0.05
"""Standard deviations of the slope about 1 and of the shift about 0 in a regularised curve, and its smallest slope."""
NEGATIVE_GAIN = 2
"""What an unlabelled Negative may gain, at most, where scores do not see the image's labels in a cell."""


@dataclass(frozen=True)
class Curve:
    """Points of a strictly rising curve over [0, 1], linear between them."""

    method: str
    """isotonic, platt, pooled (Platt on all classes together), regularised, constant or identity."""
    x: np.ndarray
    """(P,) scores, rising from 0 to 1."""
    y: np.ndarray
    """(P,) float64 in [0, 1], rising."""

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """Calibrate scores in [0, 1] of any shape."""
        return np.interp(scores, self.x, self.y)


IDENTITY = Curve("identity", np.array([0.0, 1.0]), np.array([0.0, 1.0]))


def isotonic_curve(scores: np.ndarray, truth: np.ndarray, weights: np.ndarray | None = None) -> Curve:
    """Fit the rising steps that are nearest to the truth.

    Args:
        scores: (N,) in [0, 1].
        truth: (N,) in [0, 1]: 0 or 1, or how likely it is.
        weights: (N,) > 0, how many events each stands for; None for one each.

    Source: Zadrozny and Elkan, Transforming classifier scores into accurate multiclass probability estimates (2002).
    """
    # float32 would carry over into the curve, whose ends then lie beside 0 and 1; DIGITS are what its file keeps
    scores = np.asarray(scores, np.float64).round(DIGITS)
    steps = IsotonicRegression(y_min=0, y_max=1).fit(scores, np.asarray(truth, np.float64), weights)
    x, y = steps.X_thresholds_, steps.y_thresholds_
    x, y = np.concatenate([[0], x, [1]]), np.concatenate([y[:1], y, y[-1:]])
    kept = np.flatnonzero(np.append(np.diff(x) > 0, True))  # of points at one place the last
    if len(kept) > MOST_POINTS:
        kept = kept[np.linspace(0, len(kept) - 1, MOST_POINTS).round().astype(np.intp)]
    return _rising("isotonic", x[kept], y[kept])


def platt_curve(
    scores: np.ndarray, truth: np.ndarray, weights: np.ndarray | None = None, method: str = "platt"
) -> Curve:
    """Fit a sigmoid of the log odds; where higher scores are not right more often, all get the share that is right.

    Args:
        scores, truth, weights: as in `isotonic_curve`.
        method: what the curve is called.

    Source: Platt, Probabilistic outputs for support vector machines (1999), with his smoothed targets.
    """
    weights = np.ones(len(scores)) if weights is None else weights
    if len(scores) > MOST_EVENTS:
        rows = np.random.default_rng(0).choice(len(scores), MOST_EVENTS, replace=False)
        scores, truth, weights = scores[rows], truth[rows], weights[rows]
    weights = weights * effective_size(weights) / weights.sum()  # as many events as the sample is worth
    yes, no = float((weights * truth).sum()), float((weights * (1 - truth)).sum())
    target = truth * (yes + 1) / (yes + 2) + (1 - truth) / (no + 2)
    odds = _log_odds(scores)
    twice = np.concatenate([odds, odds])[:, None]
    labels = np.repeat([1, 0], len(odds))
    sides = np.concatenate([weights * target, weights * (1 - target)])
    model = LogisticRegression(C=1e3).fit(twice, labels, sample_weight=sides)
    slope, shift = float(model.coef_[0, 0]), float(model.intercept_[0])
    if slope <= 0:
        return _rising("constant", np.array([0.0, 1.0]), np.full(2, np.average(target, weights=weights)))
    return _sigmoid(method, slope, shift)


def regularised_curve(scores: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> Curve:
    """Fit a sigmoid of the log odds that changes scores only as far as there is evidence for it.

    Its slope and shift are those of the highest posterior probability, with normal priors about 1 and 0, at which
    scores stay as they are.

    Args:
        scores, truth, weights: as in `isotonic_curve`; weights may be 0.
    """
    odds = _log_odds(scores)

    def cost(values: np.ndarray) -> tuple[float, np.ndarray]:
        slope, shift = values
        logits = slope * odds + shift
        off = weights * (expit(logits) - truth)
        far = np.array([(slope - 1) / SLOPE_SPREAD, shift / SHIFT_SPREAD])
        loss = (weights * (np.logaddexp(0, logits) - truth * logits)).sum() + np.square(far).sum() / 2
        return float(loss), np.array([off @ odds, off.sum()]) + far / [SLOPE_SPREAD, SHIFT_SPREAD]

    slope, shift = minimize(cost, [1, 0], jac=True, bounds=[(LEAST_SLOPE, None), (None, None)]).x
    return _sigmoid("regularised", slope, shift)


def _log_odds(scores: np.ndarray) -> np.ndarray:
    return np.asarray(logit(np.clip(np.asarray(scores, np.float64), expit(-LOGIT), expit(LOGIT))))


def _sigmoid(method: str, slope: float, shift: float) -> Curve:
    grid = np.linspace(-LOGIT, LOGIT, 97)
    x = np.concatenate([[0], expit(grid[1:-1]), [1]])
    return _rising(method, x, expit(slope * grid + shift))


def _rising(method: str, x: np.ndarray, y: np.ndarray) -> Curve:
    return Curve(method, x, (1 - SLOPE) * np.clip(y, 0, 1) + SLOPE * x)


def fit_curves(
    scores: np.ndarray, truth: np.ndarray, method: str = "auto", weights: np.ndarray | None = None
) -> list[Curve]:
    """Fit a curve for each class.

    auto: isotonic for classes with 100 true and 100 untrue events or more, Platt for those with 10 or more, and for
    the rarer ones the Platt curve of all classes together; `isotonic` and `platt` take that kind for all classes but
    the rare ones. Where even all classes together have fewer than 10, scores stay as they are.

    Args:
        scores: (N, K) in [0, 1].
        truth: (N, K) in [0, 1].
        method: one of METHODS.
        weights: (N,) > 0, how many samples each stands for, such as the inverse of the probability that it was chosen;
            None for one each. Events are then counted by Kish's effective size.
    """
    weights = np.ones(len(scores)) if weights is None else weights
    of_all = np.repeat(weights, scores.shape[1])
    pooled = _fewest(truth.ravel(), of_all) >= LEAST_PLATT
    rare = platt_curve(scores.ravel(), truth.ravel(), of_all, "pooled") if pooled else IDENTITY
    return [_fit(scores[:, k], truth[:, k], weights, method, rare) for k in range(scores.shape[1])]


def _fit(scores: np.ndarray, truth: np.ndarray, weights: np.ndarray, method: str, rare: Curve) -> Curve:
    events = _fewest(truth, weights)
    if events < LEAST_PLATT:
        return rare
    if method == "isotonic" or (method == "auto" and events >= LEAST_ISOTONIC):
        return isotonic_curve(scores, truth, weights)
    return platt_curve(scores, truth, weights)


def _fewest(truth: np.ndarray, weights: np.ndarray) -> float:
    """Return how many true or untrue events there are, whichever are fewer: as many as equal weights are worth."""
    sides = (truth, 1 - truth)
    return min(float((weights * side).sum() ** 2 / max((weights**2 * side).sum(), 1e-300)) for side in sides)


def apply_curves(curves: Sequence[Curve], scores: np.ndarray) -> np.ndarray:
    """Calibrate (N, K) scores in [0, 1]; float32."""
    columns = [curve.apply(scores[:, k]) for k, curve in enumerate(curves)]
    return np.stack(columns, axis=1).astype(np.float32) if columns else scores


def possible_targets(scores: np.ndarray, image_labels: np.ndarray, negative: int | None) -> np.ndarray:
    """Return how likely each class is in a cell when the labels of its image are known.

    A cell shows one or several of its image's labels, or is Negative: the scores of the other classes become 0, and the
    rest are conditional on the cell showing at least one, p / (1 - product of all (1 - p)), as if the classes were
    independent. This corrects what image labels can show, not which of the labels a cell shows. Low scores of all that
    a cell can show are no sign that it is Negative: the score of Negative is at most doubled, unless it is a label.

    Args:
        scores: (N, K) in [0, 1].
        image_labels: (N, K) 0/1, those of the cell's image.
        negative: class that every cell may have; None for none.

    Returns:
        (N, K) float64 in [0, 1]; rows are 0 where the image has no label.
    """
    labelled = image_labels > 0
    allowed = labelled.copy()
    if negative is not None:
        allowed[:, negative] |= allowed.any(axis=1)
    shown = np.where(allowed, np.clip(np.asarray(scores, np.float64), 1e-9, 1 - 1e-9), 0)
    any_shown = -np.expm1(np.log1p(-shown).sum(axis=1, keepdims=True))
    possible = np.divide(shown, any_shown, out=np.zeros_like(shown), where=any_shown > 0)
    if negative is not None:
        cautious = np.minimum(possible[:, negative], NEGATIVE_GAIN * shown[:, negative])
        possible[:, negative] = np.where(labelled[:, negative], possible[:, negative], cautious)
    return possible


@dataclass(frozen=True)
class Calibration:
    """Curves of all classes for cells and for images."""

    cells: list[Curve]
    images: list[Curve]
    origin: dict[str, Any] = field(default_factory=dict)
    """Of curves in a file: what they were fitted on, networks (`members`), score, crops and tta, as in provenance."""

    def of_cells(self, scores: np.ndarray) -> np.ndarray:
        """Calibrate (N, K) scores of cells."""
        return apply_curves(self.cells, scores)

    def of_image(self, probs: np.ndarray) -> np.ndarray:
        """Calibrate the (K,) probabilities of one image."""
        return apply_curves(self.images, probs[None])[0]

    def record(self) -> dict[str, Any]:
        """Return the curves as JSON; `of_record` reads them."""
        return {name: [_plain(curve) for curve in getattr(self, name)] for name in ("cells", "images")}

    @classmethod
    def of_record(cls, record: Mapping[str, Any], classes: int) -> "Calibration":
        """Read what `record` returned.

        Raises:
            KeyError, TypeError, ValueError, OverflowError: it is damaged, for another number of classes, or a curve
                does not rise over [0, 1].
        """
        cells, images = ([_read(curve) for curve in record[name]] for name in ("cells", "images"))
        for curves in (cells, images):
            if len(curves) != classes:
                raise ValueError(f"it has curves for {len(curves)} classes, expected {classes}")
            if not all(_is_curve(curve) for curve in curves):
                raise ValueError("it has a curve that does not rise from 0 to 1")
        return cls(cells, images)

    def only(self, classes: np.ndarray) -> "Calibration":
        """Return the same for the classes (K,) bool alone; scores of the others stay as they are."""
        cells = [curve if kept else IDENTITY for curve, kept in zip(self.cells, classes, strict=True)]
        images = [curve if kept else IDENTITY for curve, kept in zip(self.images, classes, strict=True)]
        return Calibration(cells, images, self.origin)


def mean_calibration(several: Sequence[Calibration]) -> Calibration:
    """Return the means of the curves of several calibrations for the same classes."""
    cells = [_mean_curve(curves) for curves in zip(*(one.cells for one in several), strict=True)]
    images = [_mean_curve(curves) for curves in zip(*(one.images for one in several), strict=True)]
    return Calibration(cells, images, several[0].origin)


def _mean_curve(curves: Sequence[Curve]) -> Curve:
    x = np.unique(np.concatenate([curve.x for curve in curves]))
    return Curve(curves[0].method, x, np.mean([curve.apply(x) for curve in curves], axis=0))


def save_calibration(path: Path, calibration: Calibration, report: Mapping[str, Any]) -> None:
    """Write curves as JSON, with a report of what they do."""
    written = {"format": FORMAT, "origin": calibration.origin, "report": dict(report)}
    write_json(path, written | calibration.record())


def _plain(curve: Curve) -> dict[str, Any]:
    return {"method": curve.method, "x": curve.x.round(DIGITS).tolist(), "y": curve.y.round(DIGITS).tolist()}


def load_calibration(path: Path, classes: int) -> Calibration:
    """Read curves.

    Raises:
        DataError: the file is missing, of another kind, for other classes, or a curve does not rise over [0, 1].
    """
    again = "make it with python -m wsss.calibrate"
    record = read_record(path, "format", newest=FORMAT, what="calibration", again=again)
    try:
        return replace(Calibration.of_record(record, classes), origin=dict(record["origin"]))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{path} cannot be used ({one_line(error)}): {again}.") from error


def _read(record: Mapping[str, Any]) -> Curve:
    return Curve(str(record["method"]), np.array(record["x"], np.float64), np.array(record["y"], np.float64))


def _is_curve(curve: Curve) -> bool:
    x, y = curve.x, curve.y
    if x.ndim != 1 or x.shape != y.shape or len(x) < 2 or (x[0], x[-1]) != (0, 1):
        return False
    # near 0 and 1 the digits that are kept may be the same, but no curve is flat
    return bool((np.diff(x) > 0).all() and (np.diff(y) >= 0).all() and 0 <= y[0] < y[-1] <= 1)
