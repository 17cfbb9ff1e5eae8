"""The task 'maps' of `train`: a U-Net learns the pseudo-masks of a classifier's class maps, one sigmoid map a class.

The U-Net of fold k learns from the folder foldK of the pseudo-masks, which the classifier of fold k has made of its own
training images. So no label of the images that fold k holds out reaches it, neither directly nor through its teacher.
There are no masks to validate on: the weights are those of the last epoch.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsss.core.checks import ConfigError
from wsss.core.console import say
from wsss.core.device import Device, choose_device
from wsss.data.catalog import DataSet, default_dataset
from wsss.data.pseudo import PseudoSet
from wsss.options.recipe import Recipe
from wsss.options.train import TrainOptions
from wsss.reports.figures import plot_curves
from wsss.runs.run_folder import RunFolder
from wsss.stages.train_common import fold_name, going_on, loader_workers, make_job
from wsss.stages.train_start import run_facts, start_unet
from wsss.training.distributed import World, join
from wsss.training.fit import fit
from wsss.training.lr_find import find_rate
from wsss.training.map_task import MapLearner, MapLoader


@dataclass(frozen=True)
class MapPlan:
    """One network to train."""

    recipe: Recipe
    options: TrainOptions
    data: DataSet
    pseudo: PseudoSet
    folder: RunFolder
    fold: int | None
    world: World
    device: Device

    @property
    def train(self) -> np.ndarray:
        """Numbers of the images to train on."""
        own = set(self.pseudo.ids)
        return np.array([i for i, name in enumerate(self.data.ids) if name in own], np.int64)

    @property
    def held_out(self) -> set[str]:
        """IDs of the images whose labels must not reach the network."""
        folds = self.data.folds() if self.fold is not None else [-1] * len(self.data)
        return {name for name, fold in zip(self.data.ids, folds, strict=True) if fold == self.fold}


def train_maps(recipe: Recipe, options: TrainOptions) -> int:
    """Train U-Nets of class maps as the recipe and the options say; return the exit code."""
    if options.pseudo is None:
        raise ConfigError("task is maps, which needs pseudo-masks: run python -m wsss.pseudo and pass --pseudo FOLDER.")
    if recipe.mask_loss.needs_border:
        raise ConfigError("mask_loss term 'border' is for objects: pseudo-masks have none, choose other terms.")
    with join(options.device) as world:
        data = DataSet.open(default_dataset(options.data))
        device = choose_device(options.device, recipe.precision)
        run = options.run or Path("runs") / f"{data.folder.name}-maps-{recipe.backbone}"
        for fold in _folds(options.fold, data):
            pseudo = PseudoSet.open(_source(options.pseudo, fold), data)
            plan = MapPlan(recipe, options, data, pseudo, RunFolder(run / fold_name(fold)), fold, world, device)
            pseudo.check_held_out(plan.held_out)
            with world.hold(plan.folder.path):
                train_fold(plan)
    return 0


def _folds(wanted: int | str, data: DataSet) -> list[int | None]:
    if wanted == "all":
        return list(range(int(data.folds().max()) + 1))
    return [None if wanted == "none" else int(wanted)]


def _source(pseudo: Path, fold: int | None) -> Path:
    """Return the folder of the pseudo-masks of a fold; for none, out-of-fold ones or those of a network of all images.

    Raises:
        ConfigError: there is none.
    """
    names = [fold_name(fold)] if fold is not None else ["oof", "full"]
    found = [pseudo / name for name in names if (pseudo / name).is_dir()]
    if not found:
        held = sorted(path.name for path in pseudo.iterdir() if path.is_dir()) if pseudo.is_dir() else []
        raise ConfigError(
            f"{pseudo} has no {' or '.join(names)}, but {', '.join(held) or 'nothing'}: choose another --fold, or make "
            "these pseudo-masks."
        )
    return found[0]


def train_fold(plan: MapPlan) -> None:
    """Train one network, or go on with it."""
    recipe, options, data, world, device = plan.recipe, plan.options, plan.data, plan.world, plan.device
    # Whose labels have reached it: those of its images, and those its teacher was trained on.
    seen = sorted(plan.pseudo.seen)
    facts = {**run_facts(recipe, data, plan.fold, seen), "pseudo": plan.pseudo.digest}
    channels, outputs = len(data.channels), len(data.classes)
    state = start_unet(plan, facts, channels=channels, outputs=outputs, seen=seen, held_out=plan.held_out)
    if world.leads:
        say(
            f"{plan.folder.path}: U-Net of class maps on {recipe.backbone}, {len(plan.train)} images with pseudo-masks "
            f"of {plan.pseudo.folder}, on {device.place}{going_on(state)}"
        )
    workers = loader_workers(options, world)
    loader = MapLoader(data, plan.pseudo, plan.train, recipe, workers=workers, pinned=device.is_cuda, world=world)
    job = make_job(plan, facts, data.ids)
    if options.lr_find:
        find_rate(job, state, loader, MapLearner)
        return
    fit(job, state, loader, None, learner=MapLearner)
    if world.leads:
        plot_curves(state.progress.history, plan.folder.path / "curves.png", str(plan.folder.path))
