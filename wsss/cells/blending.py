"""From the scores of both stages to those of the tables: blend, rows, second opinion, field shares, border cells."""

import numpy as np

from wsss.core.score_config import ScoreConfig


def finish_scores(
    stage1: np.ndarray,
    stage2: np.ndarray | None,
    config: ScoreConfig,
    *,
    negative: int | None = None,
    opinion: np.ndarray | None = None,
    visible: np.ndarray | None = None,
    weight: np.ndarray | None = None,
) -> np.ndarray:
    """Blend stages 1 and 2; then image_mix, normalise_rows, opinion_share, field_rounds, border_power, outlier_power.

    Args:
        stage1: (N, K) in [0, 1].
        stage2: (N, K) in [0, 1], the network's view of each cell's crop; None to do without.
        config: the rules.
        negative: id of the class 'no specific signal', or None; for field_rounds.
        opinion: (N, K) in [0, 1], the second opinion; None to do without.
        visible: (N,) in [0, 1], share of the cell that the image shows (`runs.visible_share`); None for whole cells.
        weight: (N,) in [0, 1], low for outlier cells; None for 1.

    Returns:
        (N, K) float32 in [0, 1].

    Raises:
        ValueError: the shapes differ, or a score is outside [0, 1].
    """
    scores = stage1 if stage2 is None else blend(stage1, stage2, config)
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError("a score of stage 1 or 2 is outside [0, 1].")
    if len(scores):
        scores = (1 - config.image_mix) * scores + config.image_mix * scores.mean(axis=0)
    if config.normalise_rows:
        scores = _normalise_rows(scores)
    if opinion is not None:
        scores = (1 - config.opinion_share) * scores + config.opinion_share * opinion
    scores = share_field(scores, negative, config.field_rounds)
    for factor, power in ((visible, config.border_power), (weight, config.outlier_power)):
        if factor is not None:
            scores = scores * np.reshape(factor, (len(scores), 1)) ** power
    return np.clip(scores, 0, 1).astype(np.float32)


def _normalise_rows(scores: np.ndarray) -> np.ndarray:
    total = scores.sum(axis=1, keepdims=True)
    return np.divide(scores, total, out=np.zeros_like(scores), where=total > 0)


LEAST_SHARE = 1e-3
"""Added to the share of every class in a field: no field rules a class out altogether."""


def share_field(scores: np.ndarray, negative: int | None, rounds: int) -> np.ndarray:
    """Let the cells of one image tell each other which classes it shows.

    An image shows few classes, so a class that the other cells do not show is unlikely in this cell too. In each round
    q is the mean of the current scores over the cells; the scores become s * q, rows normalised, from the first scores
    s. Negative keeps its score, and the others share what it leaves: any cell may have lost its signal, whatever the
    other cells show.

    Args:
        scores: (N, K) in [0, 1], all cells of one image; N may be 0.
        negative: id of the class 'no specific signal', or None.
        rounds: 0 leaves the scores as they are.

    Returns:
        (N, K) in [0, 1].

    Source: estimation of class shares by expectation-maximisation (Saerens, Latinne, Decaestecker 2002), each image
    taken as a sample with shares of its own.
    """
    if rounds == 0 or not len(scores):
        return scores
    first = now = _normalise_rows(scores)
    others = np.arange(scores.shape[1]) != (-1 if negative is None else negative)
    left = first[:, others].sum(axis=1, keepdims=True)
    for _ in range(rounds):
        share = now.mean(axis=0) + LEAST_SHARE
        now = np.where(others, _normalise_rows(first * share * others) * left, first)
    return now


def blend(stage1: np.ndarray, stage2: np.ndarray, config: ScoreConfig) -> np.ndarray:
    """Blend two score tables (N, K): (1 - w) a + w b, or a ** (1 - w) * b ** w; w is stage2_share."""
    if stage1.shape != stage2.shape:
        raise ValueError(f"stage 1 is {stage1.shape}, stage 2 is {stage2.shape}.")
    w = config.stage2_share
    if config.blend == "mean":
        return (1 - w) * stage1 + w * stage2
    return stage1 ** (1 - w) * stage2**w
