"""How a training begins: the network as it is built or as it was left, its record, and what may not reach it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor

from wsss.core.checks import ConfigError, DataError
from wsss.core.device import Device
from wsss.options.recipe import Recipe
from wsss.runs.record import RunRecord, check_same_run, check_unseen, inherit, join
from wsss.runs.run_folder import RunFolder
from wsss.training.distributed import World
from wsss.training.state import Job, TrainState
from wsss.training.tasks import Earlier, Split, Task

Saved = tuple[dict[str, Tensor], dict[str, Any]]


@dataclass(frozen=True)
class Plan:
    """One network to train."""

    task: Task
    split: Split
    folder: RunFolder


def start(plan: Plan) -> tuple[Job, TrainState]:
    """Build a network, or load it as it was left, and begin its run.

    Raises:
        ConfigError: processes and batch do not go together.
        DataError: the run was begun otherwise, or what it starts from knows held-out images.
    """
    task, split, folder = plan.task, plan.split, plan.folder
    recipe, options, world, device = task.recipe, task.options, task.world, task.device
    check_world(recipe, device, world)
    saved = folder.load() if options.resume == "auto" and not options.lr_find else None
    earlier = task.earlier(split.fold, fresh=saved is None)
    record = task.record(split)
    inherited = [_inherited(own, option, split, task.twins) for option, own in earlier.items()]
    if saved is not None:
        record = replace(record, ancestors=folder.read_ancestors(saved[1]))
        check_same_run(saved[1], record.meta())
    else:
        record = replace(record, ancestors=join(record.ancestors, *inherited))

    torch.manual_seed(recipe.seed)
    net = device.settle(task.build(earlier, pretrained=saved is None and world.leads))
    if recipe.sync_bn and world.size > 1:
        net = convert_sync_batchnorm(net)
    world.spread(net)
    state = TrainState(net, recipe, device)
    if saved is not None:
        state.restore(*saved)
    elif world.leads and not options.lr_find:
        folder.begin(record)
    _check_together(plan, state)
    return _job(plan, record, task.teacher(earlier)), state


def _job(plan: Plan, record: RunRecord, teacher: Any) -> Job:
    task, options = plan.task, plan.task.options
    return Job(
        task.recipe,
        task.device,
        plan.folder,
        record,
        task.ids,
        save_every=options.save_every,
        bad_batches=options.bad_batches,
        world=task.world,
        teacher=teacher,
        compiled=options.compile,
    )


def _inherited(earlier: Earlier, option: str, split: Split, twins: Mapping[str, str]) -> Any:
    """Return what reaches a network through an earlier one, none of which may be held out now.

    Raises:
        DataError: some is.
    """
    folder, path = earlier
    record = folder.read(path)[0]
    check_unseen(
        record.path,
        record.lineage,
        split.held_out,
        "images held out in this run, whose validation would be worth nothing",
        f"Choose a run that never saw them, for {option}.",
        twins,
    )
    return inherit(record.lineage, f"{option} {record.path}")


def check_world(recipe: Recipe, device: Device, world: World) -> None:
    """Refuse processes that a recipe gives nothing to do, or that cannot do what it asks for.

    Raises:
        ConfigError: they are more than a batch has images, or share CPUs and batch norms.
    """
    if recipe.batch < world.size:
        raise ConfigError(f"batch is {recipe.batch}, fewer than the {world.size} processes that share it: raise it.")
    if recipe.sync_bn and world.size > 1 and not device.is_cuda:
        raise ConfigError("sync_bn needs GPUs: leave it out where processes share CPUs.")


def _check_together(plan: Plan, state: TrainState) -> None:
    """Refuse processes that found different checkpoints: the folder of the run is not shared by their machines."""
    where = state.progress
    places = plan.task.world.gather(np.array([[where.epoch, where.step]], np.float64))
    if (places != places[0]).any():
        raise DataError(
            f"processes found {plan.folder.path} at different epochs and steps {places.astype(int).tolist()}: "
            "put the run on a disk that all machines share."
        )
