"""Masks: a U-Net learns from images with masks; targets of every kind, and the weights of pixels in gaps."""

import math
from dataclasses import fields
from typing import Any, cast

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.utils.data import Dataset

from wsss.cells.instances import objects_of
from wsss.core.checks import ConfigError
from wsss.core.runtime import versions
from wsss.data.augment import Augment, build_augment, load_recipe
from wsss.data.folds import coverage_folds
from wsss.data.large import open_set
from wsss.data.masks import MaskSet, Survey, folds_digest, survey
from wsss.metrics.instances import MaskScore, score_mask
from wsss.models.device import Device
from wsss.models.unet import MaskOutput, Unet, probabilities
from wsss.options.masks import IGNORE, MOST, MaskConfig, MaskLossConfig
from wsss.options.recipe import MaskRecipe, UnetRecipe
from wsss.options.train import TrainOptions
from wsss.runs.inputs import Digests
from wsss.runs.record import RunRecord
from wsss.training.fit import Learner, Validate
from wsss.training.loading import Batch, EpochLoader, Key, draw_epoch
from wsss.training.losses import MaskLoss
from wsss.training.state import World
from wsss.training.tasks import Split, UnetTask


def make_target(label_map: np.ndarray, ignored: np.ndarray, kind: str, border_px: int = 2) -> np.ndarray:
    """Turn objects into a target.

    Args:
        label_map: (H, W) int, 0 background.
        ignored: (H, W) bool, pixels that must not count.
        kind: binary, border, softmax or distance, see `MaskConfig.target`.
        border_px: width of the border on each side of the line between two objects.

    Returns:
        (K, H, W) uint8 of 0, 1 and 255 (must not count): the mask; or the mask without border, and the border; or
        background, inside and border, which exclude each other; or the mask, and `MOST` x `inner_distance`.
    """
    mask = label_map > 0
    if kind == "binary":
        channels = [mask]
    elif kind == "distance":
        channels = [mask, np.rint(MOST * inner_distance(label_map))]
    else:
        border = touching_border(label_map, border_px)
        channels = [mask & ~border, border]
        if kind == "softmax":
            channels.insert(0, ~mask & ~border)
    target = np.stack(channels).astype(np.uint8)
    target[:, ignored] = IGNORE
    return target


def inner_distance(label_map: np.ndarray) -> np.ndarray:
    """Return each pixel's distance to the edge of its object, over the largest in the object; 0 outside objects.

    The image's edge is no edge of an object.

    Returns:
        (H, W) float32 in [0, 1].
    """
    out = np.zeros(label_map.shape, np.float32)
    for k, box in enumerate(ndimage.find_objects(label_map), 1):
        if box is None:
            continue
        window = tuple(slice(max(0, axis.start - 1), axis.stop + 1) for axis in box)
        inside = label_map[window] == k
        distance = ndimage.distance_transform_edt(inside) if not inside.all() else np.ones(inside.shape)
        out[window][inside] = (distance / distance.max())[inside]
    return out


def touching_border(label_map: np.ndarray, width: int) -> np.ndarray:
    """Return the (H, W) bool pixels of objects within about `width` px of the line to a neighbour.

    A neighbour touches, or lies so near that the line in the middle of the gap is within `width` px. An object's free
    edge is no border, and neither is the gap itself.
    """
    if not label_map.any():
        return np.zeros(label_map.shape, bool)
    distance, nearest = ndimage.distance_transform_edt(label_map == 0, return_indices=True)
    grown = np.where(distance <= width, label_map[tuple(nearest)], 0)
    line = np.zeros(label_map.shape, bool)
    for one, other in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        differ = (grown[one] != grown[other]) & (grown[one] > 0) & (grown[other] > 0)
        line[one] |= differ
        line[other] |= differ
    if width > 1:
        line = ndimage.binary_dilation(line, iterations=width - 1)
    return line & (label_map > 0)


def gap_weights(label_map: np.ndarray, weight: float, sigma: float) -> np.ndarray:
    """Return 1 + weight * exp(-(d1 + d2)^2 / (2 sigma^2)), d1 and d2 the distances to the two nearest objects.

    Distances beyond 4 sigma count as infinite. Pixels of objects have weight 1.

    Returns:
        (H, W) float32.

    Source: Ronneberger, Fischer and Brox, arXiv 1505.04597.
    """
    reach = math.ceil(4 * sigma)
    near = np.full((2, *label_map.shape), np.inf, np.float32)  # the two smallest distances so far
    for k, box in enumerate(ndimage.find_objects(label_map), 1):
        if box is None:
            continue
        window = tuple(
            slice(max(0, side.start - reach), min(edge, side.stop + reach))
            for side, edge in zip(box, label_map.shape, strict=True)
        )
        distance = ndimage.distance_transform_edt(label_map[window] != k).astype(np.float32)
        both = near[:, *window]
        second = np.minimum(both[1], np.maximum(both[0], distance))
        near[:, *window] = np.stack([np.minimum(both[0], distance), second])
    weights = 1 + weight * np.exp(-np.square(near.sum(axis=0)) / (2 * sigma**2))
    return np.where(label_map > 0, 1, weights).astype(np.float32)


class MaskSamples(Dataset[tuple[Tensor, Tensor, int]]):
    """Samples (image (C, h, w) uint8, target (K, h, w) uint8, index), augmented by the seed of the key.

    Targets are those of `make_target`; pixels beyond the image's edge are ignored. Where the loss asks for weights of
    gaps they are one channel more, as `pack_weights` makes it.
    """

    def __init__(self, masks: MaskSet, augment: Augment | None, config: MaskConfig, loss: MaskLossConfig) -> None:
        self.masks, self.augment, self.config, self.loss = masks, augment, config, loss

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor, int]:
        """Read one image; the same key always gives the same sample."""
        index, seed = key
        image, label_map, ignored = self.read(index)
        if self.augment is not None:
            planes = (label_map, ignored, np.ones_like(ignored))
            image, (label_map, ignored, inside) = self.augment.with_masks(image, planes, seed)
            ignored = ignored | ~inside
        return torch.from_numpy(np.ascontiguousarray(image)), self.target(label_map, ignored), index

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return an image as networks see it, (C, H, W) uint8, its objects (H, W) int32, ignored pixels (H, W) bool."""
        image, label_map, ignored = self.masks.image(index), self.masks.label_map(index), self.masks.ignored(index)
        if self.config.contrast == "stretched":
            image = self.masks.contrast(index, image).apply(image)
        return image, label_map, ignored

    def target(self, label_map: np.ndarray, ignored: np.ndarray) -> Tensor:
        """Return the packed target (K or K + 1, H, W) uint8 of objects and ignored pixels."""
        target = make_target(label_map, ignored, self.config.target, self.config.border_px)
        if self.loss.needs_border:
            weights = gap_weights(label_map, self.loss.border_weight, self.loss.border_sigma)
            target = np.concatenate([target, pack_weights(weights, self.loss.border_weight)[None]])
        return torch.from_numpy(target)


def pack_weights(weights: np.ndarray, most: float) -> np.ndarray:
    """Turn (H, W) weights of 1..1 + most into uint8, so that they travel with the target."""
    return np.rint((weights - 1) / max(most, 1e-6) * 255).astype(np.uint8)


def unpack_target(packed: Tensor, outputs: int, most: float) -> tuple[Tensor, Tensor | None]:
    """Split (B, K or K + 1, H, W) into target and (B, 1, H, W) weights, if there are any."""
    if packed.shape[1] == outputs:
        return packed, None
    return packed[:, :outputs], 1 + most / 255 * packed[:, outputs:].float()


def training_augment(recipe: MaskRecipe, masks: MaskSet, surveyed: Survey) -> Augment:
    """Build the augmentation of a recipe; crop 0 is the size of the images, if they all have one.

    Raises:
        ConfigError: they do not, or are not square.
    """
    crop = recipe.crop
    if not crop:
        edges = np.unique(surveyed.sizes[masks.has_truth])
        if len(edges) > 1:
            raise ConfigError(f"crop is 0, but images have edges of {edges[0]} to {edges[-1]} px: pass --crop EDGE.")
        crop = int(edges[0])
    return build_augment(recipe.augment, crop, channels=masks.channels)


class MaskLearner(Learner):
    """The step of the loop with the loss of masks, or of pseudo-masks; ignored pixels are in no term of it."""

    def build(self) -> nn.Module:
        """Return what is trained: the network itself."""
        recipe = self.job.recipe
        assert isinstance(recipe, UnetRecipe)
        self.border_weight, target = 0.0, "binary"  # pseudo-masks have no borders
        if isinstance(recipe, MaskRecipe):
            self.border_weight, target = recipe.mask_loss.border_weight, recipe.masks.target
        self.loss = MaskLoss(recipe.mask_loss, target)
        return self.state.net

    def losses(self, model: nn.Module, batch: Batch, done: float) -> dict[str, Tensor]:
        """Return the loss and its parts of one batch; its labels are the packed targets."""
        with self.job.device.autocast():
            output: MaskOutput = model(batch.images)
        target, weights = unpack_target(batch.labels, output.logits.shape[1], self.border_weight)
        epoch = self.state.progress.epoch
        return self.loss(output.logits, target, weights=weights, side=output.side, holds=output.holds, epoch=epoch)


class MaskTask(UnetTask):
    """Mask networks of a folder of images and masks."""

    learner = MaskLearner
    recipe: MaskRecipe

    def __init__(self, recipe: MaskRecipe, options: TrainOptions, device: Device, world: World) -> None:
        super().__init__(recipe, options, device, world)
        if options.data is None:
            raise ConfigError("task is masks, which needs a folder of images and masks: pass --data FOLDER.")
        self.masks = open_set(options.data, recipe.masks.channels, recipe.masks.tile)
        self.survey = survey(self.masks)
        known = self.masks.has_truth
        if options.fold == "none" and len(np.unique(self.masks.groups[known])) < recipe.masks.folds:
            self.fold_of = np.where(known, 0, -1)  # too few images to divide, and no need to
        else:
            self.fold_of = coverage_folds(self.survey.coverage, recipe.masks.folds, recipe.seed, self.masks.groups)
        self.ids, self.twins = self.masks.ids, self.masks.twins
        self.channels, self.outputs = self.masks.channels, recipe.masks.outputs
        self.run_name = f"{self.masks.folder.resolve().name}-unet-{recipe.backbone.rpartition(':')[2]}"

    @property
    def folds(self) -> int:
        """Folds that the recipe asks for."""
        return self.recipe.masks.folds

    def split(self, fold: int | None) -> Split:
        """Return the images with masks, those of the fold held out."""
        held_out = (self.fold_of == fold) if fold is not None else np.zeros(len(self.ids), bool)
        train, valid = np.flatnonzero((self.fold_of >= 0) & ~held_out), np.flatnonzero(held_out)
        return Split(fold, train, valid, frozenset(self.ids[i] for i in valid))

    def record(self, split: Split) -> RunRecord:
        """Return the record of a network that learns from the split."""
        return RunRecord(
            self.recipe,
            split.fold,
            folds_digest(self.ids, self.fold_of),
            tuple(self.ids[i] for i in split.train),
            ("grey",) if self.channels == 1 else ("red", "green", "blue"),
            augment=load_recipe(self.recipe.augment),
            inputs={"files": Digests().of(self.masks.folder) or ""},
            least_object=self.survey.least_object(split.train),
            versions=versions(),
        )

    def batches(self, split: Split, workers: int) -> EpochLoader:
        """Return augmented batches; of the empty images an epoch draws a share alone."""
        augment = training_augment(self.recipe, self.masks, self.survey)
        empty = np.nan_to_num(self.survey.coverage) == 0
        return mask_loader(self.masks, split.train, empty, self.recipe, augment, **self.loading(workers))

    def validator(self, split: Split, workers: int) -> Validate | None:
        """Return the figures on the held-out images."""
        if not len(split.valid):
            return None
        least = self.survey.least_object(split.train)
        return MaskValidator(self.masks, split.valid, self.recipe, self.device, self.world, least)

    def describe(self, split: Split) -> str:
        """Say what is trained on what."""
        return f"U-Net on {super().describe(split)}"


def mask_loader(
    masks: MaskSet, indices: np.ndarray, empty: np.ndarray, recipe: MaskRecipe, augment: Augment, **loading: Any
) -> EpochLoader:
    """Return augmented batches of images with masks; of the empty ones an epoch draws a share alone.

    Args:
        empty: (N,) bool of all images: nothing to find in them.
        loading: workers, pinned, world of an `EpochLoader`.

    Raises:
        ConfigError: no image is left.
    """
    nothing = empty[indices]
    most_empty = round(recipe.masks.empty_share * int(nothing.sum()))

    def draw(epoch: int) -> np.ndarray:
        order = draw_epoch(None, len(indices), seed=recipe.seed, epoch=epoch)
        keep = ~nothing[order] | (np.cumsum(nothing[order]) <= most_empty)
        return indices[order[keep]]

    count = int((~nothing).sum()) + most_empty
    if not count:
        raise ConfigError(
            f"the masks of all {len(indices)} images to learn from are empty, and masks.empty_share "
            f"{recipe.masks.empty_share:g} leaves none of them: raise it, or add images with objects."
        )
    samples = MaskSamples(masks, augment, recipe.masks, recipe.mask_loss)
    return EpochLoader(samples, draw, count, recipe, **loading)


class MaskValidator:
    """Figures of a network on held-out images, each at its own size.

    Args:
        world: this process among all; each takes every `size`-th image.
        least_object: objects of fewer pixels are dropped.
    """

    def __init__(
        self,
        masks: MaskSet,
        indices: np.ndarray,
        recipe: MaskRecipe,
        device: Device,
        world: World | None = None,
        least_object: int = 0,
    ) -> None:
        self.world, self.device, self.recipe = world or World(), device, recipe
        self.least_object = least_object
        self.samples = MaskSamples(masks, None, recipe.masks, recipe.mask_loss)
        self.indices = self.world.share(indices)
        self.loss = MaskLoss(recipe.mask_loss, recipe.masks.target)

    @torch.no_grad()
    def __call__(self, net: nn.Module) -> dict[str, float]:
        """Return 'loss' (by the terms of the last epoch), and the means of `MaskScore` at threshold .5."""
        net.eval()
        rows = [self._figures(cast(Unet, net), int(i)) for i in self.indices]
        names = ["loss", *(column.name for column in fields(MaskScore))]
        means = self.world.gather(np.array(rows, np.float64).reshape(-1, len(names))).mean(axis=0)
        return dict(zip(names, means.tolist(), strict=True))

    def _figures(self, net: Unet, index: int) -> list[float]:
        image, truth, ignored = self.samples.read(index)
        config = self.recipe.masks
        with self.device.autocast():
            output: MaskOutput = net(self.device.put(torch.from_numpy(np.array(image))[None]))
        logits = output.logits.float()
        packed = self.device.put(self.samples.target(truth, ignored)[None])
        target, weights = unpack_target(packed, config.outputs, self.recipe.mask_loss.border_weight)
        # One measure for all epochs: losses before and after a switch could not be compared.
        loss = self.loss(logits, target, weights=weights, holds=output.holds, epoch=self.recipe.epochs)["loss"]
        probs = probabilities(logits, config.target)[0].cpu().numpy()
        score = score_mask(objects_of(probs, config.target, min_size=self.least_object), truth, ignored)
        return [float(loss), *(float(value) for value in vars(score).values())]
