"""Train a network on a prepared data set: one run folder, one sub-folder a fold."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor

from wsss.core.checks import ConfigError, DataError
from wsss.core.console import say
from wsss.core.files import as_read, digest_json
from wsss.core.runtime import cores
from wsss.data.origin import image_marks
from wsss.feature_classifier.store import NETWORK_SHARE
from wsss.feature_classifier.train import record_network_share
from wsss.inference.checkpoints import load_classifier
from wsss.inference.network_share import fit_network_share
from wsss.inference.sources import Task as Scoring
from wsss.models.device import Device, choose_device, keep_freed_memory
from wsss.models.encoder import is_custom, source_digest
from wsss.options.recipe import Recipe, UnetRecipe
from wsss.options.train import TrainOptions
from wsss.reports.figures import plot_curves
from wsss.runs.inputs import Digests
from wsss.runs.record import RunRecord, check_same_run, check_unseen, fold_name, inherit, join
from wsss.runs.run_folder import RunFolder
from wsss.training.fit import fit
from wsss.training.state import Job, TrainState, World, join_processes
from wsss.training.tasks import Earlier, Split, Task
from wsss.training.tasks.classify import ClassifyTask
from wsss.training.tasks.maps import MapTask
from wsss.training.tasks.masks import MaskTask
from wsss.training.watch import find_rate, open_tensorboard

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
    inherited = [_inherited(source, option, split, task) for option, source in earlier.items()]
    record = replace(record, inputs=record.inputs | _starting_weights(task, split.fold, saved) | _encoder(recipe))
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
    if world.leads and not options.lr_find and (saved is None or not folder.is_begun):
        for path in folder.snapshots() if saved is None else ():
            path.unlink()  # of a run before
        folder.begin(record)
    _check_together(plan, state)
    return _job(plan, record, task.teacher(earlier)), state


def _starting_weights(task: Task, fold: int | None, saved: Saved | None) -> dict[str, str]:
    """Return the digest of the networks that a run starts from or is taught by; what was saved where they are gone."""
    name, before = "starting_weights", {} if saved is None else saved[1]
    try:
        named = [path for _, path in task.earlier(fold, fresh=True).values()]
    except ConfigError:  # the run that it started from is gone
        if saved is None:
            raise
        named = []
    given = Path(task.recipe.weights)
    files = dict.fromkeys([*named, *([given] if given.is_file() and task.recipe.init_from is None else [])])
    if files:
        return {name: digest_json(Digests().of_files(files))}
    return {name: before[name]} if name in before else {}


def _encoder(recipe: Recipe) -> dict[str, str]:
    """Return the digest of the source code of an encoder that the user wrote."""
    custom = isinstance(recipe, UnetRecipe) and is_custom(recipe.backbone)
    return {"encoder": source_digest(recipe.backbone)} if custom else {}


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


def _inherited(earlier: Earlier, option: str, split: Split, task: Task) -> Any:
    """Return what reaches a network through an earlier one, none of which may be held out now; say what is unknown."""
    folder, path = earlier
    record = folder.read(path)[0]
    check_unseen(
        record.path,
        record.lineage,
        split.held_out,
        "images held out in this run, whose validation would be worth nothing",
        f"Choose a run that never saw them, for {option}.",
        task.twins,
    )
    reached = {name for ancestor in record.lineage or () for name in ancestor.images}
    if split.held_out and task.world.leads and (others := len(reached - set(task.ids))):
        say(
            f"note: {others} images that {record.path} learnt from have IDs that are not here. Whether a held-out "
            "image is one of them under another ID is not checked: its validation would be worth nothing."
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


TASKS: dict[str, type[Task]] = {"classify": ClassifyTask, "masks": MaskTask, "maps": MapTask}


def run(recipe: Recipe, options: TrainOptions) -> int:
    """Train as the options say; return the exit code."""
    keep_freed_memory()
    with join_processes(options.device) as world:
        task = TASKS[recipe.task](recipe, options, choose_device(options.device, recipe.precision), world)
        run = options.run or Path("runs") / task.run_name
        for fold in _folds(options, recipe, task):
            plan = Plan(task, task.split(fold), RunFolder(run / fold_name(fold)))
            with world.hold(plan.folder.path):
                train_fold(plan)
    return 0


def _folds(options: TrainOptions, recipe: Recipe, task: Task) -> list[int | None]:
    """Return the folds to hold out, one after another; None holds nothing out."""
    if options.fold == "none":
        if recipe.optim.early_stop:
            raise ConfigError("optim.early_stop needs a validation loss, and --fold none has none: leave it out.")
        return [None]
    if options.fold == "all":
        return list(range(task.folds))
    if int(options.fold) >= task.folds:
        raise ConfigError(
            f"fold is {options.fold}, but {options.data or 'the data set'} has folds 0 to {task.folds - 1}."
        )
    return [int(options.fold)]


def train_fold(plan: Plan) -> None:
    """Train one network, or resume it."""
    task, split, folder = plan.task, plan.split, plan.folder
    options, world = task.options, task.world
    job, state = start(plan)
    if world.leads:
        processes = f" x {world.size}" if world.size > 1 else ""
        say(f"{folder.path}: {task.describe(split)}, on {task.device.place}{processes}{_going_on(state)}")
    workers = _workers(options, world)
    batches = task.batches(split, workers)
    if options.lr_find:
        find_rate(job, state, batches, task.learner)
        return
    watches = task.watches(split, folder)
    if options.tensorboard:
        watches.append(open_tensorboard(folder.path))
    fit(job, state, batches, task.validator(split, workers), task.learner, watches)
    if world.leads:
        plot_curves(state.progress.history, folder.path / "curves.png", str(folder.path))
        task.finish(split, folder)
        if isinstance(task, ClassifyTask):
            _share_scores(task, split, folder)


def _share_scores(task: ClassifyTask, split: Split, folder: RunFolder) -> None:
    """Fit the network's share of the cells' scores to the held-out images, unless that is done or not wanted."""
    recipe, data = task.recipe, task.data
    if recipe.score.feature_share != "auto" or not len(split.valid) or not folder.feature_classifier.exists():
        return
    checkpoint = load_classifier(folder, task.device)
    marks = digest_json(image_marks(data, Digests(), split.valid))
    rules = {"score": recipe.score.facts(), "crops": asdict(recipe.crops)}
    made_with = as_read({"network": checkpoint.digest, "images": marks, **rules})
    assert checkpoint.feature_classifier is not None
    known = checkpoint.feature_classifier.meta.get(NETWORK_SHARE)
    if known is not None and known.get("made_with") == made_with:
        return
    scoring = Scoring(data, recipe.score, recipe.crops, task.device)
    if (fitted := fit_network_share(checkpoint, data, split.valid.tolist(), scoring, recipe.seed)) is None:
        return
    record_network_share(folder, data, fitted.meta() | {"made_with": made_with})
    say(
        f"{folder.path}: the network gets {fitted.by_class.mean():.0%} of the cells' scores; AP of the labels of "
        f"{fitted.images} held-out images: features {fitted.alone[0]:.3f}, network {fitted.alone[1]:.3f}, both "
        f"{fitted.blended:.3f}"
    )


def _workers(options: TrainOptions, world: World) -> int:
    """Return the loader processes of this process: as asked for, or one less than its share of the cores, 8 at most."""
    usual = max(0, min(8, (cores() - 1) // world.local_size))
    return usual if options.workers is None else options.workers


def _going_on(state: TrainState) -> str:
    """Return where a run resumes, as the end of a sentence; nothing for a new run."""
    where = state.progress
    return f"; going on after epoch {where.epoch}, step {where.step}" if where.epoch or where.step else ""
