"""What the tasks of a training differ in: data, network, batches, loss, validation. One file for each task."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from wsss.models.device import Device
from wsss.models.unet import Unet, build_unet
from wsss.options.recipe import Recipe, UnetRecipe
from wsss.options.train import TrainOptions
from wsss.runs.record import RunRecord
from wsss.runs.run_folder import RunFolder, is_checkpoint, same_fold
from wsss.training.fit import Learner, Validate, Watch
from wsss.training.loading import EpochLoader
from wsss.training.state import Net, World

Earlier = tuple[RunFolder, Path]
"""Run and file of an earlier network."""


def best_of(run: str, option: str, fold: int | None) -> Earlier:
    """Return the best weights of a fold in an earlier run that an option names.

    Raises:
        ConfigError: there are none.
    """
    folder = same_fold(run, option, fold)
    return folder, folder.best


@dataclass(frozen=True)
class Split:
    """The images of one fold's training, by their numbers."""

    fold: int | None
    """The held-out part; None for none."""
    train: np.ndarray
    """To learn from."""
    valid: np.ndarray
    """To validate on."""
    held_out: frozenset[str]
    """IDs of all that must not reach the network."""


class Task(ABC):
    """A task on its data.

    Raises:
        ConfigError: the recipe does not go with the data.
    """

    learner: ClassVar[type[Learner]]
    """The step of the loop with the task's loss."""
    ids: list[str]
    """ID of every image."""
    twins: Mapping[str, str]
    """Near-duplicates among them: ID -> what is the same for all of a field."""
    run_name: str
    """Name of the run where the options give none."""

    def __init__(self, recipe: Any, options: Any, device: Device, world: World) -> None:
        self.recipe: Recipe = recipe
        self.options: TrainOptions = options
        self.device, self.world = device, world

    @property
    @abstractmethod
    def folds(self) -> int:
        """Folds of the data."""

    @abstractmethod
    def split(self, fold: int | None) -> Split:
        """Return the images of a fold.

        Raises:
            ConfigError: there is nothing to learn it from.
            DataError: an image that is held out has reached what it is learnt from.
        """

    @abstractmethod
    def record(self, split: Split) -> RunRecord:
        """Return the record of a network, but for the networks that the options name."""

    def earlier(self, fold: int | None, *, fresh: bool) -> dict[str, Earlier]:
        """Return the earlier networks that reach this one, by the option that names them; `fresh`: at its beginning.

        A fresh one starts from the run that init_from names, or from a checkpoint of a run given as weights.
        """
        path = Path(self.recipe.weights)
        if not fresh:
            return {}
        if self.recipe.init_from is not None:
            return {"init_from": best_of(self.recipe.init_from, "init_from", fold)}
        return {"weights": (RunFolder(path.parent), path)} if path.is_file() and is_checkpoint(path) else {}

    @abstractmethod
    def build(self, earlier: Mapping[str, Earlier], *, pretrained: bool) -> Net:
        """Return the network on the CPU, with the weights it begins with; random ones if not `pretrained`."""

    def teacher(self, earlier: Mapping[str, Earlier]) -> Any:
        """Return the network whose maps are learnt too; None for none."""
        return None

    def loading(self, workers: int) -> dict[str, Any]:
        """Return how an `EpochLoader` loads here."""
        return {"workers": workers, "pinned": self.device.is_cuda, "world": self.world}

    @abstractmethod
    def batches(self, split: Split, workers: int) -> EpochLoader:
        """Return the batches to learn from."""

    @abstractmethod
    def validator(self, split: Split, workers: int) -> Validate | None:
        """Return what gives the figures of a network on the images to validate on; None where there are none."""

    def watches(self, split: Split, folder: RunFolder) -> list[Watch]:
        """Return what looks on after each epoch."""
        return []

    def finish(self, split: Split, folder: RunFolder) -> None:  # noqa: B027 (most tasks have nothing to do)
        """Make what stands beside a trained network."""

    def describe(self, split: Split) -> str:
        """Say what is trained on what, as part of a sentence."""
        return f"{self.recipe.backbone}, {len(split.train)} images to train on, {len(split.valid)} held out"


class UnetTask(Task):
    """A task whose network is a U-Net; an earlier run gives it its encoder."""

    recipe: UnetRecipe
    channels: int
    """Of an image."""
    outputs: int
    """Maps of the network."""

    def build(self, earlier: Mapping[str, Earlier], *, pretrained: bool) -> Unet:
        """Return the U-Net, its encoder with the weights of the run that it starts from, or pretrained ones."""
        weights = [str(path) for _, path in earlier.values()]
        recipe = replace(self.recipe, weights=weights[0]) if weights else self.recipe
        return build_unet(recipe, channels=self.channels, outputs=self.outputs, pretrained=pretrained)
