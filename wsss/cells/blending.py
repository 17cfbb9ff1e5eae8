"""From the scores of all sources to those of the tables: blend, rows, image prior, border cells."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from scipy.special import expit, logit

from wsss.options.scoring import ScoreConfig

Group = Literal["maps", "crops", "features", "published"]
GROUPS: tuple[Group, ...] = get_args(Group)
"""Kinds of scores, in the order in which they are blended."""
LATE: tuple[Group, ...] = ("features", "published")
"""Those that do not go by the image's probabilities."""


@dataclass(frozen=True)
class Part:
    """The scores of one source."""

    name: str
    group: Group | None
    """None: not blended."""
    share: float
    """Weight in the blend, in [0, 1]; those of all parts sum to 1."""
    scores: np.ndarray
    """(N, K) in [0, 1]."""


def take_shares(taken: Sequence[float]) -> list[float]:
    """Return weights that sum to 1: the first has all, and each further one takes its share from those before it.

    Example:
        >>> take_shares([1.0, 0.5, 0.1])
        [0.45, 0.45, 0.1]
    """
    shares: list[float] = []
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
        config: the rules.
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
        scores = blend(scores, _mean(groups["crops"]), config.blend, weights["crops"] / both if both else 0.5)
    if not ((scores >= 0) & (scores <= 1)).all():
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
    shares = [part.share / total if total else 1 / len(parts) for part in parts]
    return np.asarray(sum(share * part.scores for share, part in zip(shares, parts, strict=True)))


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


def image_prior(scores: np.ndarray, negative: int | None, rounds: int, exclusion: float = EXCLUSION) -> np.ndarray:
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
        exclusion: the log odds of a class fall by this times the sum of the cell's other scores, Negative left out.

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
        now = np.where(others & (scores > 0), expit(odds + logit(share) - exclusion * other_scores), scores)
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


def own_share(parts: Sequence[Part]) -> float:
    """Return the weight in the blend of the scores that do not go by the image's probabilities."""
    return sum(part.share for part in parts if part.group in LATE)


SEEN = 3
"""Number of cells in the event that an image score is the probability of."""


def image_scores(cells: np.ndarray, probs: np.ndarray, *, negative: int | None, share: float) -> np.ndarray:
    """Blend an image's probabilities with what its cells show.

    Of SEEN cells taken at random, the cells' part is the probability that at least one shows the class; for Negative,
    which an image bears where no cell shows anything, that all of them do.

    Args:
        cells: (N, K) in [0, 1], the scores of the image's cells. N may be 0: the probabilities stay as they are.
        probs: (K,) in [0, 1], the network's probabilities.
        negative: id of the class 'no specific signal', or None.
        share: weight of the cells' part, in [0, 1].

    Returns:
        (K,) float32 in [0, 1].
    """
    if not len(cells) or not share:
        return probs
    mean = cells.astype(np.float64).mean(axis=0)
    shown = 1 - (1 - mean) ** SEEN
    if negative is not None:
        shown[negative] = mean[negative] ** SEEN
    return ((1 - share) * probs + share * shown).astype(np.float32)


def blend(first: np.ndarray, second: np.ndarray, how: str, weight: float) -> np.ndarray:
    """Blend two score tables (N, K): mean, (1 - w) a + w b; or geometric, a ** (1 - w) * b ** w.

    Raises:
        ValueError: the shapes differ.
    """
    if first.shape != second.shape:
        raise ValueError(f"the scores of maps are {first.shape}, those of crops {second.shape}.")
    if how == "mean":
        return (1 - weight) * first + weight * second
    return first ** (1 - weight) * second**weight
