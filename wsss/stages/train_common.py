"""What `train` has in common for its three tasks: options, names of folders, and what the loop is given."""

from typing import Protocol

from wsss.core.device import Device
from wsss.core.runtime import cores
from wsss.models.cam_net import CamNet
from wsss.options.recipe import Recipe
from wsss.options.train import TrainOptions
from wsss.runs.record import RunRecord
from wsss.runs.run_folder import RunFolder
from wsss.training.distributed import World
from wsss.training.job import Job
from wsss.training.state import TrainState


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


def loader_workers(options: TrainOptions, world: World) -> int:
    """Return the loader processes of this process: as asked for, or one less than its share of the cores, 8 at most."""
    usual = max(0, min(8, (cores() - 1) // world.local_size))
    return usual if options.workers is None else options.workers


def going_on(state: TrainState) -> str:
    """Return where a run goes on, as the end of a sentence; nothing for a new one."""
    where = state.progress
    return f"; going on after epoch {where.epoch}, step {where.step}" if where.epoch or where.step else ""


def make_job(plan: Plan, record: RunRecord, names: list[str], teacher: CamNet | None = None) -> Job:
    """Return what the loop works with."""
    options = plan.options
    return Job(
        plan.recipe,
        plan.device,
        plan.folder,
        record,
        names,
        save_every=options.save_every,
        bad_batches=options.bad_batches,
        world=plan.world,
        teacher=teacher,
        compiled=options.compile,
    )
