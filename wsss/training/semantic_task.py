"""What the training loop needs for masks: batches, the step's loss, validation."""

from collections.abc import Iterator
from dataclasses import fields
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from wsss.cells.mask_instances import objects_of
from wsss.core.device import Device
from wsss.data.augment import Augment
from wsss.data.dataset import EpochBatches
from wsss.data.mask_samples import MaskSamples, unpack_target
from wsss.data.masks import MaskSet
from wsss.data.sampler import draw_epoch
from wsss.losses.semantic import MaskLoss
from wsss.metrics.instances import MaskScore, score_mask
from wsss.models.unet import MaskOutput, Unet, probabilities
from wsss.options.recipe import Recipe
from wsss.training.distributed import World
from wsss.training.loading import Batch, batch_loader
from wsss.training.step import Learner


class MaskLoader:
    """Augmented batches of the training images; of the empty ones an epoch draws a share alone.

    Args:
        masks: the images.
        indices: those to train on.
        empty: (N,) bool of all images: nothing to find in them.
        recipe: batch, sampling, target, seed.
        augment: of images and masks together.
        workers: loader processes; the batches do not depend on it.
        pinned: whether a GPU will take them.
        world: this process among all; each takes its share of every batch.
    """

    def __init__(
        self,
        masks: MaskSet,
        indices: np.ndarray,
        empty: np.ndarray,
        recipe: Recipe,
        augment: Augment,
        *,
        workers: int = 0,
        pinned: bool = False,
        world: World | None = None,
    ) -> None:
        self.indices, self.recipe, self.world = indices, recipe, world or World()
        self.empty = empty[indices]
        self.most_empty = round(recipe.masks.empty_share * int(self.empty.sum()))
        self.batches = EpochBatches(recipe.batch, recipe.seed, self.world.rank, self.world.size)
        samples = MaskSamples(masks, augment, recipe.masks, recipe.mask_loss)
        self.loader = batch_loader(samples, self.batches, workers, pinned)

    @property
    def drawn(self) -> int:
        """Images of an epoch."""
        return int((~self.empty).sum()) + self.most_empty

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return -(-self.drawn // self.recipe.batch)

    def sizes(self, step: int) -> tuple[int, int]:
        """Return the images of batch `step` that count in this process, and in all."""
        whole = min(self.recipe.batch, self.drawn - step * self.recipe.batch)
        return len(range(self.world.rank, whole, self.world.size)), whole

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from batch `start` on."""
        order = draw_epoch(None, len(self.indices), seed=self.recipe.seed, epoch=epoch)
        empty = self.empty[order]
        keep = ~empty | (np.cumsum(empty) <= self.most_empty)
        self.batches.set(self.indices[order[keep]], epoch, start)
        yield from self.loader


class MaskLearner(Learner):
    """The step of the loop with the loss of masks."""

    def build(self) -> nn.Module:
        """Return what is trained: the network itself."""
        config = self.job.recipe.masks
        self.mask_loss = MaskLoss(self.job.recipe.mask_loss, softmax=config.target == "softmax")
        return self.state.net

    def losses(self, model: nn.Module, batch: Batch, done: float) -> dict[str, Tensor]:
        """Return the loss and its parts of one batch; its labels are the packed targets."""
        recipe = self.job.recipe
        with self.job.device.autocast():
            output: MaskOutput = model(batch.images)
        target, weights = unpack_target(batch.labels, recipe.masks.outputs, recipe.mask_loss.border_weight)
        epoch = self.state.progress.epoch
        return self.mask_loss(output.logits, target, weights=weights, side=output.side, epoch=epoch)


class MaskValidator:
    """Figures of a network on held-out images, each at its own size.

    Args:
        masks: the images.
        indices: the held-out ones.
        recipe: loss and target.
        device: where to compute.
        world: this process among all; each takes every `size`-th image.
    """

    def __init__(
        self, masks: MaskSet, indices: np.ndarray, recipe: Recipe, device: Device, world: World | None = None
    ) -> None:
        self.world, self.device, self.recipe = world or World(), device, recipe
        self.samples = MaskSamples(masks, None, recipe.masks, recipe.mask_loss)
        self.own = indices[self.world.rank :: self.world.size]
        self.loss = MaskLoss(recipe.mask_loss, softmax=recipe.masks.target == "softmax")

    @torch.no_grad()
    def __call__(self, net: nn.Module) -> dict[str, float]:
        """Return 'loss' (by the terms of the last epoch), and the means of `MaskScore` at threshold .5."""
        net.eval()
        rows = [self._figures(cast(Unet, net), int(i)) for i in self.own]
        found = self.world.gather(np.array(rows, np.float64).reshape(len(rows), -1)).mean(axis=0)
        return dict(zip(["loss", *(own.name for own in fields(MaskScore))], found.tolist(), strict=True))

    def _figures(self, net: Unet, index: int) -> list[float]:
        image, packed, _ = self.samples[index, 0]
        config = self.recipe.masks
        with self.device.autocast():
            logits = net(self.device.put(image[None])).logits.float()
        packed = self.device.put(packed[None])
        target, weights = unpack_target(packed, config.outputs, self.recipe.mask_loss.border_weight)
        # One measure for all epochs: losses before and after a switch could not be compared.
        loss = self.loss(logits, target, weights=weights, epoch=self.recipe.epochs)["loss"]
        probs = probabilities(logits, config.target)[0].cpu().numpy()
        masks = self.samples.masks
        found = objects_of(probs, config.target)
        score = score_mask(found, masks.label_map(index), masks.ignored(index))
        return [float(loss), *(float(value) for value in vars(score).values())]
