"""Classification: image labels and class maps (Puzzle-CAM)."""

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wsss.core.channels import default_roles
from wsss.core.checks import ConfigError, DataError, pasted, some
from wsss.core.console import progress, say
from wsss.core.files import digest_json
from wsss.core.runtime import versions
from wsss.data.augment import Augment, build_augment, load_recipe
from wsss.data.catalog import DataSet, default_dataset
from wsss.data.origin import doubtful_cells, image_marks, without_cells
from wsss.feature_classifier.fit import TooFewCells
from wsss.feature_classifier.train import Lessons, ensure_feature_classifier
from wsss.metrics.cells import CellTruth, read_cell_truth
from wsss.metrics.classify import average_precision, f1, mean_of_classes
from wsss.models.cam_net import CamNet, PuzzleCam, SiameseOutput, build_cam_net
from wsss.models.device import Device, in_parts
from wsss.models.weights import load_weights, strip
from wsss.options.recipe import ClassifyRecipe, Recipe
from wsss.options.train import ClassifyOptions
from wsss.runs.inputs import Digests
from wsss.runs.record import RunRecord
from wsss.runs.run_folder import RunFolder
from wsss.training.drawing import DrawnAugment
from wsss.training.fit import Learner, Validate, Watch
from wsss.training.loading import Batch, EpochLoader, ImageSamples, balanced_draw, whole_images
from wsss.training.losses import ComboLoss, refinement
from wsss.training.state import World
from wsss.training.tasks import Earlier, Split, Task, best_of
from wsss.training.watch import Preview


class ClassifyLearner(Learner):
    """The step of the loop with a siamese network and the loss of images, tiles, their agreement and a teacher."""

    def build(self) -> nn.Module:
        """Return the siamese network."""
        recipe = self.job.recipe
        assert isinstance(recipe, ClassifyRecipe)
        self.recipe = recipe
        self.loss = ComboLoss(recipe.loss, recipe.puzzle)
        return PuzzleCam(self.state.net, recipe.puzzle.side)

    def losses(self, model: nn.Module, batch: Batch, done: float) -> dict[str, Tensor]:
        """Return the loss and its parts of one batch, when the share `done` of the training is behind it."""
        with self.job.device.autocast():
            output: SiameseOutput = model(batch.images)
        full, tiles = output.views(self.recipe.puzzle.maps)
        parts = self.loss(full, tiles, batch.labels, done)
        if self.job.teacher is not None:
            with torch.no_grad(), self.job.device.autocast():
                taught = self.job.teacher(batch.images).cam
            parts["refine"] = refinement(output.full.cam, taught, batch.labels)
            parts["loss"] = parts["loss"] + self.recipe.drs.refine_weight * parts["refine"]
        return parts


class ClassifyTask(Task):
    """Classifiers of a prepared data set."""

    learner = ClassifyLearner
    recipe: ClassifyRecipe
    options: ClassifyOptions

    def __init__(self, recipe: ClassifyRecipe, options: ClassifyOptions, device: Device, world: World) -> None:
        super().__init__(recipe, options, device, world)
        self.data = DataSet.open(default_dataset(options.data))
        self.ids, self.twins = self.data.ids, self.data.twins
        self.answers = None if options.cell_labels is None else self._read_answers(options.cell_labels)
        self.run_name = f"{self.data.folder.name}-{recipe.backbone}"
        self._check_sizes()

    @property
    def folds(self) -> int:
        """Folds of the data set."""
        return int(self.data.folds().max()) + 1

    def _check_sizes(self) -> None:
        recipe, data = self.recipe, self.data
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

    def _read_answers(self, path: Path) -> CellTruth:
        """Read the cells labelled by hand."""
        if self.recipe.feature_classifier.enabled is False:
            raise ConfigError(
                "--cell_labels teaches the feature classifier: leave --feature_classifier.enabled false out."
            )
        answers = read_cell_truth(path, self.data.classes)
        places = {name: i for i, name in enumerate(self.ids)}
        here = [places[name] for name in dict.fromkeys(answers.ids.tolist()) if name in places]
        if not here:
            raise DataError(f"{path} labels no cell of an image of {self.data.folder}: pass the table of its review.")
        marks = image_marks(self.data, Digests(), here) if answers.marks else {}
        changed = [name for name, mark in marks.items() if answers.marks[name] != mark]
        if changed:
            raise DataError(
                f"{path} was made on other pixels or label maps of {some(changed, 3)} than {self.data.folder} holds: "
                "its cell numbers need not fit. Review predictions of this data set."
            )
        return answers

    def split(self, fold: int | None) -> Split:
        """Return the labelled images, those of the fold held out.

        Raises:
            DataError: there is no labelled image in a part.
        """
        data, usable = self.data, self.data.ok & self.data.has_labels
        held_out = np.zeros(len(usable), bool) if fold is None else usable & (data.folds() == fold)
        train, valid = np.flatnonzero(usable & ~held_out), np.flatnonzero(held_out)
        if len(train) == 0:
            raise DataError(f"{data.folder} has no labelled image to train on: prepare it with --labels.")
        if fold is not None and len(valid) == 0:
            raise DataError(f"{data.folder} has no labelled image in fold {fold}: choose another --fold, or 'none'.")
        if lacking := self._lacks_cells(train):
            if self.answers is not None:
                raise ConfigError(f"--cell_labels teaches the feature classifier, and there is none: {lacking}.")
            if self.world.leads:
                say(f"note: no feature classifier: {lacking}.")
        return Split(fold, train, valid, frozenset(data.ids[i] for i in valid))

    def record(self, split: Split) -> RunRecord:
        """Return the record of a network that learns from the split."""
        return record_of_data(self.recipe, self.data, split.fold, [self.ids[i] for i in split.train])

    def earlier(self, fold: int | None, *, fresh: bool) -> dict[str, Earlier]:
        """Return the teacher, and what a fresh network starts from."""
        run = self.recipe.drs.refine_from
        teacher = {} if run is None else {"drs.refine_from": best_of(run, "drs.refine_from", fold)}
        return teacher | super().earlier(fold, fresh=fresh)

    def build(self, earlier: Mapping[str, Earlier], *, pretrained: bool) -> CamNet:
        """Return the network, with the weights of the run that it starts from, or of its backbone."""
        first = earlier.get("init_from")
        net = self._net(self.recipe, pretrained=pretrained and first is None)
        if first is not None:
            load_weights(net, self._tensors(first)[1], first[1])
        return net

    def teacher(self, earlier: Mapping[str, Earlier]) -> CamNet | None:
        """Return the first network of a refinement."""
        if "drs.refine_from" not in earlier:
            return None
        record, tensors = self._tensors(earlier["drs.refine_from"])
        assert isinstance(record.recipe, ClassifyRecipe)
        net = self._net(record.recipe, pretrained=False)
        load_weights(net, tensors, record.path)
        return self.device.settle(net).eval()

    def _net(self, recipe: ClassifyRecipe, *, pretrained: bool) -> CamNet:
        channels, classes = len(self.data.channels), len(self.data.classes)
        return build_cam_net(recipe, channels=channels, classes=classes, pretrained=pretrained)

    def _tensors(self, earlier: Earlier) -> tuple[RunRecord, dict[str, Tensor]]:
        """Read an earlier classifier of the same classes and channels."""
        folder, path = earlier
        record, tensors = folder.read(path)
        record.check_fits("classify", self.data.classes.names, self.data.channels, self.data.folder)
        return record, strip(tensors, "net.")

    def batches(self, split: Split, workers: int) -> EpochLoader:
        """Return augmented batches, rare classes drawn more often."""
        return train_loader(self.data, split.train, self.recipe, **self.loading(workers))

    def validator(self, split: Split, workers: int) -> Validate | None:
        """Return the figures on the held-out images."""
        if not len(split.valid):
            return None
        return Validator(self.data, split.valid, self.recipe, self.device, workers, self.world)

    def watches(self, split: Split, folder: RunFolder) -> list[Watch]:
        """Return what draws the maps of a few held-out images."""
        every = self.options.preview_every
        shown = every and len(split.valid)
        return [Preview(self.data, split.valid, self.device, folder.path, every=every)] if shown else []

    def finish(self, split: Split, folder: RunFolder) -> None:
        """Fit the feature classifier, where wanted and not there yet."""
        config = self.recipe.feature_classifier
        if config.enabled is False or self._lacks_cells(split.train):
            if folder.feature_classifier.exists():
                say(f"note: infer uses {folder.feature_classifier}, of a training before: remove it to go without.")
            return
        try:
            lessons = Lessons(self.data, split.train, config, self.recipe.seed, self.answers)
            fitted = ensure_feature_classifier(folder, lessons)
        except TooFewCells as error:
            if config.enabled is True or self.answers is not None:
                raise
            say(f"no feature classifier: {error}")
            return
        if fitted:
            say(f"{folder.feature_classifier}: feature classifier fitted; feature_classifier.json says what it goes by")

    def _lacks_cells(self, train: np.ndarray) -> str:
        """Return why 'auto' fits no feature classifier on these images; '' where it does."""
        config = self.recipe.feature_classifier
        if config.enabled is not False and (doubt := doubtful_cells(self.data)):
            if config.enabled is True:
                raise DataError(f"{doubt}, then start this command again.")
            return f"{doubt}, then run this command again"
        segmented = len(train) - len(without_cells(self.data, train))
        if config.enabled != "auto" or segmented >= config.weak.folds:
            return ""
        return (
            f"{segmented} of {len(train)} training images have segmented cells, it needs {config.weak.folds}: run "
            f"python -m wsss.segment --data {pasted(self.data.folder)}, then this command again"
        )


def record_of_data(recipe: Any, data: DataSet, fold: int | None, train_ids: list[str]) -> RunRecord:
    """Return the record of a network that learns from images of a data set."""
    pixels = data.table.loc[data.ok & data.has_labels, ["ID", "crc32"]].to_numpy().tolist()
    return RunRecord(
        recipe,
        fold,
        data.folds_digest,
        tuple(train_ids),
        data.channels,
        tuple(data.classes.names),
        data.classes.negative,
        data.size,
        augment=load_recipe(recipe.augment),
        roles=() if data.roles == default_roles(data.channels) else tuple(data.roles),
        bits=data.bits,
        inputs={"pixels": digest_json(pixels)},
        versions=versions(),
    )


def augment_of(recipe: Recipe, data: DataSet) -> Augment:
    """Return the augmentation of images of a data set; its ops on the protein change the channels that show one."""
    signals = [stains.signal for stains in data.stains]
    return build_augment(recipe.augment, recipe.crop or data.size, channels=len(data.channels), signals=signals)


def train_loader(data: DataSet, indices: np.ndarray, recipe: ClassifyRecipe, **loading: Any) -> EpochLoader:
    """Return augmented batches of images with their labels.

    Args:
        loading: workers, pinned, world of an `EpochLoader`.
    """
    augment = augment_of(recipe, data)
    samples = ImageSamples(data, DrawnAugment(augment) if recipe.augment_device == "device" else augment)
    draw = balanced_draw(data.labels, indices, recipe.sampler, recipe.seed)
    return EpochLoader(samples, draw, len(indices), recipe, **loading)


class Validator:
    """Figures of a network on held-out images.

    Args:
        world: this process among all; each looks at its part of the images, and all get the same figures.
    """

    def __init__(
        self,
        data: DataSet,
        indices: np.ndarray,
        recipe: ClassifyRecipe,
        device: Device,
        workers: int = 0,
        world: World | None = None,
    ) -> None:
        self.recipe, self.device, self.labels = recipe, device, data.labels[indices]
        self.world = world or World()
        self.loss = ComboLoss(recipe.loss, recipe.puzzle)
        batch = -(-recipe.batch // self.world.size)
        self.batches = whole_images(data, self.world.share(indices), batch, workers=workers, pinned=device.is_cuda)

    @torch.no_grad()
    def __call__(self, net: CamNet) -> dict[str, float]:
        """Return 'loss' with its parts, 'f1' (at .5, mean over classes) and 'map', means over the images."""
        model = PuzzleCam(net, self.recipe.puzzle.side).eval()
        sums = dict.fromkeys(self.loss.names, 0.0)
        probs = [np.zeros((0, self.labels.shape[1]), np.float32)]
        for batch in progress(self.batches, "validate", leave=False, disable=not self.world.leads):
            for losses, of_part in in_parts(net, batch.images.shape, partial(self._see, model, batch)):
                probs.append(of_part)
                for name, value in losses.items():
                    sums[name] += value * len(of_part)
        scores = self.world.gather(np.concatenate(probs))
        totals = self.world.total(list(sums.values()))
        figures = {name: value / len(scores) for name, value in zip(sums, totals, strict=True)}
        whole = bool(np.isfinite(scores).all())
        figures["f1"] = mean_of_classes(f1(self.labels, scores)) if whole else math.nan
        figures["map"] = mean_of_classes(average_precision(self.labels, scores)) if whole else math.nan
        return figures

    def _see(self, model: PuzzleCam, batch: Batch, rows: slice) -> tuple[dict[str, float], np.ndarray]:
        """Return the parts of the loss, and the probabilities (n, K), of some of the images."""
        batch = batch.part(rows).on(self.device)
        with self.device.autocast():
            output: SiameseOutput = model(batch.images)
        full, tiles = output.views(self.recipe.puzzle.maps)
        parts = self.loss(full, tiles, batch.labels)
        losses = dict(zip(parts, torch.stack(list(parts.values())).tolist(), strict=True))  # one wait
        return losses, output.full.logits.sigmoid().cpu().numpy()
