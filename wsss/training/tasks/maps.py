"""Class maps: a U-Net learns the pseudo-masks of a classifier's class maps, one sigmoid map a class.

The U-Net of fold k learns from the folder foldK of the pseudo-masks, which the classifier of fold k has made of its own
training images. So no label of the images that fold k holds out reaches it, neither directly nor through its teacher.
There are no masks to validate on: the weights are those of the last epoch.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from wsss.core.checks import ConfigError, refuse_idle, some
from wsss.core.files import PSEUDO_MASKS, kind_of, not_that
from wsss.data.augment import Augment
from wsss.data.catalog import DataSet, default_dataset
from wsss.data.pseudo import PseudoSet
from wsss.models.device import Device
from wsss.options.masks import IGNORE
from wsss.options.recipe import MapRecipe
from wsss.options.train import MapOptions
from wsss.runs.record import RunRecord, check_unseen, fold_name
from wsss.training.fit import Validate
from wsss.training.loading import EpochLoader, Key, balanced_draw
from wsss.training.state import World
from wsss.training.tasks import Split, UnetTask
from wsss.training.tasks.classify import augment_of, record_of_data
from wsss.training.tasks.masks import MaskLearner


class MapSamples(Dataset[tuple[Tensor, Tensor, int]]):
    """Samples (image (C, h, w) uint8, target (K, h, w) uint8 of 0, 1 and 255, index), augmented by the seed of the key.

    Pixels beyond the image's edge are ignored.
    """

    def __init__(self, data: DataSet, pseudo: PseudoSet, augment: Augment) -> None:
        self.data, self.pseudo, self.augment = data, pseudo, augment

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor, int]:
        """Read one image; the same key always gives the same sample."""
        index, seed = key
        classes, masks = self.pseudo.masks(self.data.ids[index])
        planes = [*masks, np.ones(masks.shape[1:], np.uint8)]
        image, moved = self.augment.with_masks(self.data.image(index), planes, seed)
        *moved_masks, inside = moved
        target = np.zeros((len(self.data.classes), *inside.shape), np.uint8)
        for k, mask in zip(classes, moved_masks, strict=True):
            target[k] = mask
        target[:, inside == 0] = IGNORE
        return torch.from_numpy(image), torch.from_numpy(target), index


class MapTask(UnetTask):
    """U-Nets of the class maps of a prepared data set."""

    learner = MaskLearner
    recipe: MapRecipe
    options: MapOptions

    def __init__(self, recipe: MapRecipe, options: MapOptions, device: Device, world: World) -> None:
        super().__init__(recipe, options, device, world)
        if options.pseudo is None:
            raise ConfigError(
                "task is maps, which needs pseudo-masks: run python -m wsss.pseudo and pass --pseudo FOLDER."
            )
        of_masks = ("border_weight", "border_sigma", "empty_weight")
        refuse_idle(recipe.mask_loss, of_masks, "in the task maps", "mask_loss.")
        self.folder = options.pseudo
        self._opened: dict[int | None, PseudoSet] = {}
        self.data = DataSet.open(default_dataset(options.data))
        self.ids, self.twins = self.data.ids, self.data.twins
        self.channels, self.outputs = len(self.data.channels), len(self.data.classes)
        self.run_name = f"{self.data.folder.name}-maps-{recipe.backbone}"

    @property
    def folds(self) -> int:
        """Folds of the data set."""
        return int(self.data.folds().max()) + 1

    def split(self, fold: int | None) -> Split:
        """Return the images with pseudo-masks; those of the fold must not have shaped them.

        Raises:
            ConfigError: there are no pseudo-masks of the fold.
            DataError: a held-out image reached them.
        """
        masks = self._masks(fold)
        named = set(masks.ids)
        train = np.array([i for i, name in enumerate(self.ids) if name in named], np.int64)
        folds = self.data.folds() if fold is not None else np.full(len(self.ids), -1)
        held_out = frozenset() if fold is None else frozenset(self.ids[i] for i in np.flatnonzero(folds == fold))
        split = Split(fold, train, np.zeros(0, np.int64), held_out)
        check_unseen(
            masks.folder,
            self.record(split).lineage,
            held_out,
            "images that this fold holds out",
            "Make pseudo-masks without --oof, so that each fold has its own, or train with --fold none.",
            self.twins,
        )
        return split

    def _masks(self, fold: int | None) -> PseudoSet:
        """Open the pseudo-masks of a fold once; for none, out-of-fold ones or those of a network of all images."""
        if fold not in self._opened:
            self._opened[fold] = self._open(fold)
        return self._opened[fold]

    def _open(self, fold: int | None) -> PseudoSet:
        names = [fold_name(fold)] if fold is not None else ["oof", "full"]
        folders = [self.folder / name for name in names if (self.folder / name).is_dir()]
        if not folders:
            if kind_of(self.folder) != PSEUDO_MASKS:
                raise ConfigError(f"{not_that(self.folder, PSEUDO_MASKS)}: check --pseudo.")
            held = some(sorted(path.parent.name for path in self.folder.glob("*/pseudo.json"))) or "those of one fold"
            raise ConfigError(
                f"{self.folder} has no {' or '.join(names)}, but {held}: choose another --fold, or make these "
                "pseudo-masks."
            )
        return PseudoSet.open(Path(folders[0]), self.data)

    def record(self, split: Split) -> RunRecord:
        """Return the record of a network; images have reached it through its masks' networks too."""
        masks = self._masks(split.fold)
        record = record_of_data(self.recipe, self.data, split.fold, sorted(masks.seen))
        return replace(record, inputs=record.inputs | masks.inputs, ancestors=masks.ancestors)

    def batches(self, split: Split, workers: int) -> EpochLoader:
        """Return batches in the classifier's order and augmentation, with a mask a class in the labels' place."""
        recipe, data = self.recipe, self.data
        samples = MapSamples(data, self._masks(split.fold), augment_of(recipe, data))
        draw = balanced_draw(data.labels, split.train, recipe.sampler, recipe.seed)
        return EpochLoader(samples, draw, len(split.train), recipe, **self.loading(workers))

    def validator(self, split: Split, workers: int) -> Validate | None:
        """Return None: there are no masks to validate on."""
        return None

    def describe(self, split: Split) -> str:
        """Say what is trained on what."""
        masks = self._masks(split.fold).folder
        return f"U-Net of class maps on {self.recipe.backbone}, {len(split.train)} images with pseudo-masks of {masks}"
