"""What `train` has in common for its three tasks: options, names of folders, and what the loop is given."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from wsss.core.checks import check_range
from wsss.core.device import Device
from wsss.core.runtime import cores
from wsss.models.cam_net import CamNet
from wsss.options.recipe import Recipe
from wsss.runs.run_folder import RunFolder
from wsss.training.distributed import World
from wsss.training.job import Job
from wsss.training.state import TrainState


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


class Plan(Protocol):
    """One network to train, of any task."""

    @property
    def recipe(self) -> Recipe: ...  # noqa: D102
    @property
    def options(self) -> TrainOptions: ...  # noqa: D102
    @property
    def folder(self) -> RunFolder: ...  # noqa: D102
    @property
    def fold(self) -> int | None: ...  # noqa: D102
    @property
    def device(self) -> Device: ...  # noqa: D102
    @property
    def world(self) -> World: ...  # noqa: D102


def fold_name(fold: int | None) -> str:
    """Return the sub-folder of a fold's run; None is the run that holds nothing out."""
    return "full" if fold is None else f"fold{fold}"


def loader_workers(options: TrainOptions, world: World) -> int:
    """Return the loader processes of this process: as asked for, or one less than its share of the cores, 8 at most."""
    usual = max(0, min(8, (cores() - 1) // world.local_size))
    return usual if options.workers is None else options.workers


def going_on(state: TrainState) -> str:
    """Return where a run goes on, as the end of a sentence; nothing for a new one."""
    where = state.progress
    return f"; going on after epoch {where.epoch}, step {where.step}" if where.epoch or where.step else ""


def make_job(plan: Plan, facts: dict[str, Any], names: list[str], teacher: CamNet | None = None) -> Job:
    """Return what the loop works with."""

    options = plan.options
    return Job(
        plan.recipe,
        plan.device,
        plan.folder,
        facts,
        names,
        save_every=options.save_every,
        bad_batches=options.bad_batches,
        world=plan.world,
        teacher=teacher,
        compiled=options.compile,
    )
