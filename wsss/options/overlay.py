"""Draw images with their cells outlined by predicted class: one PNG per image, and overview.png."""

from dataclasses import dataclass
from pathlib import Path

from wsss.core.checks import between, check_choice, check_fields, refuse_idle

EXAMPLES = """\
  python -m wsss.overlay --preds preds/demo --out pictures
  python -m wsss.overlay --data data/demo --preds preds/demo --out pictures --truth cells_truth.csv --most 20
  python -m wsss.overlay --preds preds/demo --out pictures --truth cells_truth.csv --masks true_masks
  python -m wsss.overlay --preds preds/demo --out pictures --ids val02_00001,val02_00007"""


@dataclass(frozen=True)
class OverlayOptions:
    """What to draw."""

    preds: Path
    """Folder of predictions, with cells.parquet."""
    out: Path
    """Folder for the pictures."""
    data: Path | None = None
    """Data set the predictions are of; default: the one they were made from, or the only one under data/."""
    ids: str = ""
    """Images to draw, separated by commas; by default --most images spread over the set."""
    most: int = between(10, 1)
    """How many images to draw where --ids is not given."""
    threshold: float = between(0.5, 1e-9, 1)
    """Classes of a cell whose scores reach this are shown, the surest two as outline; a cell without one has a thin
    pale outline, its best guess and '?'."""
    truth: Path | None = None
    """Table of true cells, as for evaluate: adds a panel."""
    masks: Path | None = None
    """True label maps in any form, as for evaluate, whose ids --truth speaks of: the panel then shows the true cells.
    Needed unless the data set's own cells are those (segment --backend masks)."""
    join: str = "auto"
    """number: --truth speaks of these very cells, whatever found them; auto: only if that can be right."""
    max_size: int = between(1024, 64, 16384)
    """Longer edge of a panel in px, at most."""
    pixel_size: float = between(0, 0, 1000)
    """Edge of a pixel of the original images in µm, for the scale bar; 0: what its files declare, or no bar."""
    overwrite: bool = False
    """Replace other pictures in --out."""

    def __post_init__(self) -> None:
        check_fields(self, "--")
        if self.truth is None:
            refuse_idle(self, ("masks", "join"), "without --truth")
        if self.ids:
            refuse_idle(self, ("most",), "with --ids")
        check_choice("--join", self.join, ("auto", "number"))


OPTIONS = (OverlayOptions,)
