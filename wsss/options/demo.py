"""The main job from end to end on fields drawn by code: draw, prepare, segment, train, infer, evaluate, overlay."""

from dataclasses import dataclass
from pathlib import Path

from wsss.core.checks import between, check_fields

EXAMPLES = """\
  python -m wsss.demo
  python -m wsss.demo --out demo-large --train-fields 600 --epochs 20
"""


@dataclass(frozen=True)
class DemoOptions:
    """How large the demo is."""

    out: Path = Path("demo")
    """Folder for everything the demo makes."""
    train_fields: int = between(200, 8)
    """Fields with image labels, to learn from."""
    test_fields: int = between(40, 1)
    """Fields to predict."""
    size: int = between(256, 128, 2048)
    """Edge of a field in px."""
    epochs: int = between(4, 1)
    """Passes of the network over the fields; it draws class maps, while the feature classifier scores the cells."""
    lr: float = between(1e-3, 1e-12, 1000)
    """Highest learning rate."""
    seed: int = between(1, 0)
    """Seed of the fields and of the training."""
    backend: str = "auto"
    """How the cells are found: a backend of the stage segment, or masks (the drawn ones)."""

    def __post_init__(self) -> None:
        check_fields(self)


OPTIONS = (DemoOptions,)
