"""From the scores of both stages to those of the tables: blend, rows, feature classifier, field shares, border
cells."""

import numpy as np

from wsss.options.scoring import ScoreConfig


def finish_scores(
    cam_scores: np.ndarray,
    crop_scores: np.ndarray | None,
    config: ScoreConfig,
    *,
    negative: int | None = None,
    feature_classifier: np.ndarray | None = None,
    visible: np.ndarray | None = None,
) -> np.ndarray:
    """Blend stages 1 and 2; then image_mix, normalise_rows, feature_share, prior_rounds, border_power.

    Args:
        cam_scores: (N, K) in [0, 1].
        crop_scores: (N, K) in [0, 1], the network's view of each cell's crop; None to do without.
        config: the rules.
        negative: id of the class 'no specific signal', or None; for prior_rounds.
        feature_classifier: (N, K) in [0, 1], the feature classifier; None to do without.
        visible: (N,) in [0, 1], share of the cell that the image shows (`runs.visible_share`); None for whole cells.

    Returns:
        (N, K) float32 in [0, 1].

    Raises:
        ValueError: the shapes differ, or a score is outside [0, 1].
    """
    scores = cam_scores if crop_scores is None else blend(cam_scores, crop_scores, config)
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError("a score of stage 1 or 2 is outside [0, 1].")
    if len(scores):
        scores = (1 - config.image_mix) * scores + config.image_mix * scores.mean(axis=0)
    if config.normalise_rows:
        scores = _normalise_rows(scores)
    if feature_classifier is not None:
        scores = (1 - config.feature_share) * scores + config.feature_share * feature_classifier
    scores = share_field(scores, negative, config.prior_rounds)
    if visible is not None:
        scores = scores * np.reshape(visible, (len(scores), 1)) ** config.border_power
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


def blend(cam_scores: np.ndarray, crop_scores: np.ndarray, config: ScoreConfig) -> np.ndarray:
    """Blend two score tables (N, K): (1 - w) a + w b, or a ** (1 - w) * b ** w; w is crop_share."""
    if cam_scores.shape != crop_scores.shape:
        raise ValueError(f"stage 1 is {cam_scores.shape}, stage 2 is {crop_scores.shape}.")
    w = config.crop_share
    if config.blend == "mean":
        return (1 - w) * cam_scores + w * crop_scores
    return cam_scores ** (1 - w) * crop_scores**w
