"""The options of the feature classifier, which learns cell labels from image labels, in addition to the network."""

from dataclasses import dataclass, field
from typing import Literal

from wsss.core.checks import between, check_fields


@dataclass(frozen=True)
class WeakConfig:
    """How cell labels are learnt from image labels."""

    rounds: int = between(3, 1, 100)
    """Times the soft labels are updated."""
    folds: int = between(4, 2, 100)
    """Parts into which the images are split for predictions of unseen cells."""
    trees: int = between(100, 1)
    """Trees of the forest; in the rounds, a third of them."""
    leaf: int = between(5, 1)
    """Fewest cells in a leaf."""
    strength: float = between(0.01, 1e-6, 1e6)
    """Inverse regularisation (C) of the linear model: lower is smoother."""
    shown_share: float = between(0.65, 0.05, 0.95)
    """Initial share of the cells of an image with several labels that are assumed to show each label; later, each
    image and class has its own share."""
    negative_share: float = between(0.125, 0, 0.9)
    """Initial share of cells without signal that is assumed in images with other labels."""

    answer_weight: float = between(5.0, 1, 1000)
    """Weight of a cell labelled by hand (train --cell_labels), relative to other cells."""

    def __post_init__(self) -> None:
        check_fields(self, "weak")


@dataclass(frozen=True)
class FeatureClassifierConfig:
    """A classifier on cell features, fitted on the cells of the training images in addition to the network."""

    enabled: bool | Literal["auto"] = "auto"
    """Fit one per fold, which infer then blends with the network's scores. auto: if enough training images have
    segmented cells; true: stop if they do not."""
    copies: int = between(2, 0, 100)
    """Changed copies of every training image to learn from in addition to the original: dim or bright cells, cells
    without signal, uneven light, haze, shot noise. 0 for original images only."""
    weak: WeakConfig = field(default_factory=WeakConfig)
    """How its labels are learnt."""

    def __post_init__(self) -> None:
        check_fields(self, "feature_classifier")
