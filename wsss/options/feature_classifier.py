"""The options of what learns cell labels from image labels beside the network: feature classifier, self-training."""

from dataclasses import dataclass, field

from wsss.core.checks import between, check_fields


@dataclass(frozen=True)
class WeakConfig:
    """How cell labels are learnt from image labels."""

    rounds: int = between(5, 1, 100)
    """Times the soft labels are renewed."""
    folds: int = between(4, 2, 100)
    """Parts into which the images are split for predictions of unseen cells."""
    trees: int = between(100, 1)
    """Trees of the forest."""
    leaf: int = between(5, 1)
    """Fewest cells in a leaf; with changed copies beside the plain cells, as many times more."""
    strength: float = between(0.03, 1e-6, 1e6)
    """Inverse regularisation (C) of the linear model: lower is smoother."""
    negative_share: float = between(0.125, 0, 0.9)
    """Share of cells without signal that is assumed at first in images with other labels."""
    balance: float = between(0.5, 0, 1)
    """0 lets frequent classes grow from round to round, 1 treats all classes as equally likely."""
    sharpen: float = between(1.5, 0.1, 10)
    """Power by which the learners' agreement is raised; above 1 the labels settle sooner."""

    def __post_init__(self) -> None:
        check_fields(self, "weak")


@dataclass(frozen=True)
class FeatureClassifierConfig:
    """A classifier on cell features beside the network, fitted on the cells of the training images."""

    enabled: bool = False
    """Fit one for each fold (needs segmented cells); infer then blends it with the network's scores."""
    copies: int = between(2, 0, 100)
    """Changed copies of every training image that are learnt from beside the plain one: dim or bright cells, cells
    that lost their signal, uneven light, haze, shot noise. 0 for plain images only."""
    weak: WeakConfig = field(default_factory=WeakConfig)
    """How its labels are learnt."""

    def __post_init__(self) -> None:
        check_fields(self, "feature_classifier")


@dataclass(frozen=True)
class SelfTrainingConfig:
    """A second network, for crops of single cells, that learns the soft labels which the feature classifier settled
    on."""

    enabled: bool = False
    """Train one for each fold (needs feature_classifier.enabled); infer then blends it with the feature classifier."""
    rounds: int = between(1, 1, 3)
    """1 to 3. Before the last round, two networks label each other's half of the images anew."""
    confidence: float = between(0.8, 0, 1)
    """Cells whose strongest soft label is below this are not learnt from."""
    cells: int = between(8000, 1)
    """Most cells to learn from; of more, a choice balanced by class is taken."""
    epochs: int = between(2, 1)
    """Passes over these cells in a round."""
    batch: int = between(64, 2)
    """Cells in a batch."""
    size: int = between(96, 32, 2048)
    """Edge of a cell's crop in px; mode and margin are those of crops."""
    lr: float = between(3e-4, 1e-12)
    """Learning rate at the start; it falls to 0 by cosine."""
    changed: float = between(0.7, 0, 1)
    """Share of the crops shown with other brightness, lost protein, uneven light, haze or noise."""

    def __post_init__(self) -> None:
        check_fields(self, "self_training")
