"""Train a network on a prepared data set: one run folder, one sub-folder a fold."""

from pathlib import Path

from wsss.core.checks import ConfigError
from wsss.core.console import say
from wsss.core.device import choose_device
from wsss.core.runtime import cores, keep_freed_memory
from wsss.options.recipe import Recipe
from wsss.options.train import TrainOptions
from wsss.reports.figures import plot_curves
from wsss.runs.record import fold_name
from wsss.runs.run_folder import RunFolder
from wsss.training.distributed import World, join
from wsss.training.fit import fit
from wsss.training.lr_find import find_rate
from wsss.training.start import Plan, start
from wsss.training.state import TrainState
from wsss.training.tasks import Task
from wsss.training.tasks.classify import ClassifyTask
from wsss.training.tasks.maps import MapTask
from wsss.training.tasks.masks import MaskTask
from wsss.training.tensorboard import open_tensorboard

TASKS: dict[str, type[Task]] = {"classify": ClassifyTask, "masks": MaskTask, "maps": MapTask}


def run(recipe: Recipe, options: TrainOptions) -> int:
    """Train as the options say; return the exit code."""
    keep_freed_memory()
    with join(options.device) as world:
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


def _workers(options: TrainOptions, world: World) -> int:
    """Return the loader processes of this process: as asked for, or one less than its share of the cores, 8 at most."""
    usual = max(0, min(8, (cores() - 1) // world.local_size))
    return usual if options.workers is None else options.workers


def _going_on(state: TrainState) -> str:
    """Return where a run resumes, as the end of a sentence; nothing for a new run."""
    where = state.progress
    return f"; going on after epoch {where.epoch}, step {where.step}" if where.epoch or where.step else ""
