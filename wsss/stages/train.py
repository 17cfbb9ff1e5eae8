"""Train a Puzzle-CAM classifier on a prepared data set: one run folder, one sub-folder a fold."""

from pathlib import Path
from typing import Any

import numpy as np

from wsss.core.channels import HPA_ROLES
from wsss.core.checks import ConfigError, DataError, some
from wsss.core.console import say
from wsss.core.device import Device, choose_device
from wsss.core.runtime import keep_freed_memory
from wsss.data.catalog import DataSet, default_dataset
from wsss.data.cell_maps import without_cells
from wsss.feature_classifier.train import ensure_feature_classifier
from wsss.models.cam_net import CamNet
from wsss.options.recipe import Recipe
from wsss.options.train import TrainOptions
from wsss.reports.figures import plot_curves
from wsss.runs.run_folder import RunFolder
from wsss.stages.train_common import fold_name, going_on, loader_workers, make_job
from wsss.stages.train_maps import train_maps
from wsss.stages.train_masks import train_masks
from wsss.stages.train_start import FoldPlan, start_classifier
from wsss.training.distributed import World, join
from wsss.training.fit import Watch, fit
from wsss.training.loading import TrainLoader
from wsss.training.lr_find import find_rate
from wsss.training.preview import Preview
from wsss.training.self_training import ensure_self_trained
from wsss.training.tensorboard import open_tensorboard
from wsss.training.validate import Validator


def run(recipe: Recipe, options: TrainOptions) -> int:
    """Train as the options say; return the exit code."""
    keep_freed_memory()
    if recipe.task == "masks":
        return train_masks(recipe, options)
    if recipe.task == "maps":
        return train_maps(recipe, options)
    folder = default_dataset(options.data)

    with join(options.device) as world:
        data = DataSet.open(folder)
        run = options.run or Path("runs") / f"{data.folder.name}-{recipe.backbone}"
        for fold in _folds(options.fold, data):
            plan = _plan_fold(recipe, options, data, run / fold_name(fold), fold, world)
            with world.hold(plan.folder.path):
                train_fold(plan)
    return 0


def _folds(wanted: int | str, data: DataSet) -> list[int | None]:
    if wanted == "none":
        return [None]
    count = int(data.folds().max()) + 1
    if wanted == "all":
        return list(range(count))
    if int(wanted) >= count:
        raise ConfigError(f"fold is {wanted}, but {data.folder} has folds 0 to {count - 1}.")
    return [int(wanted)]


def _plan_fold(
    recipe: Recipe, options: TrainOptions, data: DataSet, path: Path, fold: int | None, world: World
) -> FoldPlan:
    """Find out what there is to train on, and whether it can be done."""
    device = choose_device(options.device, recipe.precision)
    _check_fit(recipe, data)
    _check_world(recipe, device, world)
    usable = data.ok & data.has_labels
    held_out = np.zeros(len(usable), bool) if fold is None else usable & (data.folds() == fold)
    train, valid = np.flatnonzero(usable & ~held_out), np.flatnonzero(held_out)
    _check_images(train, valid, fold, data)
    if recipe.cells.wanted:
        _check_cells(train, data, world)
    return FoldPlan(recipe, options, data, RunFolder(path), fold, world, device, train, valid)


def train_fold(plan: FoldPlan) -> None:
    """Train one network, or go on with it."""
    recipe, options, data, world, device = plan.recipe, plan.options, plan.data, plan.world, plan.device
    state, facts, teacher = start_classifier(plan)
    if world.leads:
        say(
            f"{plan.folder.path}: {recipe.backbone}, {len(plan.train)} images to train on, {len(plan.valid)} held out, "
            f"on {device.place}{f' x {world.size}' if world.size > 1 else ''}{going_on(state)}"
        )
    workers = loader_workers(options, world)
    loader = TrainLoader(data, plan.train, recipe, workers=workers, pinned=device.is_cuda, world=world)
    job = make_job(plan, facts, data.ids, teacher)
    if options.lr_find:
        find_rate(job, state, loader)
        return
    validate = Validator(data, plan.valid, recipe, device, workers, world) if len(plan.valid) else None
    fit(job, state, loader, validate, _watches(plan))
    if world.leads:
        plot_curves(state.progress.history, plan.folder.path / "curves.png", str(plan.folder.path))
        _feature_classifier(plan)
        _self_training(plan, state.inference_net)


def _feature_classifier(plan: FoldPlan) -> None:
    """Fit the classifier on cell features beside the network, if the recipe wants it and it is not there yet."""
    recipe, taught = plan.recipe, plan.recipe.self_training.enabled
    if recipe.feature_classifier.enabled and ensure_feature_classifier(
        plan.folder, plan.data, plan.train, recipe.feature_classifier, recipe.seed, soft_labels=taught
    ):
        say(
            f"{plan.folder.feature_classifier}: feature classifier fitted; feature_classifier.json says what it goes by"
        )


def _self_training(plan: FoldPlan, net: CamNet) -> None:
    """Train the network of single cells beside the first, if the recipe wants it and it is not there yet."""
    if plan.recipe.self_training.enabled and ensure_self_trained(
        plan.folder, plan.data, plan.train, plan.recipe, net, plan.device
    ):
        say(
            f"{plan.folder.self_trained}: self-trained network of single cells; self_trained.json says what it "
            "learnt from"
        )


def _watches(plan: FoldPlan) -> list[Watch]:
    """Return what looks on after each epoch."""
    options = plan.options
    found: list[Watch] = []
    if options.preview_every and len(plan.valid):
        found.append(Preview(plan.data, plan.valid, plan.device, plan.folder.path, every=options.preview_every))
    if options.tensorboard:
        found.append(open_tensorboard(plan.folder.path))
    return found


def _check_fit(recipe: Recipe, data: DataSet) -> None:
    step = recipe.puzzle.side * recipe.output_stride
    if data.size % step:
        raise ConfigError(
            f"images of {data.folder} are stored at {data.size} px, expected a multiple of {step} "
            "(puzzle.side x output_stride): prepare them at another --size, or choose other tiles."
        )
    if (recipe.feature_classifier.enabled or recipe.self_training.enabled) and data.roles != HPA_ROLES:
        raise ConfigError(
            "feature_classifier.enabled and self_training.enabled look at four channels, microtubules, protein, "
            "nucleus and ER in "
            f"this order; {data.folder} has {some(data.channels)}: leave them out."
        )
    weights = recipe.loss.class_weights
    if weights is not None and len(weights) != len(data.classes):
        raise ConfigError(
            f"loss.class_weights has {len(weights)} values, expected one for each of {len(data.classes)}."
        )


def _check_world(recipe: Recipe, device: Device, world: World) -> None:
    if recipe.batch < world.size:
        raise ConfigError(f"batch is {recipe.batch}, fewer than the {world.size} processes that share it: raise it.")
    if recipe.sync_bn and world.size > 1 and not device.is_cuda:
        raise ConfigError("sync_bn needs GPUs: leave it out where processes share CPUs.")


def _check_cells(train: Any, data: DataSet, world: World) -> None:
    """Refuse a data set without label maps; say how many images lack theirs."""
    lacking = without_cells(data, train)
    if len(lacking) == len(train):
        raise ConfigError(
            f"cells.pooling and cells.pieces need label maps, and {data.folder} has none of the {len(train)} images to "
            f"train on: run python -m wsss.segment --data {data.folder}, or leave these options out."
        )
    if lacking and world.leads:
        say(f"{len(lacking)} images have no label map and count as one cell each: {some(lacking)}")


def _check_images(train: Any, valid: Any, fold: int | None, data: DataSet) -> None:
    if len(train) == 0:
        raise DataError(f"{data.folder} has no labelled image to train on: prepare it with --labels.")
    if fold is not None and len(valid) == 0:
        raise DataError(f"{data.folder} has no labelled image in fold {fold}: choose another --fold, or 'none'.")
