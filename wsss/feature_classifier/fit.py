"""The feature classifier: from cell features and image labels to cell labels, several of which may be true at once.

A class that the image lacks is almost surely absent from its cells; a class that it bears is shown by a share of them
that differs from image to image; Negative may be any cell. Two learners of different kinds, a forest and a regularised
linear model, are trained on soft labels, class by class, and predict the cells of images they did not see; these
predictions and the class's share among the cells of the image give new soft labels; and so on for some rounds
(expectation-maximisation with held-out predictions and a prior for each image and class).
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import QuantileTransformer

from wsss.cells.scoring import image_prior, image_prior_of_one_class, image_scores
from wsss.core.checks import DataError
from wsss.core.files import as_read
from wsss.core.runtime import cores
from wsss.feature_classifier.store import LEAST, FeatureClassifier, StoredForest, StoredLinear, agreement, normal_scores
from wsss.metrics.calibration import IDENTITY, Calibration, Curve, possible_targets, regularised_curve
from wsss.options.recipe import FitConfig
from wsss.options.scoring import ScoreConfig

STEPS = 60
"""Steps at most of the linear model's fit."""


class Forest:
    """Extremely randomised trees that predict soft labels, each class by itself."""

    def __init__(self, config: FitConfig, seed: int) -> None:
        self._trees = ExtraTreesRegressor(
            config.trees,
            min_samples_leaf=config.leaf,
            max_features=0.2,
            random_state=seed,
        )

    def fit(self, features: np.ndarray, soft: np.ndarray, weights: np.ndarray | None = None) -> "Forest":
        """Learn from (N, F) features, (N, K) soft labels and (N,) weights of the cells, 1 each by default."""
        self._trees.set_params(n_jobs=cores())
        self._trees.fit(features, soft if soft.shape[1] > 1 else soft.ravel(), weights)
        return self

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return (N, K) probabilities, the same bits each time."""
        self._trees.set_params(n_jobs=1)  # threads would add up the trees in the order in which they happen to end
        return self._trees.predict(features).reshape(len(features), -1)

    @property
    def importance(self) -> np.ndarray:
        """(F,) how much each feature decides, summing to 1."""
        return self._trees.feature_importances_

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the trees one after another as arrays: roots, feature, threshold, left, right, value.

        Nodes are numbered through all trees; a leaf asks for no feature (-1) and is its own child.
        """
        trees = [tree.tree_ for tree in self._trees.estimators_]
        counts = [tree.node_count for tree in trees]
        ends, outputs = np.cumsum(counts), trees[0].value.shape[1]
        # filled tree by tree: thousands of images make gigabytes of leaves, which are not to be held twice
        out = {
            "roots": (ends - counts).astype(np.int32),
            "feature": np.empty(ends[-1], np.int16),
            "threshold": np.empty(ends[-1]),
            "left": np.empty(ends[-1], np.int32),
            "right": np.empty(ends[-1], np.int32),
            "value": np.empty((ends[-1], outputs), np.float32),
        }
        for tree, root, end in zip(trees, out["roots"], ends, strict=True):
            leaf, node = tree.children_left < 0, np.arange(root, end)
            out["feature"][root:end] = np.where(leaf, -1, tree.feature)
            out["threshold"][root:end] = tree.threshold
            out["left"][root:end] = np.where(leaf, node, root + tree.children_left)
            out["right"][root:end] = np.where(leaf, node, root + tree.children_right)
            out["value"][root:end] = tree.value[:, :, 0]
        return out


class Linear:
    """Logistic regression of each class against the rest, on features turned into normal scores."""

    def __init__(self, config: FitConfig, seed: int) -> None:
        self._scale = QuantileTransformer(output_distribution="normal", random_state=seed)
        self._penalty = 1 / config.strength
        self._weights = np.zeros((0, 0))

    def fit(self, features: np.ndarray, soft: np.ndarray, weights: np.ndarray | None = None) -> "Linear":
        """Learn from (N, F) features, (N, K) soft labels and (N,) weights of the cells, 1 each by default."""
        self._scale.set_params(n_quantiles=min(200, len(features)))
        self._scale.fit(features)
        scaled, wanted = self._scaled(features).astype(np.float32), soft.astype(np.float32)
        shape = scaled.shape[1], soft.shape[1]
        counted = np.float32(1) if weights is None else weights.astype(np.float32)[:, None]

        def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
            weights = flat.reshape(shape).astype(np.float32)
            logits = scaled @ weights
            value = (counted * (np.logaddexp(0, logits) - wanted * logits)).sum(dtype=np.float64)
            slope = scaled.T @ (counted * (expit(logits) - wanted))
            weights[-1] = 0  # the intercept is free
            value += self._penalty / 2 * (weights.astype(np.float64) ** 2).sum()
            slope += np.float32(self._penalty) * weights
            return value / len(scaled), slope.ravel().astype(np.float64) / len(scaled)

        minimum = minimize(loss, np.zeros(np.prod(shape)), jac=True, method="L-BFGS-B", options={"maxiter": STEPS})
        self._weights = minimum.x.reshape(shape)
        return self

    def _scaled(self, features: np.ndarray) -> np.ndarray:
        """Return (N, F + 1) normal scores, the last column 1."""
        scaled = normal_scores(features, self._scale.quantiles_, self._scale.references_)
        return np.hstack([scaled, np.ones((len(features), 1))])

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return (N, K) probabilities."""
        return np.asarray(expit(self._scaled(features) @ self._weights))

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the model as arrays: quantiles, references, and weights and intercept with a row a class."""
        return {
            "quantiles": self._scale.quantiles_,
            "references": self._scale.references_,
            "weights": np.ascontiguousarray(self._weights[:-1].T),
            "intercept": self._weights[-1].copy(),
        }


EXCEPTION = 0.006
"""Share of the cells that show a class which their image's labels lack."""
ALONE = 0.82
"""Share of the cells that is assumed at first to show the only label of their image."""
SHARES = (0.02, 0.98)
"""Bounds of the share of an image's cells that show one of its labels."""
PSEUDO_CELLS = 3.0
"""Cells with the mean share of the class that are added to those of each image."""
SURE = 0.98
"""Probability that a class given by hand is shown, and that one not given is absent."""
ONE_CLASS = 0.85
"""From this `_margin_ratio` on, cells are taken to show one class each."""
ENOUGH_CELLS = 500
"""Fewer cells say too little about that."""
FEWER_TREES = 3
"""The final forest has this many times the trees of the rounds."""
CELLS_WORTH = 3
"""Cells of an image are alike: calibration curves count them as this many."""


class TooFewCells(DataError):
    """Not enough images have cells to learn from."""


Learner = Forest | Linear
LEARNERS: tuple[Callable[[FitConfig, int], Learner], ...] = (Forest, Linear)


@dataclass(frozen=True)
class FittedModel:
    """What `fit_model` learnt."""

    learners: list[Learner]
    """A Forest and a Linear, for the classes in `classes`."""
    classes: np.ndarray
    """(C,) the class ids that some training cell may have; the others always score 0."""
    soft: np.ndarray
    """(N, K) float32 in [0, 1], the soft labels of the training cells in the end; several of a cell may be high."""
    held_out: np.ndarray
    """(N, K) float32 in [0, 1], what learners that had not seen their images made of the training cells in the last
    round; NaN for a class that some of them met in no image, since they know nothing about it."""
    history: list[float]
    """Mean change of a soft label in each round, in [0, 1]; small when the labels have settled."""
    margin_ratio: float | None = None
    """How surely labels are told apart in images with several of them, see `_margin_ratio`; None if not known."""

    @property
    def one_class(self) -> bool:
        """Whether the cells of the training images show one class each, as far as can be told."""
        return self.margin_ratio is not None and self.margin_ratio >= ONE_CLASS

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return scores (N, K) float32 in [0, 1] for (N, F) features; each class is scored by itself."""
        out = np.zeros((len(features), self.soft.shape[1]), np.float32)
        if len(features):
            out[:, self.classes] = agreement(np.array([learner.predict(features) for learner in self.learners]))
        return out

    @property
    def importance(self) -> np.ndarray:
        """(F,) how much each feature decides in the forest, summing to 1."""
        return next(learner.importance for learner in self.learners if isinstance(learner, Forest))


@dataclass(frozen=True)
class Copies:
    """Cells of changed copies of the images: the label of a cell does not change with light, haze or noise."""

    features: np.ndarray
    """(M, F) float32."""
    source: np.ndarray
    """(M,) the plain cell, as a row of its features, that each one is a copy of."""
    emptied: np.ndarray
    """(M,) bool: the copy has lost its signal, so it is known to be Negative."""


@dataclass(frozen=True)
class LabelledCells:
    """Cells whose classes were given by hand."""

    rows: np.ndarray
    """(n,) rows of the features, each once."""
    labels: np.ndarray
    """(n, K) of 0/1."""


@dataclass(frozen=True)
class TrainingCells:
    """Cells to learn from, and what is known of their classes."""

    features: np.ndarray
    """(N, F) float32."""
    image_of_cell: np.ndarray
    """(N,) row of `image_labels` that each cell belongs to."""
    image_labels: np.ndarray
    """(M, K) 0/1."""
    negative: int | None
    """Class that every cell may have whatever its image's labels; None for none."""
    copies: Copies | None = None
    """More cells, whose labels follow from those of the cells above."""
    labelled: LabelledCells | None = None
    """Cells whose classes are known; they keep them, whatever their image's labels, and count more."""

    @property
    def shown_negative(self) -> int | None:
        """The class Negative if some cell is known to be it: else its learners would repeat what was assumed."""
        if self.negative is None:
            return None
        labels = np.asarray(self.image_labels) > 0
        alone = labels[:, self.negative] & ~np.delete(labels, self.negative, axis=1).any(axis=1)
        answered = self.labelled is not None and self.labelled.labels[:, self.negative].any()
        emptied = self.copies is not None and self.copies.emptied.any()
        return self.negative if alone.any() or answered or emptied else None


def fit_model(cells: TrainingCells, seed: int, config: FitConfig) -> FittedModel:
    """Learn cell labels from image labels.

    What Negative looks like is learnt from images that bear it alone and from copies that lost their signal; without
    both, no cell is found to be Negative.

    Args:
        seed: of the learners; the same input and seed give the same model.

    Raises:
        TooFewCells: fewer images than folds.
        DataError: a cell's image has no label.
    """
    negative, labelled = cells.shown_negative, cells.labelled
    allowed = candidates(cells.image_of_cell, cells.image_labels, negative)
    shown = allowed.any(axis=0) if labelled is None else allowed.any(axis=0) | labelled.labels.any(axis=0)
    classes = np.flatnonzero(shown)
    images, row = np.unique(cells.image_of_cell, return_inverse=True)
    if len(images) < config.folds:
        raise TooFewCells(f"the cells come from {len(images)} images, expected at least {config.folds}.")
    place = None if negative is None or negative not in classes else int(np.searchsorted(classes, negative))
    if labelled is None:
        labelled = LabelledCells(np.zeros(0, np.intp), np.zeros((0, allowed.shape[1])))
    known_labels = LabelledCells(labelled.rows, labelled.labels[:, classes])
    pool = _Pool(cells.features, row, allowed[:, classes], place, cells.copies, known_labels, config.answer_weight)
    soft, history = pool.taught(first_labels(pool.allowed, place, config)), []
    for turn in range(config.rounds):
        views, known = _held_out_views(pool, soft, config, seed + turn)
        _, learnt, _ = pool.training_set(np.ones(len(soft), bool), soft)
        unseen = agreement(views)
        probs = renew(unseen, learnt.mean(axis=0), soft, pool.image, pool.allowed)
        renewed = pool.taught(np.where(known, probs, soft))
        history.append(float(np.abs(renewed - soft).mean()))
        soft = renewed
    ratio = _margin_ratio(pool, config, seed)
    examples = pool.training_set(np.ones(len(soft), bool), soft)
    final = [make(config, seed + config.rounds) for make in LEARNERS]
    for learner in reversed(final):  # the forest, which fills most memory, last
        learner.fit(*examples)
    every, held_out = np.zeros((2, *allowed.shape), np.float32)
    every[:, classes], held_out[:, classes] = soft, np.where(known.all(axis=0), unseen, np.nan)
    return FittedModel(final, classes, every, held_out, history, ratio)


def fit_calibration(model: FittedModel, cells: TrainingCells) -> Calibration:
    """Fit the curves of the scores that the model gives, after the image prior.

    The scores are those of training cells by learners that had not seen their images. Cells are compared with what the
    labels of their image leave possible, or with the labels given by hand; images, scored by their cells, with theirs.

    Args:
        model: what was learnt from `cells`.
        cells: as given to `fit_model`.
    """
    prior, rounds = image_prior_of_one_class if model.one_class else image_prior, ScoreConfig().prior_rounds
    images, row = np.unique(cells.image_of_cell, return_inverse=True)
    known = np.isin(np.arange(model.held_out.shape[1]), model.classes) & np.isfinite(model.held_out).all(axis=0)
    held_out = np.where(known, model.held_out, 0)
    scores, of_images = np.zeros_like(held_out), np.zeros((len(images), len(known)), np.float32)
    for image, rows in enumerate(np.split(np.argsort(row, kind="stable"), np.cumsum(np.bincount(row))[:-1])):
        scores[rows] = prior(held_out[rows], cells.negative, rounds)
        of_images[image] = image_scores(scores[rows], of_images[image], negative=cells.negative, share=1.0)
    labels = np.asarray(cells.image_labels)[images]
    targets = possible_targets(scores, labels[row], cells.negative)
    weights = np.minimum(1, CELLS_WORTH / np.bincount(row)[row])
    judged = ~(labels[:, ~known] > 0).any(axis=1)[row]  # cells of images of known classes alone, and answers
    if cells.labelled is not None:
        targets[cells.labelled.rows], weights[cells.labelled.rows] = cells.labelled.labels, 1
        judged[cells.labelled.rows] = True

    def fitted(made: np.ndarray, true: np.ndarray, weights: np.ndarray) -> list[Curve]:
        # sigmoids, for the steps of isotonic curves bring scores together that tables with six digits then tie
        return [
            regularised_curve(made[:, k], true[:, k], weights) if is_known else IDENTITY
            for k, is_known in enumerate(known)
        ]

    of_cells = fitted(scores[judged], targets[judged], weights[judged])
    return Calibration(of_cells, fitted(of_images, labels.astype(float), np.ones(len(images))))


@dataclass(frozen=True)
class _Pool:
    """The cells to learn from, for the classes that occur."""

    features: np.ndarray
    image: np.ndarray
    """(N,) images from 0 without gaps."""
    allowed: np.ndarray
    """(N, C) bool."""
    negative: int | None
    copies: Copies | None
    labelled: LabelledCells
    answer_weight: float

    def taught(self, soft: np.ndarray) -> np.ndarray:
        """Return (N, C) soft labels with those of the cells labelled by hand put in."""
        out = np.array(soft)
        out[self.labelled.rows] = np.where(self.labelled.labels > 0, SURE, 1 - SURE)
        return out

    def training_set(self, seen: np.ndarray, soft: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Return features, soft labels and weights of the cells `seen` (N,) bool and of their copies."""
        weights = np.ones(len(soft))
        weights[self.labelled.rows] = self.answer_weight
        uneven = len(self.labelled.rows) > 0
        if self.copies is None:
            return self.features[seen], soft[seen], weights[seen] if uneven else None
        kept = seen[self.copies.source]
        inherited = soft[self.copies.source[kept]]
        emptied = self.copies.emptied[kept]
        if emptied.any():
            if self.negative is None:
                raise ValueError("some copies have lost their signal, but there is no class Negative.")
            inherited[emptied] = np.arange(soft.shape[1]) == self.negative
        return (
            np.concatenate([self.features[seen], self.copies.features[kept]]),
            np.concatenate([soft[seen], inherited]),
            np.concatenate([weights[seen], weights[self.copies.source[kept]]]) if uneven else None,
        )


def _held_out_views(pool: _Pool, soft: np.ndarray, config: FitConfig, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Predict every cell by learners that did not see its image.

    Returns:
        (learners, N, C) probabilities, and (N, C) bool: where they mean something. Learners that met no image with a
        class, as happens to classes of a few images, know nothing about it.
    """
    config = replace(config, trees=-(-config.trees // FEWER_TREES))
    views, known = np.zeros((len(LEARNERS), *soft.shape)), np.zeros(soft.shape, bool)
    for seen, unseen in GroupKFold(config.folds).split(soft, groups=pool.image):
        inside = np.isin(np.arange(len(soft)), seen)
        examples = pool.training_set(inside, soft)
        for view, make in zip(views, LEARNERS, strict=True):
            view[unseen] = make(config, seed).fit(*examples).predict(pool.features[unseen])
        known[unseen] = pool.allowed[seen].any(axis=0)
    return views, known


def _margin_ratio(pool: _Pool, config: FitConfig, seed: int) -> float | None:
    """Compare cells of images with several labels to those of images with one label.

    A linear model learns the classes from the images with one label. The margin of a cell is by how much the log odds
    of the best of its image's labels exceed those of the second best; a cell of an image with one label, predicted by a
    model that did not see the image, is given the labels of a random image that has several, this one among them.
    Where each cell shows one class the margins are alike; cells that show two classes have small ones.

    Returns:
        The median margin in images with several labels over that in images with one; None with fewer than ENOUGH_CELLS
        of either kind.
    """
    labels = pool.allowed.copy()
    if pool.negative is not None:
        labels[:, pool.negative] = False
    count, rng = labels.sum(axis=1), np.random.default_rng(seed)
    known = np.array([len(np.unique(pool.image[(count == 1) & column])) > 1 for column in labels.T])
    one = np.flatnonzero((count == 1) & (labels & known).any(axis=1))
    several = np.flatnonzero((count > 1) & ~(labels & ~known).any(axis=1))
    rivals = {k: rows for k in np.flatnonzero(known) if len(rows := several[labels[several, k]])}
    one = one[np.isin(labels[one].argmax(axis=1), list(rivals))]
    folds = min(config.folds, len(np.unique(pool.image[one])))
    if min(len(one), len(several)) < ENOUGH_CELLS or folds < 2:
        return None

    def predict(seen: np.ndarray, unseen: np.ndarray) -> np.ndarray:
        inside = np.isin(np.arange(len(count)), seen)
        return Linear(config, seed).fit(*pool.training_set(inside, labels.astype(float))).predict(pool.features[unseen])

    odds = np.zeros(labels.shape)
    odds[several] = predict(one, several)
    for seen, unseen in GroupKFold(folds).split(one, groups=pool.image[one]):
        odds[one[unseen]] = predict(one[seen], one[unseen])
    shows = np.ones(len(odds), bool) if pool.negative is None else odds[:, pool.negative] < 0.5
    given = labels.copy()
    given[one] = labels[[rng.choice(rivals[k]) for k in labels[one].argmax(axis=1)]]
    best = np.sort(np.where(given, logit(np.clip(odds, LEAST, 1 - LEAST)), -np.inf), axis=1)
    margins = [float(np.median((best[rows, -1] - best[rows, -2])[shows[rows]])) for rows in (several, one)]
    return margins[0] / max(margins[1], 1e-6)


def candidates(image_of_cell: np.ndarray, image_labels: np.ndarray, negative: int | None) -> np.ndarray:
    """Which classes the image of each cell allows, (N, K) bool: its labels, and Negative.

    Raises:
        DataError: a cell's image has no label.
    """
    allowed = np.asarray(image_labels)[image_of_cell] > 0
    if not allowed.any(axis=1).all():
        empty = np.unique(np.asarray(image_of_cell)[~allowed.any(axis=1)])
        raise DataError(f"{len(empty)} images with cells have no label, the first is row {empty[0]}.")
    if negative is not None:
        allowed[:, negative] = True
    return allowed


def first_labels(allowed: np.ndarray, negative: int | None, config: FitConfig) -> np.ndarray:
    """First soft labels (N, K) from the classes that each cell's image allows (N, K) bool, each class by itself."""
    others = allowed.copy()
    if negative is not None:
        others[:, negative] = False
    count = others.sum(axis=1, keepdims=True)
    soft = np.where(others, np.where(count == 1, ALONE, config.shown_share), EXCEPTION)
    if negative is not None:
        soft[:, negative] = np.where(count[:, 0] > 0, config.negative_share, 1 - EXCEPTION)
    return soft


def renew(
    probs: np.ndarray, frequency: np.ndarray, soft: np.ndarray, image_of_cell: np.ndarray, allowed: np.ndarray
) -> np.ndarray:
    """New soft labels (N, K): the odds of a class, relative to its frequency, times the odds of its share in the image.

    Args:
        probs: (N, K) in [0, 1], held-out predictions of learners trained on `soft` (and on copies).
        frequency: (K,) mean soft label of the cells that they were trained on.
        soft: (N, K) the soft labels so far; they give the shares.
        image_of_cell: (N,) number of each cell's image.
        allowed: (N, K) bool, the classes that the image allows; the share of another is EXCEPTION.

    Returns:
        (N, K) float64 in [0, 1]; where an image allows one class alone, that class is as sure as the others are absent.
    """
    images, row = np.unique(image_of_cell, return_inverse=True)
    shown = np.zeros((len(images), soft.shape[1]))
    np.add.at(shown, row, soft)
    counted = np.maximum(allowed.sum(axis=0), 1)
    usual = (soft * allowed).sum(axis=0) / counted
    cells = np.bincount(row)[:, None]
    share = np.clip((shown + PSEUDO_CELLS * usual) / (cells + PSEUDO_CELLS), *SHARES)[row]
    alone = allowed & (allowed.sum(axis=1, keepdims=True) == 1)
    prior = np.where(allowed, np.where(alone, 1 - EXCEPTION, share), EXCEPTION)
    usual_odds = logit(np.clip(frequency, 0.01, 0.99))
    odds = logit(np.clip(probs, LEAST, 1 - LEAST)) - usual_odds + logit(prior)
    return np.asarray(expit(odds))


def to_feature_classifier(
    model: FittedModel, names: tuple[str, ...], config: FitConfig, more: Mapping[str, Any]
) -> FeatureClassifier:
    """Take the arrays out of a fitted model.

    Args:
        more: what else to remember, as JSON-like values.
    """
    forest = next(learner for learner in model.learners if isinstance(learner, Forest))
    linear = next(learner for learner in model.learners if isinstance(learner, Linear))
    meta = {
        "count": model.soft.shape[1],
        "names": list(names),
        "importance": [round(float(v), 6) for v in model.importance],
        "history": [round(v, 6) for v in model.history],
        "margin_ratio": None if model.margin_ratio is None else round(model.margin_ratio, 4),
        "one_class": model.one_class,
        "config": asdict(config),
        **more,
    }
    stored = StoredForest(**forest.arrays()), StoredLinear(**linear.arrays())
    return FeatureClassifier.of(*stored, model.classes.astype(np.int64), as_read(meta))
