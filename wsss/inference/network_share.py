"""The network's share of a cell's score, class by class, fitted to the labels of images that it did not learn from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from wsss.cells.regions import shown_share
from wsss.cells.scoring import Part, Share, blend_parts, image_scores
from wsss.data.catalog import DataSet
from wsss.inference.checkpoints import CamCheckpoint
from wsss.inference.pipeline import predict
from wsss.inference.sources import SOURCES, Task, shows_one_class, source_shares
from wsss.metrics.classify import average_precision, mean_of_classes

STEPS = np.linspace(0, 1, 11)
"""The shares that are tried."""
MOST_IMAGES = 300
"""Held-out images that are looked at."""
LEAST_IMAGES = 20
"""A class with fewer images that bear it, or that lack it, gets the share that is best for all classes together."""
DRAWS = 30
"""Of the bootstrap that says how far a figure can be trusted."""


@dataclass(frozen=True)
class Fitted:
    """What was found."""

    by_class: np.ndarray
    """(K,) in [0, 1], the network's share."""
    images: int
    """How many images it was found on."""
    alone: tuple[float, float]
    """Mean AP of their labels by the features alone and by the network alone."""
    blended: float
    """The same with these shares."""

    def meta(self) -> dict[str, Any]:
        """Return it as it stands in the record of the feature classifier."""
        return {
            "by_class": [round(float(share), 3) for share in self.by_class],
            "images": self.images,
            "image_ap": {"features": self.alone[0], "network": self.alone[1], "both": self.blended},
        }


def fit_network_share(
    checkpoint: CamCheckpoint, data: DataSet, held_out: Sequence[int], task: Task, seed: int
) -> Fitted | None:
    """Fit the share of a network beside its feature classifier; None where too few held-out images have cells.

    For each share that is tried, the cells of the held-out images are scored as `infer` does, and what they say of
    their image is compared with its label. The network gets the least share whose mean AP lies within one standard
    error of the best, and a class with enough images the least that is as good for this class.

    Args:
        checkpoint: a network that did not learn from these images, with its feature classifier.
        held_out: the images; of more than MOST_IMAGES, some are drawn.
        task: rules and device; its shares do not count.

    Source: the rule of one standard error, Breiman, Friedman, Olshen and Stone, Classification and Regression Trees
    (1984).
    """
    rng = np.random.default_rng(seed)
    drawn = sorted(rng.permutation(np.asarray(held_out))[:MOST_IMAGES].tolist())
    if len(drawn) < LEAST_IMAGES:
        return None
    both = replace(task, score=replace(task.score, feature_share=0.5), calibration=None, embeddings=False)
    scored = [image for image in predict(both, [checkpoint], drawn, set(), -1) if image.record["n_cells"]]
    truth = data.labels[[image.index for image in scored]]
    if len(scored) < LEAST_IMAGES or not truth.any():
        return None
    tables = [image.cells for image in scored]
    rescore = _rescorer(checkpoint, task, tables, data.classes.negative)
    by_step = np.stack([rescore(float(step)) for step in STEPS])
    draws = rng.integers(0, len(truth), (DRAWS, len(truth)))
    shares = choose_shares(truth, by_step, draws)
    figure = [mean_of_classes(average_precision(truth, scores)) for scores in (by_step[0], by_step[-1])]
    blended = mean_of_classes(average_precision(truth, rescore(shares)))
    return Fitted(shares, len(scored), (figure[0], figure[1]), blended)


def _rescorer(
    checkpoint: CamCheckpoint, task: Task, tables: list[pd.DataFrame], negative: int | None
) -> Callable[[Share], np.ndarray]:
    """Return a function that gives the (images, K) scores of images by what their cells show, for a network's share."""
    score, groups = replace(task.score, feature_share="auto"), {kind.name: kind.group for kind in SOURCES}
    one_class = shows_one_class([checkpoint], score)
    columns = [str(k) for k in range(len(checkpoint.record.classes))]

    own = {name: [f"{name}:{k}" for k in columns] for name in groups if f"{name}:0" in tables[0]}
    images = [
        (
            {name: table[its].to_numpy() for name, its in own.items()},
            shown_share(table.area_px.to_numpy(), table.touches_border.to_numpy(bool)),
        )
        for table in tables
    ]

    def of_image(scores: dict[str, np.ndarray], visible: np.ndarray, shares: dict[str, Share]) -> np.ndarray:
        parts = [Part(name, groups[name], share, scores[name]) for name, share in shares.items()]
        cells = blend_parts(parts, score, negative=negative, visible=visible, one_class=one_class)
        return image_scores(cells, np.zeros(cells.shape[1]), negative=negative, share=1.0)

    def rescore(share: Share) -> np.ndarray:
        given = replace(checkpoint, network_share=np.broadcast_to(share, len(columns)))
        shares = source_shares([given], score, task.crops)
        return np.stack([of_image(scores, visible, shares) for scores, visible in images])

    return rescore


def choose_shares(truth: np.ndarray, by_step: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Choose the network's share of each class.

    Args:
        truth: (M, K) labels of images.
        by_step: (S, M, K) scores of the images for each of STEPS.
        draws: (D, M) images of each bootstrap sample.

    Returns:
        (K,) float64, each one of STEPS.
    """
    point = np.stack([average_precision(truth, scores) for scores in by_step])  # (S, K)
    sampled = np.stack([[average_precision(truth[draw], scores[draw]) for scores in by_step] for draw in draws])
    shares = np.full(truth.shape[1], _least_as_good(np.nanmean(point, axis=1), np.nanmean(sampled, axis=2)))
    shown = truth.astype(bool).sum(axis=0)
    for k in np.flatnonzero((shown >= LEAST_IMAGES) & (len(truth) - shown >= LEAST_IMAGES)):
        shares[k] = _least_as_good(point[:, k], sampled[:, :, k])
    return shares


def _least_as_good(point: np.ndarray, sampled: np.ndarray) -> float:
    """Return the least step within one standard error of the best, for (S,) figures and (D, S) of bootstrap samples."""
    best = int(np.argmax(point))
    error = np.nanstd(sampled - sampled[:, [best]], axis=0)
    return float(STEPS[int(np.argmax(point >= point[best] - error))])
