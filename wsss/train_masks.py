"""The task 'masks' of `train`: a U-Net on images with masks, with the run folders and the loop of the classifier."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from wsss.core import cli
from wsss.core.checks import ConfigError, DataError, some
from wsss.core.device import Device, choose_device
from wsss.core.files import digest_json, write_csv
from wsss.core.recipe import Recipe
from wsss.core.run_folder import RunFolder, check_same_run
from wsss.core.runtime import versions
from wsss.train_common import TrainOptions, fold_name, going_on, loader_workers, make_job

if TYPE_CHECKING:
    import numpy as np

    from wsss.data.mask_samples import Survey
    from wsss.data.masks import MaskSet
    from wsss.engine.distributed import World
    from wsss.engine.job import Job
    from wsss.engine.loading import Batches
    from wsss.engine.state import TrainState
    from wsss.engine.step import Learner


@dataclass(frozen=True)
class MaskPlan:
    """One mask network to train."""

    recipe: Recipe
    options: TrainOptions
    masks: "MaskSet"
    found: "Survey"
    folds: "np.ndarray"
    folder: RunFolder
    fold: int | None
    world: "World"
    device: Device

    @property
    def valid(self) -> "np.ndarray":
        """Numbers of the held-out images."""
        import numpy as np

        return np.flatnonzero(self.folds == self.fold) if self.fold is not None else np.zeros(0, np.int64)

    @property
    def train(self) -> "np.ndarray":
        """Numbers of the images to train on."""
        import numpy as np

        return np.flatnonzero((self.folds >= 0) & (self.folds != (-2 if self.fold is None else self.fold)))

    @property
    def train_ids(self) -> list[str]:
        """IDs of the images to train on."""
        return [self.masks.ids[i] for i in self.train]


def train_masks(recipe: Recipe, options: TrainOptions) -> int:
    """Train mask networks as the recipe and the options say; return the exit code."""
    from wsss.data.mask_samples import coverage_folds, survey
    from wsss.data.tile_set import open_set
    from wsss.engine.distributed import join

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
    import numpy as np

    from wsss.data.mask_samples import training_augment
    from wsss.engine.fit import fit
    from wsss.engine.semantic_task import MaskLearner, MaskLoader, MaskValidator
    from wsss.reports.curves import plot_curves

    recipe, options, masks, world, device = plan.recipe, plan.options, plan.masks, plan.world, plan.device
    state, facts = _start(plan)
    if world.leads:
        cli.say(
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


def _start(plan: MaskPlan) -> "tuple[TrainState, dict[str, Any]]":
    """Build the network, or load it as it was left; return it with what its checkpoints say."""
    import torch

    from wsss.engine.state import TrainState
    from wsss.models.unet import build_unet

    recipe, world = plan.recipe, plan.world
    resumes = plan.options.resume == "auto" and not plan.options.lr_find
    loaded = plan.folder.load() if resumes else None
    facts = run_facts(plan)
    first = recipe
    if recipe.init_from is not None and loaded is None:
        held_out = {plan.masks.ids[i] for i in plan.valid}
        first = replace(recipe, weights=str(earlier_weights(recipe.init_from, plan.fold, held_out)))
    torch.manual_seed(recipe.seed)
    fetch = loaded is None and world.leads
    net = build_unet(first, channels=plan.masks.channels, outputs=recipe.masks.outputs, pretrained=fetch)
    net = net.to(plan.device.place)
    world.spread(net)
    # The loop asks of a network no more than its state dict and its new parameters.
    state = TrainState(cast(Any, net), recipe, plan.device)
    if loaded is not None:
        check_same_run(loaded[1], facts)
        state.restore(*loaded)
    elif world.leads and not plan.options.lr_find:
        plan.folder.begin(recipe, plan.train_ids)
    return state, facts


def earlier_weights(run: str, fold: int | None, held_out: set[str]) -> Path:
    """Return the weights of the same fold of an earlier run, which must not have seen the images held out now.

    Raises:
        ConfigError: the run has no such fold.
        DataError: it saw a held-out image.
    """
    from wsss.predict.members import find_folders

    found = find_folders(Path(run))
    same = [folder for folder in found if folder.path.name == fold_name(fold)]
    if not same and len(found) > 1:
        raise ConfigError(f"init_from is {run}, which has no {fold_name(fold)}: name the folder of one fold.")
    folder = (same or found)[0]
    known = set(folder.ids.read_text().splitlines()) if folder.ids.exists() else set()
    seen = known & held_out
    if seen:
        raise DataError(
            f"{folder.path} was trained on {some(sorted(seen))}, held out in this run: its validation would be worth "
            "nothing. Choose another run for init_from."
        )
    return folder.best


def run_facts(plan: MaskPlan) -> dict[str, Any]:
    """Return what every checkpoint of a run says of it; a resumed run must agree, and --oof proves itself by it."""
    from wsss.data.augment_recipe import load_recipe
    from wsss.data.mask_samples import folds_digest

    facts = {
        "recipe": asdict(plan.recipe),
        "augment": load_recipe(plan.recipe.augment),
        "fold": plan.fold,
        "data": folds_digest(plan.masks.ids, plan.folds),
        "train_ids": digest_json(plan.train_ids),
        "versions": versions(),
    }
    plain: dict[str, Any] = json.loads(json.dumps(facts))  # as it comes back from a checkpoint
    return plain


def find_rate(job: "Job", state: "TrainState", loader: "Batches", learner: "type[Learner]") -> None:
    """Do a range test, write its table and plot, say what it suggests."""
    import pandas as pd

    from wsss.engine.lr_find import range_test, suggest
    from wsss.reports.curves import plot_range_test

    rows = range_test(job, state, loader, learner=learner)
    if not job.world.leads:
        return
    path, rate = job.folder.path, suggest(rows)
    write_csv(path / "lr_find.csv", pd.DataFrame(rows))
    plot_range_test(rows, rate, path / "lr_find.png")
    cli.say(f"{path}/lr_find.png: {len(rows)} rates up to {rows[-1]['lr']:.2g}; suggestion --optim.lr {rate:.2g}")
