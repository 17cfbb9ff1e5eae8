"""Image labels that the cells of the image contradict: what to look at before training again."""

from dataclasses import dataclass

import numpy as np

FEW, MANY = 0.1, 0.4
"""A label whose mean score over the image's cells is below FEW is doubted, and so is a missing one above MANY."""


@dataclass(frozen=True)
class LabelDoubt:
    """A label of an image, or one that it lacks, that its cells speak against."""

    image: int
    """Row of the image."""
    label: int
    """Class id."""
    missing: bool
    """True: the image lacks the label, but its cells show the class; False: it bears the label, and they do not."""
    share: float
    """Mean score of the class over the image's cells, in [0, 1]."""

    @property
    def strength(self) -> float:
        """How far the share lies beyond what is doubted, in [0, 1]."""
        return (self.share - MANY) / (1 - MANY) if self.missing else (FEW - self.share) / FEW


def label_doubts(shares: np.ndarray, labels: np.ndarray, negative: int | None) -> list[LabelDoubt]:
    """List doubtful image labels, the most doubtful first.

    Args:
        shares: (M, K) in [0, 1], mean scores over the cells of each image, of a classifier that did not learn from the
            image's labels; NaN for images without cells, which are left out.
        labels: (M, K) 0/1, the image labels; images without any are left out.
        negative: class 'no specific signal', or None. It may be shown by cells of any image, so it is never missing.
    """
    known = np.asarray(labels) > 0
    labelled = known.any(axis=1, keepdims=True) & ~np.isnan(shares)
    wrong = known & (shares < FEW) & labelled
    missing = ~known & (shares > MANY) & labelled
    if negative is not None:
        missing[:, negative] = False
    doubts = [
        LabelDoubt(int(image), int(label), bool(missing[image, label]), float(shares[image, label]))
        for image, label in np.argwhere(wrong | missing)
    ]
    return sorted(doubts, key=lambda doubt: -doubt.strength)
