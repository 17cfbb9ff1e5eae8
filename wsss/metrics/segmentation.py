"""Masks against true masks: IoU, Dice, the mean over IoU thresholds, and average precision of instances."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from wsss.metrics.instances import overlap

THRESHOLDS = np.arange(0.5, 0.96, 0.05).round(2)
"""IoU .5, .55, ... .95."""


@dataclass(frozen=True)
class MaskScore:
    """One image's figures, each in 0..1."""

    iou: float
    """Of the whole mask; 1 where prediction and truth are both empty."""
    dice: float
    """Of the whole mask; 1 where both are empty."""
    threshold_mean: float
    """Share of the thresholds below the IoU (Kaggle's salt metric); empty found empty counts 1."""
    instance_ap: float
    """TP / (TP + FP + FN) of the objects, mean over thresholds (the Bowl's metric); 1 where there are none."""


def score_mask(predicted: np.ndarray, truth: np.ndarray, ignored: np.ndarray | None = None) -> MaskScore:
    """Compare two (H, W) label maps, 0 background; pixels of (H, W) bool `ignored` are background in both.

    Raises:
        ValueError: the sizes differ.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"the prediction is {predicted.shape}, the truth {truth.shape}: they must match.")
    if ignored is not None:
        predicted, truth = np.where(ignored, 0, predicted), np.where(ignored, 0, truth)
    a, b = int((predicted > 0).sum()), int((truth > 0).sum())
    both = int(((predicted > 0) & (truth > 0)).sum())
    iou = both / (a + b - both) if a + b else 1.0
    dice = 2 * both / (a + b) if a + b else 1.0
    return MaskScore(iou, dice, float((iou > THRESHOLDS).mean()), instance_ap(predicted, truth))


def instance_ap(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean over thresholds of TP / (TP + FP + FN); a pair counts if its IoU is above the threshold.

    No pair is possible twice, for no two objects of a label map share a pixel and IoU must exceed one half.

    Source: the metric of Data Science Bowl 2018.
    """
    iou = overlap(predicted, truth).iou
    found = (iou[None] > THRESHOLDS[:, None, None]).sum(axis=(1, 2))
    both = iou.shape[0] + iou.shape[1] - found
    return float(np.where(both > 0, found / np.maximum(both, 1), 1.0).mean())


def mean_score(scores: Sequence[MaskScore]) -> dict[str, float]:
    """Return the means over images.

    Raises:
        ValueError: there is none.
    """
    if not scores:
        raise ValueError("no image to score.")
    return {name: float(np.mean([getattr(own, name) for own in scores])) for name in vars(scores[0])}


@dataclass(frozen=True)
class Choice:
    """A threshold and a minimum size, and the metric they reach on the images they were chosen on."""

    threshold: float
    min_size: int
    score: float


def search(
    images: Iterable[tuple[np.ndarray, np.ndarray]],
    decode: Callable[[np.ndarray, float, int], np.ndarray],
    *,
    thresholds: Sequence[float],
    min_sizes: Sequence[int],
    metric: str = "threshold_mean",
) -> list[Choice]:
    """Try every threshold with every minimum size, on held-out images alone: on others the choice means nothing.

    Args:
        images: (probabilities, true label map) of each image; gone through once.
        decode: (probabilities, threshold, minimum size) -> label map.
        thresholds: what to try.
        min_sizes: what to try.
        metric: a field of `MaskScore`.

    Returns:
        All choices, the best first; of equals, the one tried first.
    """
    pairs = [(threshold, size) for threshold in thresholds for size in min_sizes]
    sums, count = np.zeros(len(pairs)), 0
    for probs, truth in images:
        count += 1
        sums += [getattr(score_mask(decode(probs, *pair), truth), metric) for pair in pairs]
    order = np.argsort(-sums, kind="stable")
    return [Choice(pairs[k][0], pairs[k][1], float(sums[k] / max(1, count))) for k in order]
