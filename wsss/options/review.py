"""Label cells in a page of your browser, and see at once what the predicted labels are worth on your images."""

from dataclasses import dataclass, field
from pathlib import Path

from wsss.core.checks import between, check_fields

EXAMPLES = """\
  python -m wsss.review --preds preds/mine
  python -m wsss.review --preds preds/mine --out reviews/anna --port 8000   (through: ssh -L 8000:127.0.0.1:8000 HOST)
  python -m wsss.review --preds preds/new --out reviews/anna --summary true   (the same answers, other predictions)
  python -m wsss.calibrate --preds preds/mine --truth reviews/mine/cells_truth.csv"""


@dataclass(frozen=True)
class ReviewOptions:
    """Which predictions are reviewed, and where the answers go."""

    preds: Path
    """Folder of predictions, with cells.parquet."""
    data: Path | None = None
    """Data set the predictions are of; default: the one they were made from, or the only one under data/."""
    out: Path | None = None
    """Folder of the review: the answers (review.sqlite), cells_truth.csv and review.json; one that is there is
    continued. Default: reviews/<name of the predictions>."""
    against: list[Path] = field(default_factory=list)
    """Further predictions of the same cells, for the cells on which score sources disagree; default: the parts that
    infer --parts left in the folder of predictions."""
    threshold: float = between(0.5, 1e-9, 1)
    """Scores from here on count as found, for precision and recall."""
    summary: bool = False
    """Open no page: write cells_truth.csv and review.json from the answers there are, and print the figures."""
    port: int = between(0, 0, 65535)
    """Port of the page on this machine, 0 for a free one."""
    seed: int = between(0, 0)
    """Of the random numbers that choose cells, for a new review."""

    def __post_init__(self) -> None:
        check_fields(self, "--")


OPTIONS = (ReviewOptions,)
