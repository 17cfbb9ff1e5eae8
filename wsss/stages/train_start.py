"""How a training begins: the network as it is built or as it was left, and what its checkpoints say of it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor

from wsss.core.checks import DataError
from wsss.core.device import Device
from wsss.core.files import digest_file
from wsss.core.runtime import versions
from wsss.data.augment_recipe import load_recipe
from wsss.data.catalog import DataSet
from wsss.inference.checkpoints import CamCheckpoint, check_fits, load_classifier
from wsss.models.cam_net import CamNet, build_cam_net
from wsss.models.unet import build_unet
from wsss.models.weights import load_weights
from wsss.options.recipe import Recipe
from wsss.options.train import TrainOptions
from wsss.runs.checkpoint import is_checkpoint
from wsss.runs.leaks import check_unseen
from wsss.runs.record import RunRecord, check_same_run, inherit, join
from wsss.runs.run_folder import RunFolder, same_fold
from wsss.stages.train_common import Plan
from wsss.training.distributed import World
from wsss.training.state import TrainState

Checkpoint = tuple[dict[str, Tensor], dict[str, Any]]


@dataclass(frozen=True)
class FoldPlan:
    """One network to train."""

    recipe: Recipe
    options: TrainOptions
    data: DataSet
    folder: RunFolder
    fold: int | None
    world: World
    device: Device
    train: np.ndarray
    """Numbers of the images to train on."""
    valid: np.ndarray
    """Numbers of the held-out images."""

    @property
    def train_ids(self) -> list[str]:
        """IDs of the images to train on."""
        return [self.data.ids[i] for i in self.train]

    @property
    def held_out(self) -> list[str]:
        """IDs of the held-out images."""
        return [self.data.ids[i] for i in self.valid]


def start_classifier(plan: FoldPlan) -> tuple[TrainState, RunRecord, CamNet | None]:
    """Build the network, or load it as it was left; return it with its record, and its teacher."""
    recipe, world, data = plan.recipe, plan.world, plan.data
    loaded = _left(plan)
    teacher = _earlier_network(recipe.drs.refine_from, "drs.refine_from", plan)
    first = _earlier_network(recipe.init_from, "init_from", plan) if loaded is None else None
    record = run_record(recipe, data, plan.fold, plan.train_ids)
    record = _with_ancestors(plan, record, loaded, {"init_from": first, "drs.refine_from": teacher})

    torch.manual_seed(recipe.seed)
    fetch = loaded is None and first is None and world.leads
    net = build_cam_net(recipe, channels=len(data.channels), classes=len(data.classes), pretrained=fetch)
    if first is not None:
        load_weights(net, first.net.state_dict())
    net = _join_norms(net.to(plan.device.place), plan)
    world.spread(net)
    state = TrainState(net, recipe, plan.device)
    _go_on(plan, state, record, loaded)
    return state, record, None if teacher is None else teacher.net


def _with_ancestors(
    plan: Plan, record: RunRecord, loaded: Checkpoint | None, earlier: Mapping[str, CamCheckpoint | RunRecord | None]
) -> RunRecord:
    """Add what reaches a network through others, by the option that names each; a run that goes on has recorded it."""
    if loaded is not None:
        return replace(record, ancestors=plan.folder.read_ancestors(loaded[1]))
    parents = {option: own.record if isinstance(own, CamCheckpoint) else own for option, own in earlier.items() if own}
    inherited = [inherit(parent.lineage, f"{option} {parent.path}") for option, parent in parents.items()]
    return replace(record, ancestors=join(record.ancestors, *inherited))


def _join_norms(net: CamNet, plan: FoldPlan) -> CamNet:
    """Join the batch norms of all processes, if the recipe says so."""
    joined: CamNet = convert_sync_batchnorm(net) if plan.recipe.sync_bn and plan.world.size > 1 else net
    return joined


def run_record(recipe: Recipe, data: DataSet, fold: int | None, train_ids: list[str]) -> RunRecord:
    """Return the record of a network that learns from a data set."""
    segments = data.folder / "segments.csv"
    known = recipe.cells.wanted and segments.exists()  # these cells shape the weights
    return RunRecord(
        recipe,
        fold,
        data.folds_digest,
        tuple(train_ids),
        data.channels,
        tuple(data.classes.names),
        data.classes.negative,
        data.size,
        augment=load_recipe(recipe.augment),
        inputs={"cells": digest_file(segments)} if known else {},
        versions=versions(),
    )


def _left(plan: Plan) -> Checkpoint | None:
    """Return the newest checkpoint of a plan's run, if it is to go on."""
    return plan.folder.load() if plan.options.resume == "auto" and not plan.options.lr_find else None


def _go_on(plan: Plan, state: TrainState, record: RunRecord, loaded: Checkpoint | None) -> None:
    """Bring a state to where its run was left, or begin the run.

    Raises:
        DataError: the run was made with another record, or processes found it at different places.
    """
    if loaded is not None:
        check_same_run(loaded[1], record.facts())
        state.restore(*loaded)
    elif plan.world.leads and not plan.options.lr_find:
        plan.folder.begin(record)
    _check_together(plan, state)


def _check_together(plan: Plan, state: TrainState) -> None:
    """Refuse processes that found different checkpoints: the folder of the run is not shared by their machines."""
    where = state.progress
    places = plan.world.gather(np.array([[where.epoch, where.step]], np.float64))
    if (places != places[0]).any():
        raise DataError(
            f"processes found {plan.folder.path} at different epochs and steps {places.astype(int).tolist()}: "
            "put the run on a disk that all machines share."
        )


def start_unet(
    plan: Plan, record: RunRecord, *, channels: int, outputs: int, held_out: Collection[str], twins: Mapping[str, str]
) -> tuple[TrainState, RunRecord]:
    """Build a U-Net, or load it as it was left; return it with its record.

    Args:
        plan: what is trained.
        record: what its checkpoints say of it, but for the network that it starts from.
        channels: of its images.
        outputs: its maps.
        held_out: IDs of the images that must not reach it.
        twins: near-duplicates of these.
    """
    recipe, world = plan.recipe, plan.world
    loaded = _left(plan)
    first, earlier = recipe, None
    if loaded is None and (weights := _earlier_weights(recipe, plan.fold)):
        option, folder, path = weights
        earlier = {option: folder.read(path)[0]}
        _check_unseen(earlier[option], held_out, option, twins)
        first = replace(recipe, weights=str(path))
    record = _with_ancestors(plan, record, loaded, earlier or {})
    torch.manual_seed(recipe.seed)
    fetch = loaded is None and world.leads
    net = build_unet(first, channels=channels, outputs=outputs, pretrained=fetch).to(plan.device.place)
    world.spread(net)
    # The loop asks of a network no more than its state dict and its new parameters.
    state = TrainState(cast(Any, net), recipe, plan.device)
    _go_on(plan, state, record, loaded)
    return state, record


def _earlier_network(run: str | None, option: str, plan: FoldPlan) -> CamCheckpoint | None:
    """Load the classifier of an earlier run that saw none of the images held out now.

    Raises:
        ConfigError: there is none.
        DataError: it has other classes or channels, or it saw a held-out image.
    """
    if run is None:
        return None
    checkpoint = load_classifier(same_fold(Path(run), option, plan.fold), plan.device)
    check_fits(checkpoint, plan.data)
    _check_unseen(checkpoint.record, plan.held_out, option, plan.data.twins)
    return checkpoint


def _earlier_weights(recipe: Recipe, fold: int | None) -> tuple[str, RunFolder, Path] | None:
    """Return option, folder and file of the earlier run that a U-Net's encoder starts from; None without one.

    Raises:
        ConfigError: the run has no such fold.
    """
    if recipe.init_from is not None:
        folder = same_fold(Path(recipe.init_from), "init_from", fold)
        return "init_from", folder, folder.best
    path = Path(recipe.weights)
    if path.is_file() and is_checkpoint(path):
        return "weights", RunFolder(path.parent), path
    return None


def _check_unseen(record: RunRecord, held_out: Collection[str], option: str, twins: Mapping[str, str]) -> None:
    check_unseen(
        record.path,
        record.lineage,
        held_out,
        "images held out in this run, whose validation would be worth nothing",
        f"Choose a run that never saw them, for {option}.",
        twins,
    )
