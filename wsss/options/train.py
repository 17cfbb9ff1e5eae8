"""Train a network on a prepared data set: one run folder, one sub-folder a fold.

--task chooses what is learnt: classify (default), a Puzzle-CAM classifier from image labels; masks, a U-Net from masks;
maps, a U-Net from the pseudo-masks of wsss.pseudo. Each has its own options."""

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wsss.core.checks import between, check_fields
from wsss.core.hub import check_hub
from wsss.options.parsing import first_value
from wsss.options.recipe import ClassifyRecipe, MapRecipe, MaskRecipe, Recipe, recipe_class

EXAMPLES = """\
  python -m wsss.train --backbone seresnext50
  python -m wsss.train --data data/hpa --fold all --run runs/seresnext50
  python -m wsss.train --data data/hpa --config published_recipe --optim.lr 1e-4 --epochs 24
  python -m wsss.train --data data/hpa --lr_find true
  python -m wsss.train --data salt/train --config unet_salt --fold all
  torchrun --nproc_per_node 4 -m -- wsss.train --data data/hpa --fold all --run runs/four
"""


@dataclass(frozen=True)
class TrainOptions:
    """Where and how a run is made; nothing here changes its weights, but for rounding."""

    data: Path | None = None
    """Prepared data set, default: the only one under data/; for the task masks a folder of images and masks."""
    run: Path | None = None
    """Run folder; default: runs/<data set>-<backbone>."""
    fold: int | Literal["all", "none"] = between(0, 0)
    """Held-out fold; 'all' trains one network a fold, 'none' trains on every labelled image without validation."""
    resume: Literal["auto", "never"] = "auto"
    """auto: go on where the run stopped; never: start over, replacing what is there."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    workers: int | None = between(None, 0, 256)
    """Loader processes; default: one less than the cores, 8 at most."""
    save_every: int = between(0, 0)
    """Steps between saves within an epoch; 0 saves at the end of each epoch."""
    bad_batches: int = between(0, 0)
    """Batches whose loss is not finite that are skipped before the run stops."""
    tensorboard: bool = False
    """Write the figures of every epoch for TensorBoard too (needs the extra tensorboard)."""
    lr_find: bool = False
    """Do no training: try rising learning rates, write lr_find.csv and .png, suggest one."""
    compile: bool = False
    """Let torch.compile make the network faster; the first steps are slow, results differ by rounding."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class ClassifyOptions(TrainOptions):
    """Where and how a classifier is trained."""

    cell_labels: Path | None = None
    """Table of cells labelled by hand, such as cells_truth.csv of wsss review: the feature classifier learns from those
    in the training images. Given to a run that is finished, only its feature classifiers are fitted again."""
    preview_every: int = between(0, 0)
    """Epochs between pictures of a few validation images with their class maps (preview/); 0 for none."""


@dataclass(frozen=True)
class MapOptions(TrainOptions):
    """Where and how a U-Net of class maps is trained."""

    pseudo: Path | None = None
    """Folder of pseudo-masks to learn from."""


TASKS: dict[str, tuple[type, type]] = {
    "classify": (ClassifyRecipe, ClassifyOptions),
    "masks": (MaskRecipe, TrainOptions),
    "maps": (MapRecipe, MapOptions),
}
"""The options of each task."""
OPTIONS = TASKS["classify"]


def choose(words: Sequence[str]) -> str:
    """Return the task that words, or the file behind --config, name.

    Raises:
        ConfigError: there is no such task.
    """
    task = first_value(words, "task") or "classify"
    recipe_class(task)
    return task


def check(recipe: Recipe, options: TrainOptions) -> None:
    """Refuse a new run whose weights cannot be fetched from the hub, before anything slow is imported.

    Raises:
        ConfigError: they are not here, and the hub does not answer.
    """
    begun = [options.run] if options.run else Path("runs").glob(f"*-{glob.escape(recipe.backbone)}")
    going_on = options.resume == "auto" and any(any(run.glob("*/*")) for run in begun)
    is_first = os.environ.get("RANK", "0") == "0"  # of several processes, which start from its weights
    # otherwise this is what must be said
    has_data = options.data.exists() if options.data else recipe.task != "masks" and Path("data").exists()
    has_data = has_data and getattr(options, "pseudo", "") is not None
    if recipe.weights == "hub" and not recipe.init_from and is_first and has_data and not going_on:
        check_hub(recipe.backbone)
