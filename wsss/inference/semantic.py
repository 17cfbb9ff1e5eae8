"""Masks of images by the trained networks of a run."""

from functools import partial

import numpy as np
import torch

from wsss.core.checks import ConfigError
from wsss.core.device import Device
from wsss.inference.checkpoints import Checkpoint
from wsss.inference.tiles import predict_tiles
from wsss.inference.views import predict_views
from wsss.models.memory import MemoryFull, attempt
from wsss.models.unet import Unet, probabilities
from wsss.options.masks import MaskInferConfig


class MaskPredictor:
    """The mean of several networks on one image of any size.

    Args:
        checkpoints: the networks, all of one target.
        config: views, sizes, tiles.
        device: where to compute.
    """

    def __init__(self, checkpoints: list[Checkpoint[Unet]], config: MaskInferConfig, device: Device) -> None:
        self.checkpoints, self.config, self.device = checkpoints, config, device
        self.target = checkpoints[0].recipe.masks.target

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Return the (K, H, W) float32 probabilities of a (C, H, W) uint8 image."""
        size = image.shape[1], image.shape[2]
        if max(size) <= self.config.tile:
            return self.part(image)
        bands = predict_tiles(
            lambda y0, y1, x0, x1: image[:, y0:y1, x0:x1],
            self.part,
            size,
            tile=self.config.tile,
            overlap=self.config.overlap,
        )
        return np.concatenate([band for _, band in bands], axis=1)

    @torch.inference_mode()
    def part(self, image: np.ndarray) -> np.ndarray:
        """Return the maps of an image, or of a tile, that is seen as a whole."""
        images = self.device.put(torch.from_numpy(np.array(image))[None])
        config = self.config
        asks = [partial(self._ask, checkpoint) for checkpoint in self.checkpoints]
        try:
            maps = [attempt(partial(predict_views, answer, images, config.tta, config.scales)) for answer in asks]
        except MemoryFull as full:
            edges = " x ".join(map(str, image.shape[1:]))
            raise ConfigError(
                f"memory is too small for {edges} px ({full}): pass a smaller --segmentation.tile."
            ) from None
        mean = torch.stack(maps).mean(dim=0)[0]
        return emptied(mean[:-1], mean[-1].mean(), self.target, config.empty_below).cpu().numpy()

    def _ask(self, checkpoint: Checkpoint[Unet], images: torch.Tensor) -> torch.Tensor:
        """Return (B, K + 1, H, W): the maps, and as a map the probability that the image holds anything."""
        with self.device.autocast():
            output = checkpoint.net(images)
        maps = probabilities(output.logits.float(), self.target)
        holds = torch.ones_like(maps[:, :1])
        if output.holds is not None:
            holds = holds * output.holds.float().sigmoid()[:, None, None, None]
        return torch.cat([maps, holds], dim=1)


def emptied(maps: torch.Tensor, holds: torch.Tensor, target: str, below: float) -> torch.Tensor:
    """Return (K, H, W) probabilities of nothing anywhere if the image holds anything less likely than `below`.

    `holds` stays on its device: nothing waits for it.
    """
    nothing = torch.zeros_like(maps)
    if target == "softmax":
        nothing[0] = 1
    return torch.where(holds >= below, maps, nothing)
