"""The options of the feature classifier, which learns cell labels from image labels beside the network."""

from dataclasses import dataclass, field
from typing import Literal

from wsss.core.checks import between, check_fields


@dataclass(frozen=True)
class WeakConfig:
    """How cell labels are learnt from image labels."""

    rounds: int = between(3, 1, 100)
    """Times the soft labels are renewed."""
    folds: int = between(4, 2, 100)
    """Parts into which the images are split for predictions of unseen cells."""
    trees: int = between(100, 1)
    """Trees of the forest; in the rounds, a third of them."""
    leaf: int = between(5, 1)
    """Fewest cells in a leaf."""
    strength: float = between(0.01, 1e-6, 1e6)
    """Inverse regularisation (C) of the linear model: lower is smoother."""
    shown_share: float = between(0.65, 0.05, 0.95)
    """Share of the cells that is assumed at first to show a label of their image where it bears several; then each
    image and class has a share of its own."""
    negative_share: float = between(0.125, 0, 0.9)
    """Share of cells without signal that is assumed at first in images with other labels."""

    answer_weight: float = between(5.0, 1, 1000)
    """A cell labelled by hand (train --cell_labels) counts as that many others."""

    def __post_init__(self) -> None:
        check_fields(self, "weak")


@dataclass(frozen=True)
class FeatureClassifierConfig:
    """A classifier on cell features beside the network, fitted on the cells of the training images."""

    enabled: bool | Literal["auto"] = "auto"
    """Fit one for each fold, which infer then blends with the network's scores. auto: where enough training images have
    segmented cells; true: refuse to do without."""
    copies: int = between(2, 0, 100)
    """Changed copies of every training image that are learnt from beside the plain one: dim or bright cells, cells
    that lost their signal, uneven light, haze, shot noise. 0 for plain images only."""
    weak: WeakConfig = field(default_factory=WeakConfig)
    """How its labels are learnt."""

    def __post_init__(self) -> None:
        check_fields(self, "feature_classifier")
