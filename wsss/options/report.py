"""One HTML page of predicted cells or masks: figures, training, fields to look through, what to look at first."""

from dataclasses import dataclass
from pathlib import Path

from wsss.core.checks import between, check_choice, check_ending, check_fields, refuse_idle
from wsss.options.evaluate import JOINS

EXAMPLES = """\
  python -m wsss.report --preds preds/demo
  python -m wsss.report --preds preds/demo --run runs/demo --truth cells_truth.csv --masks true_masks --out demo.html
  python -m wsss.report --preds preds/demo --run runs/demo --maps
  python -m wsss.report --preds preds/nuclei --truth nuclei --out nuclei.html      (of a run that finds masks)
  python -m wsss.report --preds preds/hpa --most 200 --edge 1024 --pixel-size 0.08"""


@dataclass(frozen=True)
class ReportOptions:
    """What the page shows."""

    preds: Path
    """Folder of predictions: of cells, with cells.parquet and images.csv, or of masks."""
    out: Path = Path("report.html")
    """The page to write."""
    run: Path | None = None
    """Run folder, for its training curves; default: the one the predictions were made with, where it is still there."""
    data: Path | None = None
    """Data set, or folder of images, that the predictions are of; default: the one they were made from, or the only
    data set under data/."""
    truth: Path | None = None
    """Table of true cells, or folder of true masks, as for evaluate; default: the figures in scores.json, or the masks
    that it was made with, where there is one."""
    masks: Path | None = None
    """True label maps in any form, as for evaluate: needed where the cells were not predicted on the true masks."""
    join: str = "auto"
    """Which predicted cell stands for a true one, as in evaluate: number, iou, or auto."""
    maps: bool = False
    """Show where the run's networks see each class: class maps over the fields, computed now."""
    most: int = between(300, 0)
    """Fields in the gallery at most; of more images, that many, spread evenly over the set."""
    crops: int = between(24, 0, 500)
    """Cells in each group of crops at most."""
    edge: int = between(512, 64, 4096)
    """Longer edge of the fields' pictures in px at most: at 512, fields prepared at the default size are shown with all
    pixels that are stored."""
    quality: int = between(45, 1, 100)
    """Quality of the pictures (WebP), 1 to 100."""
    pixel_size: float = between(0, 0, 1000)
    """Edge of a pixel of the original images in µm, for the scale bar; 0: what its files declare, or no bar."""
    threshold: float = between(0.5, 1e-9, 1)
    """Scores from here on count as found."""
    overwrite: bool = False
    """Replace another report, or a file that is not of this stage."""

    def __post_init__(self) -> None:
        check_fields(self, "--")
        check_ending(self.out, ".html", ".htm")
        if self.truth is None:
            refuse_idle(self, ("masks", "join"), "without --truth")
        check_choice("--join", self.join, JOINS)


OPTIONS = (ReportOptions,)
