"""Compare conditions: shares of cells per class and condition, with intervals, as a table and a picture."""

from dataclasses import dataclass
from pathlib import Path

from wsss.core.checks import between, check_choice, check_fields, refuse_idle

EXAMPLES = """\
  python -m wsss.compare --preds preds/screen --by condition
  python -m wsss.compare --preds preds/screen --by drug --reference DMSO --out compare/drugs
  python -m wsss.compare --preds preds/screen --by plate --count top
"""

COUNTS = ("above", "top", "mean")


@dataclass(frozen=True)
class CompareOptions:
    """What is compared."""

    preds: Path
    """Folder of predictions, with cells.parquet or cells.csv."""
    by: str
    """Column of the label table that names the condition of each image; predictions carry it along."""
    out: Path | None = None
    """Folder of shares.csv and shares.png; default: compare/<name of the predictions>-<column>."""
    reference: str = ""
    """Condition that the others are compared with: differences and their intervals are added."""
    count: str = "above"
    """above: cells with a score from --threshold on, which may count for several classes; top: cells with their highest
    score there; mean: the mean score, the expected share where scores are calibrated."""
    threshold: float = between(0.5, 1e-9, 1)
    """Scores from here on count, with --count above."""
    rounds: int = between(2000, 100, 100_000)
    """Resamples of the bootstrap over images."""
    overwrite: bool = False
    """Replace another comparison, or files that are not of this stage."""

    def __post_init__(self) -> None:
        check_fields(self, "--")
        check_choice("--count", self.count, COUNTS)
        if self.count != "above":
            refuse_idle(self, ("threshold",), f"with --count {self.count}")


OPTIONS = (CompareOptions,)
