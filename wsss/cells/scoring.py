"""From class maps to the scores of cells: small pure functions, one for each rule of ScoreConfig.

`cell_cam_scores` takes the maps of an image to scores (normalise, cell_values, apply_negative); `blend_parts` and
`image_scores` take the scores of all sources to those of the tables (blend, rows, image prior, border cells).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
from scipy.special import expit, logit

from wsss.cells.regions import CellPixels, group_pixels, image_rule, region_rule, subset
from wsss.options.scoring import ScoreConfig

EPSILON = 1e-5
"""Added to the spatial maximum of a map before dividing by it, as in the recipe."""
SAFE_EXPONENT = 40.0
"""Up to it, sums of exp are at home in a float32."""


def normalise(cam: np.ndarray) -> np.ndarray:
    """cam01 = relu(A) / (spatial maximum of relu(A) per class + 1e-5): (K, h, w) raw -> (K, h, w) float32 in [0, 1).

    Raises:
        ValueError: not three-dimensional, or a value is NaN or infinite.
    """
    if cam.ndim != 3 or 0 in cam.shape[1:]:
        raise ValueError(f"the class maps are {cam.shape}, expected (K, h, w).")
    _check_finite(cam)
    positive = np.maximum(cam, 0).astype(np.float32, copy=False)
    return positive / (positive.max(axis=(1, 2), keepdims=True) + np.float32(EPSILON))


def _check_finite(cam: np.ndarray) -> None:
    """Raise ValueError if a value of raw class maps is NaN or infinite."""
    if not np.isfinite(cam).all():
        raise ValueError("the class maps hold NaN or infinite values: the network has diverged.")


def resize(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (K, h, w) to (K, *size) float32, bilinear as torch's interpolate(align_corners=False) does."""
    if maps.shape[1:] == tuple(size):
        return maps.astype(np.float32, copy=False)
    rows, columns = (_bilinear(n, m) for n, m in zip(maps.shape[1:], size, strict=True))
    return np.matmul(rows, np.matmul(maps.astype(np.float32, copy=False), columns.T))


@lru_cache(maxsize=16)
def _bilinear(given: int, wanted: int) -> np.ndarray:
    """Return the (wanted, given) float32 matrix, read-only, that interpolates along one axis, clamped at the ends."""
    place = np.clip((np.arange(wanted) + 0.5) * (given / wanted) - 0.5, 0, given - 1)
    low = place.astype(np.intp)
    share = (place - low).astype(np.float32)
    out = np.zeros((wanted, given), np.float32)
    row = np.arange(wanted)
    out[row, low] = 1 - share
    out[row, np.minimum(low + 1, given - 1)] += share
    out.setflags(write=False)
    return out


def raising(config: ScoreConfig) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[Any], Any]]:
    """Return what `config.region` does to a map beforehand, and to its values afterwards; mostly nothing."""
    if config.region == "logit":
        return lambda maps: maps, expit
    if config.region != "lse":
        return lambda maps: maps, lambda values: values
    kind = np.float32 if config.sharpness <= SAFE_EXPONENT else np.float64
    return lambda maps: np.exp(kind(config.sharpness) * maps), lambda values: np.log(values) / config.sharpness


def cell_values(
    cam01: np.ndarray,
    label_map: np.ndarray,
    config: ScoreConfig,
    *,
    negative: int | None = None,
    nuclei: np.ndarray | None = None,
    content: tuple[int, int] | None = None,
    classes: Sequence[int] | None = None,
) -> np.ndarray:
    """Value r of every map in every cell: region(cell), over region(image) and clipped at 1 where `relative`.

    With `compartment` s: r = (1 - s) * region(cell) + s * region(compartment of the class).

    Args:
        cam01: (K, h, w) float32 in [0, 1], raw for the rule logit, over the square of the label map; resized to it.
        label_map: (H, W) int, 0 background; ids may have gaps.
        negative: id of the class 'no specific signal'.
        nuclei: (H, W), not 0 in nuclei; needed where config.compartment is above 0.
        content: (height, width) of the image inside a padded square, top left; the image's statistic is taken there.
        classes: the class id of each map; 0 to K - 1 if left out.

    Returns:
        (N, K) float32 in [0, 1], in the order of sorted ids. A map whose image statistic is 0 gives 0.
    """
    cells = group_pixels(label_map)
    height, width = content or label_map.shape
    in_cell, in_image = region_rule(cells, config), image_rule(config)
    raised, lowered = raising(config)
    in_compartment = _compartment_rule(cells, nuclei, config)
    r = np.zeros((len(cells), len(cam01)), np.float32)
    for k, class_id in enumerate(range(len(cam01)) if classes is None else classes):
        full = raised(resize(cam01[k : k + 1], label_map.shape)[0])  # one map at a time stays in the processor's cache
        values = np.take(full, cells.order, mode="clip")
        r[:, k] = lowered(in_cell(values))
        if config.compartment > 0 and class_id != negative:
            inside = lowered(in_compartment(values, class_id in config.nuclear_classes))
            r[:, k] += config.compartment * np.where(np.isnan(inside), 0, inside - r[:, k])
        if config.relative:
            image = lowered(in_image(full[:height, :width].ravel()))
            r[:, k] = r[:, k] / image if image > 0 else 0
    return np.clip(r, 0, 1)


def _compartment_rule(
    cells: CellPixels, nuclei: np.ndarray | None, config: ScoreConfig
) -> Callable[[np.ndarray, bool], np.ndarray]:
    """Prepare the rule for the nucleus (True) or the rest (False) of each cell: (P,) -> (N,), NaN where it is empty."""
    if config.compartment > 0 and nuclei is None and len(cells):
        raise ValueError("compartment is above 0: pass the label map of the nuclei.")
    inside = np.zeros(len(cells.order), bool) if nuclei is None else nuclei.ravel()[cells.order] > 0
    parts = {True: inside, False: ~inside}
    cut = {side: subset(cells, mask) for side, mask in parts.items()}
    rules = {side: region_rule(part, config) for side, (part, _) in cut.items()}

    def apply(values: np.ndarray, nuclear: bool) -> np.ndarray:
        out = np.full(len(cells), np.nan, np.float32)
        out[cut[nuclear][1]] = rules[nuclear](values[parts[nuclear]])
        return out

    return apply


def cell_cam_scores(
    cam: np.ndarray,
    image_probs: np.ndarray,
    label_map: np.ndarray,
    config: ScoreConfig,
    *,
    negative: int | None,
    nuclei: np.ndarray | None = None,
    content: tuple[int, int] | None = None,
    normalised: bool = False,
) -> np.ndarray:
    """Score every cell of one image from its class maps: r * p ** prob_power, then the rule for Negative.

    Args:
        cam: (K, h, w) float32, raw class maps over the whole stored square.
        image_probs: (K,) in [0, 1], the image's probabilities.
        label_map: (H, W) int, 0 background; ids may have gaps.
        negative: id of the class 'no specific signal', or None.
        nuclei: (H, W), not 0 in nuclei, or None.
        content: (height, width) of the image inside the square; None if it fills it.
        normalised: the maps are in [0, 1] already, and 1 means sure: they are not divided by their maximum.

    Returns:
        (N, K) float32 in [0, 1], in the order of sorted ids; N may be 0.

    Raises:
        ValueError: shapes do not fit, or a map or probability is not finite.

    Source: "overlap + magnitude" of the recipe, section 4 of the method, and the other teams' rules named there.
    """
    probs = np.asarray(image_probs, np.float32)
    if probs.shape != cam.shape[:1] or not ((probs >= 0) & (probs <= 1)).all():
        raise ValueError(f"expected {len(cam)} image probabilities in [0, 1], got {probs.shape}: {probs}.")
    free = np.arange(len(cam)) == (-1 if negative is None or config.prob_for_negative else negative)
    used = np.flatnonzero((probs > config.min_prob) | free)
    raw = normalised or config.region == "logit"
    if raw:
        _check_finite(cam)
    maps = (cam if raw else normalise(cam))[used]
    values = cell_values(
        maps, label_map, config, negative=negative, nuclei=nuclei, content=content, classes=used.tolist()
    )
    r = np.zeros((len(values), len(cam)), np.float32)
    r[:, used] = values
    power = float(config.region != "logit") if config.prob_power == "auto" else config.prob_power
    scores = r * np.where(free, 1, probs**power)
    kept = np.where(r > config.min_ratio, scores, 0)
    return apply_negative(kept, scores, negative, config.negative).astype(np.float32)


def apply_negative(kept: np.ndarray, scores: np.ndarray, negative: int | None, rule: str) -> np.ndarray:
    """Set the class Negative of each cell by a rule of ScoreConfig.negative.

    Args:
        kept: (N, K) in [0, 1], scores with the unlikely ones set to 0.
        scores: (N, K) in [0, 1], the same before that.
        negative: id of the class, or None: then nothing changes.
        rule: recipe, complement, max or own.

    Returns:
        (N, K) in [0, 1].
    """
    if negative is None or rule == "own":
        return kept
    out = kept.copy()
    others = np.arange(kept.shape[1]) != negative
    if rule == "recipe":
        empty = ~kept.any(axis=1)
        out[empty, negative] = 1 - scores[empty][:, others].max(axis=1, initial=0)
        return out
    out[:, negative] = np.prod(1 - kept[:, others], axis=1)
    if rule == "max":
        out[:, negative] = np.maximum(out[:, negative], kept[:, negative])
        out[:, others] *= 1 - out[:, [negative]]
    return out


Group = Literal["maps", "crops", "features", "published"]
GROUPS: tuple[Group, ...] = get_args(Group)
"""Kinds of scores, in the order in which they are blended."""
LATE: tuple[Group, ...] = ("features", "published")
"""Those that do not go by the image's probabilities."""


Share = float | np.ndarray
"""A weight in [0, 1], of all classes or, (K,), of each."""


@dataclass(frozen=True)
class Part:
    """The scores of one source."""

    name: str
    group: Group | None
    """None: not blended."""
    share: Share
    """Weight in the blend, in [0, 1]; those of all parts sum to 1."""
    scores: np.ndarray
    """(N, K) in [0, 1]."""


def take_shares(taken: Sequence[Share]) -> list[Share]:
    """Return weights that sum to 1: the first has all, and each further one takes its share from those before it.

    Example:
        >>> take_shares([1.0, 0.5, 0.1])
        [0.45, 0.45, 0.1]
    """
    shares: list[Share] = []
    for share in taken:
        shares = [other * (1 - share) for other in shares] + [share if shares else 1.0]
    return shares


def blend_parts(
    parts: Sequence[Part],
    config: ScoreConfig,
    *,
    negative: int | None = None,
    visible: np.ndarray | None = None,
    one_class: bool = False,
) -> np.ndarray:
    """Blend maps and crops; image_mix, normalise_rows; scores of features and published networks; prior, border_power.

    Args:
        parts: what is blended; there must be maps, unless published networks have all the weight.
        negative: id of the class 'no specific signal', or None; for prior_rounds.
        visible: (N,) in [0, 1], share of the cell that the image shows (`visible_share`); None for whole cells.
        one_class: whether each cell shows one class alone; for prior_rounds.

    Returns:
        (N, K) float32 in [0, 1].

    Raises:
        ValueError: the shapes differ, or a score of maps or crops is outside [0, 1].
    """
    groups = {group: [part for part in parts if part.group == group] for group in GROUPS}
    weights = {group: sum(part.share for part in of_group) for group, of_group in groups.items()}
    scores = _mean(groups["maps"] or [Part("", None, 1, np.zeros_like(parts[0].scores))])
    if groups["crops"]:
        both = weights["maps"] + weights["crops"]
        scores = blend(scores, _mean(groups["crops"]), config.blend, _ratio(weights["crops"], both, 0.5))
    if not ((scores >= 0) & (scores <= 1 + 1e-9)).all():  # shares sum to 1 but for rounding
        raise ValueError("a score of maps or crops is outside [0, 1].")
    if len(scores):
        scores = (1 - config.image_mix) * scores + config.image_mix * scores.mean(axis=0)
    if config.normalise_rows:
        scores = _normalise_rows(scores)
    if late := [group for group in LATE if groups[group]]:
        scores = (1 - own_share(parts)) * scores + sum(weights[group] * _mean(groups[group]) for group in late)
    prior = image_prior_of_one_class if one_class else image_prior
    scores = prior(scores, negative, config.prior_rounds)
    if visible is not None:
        scores = scores * np.reshape(visible, (len(scores), 1)) ** config.border_power
    return np.clip(scores, 0, 1).astype(np.float32)


def _mean(parts: Sequence[Part]) -> np.ndarray:
    """Average (N, K) scores by their shares; equally where all are 0."""
    total = sum(part.share for part in parts)
    return np.asarray(sum(_ratio(part.share, total, 1 / len(parts)) * part.scores for part in parts))


def _ratio(share: Share, total: Share, otherwise: float) -> np.ndarray:
    """Return share / total, `otherwise` where total is 0."""
    share, total = np.broadcast_arrays(share, total)
    return np.divide(share, total, out=np.full(share.shape, otherwise), where=total > 0)


def _normalise_rows(scores: np.ndarray) -> np.ndarray:
    total = scores.sum(axis=1, keepdims=True)
    return np.divide(scores, total, out=np.zeros_like(scores), where=total > 0)


LEAST_SCORE, LEAST_SHARE = 1e-3, 0.01
"""Scores and shares are kept this far from 0 and 1: no cell and no image rules a class out altogether."""
EVEN_SHARE = 0.38
"""Share of an image's cells at which a class is neither raised nor lowered: about the mean share of the classes that an
image bears and of those it lacks, weighed by what the scores of such cells are worth."""
EXCLUSION = 0.4
"""The log odds of a class fall by this times the sum of the cell's other scores."""
NEGATIVE_POWER = 4
"""Where cells show one class, the other scores are multiplied by (1 - Negative) to this power."""


def image_prior(scores: np.ndarray, negative: int | None, rounds: int) -> np.ndarray:
    """Adjust scores by the classes that the other cells of the image show, class by class.

    An image shows few classes, so a class that the other cells do not show is unlikely in this cell too. In each round
    the odds of a score are multiplied by those of the class's share, relative to EVEN_SHARE, and lowered by what else
    the cell shows; the share is the mean of the current scores over the cells that are not Negative, and the odds are
    always those of the first scores. Negative keeps its score: any cell may have lost its signal, whatever the other
    cells show. In the end each score is multiplied by 1 - Negative, since a Negative cell shows nothing else.

    Args:
        scores: (N, K) in [0, 1], all cells of one image; several classes of a cell may be true. N may be 0.
        negative: id of the class 'no specific signal', or None.
        rounds: 0 leaves the scores as they are.

    Returns:
        (N, K) in [0, 1].

    Source: estimation of class shares by expectation-maximisation (Saerens, Latinne, Decaestecker 2002), each image
    taken as a separate sample and each class by itself.
    """
    if rounds == 0 or not len(scores):
        return scores
    odds = logit(np.clip(scores.astype(np.float64), LEAST_SCORE, 1 - LEAST_SCORE)) - logit(EVEN_SHARE)
    others = np.arange(scores.shape[1]) != (-1 if negative is None else negative)
    shows = np.ones((len(scores), 1)) if negative is None else 1 - np.clip(scores[:, [negative]], 0, 1 - LEAST_SCORE)
    now = scores
    for _ in range(rounds):
        share = np.clip((shows * now).sum(axis=0) / shows.sum(), LEAST_SHARE, 1 - LEAST_SHARE)
        other_scores = now[:, others].sum(axis=1, keepdims=True) - now
        now = np.where(others & (scores > 0), expit(odds + logit(share) - EXCLUSION * other_scores), scores)
    return np.where(others, shows * now, scores)


def image_prior_of_one_class(scores: np.ndarray, negative: int | None, rounds: int) -> np.ndarray:
    """Adjust scores by the classes that the other cells of the image show, where each cell shows one class alone.

    The odds of the classes, Negative left out, are brought to the sum 1: the probabilities of a cell that shows
    something. In each round they are multiplied by the class's share of the image's cells and brought to the sum 1
    again. Negative keeps its score, and the others sum to (1 - Negative) ** NEGATIVE_POWER.

    Args:
        scores: (N, K) in [0, 1], all cells of one image, each class scored by itself. N may be 0.
        negative: id of the class 'no specific signal', or None.
        rounds: 0 leaves the scores as they are.

    Returns:
        (N, K) in [0, 1].
    """
    if rounds == 0 or not len(scores):
        return scores
    others = np.arange(scores.shape[1]) != (-1 if negative is None else negative)
    shows = np.ones((len(scores), 1)) if negative is None else (1 - np.clip(scores[:, [negative]], 0, 1))
    kept = np.clip(scores.astype(np.float64), 0, 1 - LEAST_SCORE) * others
    first = _normalise_rows(kept / (1 - kept))
    now = first * shows**NEGATIVE_POWER
    for _ in range(rounds):
        now = _normalise_rows(first * (now.mean(axis=0) + LEAST_SCORE)) * shows**NEGATIVE_POWER
    return np.where(others, now, scores)


def own_share(parts: Sequence[Part]) -> Share:
    """Return the weight in the blend of the scores that do not go by the image's probabilities."""
    return sum(part.share for part in parts if part.group in LATE)


SEEN = 3
"""Number of cells in the event that an image score is the probability of."""


def image_scores(cells: np.ndarray, probs: np.ndarray, *, negative: int | None, share: Share) -> np.ndarray:
    """Blend an image's probabilities with what its cells show.

    Of SEEN cells taken at random, the cells' part is the probability that at least one shows the class; for Negative,
    which an image bears where no cell shows anything, that all of them do.

    Args:
        cells: (N, K) in [0, 1], the scores of the image's cells. N may be 0: the probabilities stay as they are.
        probs: (K,) in [0, 1], the network's probabilities.
        negative: id of the class 'no specific signal', or None.
        share: weight of the cells' part.

    Returns:
        (K,) float32 in [0, 1].
    """
    if not len(cells) or not np.any(share):
        return probs
    mean = cells.astype(np.float64).mean(axis=0)
    shown = 1 - (1 - mean) ** SEEN
    if negative is not None:
        shown[negative] = mean[negative] ** SEEN
    return ((1 - share) * probs + share * shown).astype(np.float32)


def blend(first: np.ndarray, second: np.ndarray, how: str, weight: Share) -> np.ndarray:
    """Blend two score tables (N, K): mean, (1 - w) a + w b; or geometric, a ** (1 - w) * b ** w.

    Raises:
        ValueError: the shapes differ.
    """
    if first.shape != second.shape:
        raise ValueError(f"the scores of maps are {first.shape}, those of crops {second.shape}.")
    if how == "mean":
        return (1 - weight) * first + weight * second
    return np.asarray(first ** (1 - weight) * second**weight)
