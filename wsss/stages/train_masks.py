"""The task 'masks' of `train`: a U-Net on images with masks, with the run folders and the loop of the classifier."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsss.core.checks import ConfigError
from wsss.core.console import say
from wsss.core.device import Device, choose_device
from wsss.core.digests import Digests
from wsss.core.files import as_read, digest_json
from wsss.core.runtime import versions
from wsss.data.augment_recipe import load_recipe
from wsss.data.mask_samples import Survey, coverage_folds, folds_digest, survey, training_augment
from wsss.data.masks import MaskSet
from wsss.data.tile_set import open_set
from wsss.options.recipe import Recipe
from wsss.options.train import TrainOptions
from wsss.reports.curves import plot_curves
from wsss.runs.run_folder import RunFolder
from wsss.stages.train_common import fold_name, going_on, loader_workers, make_job
from wsss.stages.train_start import start_unet
from wsss.training.distributed import World, join
from wsss.training.fit import fit
from wsss.training.lr_find import find_rate
from wsss.training.semantic_task import MaskLearner, MaskLoader, MaskValidator


@dataclass(frozen=True)
class MaskPlan:
    """One mask network to train."""

    recipe: Recipe
    options: TrainOptions
    masks: MaskSet
    found: Survey
    folds: np.ndarray
    folder: RunFolder
    fold: int | None
    world: World
    device: Device

    @property
    def valid(self) -> np.ndarray:
        """Numbers of the held-out images."""
        return np.flatnonzero(self.folds == self.fold) if self.fold is not None else np.zeros(0, np.int64)

    @property
    def train(self) -> np.ndarray:
        """Numbers of the images to train on."""
        return np.flatnonzero((self.folds >= 0) & (self.folds != (-2 if self.fold is None else self.fold)))

    @property
    def train_ids(self) -> list[str]:
        """IDs of the images to train on."""
        return [self.masks.ids[i] for i in self.train]


def train_masks(recipe: Recipe, options: TrainOptions) -> int:
    """Train mask networks as the recipe and the options say; return the exit code."""
    if options.data is None:
        raise ConfigError("task is masks, which needs a folder of images and masks: pass --data FOLDER.")
    with join(options.device) as world:
        device = choose_device(options.device, recipe.precision)
        masks = open_set(options.data, recipe.masks.channels, recipe.masks.tile)
        found = survey(masks)
        folds = coverage_folds(found.coverage, recipe.masks.folds, recipe.seed, masks.groups)
        run = options.run or Path("runs") / f"{masks.folder.resolve().name}-unet-{recipe.backbone}"
        for fold in _folds(options.fold, recipe.masks.folds):
            plan = MaskPlan(recipe, options, masks, found, folds, RunFolder(run / fold_name(fold)), fold, world, device)
            with world.hold(plan.folder.path):
                train_fold(plan)
    return 0


def _folds(wanted: int | str, count: int) -> list[int | None]:
    if wanted == "none":
        return [None]
    if wanted == "all":
        return list(range(count))
    if int(wanted) >= count:
        raise ConfigError(f"fold is {wanted}, but masks.folds is {count}: choose 0 to {count - 1}.")
    return [int(wanted)]


def train_fold(plan: MaskPlan) -> None:
    """Train one network, or go on with it."""
    recipe, options, masks, world, device = plan.recipe, plan.options, plan.masks, plan.world, plan.device
    facts = run_facts(plan)
    state = start_unet(
        plan,
        facts,
        channels=masks.channels,
        outputs=recipe.masks.outputs,
        seen=plan.train_ids,
        held_out=[masks.ids[i] for i in plan.valid],
    )
    if world.leads:
        say(
            f"{plan.folder.path}: U-Net on {recipe.backbone}, {len(plan.train)} images to train on, "
            f"{len(plan.valid)} held out, on {device.place}{going_on(state)}"
        )
    workers = loader_workers(options, world)
    augment = training_augment(recipe, masks, plan.found)
    empty = np.nan_to_num(plan.found.coverage) == 0
    pinned = device.is_cuda
    loader = MaskLoader(masks, plan.train, empty, recipe, augment, workers=workers, pinned=pinned, world=world)
    job = make_job(plan, facts, masks.ids)
    if options.lr_find:
        find_rate(job, state, loader, MaskLearner)
        return
    validate = MaskValidator(masks, plan.valid, recipe, device, world) if len(plan.valid) else None
    fit(job, state, loader, validate, learner=MaskLearner)
    if world.leads:
        plot_curves(state.progress.history, plan.folder.path / "curves.png", str(plan.folder.path))


def run_facts(plan: MaskPlan) -> dict[str, Any]:
    """Return what every checkpoint of a run says of it; a resumed run must agree, and --oof proves itself by it."""
    facts = {
        "recipe": asdict(plan.recipe),
        "augment": load_recipe(plan.recipe.augment),
        "fold": plan.fold,
        "data": folds_digest(plan.masks.ids, plan.folds),
        "train_ids": digest_json(plan.train_ids),
        "files": Digests().of(plan.masks.folder),
        "versions": versions(),
    }
    return as_read(facts)
