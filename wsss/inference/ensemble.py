"""Blends of several predictions of the same cells: the rules, and weights fitted without looking at what is scored."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from wsss.core.runtime import progress

HOWS = ("mean", "geometric", "rank")
ROUNDS = 20
"""Picks of the weight search; a weight is a multiple of 1 / ROUNDS."""

Score = Callable[[np.ndarray, np.ndarray], float]
"""(N, K) blended scores and the (n,) rows that count -> how good they are; higher is better."""


def prepare(scores: np.ndarray, how: str) -> np.ndarray:
    """Bring one member's (N, K) scores to the scale on which `blend` adds them.

    mean: as they are; geometric: their logarithm, scores below 1e-6 counting as 1e-6; rank: for each class the share
    of scores that are not higher, in (0, 1], equal scores sharing the mean of their ranks.
    """
    if how == "geometric":
        return np.log(np.maximum(scores.astype(np.float64), 1e-6))
    if how == "rank":
        return rankdata(scores, axis=0) / max(len(scores), 1)
    return scores.astype(np.float64)


def blend(prepared: Sequence[np.ndarray], weights: np.ndarray, how: str) -> np.ndarray:
    """Blend members that `prepare` has prepared; the weights' scale does not matter.

    Returns:
        (N, K) float32 in [0, 1].
    """
    shares = np.asarray(weights, np.float64) / np.sum(weights)
    total = sum(share * scores for share, scores in zip(shares, prepared, strict=True))
    out = np.exp(total) if how == "geometric" else np.asarray(total)
    if how == "geometric":
        out = np.where(out <= 1.000001e-6, 0, out)  # nobody gave it a score
    return np.clip(out, 0, 1).astype(np.float32)


def fit_weights(prepared: Sequence[np.ndarray], rows: np.ndarray, how: str, score: Score) -> np.ndarray:
    """Find weights that make the blend of `rows` score high: pick after pick, the member that helps most.

    Returns:
        (M,) float64 with sum 1.

    Source: Caruana et al., Ensemble selection from libraries of models (ICML 2004), with replacement.
    """
    picks = np.zeros(len(prepared))
    best, best_picks = -np.inf, picks
    for _ in range(ROUNDS):
        tried = [score(blend(prepared, picks + step, how), rows) for step in np.eye(len(prepared))]
        picks = picks + np.eye(len(prepared))[int(np.argmax(tried))]
        if max(tried) > best:
            best, best_picks = max(tried), picks
    return best_picks / best_picks.sum()


@dataclass(frozen=True)
class Fitted:
    """Weights for every fold, fitted on the others, and for new images."""

    by_fold: dict[int, np.ndarray]
    """Fold -> (M,) weights that never saw it."""
    final: np.ndarray
    """(M,) the mean of those, for images without labels."""

    def apply(self, prepared: Sequence[np.ndarray], folds: np.ndarray, how: str) -> np.ndarray:
        """Blend each row with the weights of its fold; (N, K) float32."""
        out = np.zeros(prepared[0].shape, np.float32)
        for fold, weights in self.by_fold.items():
            own = folds == fold
            out[own] = blend([scores[own] for scores in prepared], weights, how)
        return out


def fit_nested(prepared: Sequence[np.ndarray], folds: np.ndarray, how: str, score: Score) -> Fitted:
    """Fit weights once for every fold, each time on the rows of the other folds.

    Args:
        prepared: the members' scores, (N, K) each.
        folds: (N,) the fold that held each row out.
        how: rule of the blend.
        score: what is to be high.
    """
    found = np.unique(folds)
    by_fold = {
        int(fold): fit_weights(prepared, np.flatnonzero(folds != fold), how, score)
        for fold in progress(found, "fit weights", leave=False)
    }
    return Fitted(by_fold, np.mean(list(by_fold.values()), axis=0))
