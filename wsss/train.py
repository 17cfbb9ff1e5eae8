"""Train a Puzzle-CAM classifier on a prepared data set: one run folder, one sub-folder a fold."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsss.core import cli
from wsss.core.checks import ConfigError, DataError, some
from wsss.core.device import Device, choose_device
from wsss.core.files import digest_file, digest_json
from wsss.core.recipe import Recipe
from wsss.core.run_folder import RunFolder, check_same_run
from wsss.core.runtime import keep_freed_memory, versions
from wsss.reports.curves import plot_curves
from wsss.train_common import TrainOptions, fold_name, going_on, loader_workers, make_job

if TYPE_CHECKING:
    import numpy as np

    from wsss.data.catalog import DataSet
    from wsss.engine.distributed import World
    from wsss.engine.fit import Watch
    from wsss.engine.state import TrainState
    from wsss.models.cam_net import CamNet
    from wsss.predict.members import Member

EXAMPLES = """\
  python -m wsss.train --backbone seresnext50
  python -m wsss.train --data data/hpa --fold all --run runs/seresnext50
  python -m wsss.train --data data/hpa --config configs/puzzle_hpa.yaml --optim.lr 1e-4 --epochs 24
  python -m wsss.train --data data/hpa --lr_find true
  python -m wsss.train --data salt/train --config configs/unet_salt.yaml --fold all
  torchrun --nproc_per_node 4 -m -- wsss.train --data data/hpa --fold all --run runs/four
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Train as the options say; return the exit code."""
    parser = cli.make_parser("train", __doc__ or "", EXAMPLES, Recipe, TrainOptions)
    recipe, options = cli.parse(parser, argv, Recipe, TrainOptions)
    keep_freed_memory()
    if recipe.task == "masks":
        from wsss.train_masks import train_masks

        return train_masks(recipe, options)
    if recipe.task == "maps":
        from wsss.train_maps import train_maps

        return train_maps(recipe, options)
    folder = cli.default_dataset(options.data)

    from wsss.data.catalog import DataSet
    from wsss.engine.distributed import join

    with join(options.device) as world:
        data = DataSet.open(folder)
        run = options.run or Path("runs") / f"{data.folder.name}-{recipe.backbone}"
        for fold in _folds(options.fold, data):
            plan = _plan_fold(recipe, options, data, run / fold_name(fold), fold, world)
            with world.hold(plan.folder.path):
                train_fold(plan)
    return 0


def _folds(wanted: int | str, data: "DataSet") -> list[int | None]:
    if wanted == "none":
        return [None]
    count = int(data.folds().max()) + 1
    if wanted == "all":
        return list(range(count))
    if int(wanted) >= count:
        raise ConfigError(f"fold is {wanted}, but {data.folder} has folds 0 to {count - 1}.")
    return [int(wanted)]


@dataclass(frozen=True)
class FoldPlan:
    """One network to train."""

    recipe: Recipe
    options: TrainOptions
    data: "DataSet"
    folder: RunFolder
    fold: int | None
    world: "World"
    device: Device
    train: "np.ndarray"
    """Numbers of the images to train on."""
    valid: "np.ndarray"
    """Numbers of the held-out images."""

    @property
    def train_ids(self) -> list[str]:
        """IDs of the images to train on."""
        return [self.data.ids[i] for i in self.train]


def _plan_fold(
    recipe: Recipe, options: TrainOptions, data: "DataSet", path: Path, fold: int | None, world: "World"
) -> FoldPlan:
    """Find out what there is to train on, and whether it can be done."""
    import numpy as np

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
    from wsss.engine.fit import fit
    from wsss.engine.loading import TrainLoader
    from wsss.engine.lr_find import find_rate
    from wsss.engine.validate import Validator

    recipe, options, data, world, device = plan.recipe, plan.options, plan.data, plan.world, plan.device
    state, facts, teacher = _start(plan)
    if world.leads:
        cli.say(
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
        _second_opinion(plan)
        _self_training(plan, state.inference_net)


def _second_opinion(plan: FoldPlan) -> None:
    """Fit the classifier on cell features beside the network, if the recipe wants it and it is not there yet."""
    from wsss.engine.opinion import ensure_opinion

    recipe, taught = plan.recipe, plan.recipe.self_training.enabled
    if recipe.opinion.enabled and ensure_opinion(
        plan.folder, plan.data, plan.train, recipe.opinion, recipe.seed, soft_labels=taught
    ):
        cli.say(f"{plan.folder.opinion}: second opinion fitted; opinion.json says what it goes by")


def _self_training(plan: FoldPlan, net: "CamNet") -> None:
    """Train the network of single cells beside the first, if the recipe wants it and it is not there yet."""
    from wsss.engine.self_training import ensure_student

    if plan.recipe.self_training.enabled and ensure_student(
        plan.folder, plan.data, plan.train, plan.recipe, net, plan.device
    ):
        cli.say(f"{plan.folder.student}: self-trained network of single cells; student.json says what it learnt from")


def _start(plan: FoldPlan) -> "tuple[TrainState, dict[str, Any], CamNet | None]":
    """Build the network, or load it as it was left; return it with what its checkpoints say, and its teacher."""
    import torch

    from wsss.engine.state import TrainState
    from wsss.models.cam_net import build_cam_net
    from wsss.models.weights import load_weights

    recipe, world, data = plan.recipe, plan.world, plan.data
    resumes = plan.options.resume == "auto" and not plan.options.lr_find
    loaded = plan.folder.load() if resumes else None
    teacher = _earlier(recipe.drs.refine_from, "drs.refine_from", plan)
    first = _earlier(recipe.init_from, "init_from", plan) if loaded is None else None
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
    net = _join_norms(net.to(plan.device.place), plan)
    world.spread(net)
    state = TrainState(net, recipe, plan.device)
    if loaded is not None:
        check_same_run(loaded[1], facts)
        state.restore(*loaded)
    elif world.leads and not plan.options.lr_find:
        plan.folder.begin(recipe, plan.train_ids)
    _check_together(state, plan)
    return state, facts, None if teacher is None else teacher.net


def _join_norms(net: "CamNet", plan: FoldPlan) -> "CamNet":
    """Join the batch norms of all processes, if the recipe says so."""
    from timm.layers import convert_sync_batchnorm

    joined: CamNet = convert_sync_batchnorm(net) if plan.recipe.sync_bn and plan.world.size > 1 else net
    return joined


def _earlier(run: str | None, option: str, plan: FoldPlan) -> "Member | None":
    """Load the network of an earlier run that saw none of the images held out now.

    Raises:
        ConfigError: there is none.
        DataError: it has other classes or channels, or it saw a held-out image.
    """
    from wsss.predict.members import check_fits, find_folders, load_member

    if run is None:
        return None
    found = find_folders(Path(run))
    same = [folder for folder in found if folder.path.name == fold_name(plan.fold)]
    if not same and len(found) > 1:
        raise ConfigError(
            f"{option} is {run}, which has no {fold_name(plan.fold)}: name the folder of one of its folds."
        )
    member = load_member((same or found)[0], plan.device)
    check_fits(member, plan.data)
    seen = member.train_ids & {plan.data.ids[i] for i in plan.valid}
    if seen:
        raise DataError(
            f"{member.path} was trained on {some(sorted(seen))}, held out in this run: its validation would be worth "
            f"nothing. Choose a run whose {fold_name(plan.fold)} holds out the same images, for {option}."
        )
    return member


def _check_together(state: "TrainState", plan: FoldPlan) -> None:
    """Refuse processes that found different checkpoints: the folder of the run is not shared by their machines."""
    import numpy as np

    where = state.progress
    places = plan.world.gather(np.array([[where.epoch, where.step]], np.float64))
    if (places != places[0]).any():
        raise DataError(
            f"processes found {plan.folder.path} at different epochs and steps {places.astype(int).tolist()}: "
            "put the run on a disk that all machines share."
        )


def _watches(plan: FoldPlan) -> "list[Watch]":
    """Return what looks on after each epoch."""
    from wsss.engine.preview import Preview
    from wsss.engine.tensorboard import open_tensorboard

    options = plan.options
    found: list[Watch] = []
    if options.preview_every and len(plan.valid):
        found.append(Preview(plan.data, plan.valid, plan.device, plan.folder.path, every=options.preview_every))
    if options.tensorboard:
        found.append(open_tensorboard(plan.folder.path))
    return found


def run_facts(recipe: Recipe, data: "DataSet", fold: int | None, train_ids: list[str]) -> dict[str, Any]:
    """Return what every checkpoint of a run says of it; a resumed run must agree, and --oof proves itself by it."""
    from wsss.data.augment_recipe import load_recipe

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
    found = data.folder / "segments.csv"
    if recipe.cells.wanted and found.exists():
        facts["cells"] = digest_file(found)  # these cells shape the weights
    plain: dict[str, Any] = json.loads(json.dumps(facts))  # as it comes back from a checkpoint
    return plain


def _check_fit(recipe: Recipe, data: "DataSet") -> None:
    step = recipe.puzzle.side * recipe.output_stride
    if data.size % step:
        raise ConfigError(
            f"images of {data.folder} are stored at {data.size} px, expected a multiple of {step} "
            "(puzzle.side x output_stride): prepare them at another --size, or choose other tiles."
        )
    weights = recipe.loss.class_weights
    if weights is not None and len(weights) != len(data.classes):
        raise ConfigError(
            f"loss.class_weights has {len(weights)} values, expected one for each of {len(data.classes)}."
        )


def _check_world(recipe: Recipe, device: Device, world: "World") -> None:
    if recipe.batch < world.size:
        raise ConfigError(f"batch is {recipe.batch}, fewer than the {world.size} processes that share it: raise it.")
    if recipe.sync_bn and world.size > 1 and not device.is_cuda:
        raise ConfigError("sync_bn needs GPUs: leave it out where processes share CPUs.")


def _check_cells(train: Any, data: "DataSet", world: "World") -> None:
    """Refuse a data set without label maps; say how many images lack theirs."""
    from wsss.data.cell_maps import without_cells

    lacking = without_cells(data, train)
    if len(lacking) == len(train):
        raise ConfigError(
            f"cells.pooling and cells.pieces need label maps, and {data.folder} has none of the {len(train)} images to "
            f"train on: run python -m wsss.segment --data {data.folder}, or leave these options out."
        )
    if lacking and world.leads:
        cli.say(f"{len(lacking)} images have no label map and count as one cell each: {some(lacking)}")


def _check_images(train: Any, valid: Any, fold: int | None, data: "DataSet") -> None:
    if len(train) == 0:
        raise DataError(f"{data.folder} has no labelled image to train on: prepare it with --labels.")
    if fold is not None and len(valid) == 0:
        raise DataError(f"{data.folder} has no labelled image in fold {fold}: choose another --fold, or 'none'.")


if __name__ == "__main__":
    cli.run(main)
