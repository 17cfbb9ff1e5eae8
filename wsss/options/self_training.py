"""The options of self-training: a network on single cells, taught by soft labels of the training cells."""

from dataclasses import dataclass

from wsss.core.checks import check_range


@dataclass(frozen=True)
class SelfTrainingConfig:
    """A second network, for crops of single cells, that learns the soft labels which the feature classifier settled
    on."""

    enabled: bool = False
    """Train one for each fold (needs feature_classifier.enabled); infer then blends it with the feature classifier."""
    rounds: int = 1
    """1 to 3. Before the last round, two networks label each other's half of the images anew."""
    confidence: float = 0.8
    """Cells whose strongest soft label is below this are not learnt from."""
    cells: int = 8000
    """Most cells to learn from; of more, a choice balanced by class is taken."""
    epochs: int = 2
    """Passes over these cells in a round."""
    batch: int = 64
    """Cells in a batch."""
    size: int = 96
    """Edge of a cell's crop in px; mode and margin are those of crops."""
    lr: float = 3e-4
    """Learning rate at the start; it falls to 0 by cosine."""
    changed: float = 0.7
    """Share of the crops shown with other brightness, lost protein, uneven light, haze or noise."""

    def __post_init__(self) -> None:
        check_range("self_training.rounds", self.rounds, 1, 3)
        check_range("self_training.confidence", self.confidence, 0, 1)
        check_range("self_training.cells", self.cells, 1)
        check_range("self_training.epochs", self.epochs, 1)
        check_range("self_training.batch", self.batch, 2)
        check_range("self_training.size", self.size, 32, 2048)
        check_range("self_training.lr", self.lr, 1e-12)
        check_range("self_training.changed", self.changed, 0, 1)
