"""Validation: the training loss, F1 and mean average precision on whole images."""

import numpy as np
import torch

from wsss.core.device import Device
from wsss.core.runtime import progress
from wsss.data.catalog import DataSet
from wsss.data.sampler import shard
from wsss.losses.total import ComboLoss
from wsss.metrics.classify import average_precision, f1, mean_of_classes
from wsss.models.cam_net import CamNet
from wsss.models.puzzle import PuzzleCam, SiameseOutput
from wsss.options.recipe import Recipe
from wsss.training.distributed import World
from wsss.training.loading import whole_images


class Validator:
    """Figures of a network on held-out images.

    Args:
        data: the data set.
        indices: the held-out images.
        recipe: loss, puzzle, batch.
        device: where to compute.
        workers: loader processes.
        world: this process among all; each looks at its part of the images, and all get the same figures.
    """

    def __init__(
        self,
        data: DataSet,
        indices: np.ndarray,
        recipe: Recipe,
        device: Device,
        workers: int = 0,
        world: World | None = None,
    ) -> None:
        self.recipe, self.device, self.labels = recipe, device, data.labels[indices]
        self.world = world or World()
        self.loss = ComboLoss(recipe.loss, recipe.puzzle, recipe.cells)
        own, batch = shard(indices, self.world.rank, self.world.size), -(-recipe.batch // self.world.size)
        cells = recipe.cells.wanted
        self.batches = whole_images(data, own, batch, workers=workers, pinned=device.is_cuda, cells=cells)

    @torch.no_grad()
    def __call__(self, net: CamNet) -> dict[str, float]:
        """Return 'loss' with its parts, 'f1' (at .5, mean over classes) and 'map', means over the images."""
        cells = self.recipe.cells
        model = PuzzleCam(net, self.recipe.puzzle.side, cells.pieces, cells.piece_size).eval()
        sums = dict.fromkeys(self.loss.names, 0.0)
        probs = [np.zeros((0, self.labels.shape[1]), np.float32)]
        for batch in progress(self.batches, "validate", leave=False, disable=not self.world.leads):
            batch = batch.on(self.device)
            with self.device.autocast():
                output: SiameseOutput = model(*batch.seen)
            full, tiles = output.views(self.recipe.puzzle.maps)
            parts = self.loss(full, tiles, batch.labels, pieces=output.pieces)
            for name, value in zip(parts, torch.stack(list(parts.values())).tolist(), strict=True):  # one wait
                sums[name] += value * len(batch.images)
            probs.append(output.full.logits.sigmoid().cpu().numpy())
        scores = self.world.gather(np.concatenate(probs))
        totals = self.world.total(list(sums.values()))
        figures = {name: value / len(scores) for name, value in zip(sums, totals, strict=True)}
        figures["f1"] = mean_of_classes(f1(self.labels, scores))
        figures["map"] = mean_of_classes(average_precision(self.labels, scores))
        return figures
