"""One HTML page of a data set's predictions: figures, training, fields to look through, cells to look at first."""

from dataclasses import dataclass
from pathlib import Path

from wsss.core.checks import check_choice, check_range, refuse_idle
from wsss.options.evaluate import JOINS

EXAMPLES = """\
  python -m wsss.report --preds preds/demo
  python -m wsss.report --preds preds/demo --run runs/demo --truth cells_truth.csv --masks true_masks --out demo.html
  python -m wsss.report --preds preds/demo --run runs/demo --maps
  python -m wsss.report --preds preds/hpa --most 200 --edge 512 --pixel-size 0.08"""


@dataclass(frozen=True)
class ReportOptions:
    """What the page shows."""

    preds: Path
    """Folder of predictions, with cells.parquet and images.csv."""
    out: Path = Path("report.html")
    """The page to write."""
    run: Path | None = None
    """Run folder, for its training curves; default: the one the predictions were made with, where it is still there."""
    data: Path | None = None
    """Data set the predictions are of; default: the one they were made from, or the only one under data/."""
    truth: Path | None = None
    """Table of true cells, as for evaluate; default: the figures in scores.json, where there is one."""
    masks: Path | None = None
    """Folder of true label maps, as for evaluate: needed where the cells were not predicted on the true masks."""
    join: str = "auto"
    """Which predicted cell stands for a true one, as in evaluate: number, iou, or auto."""
    maps: bool = False
    """Show where the run's networks see each class: class maps over the fields, computed now."""
    most: int = 500
    """Fields in the gallery at most; of more images, that many, spread evenly over the set."""
    crops: int = 24
    """Cells in each group of crops at most."""
    edge: int = 352
    """Longer edge of the fields' pictures in px."""
    quality: int = 45
    """Quality of the pictures (WebP), 1 to 100."""
    pixel_size: float = 0
    """Edge of a pixel of the original images in µm, for a scale bar on the fields; 0: not known, no bar."""
    threshold: float = 0.5
    """Scores from here on count as found."""
    overwrite: bool = False
    """Replace another report, or a file that is not of this stage."""

    def __post_init__(self) -> None:
        if self.truth is None:
            refuse_idle(self, ("masks", "join"), "without --truth")
        check_choice("--join", self.join, JOINS)
        check_range("--most", self.most, 0)
        check_range("--crops", self.crops, 0, 500)
        check_range("--edge", self.edge, 64, 4096)
        check_range("--quality", self.quality, 1, 100)
        check_range("--threshold", self.threshold, 1e-9, 1)
        check_range("--pixel-size", self.pixel_size, 0, 1000)


OPTIONS = (ReportOptions,)
