"""Train a Puzzle-CAM classifier on a prepared data set: one run folder, one sub-folder a fold."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wsss.core.checks import check_range
from wsss.options.recipe import Recipe

EXAMPLES = """\
  python -m wsss.train --backbone seresnext50
  python -m wsss.train --data data/hpa --fold all --run runs/seresnext50
  python -m wsss.train --data data/hpa --config configs/puzzle_hpa.yaml --optim.lr 1e-4 --epochs 24
  python -m wsss.train --data data/hpa --lr_find true
  python -m wsss.train --data salt/train --config configs/unet_salt.yaml --fold all
  torchrun --nproc_per_node 4 -m -- wsss.train --data data/hpa --fold all --run runs/four
"""


@dataclass(frozen=True)
class TrainOptions:
    """Where and how a run is made; nothing here changes its weights, but for rounding."""

    data: Path | None = None
    """Prepared data set; default: the only one under data/."""
    run: Path | None = None
    """Run folder; default: runs/<data set>-<backbone>."""
    pseudo: Path | None = None
    """Folder of pseudo-masks to learn from (task maps)."""
    fold: int | Literal["all", "none"] = 0
    """Held-out fold; 'all' trains one network a fold, 'none' trains on every labelled image without validation."""
    resume: Literal["auto", "never"] = "auto"
    """auto: go on where the run stopped; never: start over, replacing what is there."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    workers: int | None = None
    """Loader processes; default: one less than the cores, 8 at most."""
    save_every: int = 0
    """Steps between saves within an epoch; 0 saves at the end of each epoch."""
    bad_batches: int = 0
    """Batches whose loss is not finite that are skipped before the run stops."""
    preview_every: int = 0
    """Epochs between pictures of a few validation images with their class maps (preview/); 0 for none."""
    tensorboard: bool = False
    """Write the figures of every epoch for TensorBoard too (needs the extra wsss[tensorboard])."""
    lr_find: bool = False
    """Do no training: try rising learning rates, write lr_find.csv and .png, suggest one."""
    compile: bool = False
    """Let torch.compile make the network faster; the first steps are slow, results differ by rounding."""

    def __post_init__(self) -> None:
        check_range("save_every", self.save_every, 0)
        check_range("bad_batches", self.bad_batches, 0)
        check_range("preview_every", self.preview_every, 0)
        if self.workers is not None:
            check_range("workers", self.workers, 0, 256)
        if isinstance(self.fold, int):
            check_range("fold", self.fold, 0)


OPTIONS = (Recipe, TrainOptions)
