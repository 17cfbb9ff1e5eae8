"""What the training loop needs for class maps learnt from pseudo-masks: batches, and the step's loss."""

import numpy as np
from torch import Tensor, nn

from wsss.data.augment import Augment
from wsss.data.catalog import DataSet
from wsss.data.map_samples import MapSamples
from wsss.data.pseudo import PseudoSet
from wsss.losses.semantic import MaskLoss
from wsss.models.unet import MaskOutput
from wsss.options.recipe import Recipe
from wsss.training.distributed import World
from wsss.training.loading import Batch, TrainLoader
from wsss.training.step import Learner


class MapLoader(TrainLoader):
    """Batches of the classifier's order and augmentation, with a mask a class in the labels' place.

    Args:
        data: the data set.
        pseudo: its pseudo-masks.
        indices: the images that have some.
        recipe: batch, crop, augmentation, sampler, seed.
        workers: loader processes; the batches do not depend on it.
        pinned: whether a GPU will take them.
        world: this process among all; each takes its share of every batch.
    """

    def __init__(
        self,
        data: DataSet,
        pseudo: PseudoSet,
        indices: np.ndarray,
        recipe: Recipe,
        *,
        workers: int = 0,
        pinned: bool = False,
        world: World | None = None,
    ) -> None:
        self.pseudo = pseudo
        super().__init__(data, indices, recipe, workers=workers, pinned=pinned, world=world)

    def samples(self, data: DataSet, augment: Augment) -> MapSamples:
        """Return images with their pseudo-masks."""
        return MapSamples(data, self.pseudo, augment)


class MapLearner(Learner):
    """The step of the loop with the loss of masks; ignored pixels are in no term of it."""

    def build(self) -> nn.Module:
        """Return what is trained: the network itself."""
        self.mask_loss = MaskLoss(self.job.recipe.mask_loss)
        return self.state.net

    def losses(self, model: nn.Module, batch: Batch, done: float) -> dict[str, Tensor]:
        """Return the loss and its parts of one batch; its labels are the (B, K, h, w) targets."""
        with self.job.device.autocast():
            output: MaskOutput = model(batch.images)
        epoch = self.state.progress.epoch
        return self.mask_loss(output.logits, batch.labels, side=output.side, epoch=epoch)
