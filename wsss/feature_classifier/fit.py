"""A feature classifier: from cell features and image labels to cell labels, by sorting out which cell bears which
label.

Every cell may bear its image's labels or none (Negative). Two learners of different kinds, a forest and a regularised
linear model, are trained on soft labels and predict the cells of images they did not see; where both favour a
candidate, the cell's soft label moves there; and so on for some rounds (expectation-maximisation with held-out
predictions).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from sklearn.model_selection import GroupKFold

from wsss.core.checks import DataError
from wsss.feature_classifier.learners import Forest, Linear
from wsss.options.feature_classifier import WeakConfig

LEAST = 1e-4
"""A probability below this counts as this: no learner alone can rule a candidate out."""

Learner = Forest | Linear
LEARNERS: tuple[Callable[[WeakConfig, int], Learner], ...] = (Forest, Linear)


@dataclass(frozen=True)
class WeakModel:
    """What `fit_weak` learnt."""

    learners: list[Learner]
    """A Forest and a Linear, for the classes in `classes`."""
    classes: np.ndarray
    """(C,) the class ids that some training cell may have; the others always score 0."""
    soft: np.ndarray
    """(N, K) float32, the soft labels of the training cells in the end: 0 outside the candidates, rows sum to 1."""
    history: list[float]
    """Mean change of a cell's soft label in each round, in [0, 1]; small when the labels have settled."""

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return scores (N, K) float32 in [0, 1] for (N, F) features; rows sum to about 1."""
        out = np.zeros((len(features), self.soft.shape[1]), np.float32)
        if len(features):
            views = [learner.predict(features) for learner in self.learners]
            out[:, self.classes] = np.clip(np.mean(views, axis=0), 0, 1)
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


def fit_weak(
    features: np.ndarray,
    image_of_cell: np.ndarray,
    image_labels: np.ndarray,
    negative: int | None,
    seed: int,
    config: WeakConfig | None = None,
    copies: Copies | None = None,
) -> WeakModel:
    """Learn cell labels from image labels.

    Args:
        features: (N, F) float32.
        image_of_cell: (N,) row of `image_labels` that each cell belongs to.
        image_labels: (M, K) 0/1.
        negative: class that every cell may have whatever its image's labels; None for none.
        seed: of the learners; the same input and seed give the same model.
        config: the rules.
        copies: more cells to learn from in the end, whose labels follow from those of the cells above.

    Raises:
        DataError: fewer images than folds, or a cell's image has no label.
    """
    config = config or WeakConfig()
    every = candidates(image_of_cell, image_labels, negative, config.negative_share)
    classes = np.flatnonzero(every.any(axis=0))
    possible = every[:, classes]
    images = len(np.unique(image_of_cell))
    if images < config.folds:
        raise DataError(f"the cells come from {images} images, expected at least {config.folds}.")
    parts = list(GroupKFold(config.folds).split(features, groups=image_of_cell))
    soft, history = possible, []
    for turn in range(config.rounds):
        views, strange = _held_out_views(features, soft, parts, config, seed + turn)
        renewed = np.where(strange[:, None], soft, renew(views, possible, soft, config))
        history.append(float(np.abs(renewed - soft).sum(axis=1).mean() / 2))
        soft = renewed
    every[:, classes] = soft
    if copies is not None:
        features, soft = _with_copies(features, every, copies, negative)
        config = replace(config, leaf=round(config.leaf * len(features) / len(every)))
        soft = soft[:, classes]
    final = [make(config, seed + config.rounds).fit(features, soft) for make in LEARNERS]
    return WeakModel(final, classes, every.astype(np.float32), history)


def _held_out_views(
    features: np.ndarray,
    soft: np.ndarray,
    parts: list[tuple[np.ndarray, np.ndarray]],
    config: WeakConfig,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Predict every cell by learners that did not see its image.

    Returns:
        (learners, N, K) probabilities, and (N,) bool: which cells may have a class that their learners never met, as
        happens to classes of a few images. What those learners think of such a cell says nothing.
    """
    views = np.zeros((len(LEARNERS), *soft.shape))
    strange = np.zeros(len(soft), bool)
    for seen, unseen in parts:
        met = (soft[seen] > 0).any(axis=0)
        strange[unseen] = (soft[unseen][:, ~met] > 0).any(axis=1)
        for view, make in zip(views, LEARNERS, strict=True):
            view[unseen] = make(config, seed).fit(features[seen], soft[seen]).predict(features[unseen])
    return views, strange


def _with_copies(
    features: np.ndarray, soft: np.ndarray, copies: Copies, negative: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return features and soft labels of the plain cells and of their copies."""
    inherited = soft[copies.source]
    if copies.emptied.any():
        if negative is None:
            raise ValueError("some copies have lost their signal, but there is no class Negative.")
        inherited[copies.emptied] = np.arange(soft.shape[1]) == negative
    return np.concatenate([features, copies.features]), np.concatenate([soft, inherited])


def oof_weak(
    features: np.ndarray,
    image_of_cell: np.ndarray,
    image_labels: np.ndarray,
    negative: int | None,
    seed: int,
    fold_of_image: np.ndarray,
    config: WeakConfig | None = None,
) -> np.ndarray:
    """Score every cell by a model that was fitted, all its rounds, without any image of the cell's fold.

    Args:
        features, image_of_cell, image_labels, negative, seed, config: as in `fit_weak`.
        fold_of_image: (M,) fold of each image.

    Returns:
        (N, K) float32 in [0, 1].
    """
    fold_of_cell = np.asarray(fold_of_image)[image_of_cell]
    out = np.zeros((len(features), image_labels.shape[1]), np.float32)
    for fold in np.unique(fold_of_cell):
        inside = fold_of_cell == fold
        model = fit_weak(features[~inside], image_of_cell[~inside], image_labels, negative, seed, config)
        out[inside] = model.predict(features[inside])
    return out


def candidates(
    image_of_cell: np.ndarray, image_labels: np.ndarray, negative: int | None, negative_share: float
) -> np.ndarray:
    """First soft labels (N, K): the image's labels in equal parts, Negative with its share; rows sum to 1.

    Raises:
        DataError: a cell's image has no label.
    """
    labels = np.asarray(image_labels, np.float64)[image_of_cell] > 0
    if not labels.any(axis=1).all():
        empty = np.unique(np.asarray(image_of_cell)[~labels.any(axis=1)])
        raise DataError(f"{len(empty)} images with cells have no label, the first is row {empty[0]}.")
    others = labels.copy()
    if negative is not None:
        others[:, negative] = False
    soft = labels / labels.sum(axis=1, keepdims=True)
    if negative is not None:
        mixed = others.any(axis=1)
        soft[mixed] = (1 - negative_share) * others[mixed] / others[mixed].sum(axis=1, keepdims=True)
        soft[mixed, negative] = negative_share
    return soft


def renew(views: np.ndarray, possible: np.ndarray, soft: np.ndarray, config: WeakConfig) -> np.ndarray:
    """New soft labels (N, K): the learners' agreement among the possible, rows sum to 1.

    The geometric mean g of the learners gives (g / frequency ** balance) ** sharpen.
    """
    agreed = np.exp(np.log(np.clip(views, LEAST, 1)).mean(axis=0))
    frequency = soft.mean(axis=0) + 1e-3
    found = np.where(possible > 0, (agreed / frequency**config.balance) ** config.sharpen, 0)
    return found / found.sum(axis=1, keepdims=True)
