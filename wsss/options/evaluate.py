"""Score predictions against true labels of cells: average precision per class, and the competition's mAP."""

from dataclasses import dataclass
from pathlib import Path

from wsss.core.checks import between, check_choice, check_ending, check_fields

EXAMPLES = """\
  python -m wsss.evaluate --preds preds/demo --truth fields/cells_truth.csv
  python -m wsss.evaluate --preds preds/hpa --truth cells.csv --masks true_masks --labels train.csv
"""

JOINS = ("auto", "number", "iou")
"""Values of --join."""


@dataclass(frozen=True)
class EvaluateOptions:
    """What is compared with what."""

    preds: Path
    """Folder of predictions: cells.parquet or cells.csv, images.csv, submission.csv."""
    truth: Path
    """Table of true cells: ID, the cell's number (cell_id, cell or Cell_index), its classes (Cell_Label or Label);
    for predicted masks, the folder of images and true masks."""
    masks: Path | None = None
    """Folder of true label maps at original size, or any other form of masks that segment takes; needed for the
    competition's mAP."""
    labels: Path | None = None
    """Table of image labels, in any form of prepare; default: those in the truth table, or its cells' together."""
    submission: Path | None = None
    """Submission to score against the masks; default: submission.csv in the folder of predictions."""
    data: Path | None = None
    """Data set whose class names are used; default: the one the predictions were made from, or else the 19 classes of
    the Human Protein Atlas."""
    out: Path | None = None
    """Where the figures go; default: scores.json in the folder of predictions."""
    join: str = "auto"
    """Which predicted cell stands for a true one. number: the one with its number (true masks were given);
    iou: the one that overlaps it; auto: iou where masks are given and predictions have them, else number, which is
    refused where the predicted cells were numbered by what found them."""
    join_iou: float = between(0.5, 1e-9, 1)
    """Lowest IoU of the join by overlap."""
    match_iou: float = between(0.6, 1e-9, 1)
    """Lowest IoU at which a submitted mask finds a true cell."""
    threshold: float = between(0.5, 1e-9, 1)
    """Scores from here on count as found, for F1."""
    search: bool = False
    """Masks: choose threshold and minimum size on these images; only where the predictions are out of fold."""
    sheet: int = between(10, 0)
    """Masks: images on the picture of image, truth, prediction and error; 0 for no picture."""
    overwrite: bool = False
    """Replace other figures, or files that are not of this stage."""

    def __post_init__(self) -> None:
        check_fields(self, "--")
        if self.out is not None:
            check_ending(self.out, ".json")
        check_choice("join", self.join, JOINS)


OPTIONS = (EvaluateOptions,)
