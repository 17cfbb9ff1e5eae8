"""How a training begins: the network as it is built or as it was left, and what its checkpoints say of it."""

from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor

from wsss.core.checks import ConfigError, DataError, some
from wsss.core.device import Device
from wsss.core.digests import Digests
from wsss.core.files import as_read, digest_json, read_lines
from wsss.core.runtime import versions
from wsss.data.augment_recipe import load_recipe
from wsss.data.catalog import DataSet
from wsss.data.cell_maps import image_marks
from wsss.inference.members import Member, check_fits, find_folders, load_member
from wsss.models.cam_net import CamNet, build_cam_net
from wsss.models.unet import build_unet
from wsss.models.weights import load_weights
from wsss.options.recipe import Recipe
from wsss.options.train import TrainOptions
from wsss.runs.run_folder import RunFolder, check_same_run
from wsss.stages.train_common import Plan, fold_name
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


def start_classifier(plan: FoldPlan) -> tuple[TrainState, dict[str, Any], CamNet | None]:
    """Build the network, or load it as it was left; return it with what its checkpoints say, and its teacher."""
    recipe, world, data = plan.recipe, plan.world, plan.data
    loaded = _left(plan)
    teacher = _earlier_network(recipe.drs.refine_from, "drs.refine_from", plan)
    first = _earlier_network(recipe.init_from, "init_from", plan) if loaded is None else None
    facts = run_facts(recipe, data, plan.fold, plan.train_ids)
    parents = {"refine_from": teacher.digest if teacher else None, "init_from": first.digest if first else None}
    if loaded is not None:
        parents["init_from"] = loaded[1].get("parents", {}).get("init_from")  # no longer needed, nor looked at
    if any(parents.values()):
        facts["parents"] = parents

    torch.manual_seed(recipe.seed)
    fetch = loaded is None and first is None and world.leads
    net = build_cam_net(recipe, channels=len(data.channels), classes=len(data.classes), pretrained=fetch)
    if first is not None:
        load_weights(net, first.net.state_dict())
    net = _join_norms(plan.device.settle(net), plan)
    world.spread(net)
    state = TrainState(net, recipe, plan.device)
    _go_on(plan, state, facts, loaded, plan.train_ids)
    return state, facts, None if teacher is None else teacher.net


def _join_norms(net: CamNet, plan: FoldPlan) -> CamNet:
    """Join the batch norms of all processes, if the recipe says so."""
    joined: CamNet = convert_sync_batchnorm(net) if plan.recipe.sync_bn and plan.world.size > 1 else net
    return joined


def run_facts(recipe: Recipe, data: DataSet, fold: int | None, train_ids: list[str]) -> dict[str, Any]:
    """Return what every checkpoint of a run says of it; a resumed run must agree, and --oof proves itself by it."""
    facts = {
        "recipe": asdict(recipe),
        "augment": load_recipe(recipe.augment),
        "classes": list(data.classes.names),
        "negative": data.classes.negative,
        "channels": list(data.channels),
        "size": data.size,
        "fold": fold,
        "data": data.folds_digest,
        "train_ids": digest_json(train_ids),
        "versions": versions(),
    }
    facts["pixels"] = digest_json(data.table.loc[data.ok & data.has_labels, ["ID", "crc32"]].to_numpy().tolist())
    if recipe.cells.wanted:  # these cells shape the weights
        seen = set(train_ids)
        marks = image_marks(data, Digests(), [i for i, name in enumerate(data.ids) if name in seen])
        facts["cells"] = digest_json(marks)
    return as_read(facts)


def _left(plan: Plan) -> Checkpoint | None:
    """Return the newest checkpoint of a plan's run, if it is to go on."""
    return plan.folder.load() if plan.options.resume == "auto" and not plan.options.lr_find else None


def _go_on(plan: Plan, state: TrainState, facts: dict[str, Any], loaded: Checkpoint | None, seen: list[str]) -> None:
    """Bring a state to where its run was left, or begin the run.

    Raises:
        DataError: the run was made with other facts, or processes found it at different places.
    """
    if loaded is not None:
        check_same_run(loaded[1], facts)
        state.restore(*loaded)
    elif plan.world.leads and not plan.options.lr_find:
        plan.folder.begin(plan.recipe, seen)
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
    plan: Plan, facts: dict[str, Any], *, channels: int, outputs: int, seen: list[str], held_out: Collection[str]
) -> TrainState:
    """Build a U-Net, or load it as it was left.

    Args:
        plan: what is trained.
        facts: what its checkpoints say of it.
        channels: of its images.
        outputs: its maps.
        seen: IDs of the images whose labels reach it.
        held_out: IDs of those whose labels must not.
    """
    recipe, world = plan.recipe, plan.world
    loaded = _left(plan)
    first = recipe
    if recipe.init_from is not None and loaded is None:
        first = replace(recipe, weights=str(_earlier_weights(recipe.init_from, plan.fold, held_out)))
    torch.manual_seed(recipe.seed)
    fetch = loaded is None and world.leads
    net = plan.device.settle(build_unet(first, channels=channels, outputs=outputs, pretrained=fetch))
    world.spread(net)
    # The loop asks of a network no more than its state dict and its new parameters.
    state = TrainState(cast(Any, net), recipe, plan.device)
    _go_on(plan, state, facts, loaded, seen)
    return state


def _earlier_network(run: str | None, option: str, plan: FoldPlan) -> Member | None:
    """Load the classifier of an earlier run that saw none of the images held out now.

    Raises:
        ConfigError: there is none.
        DataError: it has other classes or channels, or it saw a held-out image.
    """
    if run is None:
        return None
    member = load_member(_same_fold(run, option, plan.fold), plan.device)
    check_fits(member, plan.data)
    _check_unseen(member.path, member.train_ids, plan.held_out, option)
    return member


def _earlier_weights(run: str, fold: int | None, held_out: Collection[str]) -> Path:
    """Return the weights of the same fold of an earlier run, which must not have seen the images held out now.

    Raises:
        ConfigError: the run has no such fold.
        DataError: it saw a held-out image.
    """
    folder = _same_fold(run, "init_from", fold)
    known = set(read_lines(folder.ids)) if folder.ids.exists() else set()
    _check_unseen(folder.path, known, held_out, "init_from")
    return folder.best


def _same_fold(run: str, option: str, fold: int | None) -> RunFolder:
    """Return the folder of a fold in an earlier run; a run of one network serves any fold."""
    found = find_folders(Path(run))
    same = [folder for folder in found if folder.path.name == fold_name(fold)]
    if not same and len(found) > 1:
        raise ConfigError(f"{option} is {run}, which has no {fold_name(fold)}: name the folder of one of its folds.")
    return (same or found)[0]


def _check_unseen(path: Path, trained_on: Collection[str], held_out: Collection[str], option: str) -> None:
    seen = set(trained_on) & set(held_out)
    if seen:
        raise DataError(
            f"{path} was trained on {some(sorted(seen))}, held out in this run: its validation would be worth nothing. "
            f"Choose a run that holds out the same images, for {option}."
        )
