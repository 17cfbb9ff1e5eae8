"""Fit curves that make scores mean what they say, on predictions of images that the networks did not learn from."""

from dataclasses import dataclass
from pathlib import Path

from wsss.core.checks import between, check_choice, check_ending, check_fields, refuse_idle
from wsss.options.evaluate import JOINS

EXAMPLES = """\
  python -m wsss.infer --data data/hpa --run runs/hpa --oof --out preds/oof
  python -m wsss.calibrate --preds preds/oof --out runs/hpa/calibration.json
  python -m wsss.infer --data data/test --run runs/hpa --calibration runs/hpa/calibration.json
  python -m wsss.calibrate --preds preds/val --truth val/cells_truth.csv --masks val/masks --labels val/train.csv
"""


METHODS = ("auto", "isotonic", "platt")


@dataclass(frozen=True)
class CalibrateOptions:
    """What the curves are fitted to, and where they go."""

    preds: Path
    """Folder of predictions: out of fold, or of images that the networks did not learn from."""
    data: Path | None = None
    """Data set with the labels of these images; default: the one the predictions were made from."""
    labels: Path | None = None
    """Table of image labels, in any form of prepare, instead of those of the data set."""
    truth: Path | None = None
    """Table of true cells (ID, cell number, classes), such as the answers of a review, which count by the number of
    cells that they stand for. Without it, cells are compared with what their images' labels
    leave possible: that corrects classes the image does not show, not mistakes among those it does."""
    masks: Path | None = None
    """True label maps in any form, as for evaluate, whose ids --truth speaks of: cells are joined by overlap. Needed
    unless the predicted cells are those (segment --backend masks)."""
    join: str = "auto"
    """Which predicted cell stands for a true one, as in evaluate: number, iou, or auto."""
    join_iou: float = between(0.5, 1e-9, 1)
    """Lowest IoU of the join by overlap."""
    method: str = "auto"
    """auto: isotonic for classes with 100 true events, Platt from 10, all classes together below; isotonic; platt."""
    out: Path | None = None
    """Where the curves go; default: calibration.json in the folder of predictions. A picture goes beside it (.png)."""
    overwrite: bool = False
    """Replace other curves, or files that are not of this stage."""

    def __post_init__(self) -> None:
        check_fields(self, "--")
        if self.out is not None:
            check_ending(self.out, ".json")
        check_choice("--method", self.method, METHODS)
        check_choice("--join", self.join, JOINS)
        if self.truth is None:
            refuse_idle(self, ("masks", "join", "join_iou"), "without --truth")


OPTIONS = (CalibrateOptions,)
