"""Train a Puzzle-CAM classifier on a prepared data set: one run folder, one sub-folder a fold."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wsss.core import cli
from wsss.core.checks import ConfigError, DataError, check_range
from wsss.core.files import digest_json
from wsss.core.recipe import Recipe
from wsss.core.runtime import cores, versions

if TYPE_CHECKING:
    from wsss.data.catalog import DataSet

EXAMPLES = """\
  python -m wsss.train --backbone seresnext50
  python -m wsss.train --data data/hpa --fold all --run runs/seresnext50
  python -m wsss.train --data data/hpa --config configs/puzzle_hpa.yaml --optim.lr 1e-4 --epochs 24
"""


@dataclass(frozen=True)
class TrainOptions:
    """Where and how a run is made; nothing here changes its weights."""

    data: Path | None = None
    """Prepared data set; default: the only one under data/."""
    run: Path | None = None
    """Run folder; default: runs/<data set>-<backbone>."""
    fold: int | Literal["all", "none"] = 0
    """Held-out fold; 'all' trains one network a fold, 'none' trains on every labelled image without validation."""
    resume: Literal["auto", "never"] = "auto"
    """auto: go on where the run stopped; never: start over, replacing what is there."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    workers: int | None = None
    """Loader processes; default: one less than the cores, 8 at most."""
    save_every: int = 0
    """Steps between saves within an epoch; 0 saves at the end of each epoch."""
    bad_batches: int = 0
    """Batches whose loss is not finite that are skipped before the run stops."""

    def __post_init__(self) -> None:
        check_range("save_every", self.save_every, 0)
        check_range("bad_batches", self.bad_batches, 0)
        if self.workers is not None:
            check_range("workers", self.workers, 0, 256)
        if isinstance(self.fold, int):
            check_range("fold", self.fold, 0)


def main(argv: Sequence[str] | None = None) -> int:
    """Train as the options say; return the exit code."""
    parser = cli.make_parser("train", __doc__ or "", EXAMPLES, Recipe, TrainOptions)
    recipe, options = cli.parse(parser, argv, Recipe, TrainOptions)
    folder = cli.default_dataset(options.data)

    from wsss.data.catalog import DataSet

    data = DataSet.open(folder)
    run = options.run or Path("runs") / f"{data.folder.name}-{recipe.backbone}"
    for fold in _folds(options.fold, data):
        train_fold(recipe, options, data, run / fold_name(fold), fold)
    return 0


def fold_name(fold: int | None) -> str:
    """Return the sub-folder of a fold's run; None is the run that holds nothing out."""
    return "full" if fold is None else f"fold{fold}"


def _folds(wanted: int | str, data: "DataSet") -> list[int | None]:
    if wanted == "none":
        return [None]
    count = int(data.folds().max()) + 1
    if wanted == "all":
        return list(range(count))
    if int(wanted) >= count:
        raise ConfigError(f"fold is {wanted}, but {data.folder} has folds 0 to {count - 1}.")
    return [int(wanted)]


def train_fold(recipe: Recipe, options: TrainOptions, data: "DataSet", path: Path, fold: int | None) -> None:
    """Train one network, or go on with it, in the folder `path`."""
    import numpy as np
    import torch

    from wsss.core.device import choose_device
    from wsss.core.run_folder import RunFolder, check_same_run
    from wsss.engine.fit import Job, fit
    from wsss.engine.loading import TrainLoader
    from wsss.engine.state import TrainState
    from wsss.engine.validate import Validator
    from wsss.models.cam_net import build_cam_net

    _check_fit(recipe, data)
    device = choose_device(options.device, recipe.precision)
    folder = RunFolder(path)
    usable = data.ok & data.has_labels
    held_out = np.zeros(len(usable), bool) if fold is None else usable & (data.folds() == fold)
    train, valid = np.flatnonzero(usable & ~held_out), np.flatnonzero(held_out)
    _check_images(train, valid, fold, data)
    names = [data.ids[i] for i in train]
    facts = run_facts(recipe, data, fold, names)

    loaded = folder.load() if options.resume == "auto" else None
    torch.manual_seed(recipe.seed)
    net = build_cam_net(recipe, channels=len(data.channels), classes=len(data.classes), pretrained=loaded is None)
    state = TrainState(net, recipe, device.place)
    if loaded is None:
        folder.begin(recipe, names)
    else:
        check_same_run(loaded[1], facts)
        state.restore(*loaded)
    where = state.progress
    cli.say(
        f"{path}: {recipe.backbone}, {len(train)} images to train on, {len(valid)} held out, on {device.place}"
        + (f"; going on after epoch {where.epoch}, step {where.step}" if loaded else "")
    )
    workers = min(8, cores() - 1) if options.workers is None else options.workers
    loader = TrainLoader(data, train, recipe, workers=workers, pinned=device.is_cuda)
    validate = Validator(data, valid, recipe, device, workers) if len(valid) else None
    job = Job(recipe, device, folder, facts, data.ids, options.save_every, options.bad_batches)
    fit(job, state, loader, validate)


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


def _check_images(train: Any, valid: Any, fold: int | None, data: "DataSet") -> None:
    if len(train) == 0:
        raise DataError(f"{data.folder} has no labelled image to train on: prepare it with --labels.")
    if fold is not None and len(valid) == 0:
        raise DataError(f"{data.folder} has no labelled image in fold {fold}: choose another --fold, or 'none'.")


if __name__ == "__main__":
    cli.run(main)
