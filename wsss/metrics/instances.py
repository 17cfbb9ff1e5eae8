"""Instance matching at a mask IoU, and the average precision of the competition.

The competition (Human Protein Atlas, 2021) scores like the Open Images instance challenge: for each class, all
predicted masks of all images are sorted by confidence; each takes the best still free true cell of that class in
its image if their IoU reaches the threshold, and is wrong otherwise; average precision is the area under the
resulting precision-recall curve, and the score is its mean over the classes that occur. Ways to take the area:

- envelope: precision made monotone (its maximum at this or a higher recall), then the exact area. Open Images,
  and PASCAL VOC since 2010; the default.
- coco: the same monotone precision, averaged at recall 0, .01, ... 1. Equal to pycocotools' COCOeval.
- step: no interpolation, equal to scikit-learn's average_precision_score where every true cell is found.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from sklearn.metrics import average_precision_score

from wsss.core.checks import check_choice, check_range
from wsss.core.labels import ClassList
from wsss.metrics.classify import mean_of_classes

AREAS = ("envelope", "coco", "step")


class Overlap(NamedTuple):
    """IoU of every cell of one label map with every cell of another."""

    ids_a: np.ndarray
    """(N,) the cell ids of the first map, rising."""
    ids_b: np.ndarray
    """(M,) those of the second."""
    iou: np.ndarray
    """(N, M) float64."""
    shared: np.ndarray
    """(N, M) int64, pixels in common."""
    areas_a: np.ndarray
    """(N,) int64, pixels."""
    areas_b: np.ndarray
    """(M,) int64."""


def overlap(a: np.ndarray, b: np.ndarray) -> Overlap:
    """Compare two (H, W) label maps in one pass, from the joint histogram of their ids.

    Raises:
        ValueError: the sizes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"label maps of {a.shape} and {b.shape} cannot be compared.")
    (ids_a, at_a), (ids_b, at_b) = (_compact(label_map) for label_map in (a, b))
    shape = (ids_a.size, ids_b.size)
    both = np.bincount((at_a * shape[1] + at_b).ravel(), minlength=shape[0] * shape[1]).reshape(shape)
    shared, areas_a, areas_b = both[1:, 1:], both.sum(axis=1)[1:], both.sum(axis=0)[1:]
    union = areas_a[:, None] + areas_b - shared
    return Overlap(ids_a[1:], ids_b[1:], shared / np.maximum(union, 1), shared, areas_a, areas_b)


def _compact(label_map: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids of a map with 0 in front, and the map with each id replaced by its place in them."""
    if label_map.size and label_map.min() < 0:
        raise ValueError(f"label map holds the id {label_map.min()}, expected 0 or more.")
    top = int(label_map.max(initial=0))
    if top > max(label_map.size, 1 << 16):  # a table of all ids would be larger than the map
        ids, place = np.unique(np.append(label_map.ravel(), 0), return_inverse=True)
        return ids, place[:-1].reshape(label_map.shape)
    there = np.bincount(label_map.ravel(), minlength=top + 1) > 0
    there[0] = True
    return np.flatnonzero(there), (np.cumsum(there) - 1)[label_map]


def match_pairs(iou: np.ndarray, at_least: float) -> np.ndarray:
    """Give each true cell at most one predicted cell, the best overlaps first.

    Args:
        iou: (P, T) of predicted and true cells.
        at_least: the lowest IoU of a pair.

    Returns:
        (T,) index of the predicted cell, -1 for none; no predicted cell twice.
    """
    out = np.full(iou.shape[1], -1)
    pairs = np.argwhere(iou >= at_least)
    taken = np.zeros(len(iou), bool)
    for p, t in pairs[np.argsort(-iou[tuple(pairs.T)], kind="stable")]:
        if not taken[p] and out[t] < 0:
            out[t], taken[p] = p, True
    return out


class InstanceScorer:
    """Gathers predicted and true instances image by image; keeps a score and a flag of each prediction.

    Args:
        classes: number of classes K.
        at_least: the IoU from which a predicted mask finds a true cell.
    """

    def __init__(self, classes: int, at_least: float = 0.6) -> None:
        check_range("the matching IoU", at_least, 1e-9, 1)
        self.at_least = at_least
        self.positives = np.zeros(classes, np.int64)
        """(K,) true cells of each class seen so far."""
        self.ignored = 0
        """Predictions on cells without known labels, which count neither way."""
        self._scores: list[list[float]] = [[] for _ in range(classes)]
        self._right: list[list[bool]] = [[] for _ in range(classes)]

    def add(
        self,
        iou: np.ndarray,
        masks: np.ndarray,
        class_ids: np.ndarray,
        scores: np.ndarray,
        truth: np.ndarray,
        known: np.ndarray | None = None,
    ) -> None:
        """Match the predictions of one image.

        Args:
            iou: (M, T) of the image's predicted masks with its true cells.
            masks: (P,) which of the M masks each prediction has.
            class_ids: (P,) its class.
            scores: (P,) its confidence.
            truth: (T, K) 0/1, the classes of the true cells.
            known: (T,) whether the labels of a true cell are known; None for all.
        """
        known = np.ones(len(truth), bool) if known is None else known
        self.positives += (truth[known] > 0).sum(axis=0)
        near = [np.flatnonzero(row >= self.at_least) for row in iou]
        free = (truth > 0) & known[:, None]
        for i in np.argsort(-scores, kind="stable"):
            m, k = masks[i], class_ids[i]
            open_cells = near[m][free[near[m], k]]
            if open_cells.size:
                free[open_cells[iou[m, open_cells].argmax()], k] = False
            elif not known[near[m]].all():
                self.ignored += 1
                continue
            self._scores[k].append(float(scores[i]))
            self._right[k].append(open_cells.size > 0)

    def miss(self, truth: np.ndarray) -> None:
        """Count the (T, K) labels of the true cells of an image that has no predictions."""
        self.positives += (truth > 0).sum(axis=0)

    def predictions(self, class_id: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the scores (P,) float64 of a class's predictions and whether each is right (P,) bool."""
        return np.array(self._scores[class_id], np.float64), np.array(self._right[class_id], bool)

    def average_precision(self, area: str = "envelope") -> np.ndarray:
        """Return the (K,) average precision; NaN for a class without true cells."""
        check_choice("area", area, AREAS)
        out = np.full(self.positives.size, np.nan)
        for k in np.flatnonzero(self.positives):
            out[k] = average_precision(*self.predictions(int(k)), int(self.positives[k]), area)
        return out


def average_precision(scores: np.ndarray, right: np.ndarray, positives: int, area: str = "envelope") -> float:
    """Return the average precision of one class's predictions.

    Args:
        scores: (P,) confidences; equal ones keep their order.
        right: (P,) whether the prediction found a true cell.
        positives: true cells, found or not, at least one.
        area: envelope, coco or step, see the head of this module.
    """
    if not right.any():
        return 0.0
    if area == "step":
        return float(average_precision_score(right, scores)) * right.sum() / positives
    hits = np.cumsum(right[np.argsort(-scores, kind="stable")])
    precision = hits / np.arange(1, hits.size + 1)
    monotone = np.maximum.accumulate(precision[::-1])[::-1]
    recall = hits / positives
    if area == "coco":
        at = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
        return float(np.append(monotone, 0)[at].mean())
    return float((np.diff(recall, prepend=0) * monotone).sum())


def instance_table(scorer: InstanceScorer, classes: ClassList) -> dict[str, object]:
    """Return what there is to say about matched instances, as a JSON-like record; see cells.score_table."""
    ap = {area: scorer.average_precision(area) for area in AREAS}
    return {
        "match_iou": scorer.at_least,
        "mean_ap": mean_of_classes(ap["envelope"]),
        "mean_ap_without_negative": mean_of_classes(ap["envelope"], classes.negative),
        "mean_ap_coco": mean_of_classes(ap["coco"]),
        "mean_ap_step": mean_of_classes(ap["step"]),
        "classes": int(np.isfinite(ap["envelope"]).sum()),
        "ignored_on_unlabelled_cells": scorer.ignored,
        "per_class": [
            {"id": k, "name": name, "count": int(scorer.positives[k])}
            | {area.replace("envelope", "ap"): float(values[k]) for area, values in ap.items()}
            for k, name in enumerate(classes.names)
        ],
    }


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
    inside, true = predicted > 0, truth > 0
    whole = score_pixels(int(inside.sum()), int(true.sum()), int((inside & true).sum()))
    return replace(whole, instance_ap=instance_ap(predicted, truth))


def score_pixels(predicted: int, true: int, both: int) -> MaskScore:
    """Compare two masks, each as one object, given the pixels of each and of both."""
    either = predicted + true - both
    iou = both / either if either else 1.0
    dice = 2 * both / (predicted + true) if either else 1.0
    share = float((iou > THRESHOLDS).mean())
    return MaskScore(iou, dice, share, share)


def overlap_of_masks(predicted: int, true: int, both: int) -> Overlap:
    """Return the overlap of two masks, each as object 1, or none where it is empty; see `score_pixels`."""
    areas_a, areas_b = (np.array([area] if area else [], np.int64) for area in (predicted, true))
    shared = np.full((len(areas_a), len(areas_b)), both)
    iou = shared / max(1, predicted + true - both)
    return Overlap(np.ones_like(areas_a), np.ones_like(areas_b), iou, shared, areas_a, areas_b)


def instance_ap(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean over thresholds of TP / (TP + FP + FN); a pair counts if its IoU is above the threshold.

    No pair is possible twice, for no two objects of a label map share a pixel and IoU must exceed one half.

    Source: the metric of Data Science Bowl 2018.
    """
    return float(ap_of(hits(overlap(predicted, truth))).mean())


class Hits(NamedTuple):
    """Objects of one image, or of several added up."""

    matched: np.ndarray
    """(10,) pairs whose IoU is above each of THRESHOLDS."""
    found: int
    true: int


def hits(pairs: Overlap) -> Hits:
    """Count the pairs of predicted (a) and true objects (b)."""
    matched = (pairs.iou[None] > THRESHOLDS[:, None, None]).sum(axis=(1, 2))
    return Hits(matched, len(pairs.ids_a), len(pairs.ids_b))


def ap_of(counted: Hits) -> np.ndarray:
    """Return (10,) TP / (TP + FP + FN) at each threshold; 1 where there are no objects."""
    both = counted.found + counted.true - counted.matched
    return np.where(both > 0, counted.matched / np.maximum(both, 1), 1.0)


HIT, MISSED, INVENTED, MERGED, SPLIT = "hit", "missed", "invented", "merged", "split"
"""What becomes of an object."""


class Compared(NamedTuple):
    """What became of the objects of one image: HIT, MISSED, INVENTED, MERGED or SPLIT each."""

    predicted: np.ndarray
    """(N,) str."""
    true: np.ndarray
    """(M,) str."""
    mergers: int
    """Predicted objects that hold several true ones, hits or not."""
    splits: int
    """True objects that hold several predicted ones."""


def compare_objects(pairs: Overlap) -> Compared:
    """Say of each predicted (a) and true object (b) whether it is hit, and if not, why.

    A hit has an IoU above .5. An object holds another if more than half of the other's pixels are its own. Of the
    rest, true objects in a predicted one that holds several are merged, and it too; true objects that hold several
    predicted ones are split, and those too; what is left is missed or invented.
    """
    hit = pairs.iou > 0.5
    in_a, in_b = pairs.shared > pairs.areas_b / 2, pairs.shared > pairs.areas_a[:, None] / 2
    mergers, splits = in_a.sum(axis=1) > 1, in_b.sum(axis=0) > 1
    merged, split = (in_a & mergers[:, None]).any(axis=0), (in_b & splits).any(axis=1)
    predicted = np.select([hit.any(axis=1), mergers, split], [HIT, MERGED, SPLIT], INVENTED)
    true = np.select([hit.any(axis=0), splits, merged], [HIT, SPLIT, MERGED], MISSED)
    return Compared(predicted, true, int(mergers.sum()), int(splits.sum()))


def mean_score(scores: Sequence[MaskScore]) -> dict[str, float]:
    """Return the means over images.

    Raises:
        ValueError: there is none.
    """
    if not scores:
        raise ValueError("no image to score.")
    return {name: float(np.mean([getattr(score, name) for score in scores])) for name in vars(scores[0])}


@dataclass(frozen=True)
class Choice:
    """A threshold and a minimum size, and the metric they reach on the images they were chosen on."""

    threshold: float
    min_size: int
    score: float


def search(
    images: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray | None]],
    decode: Callable[[np.ndarray, float, int], np.ndarray],
    *,
    thresholds: Sequence[float],
    min_sizes: Sequence[int],
    metric: str = "threshold_mean",
) -> list[Choice]:
    """Try every threshold with every minimum size, on held-out images alone: on others the choice means nothing.

    Args:
        images: (probabilities, true label map, what is ignored or None) of each image; gone through once.
        decode: (probabilities, threshold, minimum size) -> label map.
        metric: a field of `MaskScore`.

    Returns:
        All choices, the best first; of equals, the one tried first.
    """
    pairs = [(threshold, size) for threshold in thresholds for size in min_sizes]
    sums, count = np.zeros(len(pairs)), 0
    for probs, truth, ignored in images:
        count += 1
        sums += [getattr(score_mask(decode(probs, *pair), truth, ignored), metric) for pair in pairs]
    order = np.argsort(-sums, kind="stable")
    return [Choice(pairs[k][0], pairs[k][1], float(sums[k] / max(1, count))) for k in order]
