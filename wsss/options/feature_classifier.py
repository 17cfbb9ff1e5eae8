"""The options of the feature classifier: cell labels from named cell features, learnt from image labels."""

from dataclasses import dataclass, field

from wsss.core.checks import check_range


@dataclass(frozen=True)
class WeakConfig:
    """How cell labels are learnt from image labels."""

    rounds: int = 5
    """Times the soft labels are renewed."""
    folds: int = 4
    """Parts into which the images are split for predictions of unseen cells."""
    trees: int = 100
    """Trees of the forest."""
    leaf: int = 5
    """Fewest cells in a leaf; with changed copies beside the plain cells, as many times more."""
    strength: float = 0.03
    """Inverse regularisation (C) of the linear model: lower is smoother."""
    negative_share: float = 0.125
    """Share of cells without signal that is assumed at first in images with other labels."""
    balance: float = 0.5
    """0 lets frequent classes grow from round to round, 1 treats all classes as equally likely."""
    sharpen: float = 1.5
    """Power by which the learners' agreement is raised; above 1 the labels settle sooner."""

    def __post_init__(self) -> None:
        check_range("weak.rounds", self.rounds, 1, 100)
        check_range("weak.folds", self.folds, 2, 100)
        check_range("weak.trees", self.trees, 1)
        check_range("weak.leaf", self.leaf, 1)
        check_range("weak.strength", self.strength, 1e-6, 1e6)
        check_range("weak.negative_share", self.negative_share, 0, 0.9)
        check_range("weak.balance", self.balance, 0, 1)
        check_range("weak.sharpen", self.sharpen, 0.1, 10)


@dataclass(frozen=True)
class FeatureClassifierConfig:
    """A classifier on cell features beside the network, fitted on the cells of the training images."""

    enabled: bool = False
    """Fit one for each fold (needs segmented cells); infer then blends it with the network's scores."""
    copies: int = 2
    """Changed copies of every training image that are learnt from beside the plain one: dim or bright cells, cells
    that lost their signal, uneven light, haze, shot noise. 0 for plain images only."""
    weak: WeakConfig = field(default_factory=WeakConfig)
    """How its labels are learnt."""

    def __post_init__(self) -> None:
        check_range("feature_classifier.copies", self.copies, 0, 100)
