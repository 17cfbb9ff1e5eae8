"""The classifier whose class maps are its class activation maps."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from wsss.core.device import Device
from wsss.core.label_maps import number_cells
from wsss.models.backbone import Backbone, build_backbone, features_of
from wsss.models.cell_pool import CellPool, cell_means, cell_weights, is_present
from wsss.models.drs import Suppress, add_drs, build_neck
from wsss.models.memory import in_parts
from wsss.options.recipe import ClassifyRecipe


class CamOutput(NamedTuple):
    """What a CAM network says of a batch."""

    logits: Tensor
    """(B, K) before the sigmoid: the mean of each class map."""
    cam: Tensor
    """(B, K, h, w) raw class maps."""
    features: Tensor
    """(B, C, h, w) below the classifier."""


class CamNet(nn.Module):
    """A backbone, a 1x1 convolution to one map a class, and the mean of each map as its logit.

    Classifier and pooling are swapped against the usual network, which gives the same logits, and maps for free.
    Images come as stored (uint8 or float, 0..255); standardisation is the network's own. Weights and maps lie in
    memory channels last, which convolutions on CPUs and on tensor cores prefer.

    Args:
        backbone: a timm model, its feature channels and the statistics of its input.
        classes: K.
        drop_rate: dropout on the features.
        neck: layers between backbone and classifier.
        pool: takes the place of the mean where an image's cells are known, see `pooled`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        drop_rate: float = 0.0,
        neck: nn.Sequential | None = None,
        pool: CellPool | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone.model
        self.neck = nn.Sequential() if neck is None else neck
        self.dropout = nn.Dropout2d(drop_rate)
        self.classifier = nn.Conv2d(backbone.features, classes, kernel_size=1, bias=False)
        self.pool = pool
        self.register_buffer("mean", torch.tensor(backbone.statistics.mean).view(-1, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(backbone.statistics.std).view(-1, 1, 1) * 255)

    def forward(self, images: Tensor) -> CamOutput:
        """Classify (B, channels, H, W) images of 0..255."""
        x = ((images.to(self.mean.dtype) - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        features = self.neck(features_of(self.backbone, x))  # (B, C, h, w)
        cam = self.classifier(self.dropout(features))  # (B, K, h, w)
        return CamOutput(cam.float().mean(dim=(2, 3)), cam, features)

    def poolable(self, output: CamOutput) -> Tensor:
        """Return the maps whose means in the cells are pooled, (B, J, h, w); the first K are the class maps."""
        return output.cam if self.pool is None else self.pool.maps(output.cam, output.features)

    def pooled(self, output: CamOutput, weights: Tensor) -> CamOutput:
        """Return the output with logits pooled over the images' cells; as it is where the network has no pool.

        Args:
            output: of `forward`.
            weights: (B, M, h * w) of the cells, from `cell_weights`.
        """
        if self.pool is None:
            return output
        logits = self.pool(cell_means(self.poolable(output), weights), is_present(weights))
        return output._replace(logits=logits)

    def new_parameters(self) -> set[nn.Parameter]:
        """Return the parameters that no pretrained weights hold: classifier, neck, attention, learnt suppression."""
        gates = [module for module in self.backbone.modules() if isinstance(module, Suppress)]
        pools = [] if self.pool is None else [self.pool]
        return {p for module in (self.classifier, self.neck, *pools, *gates) for p in module.parameters()}


def build_cam_net(recipe: ClassifyRecipe, *, channels: int, classes: int, pretrained: bool = True) -> CamNet:
    """Build the network of a recipe; `pretrained` False leaves the weights random, for loading a checkpoint.

    Raises:
        ConfigError: see `build_backbone`; or the backbone gives no (B, C, h, w) features.
    """
    backbone = build_backbone(
        recipe.backbone,
        channels=channels,
        weights=recipe.weights if pretrained else "none",
        stem=recipe.stem,
        stride=recipe.output_stride,
    )
    add_drs(backbone.model, recipe.drs, channels=channels)
    neck, features = build_neck(backbone, recipe.drs)
    pool = CellPool(recipe.cells, features, classes) if recipe.cells.pooled else None
    net = CamNet(replace(backbone, features=features), classes, recipe.drop_rate, neck, pool)
    return net.to(memory_format=torch.channels_last)


@torch.no_grad()
def class_maps(
    net: CamNet, images: np.ndarray, device: Device, cells: Sequence[np.ndarray | None] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the raw class maps (B, K, h, w) and probabilities (B, K), float32, of (B, C, H, W) uint8 images.

    Args:
        net: the network.
        images: (B, C, H, W) uint8, B at least 1; seen in parts where memory does not hold all.
        device: where to compute.
        cells: (H, W) label map of each image, None for one without; a network that was trained to pool over cells does
            so, and takes an image without cells for a single one.
    """

    def see(rows: slice) -> tuple[np.ndarray, np.ndarray]:
        output = see_images(net, device.put(torch.from_numpy(images[rows])), device, numbered(rows))
        return output.cam.float().cpu().numpy(), output.logits.sigmoid().cpu().numpy()

    def numbered(rows: slice) -> Tensor | None:
        if net.pool is None or cells is None:
            return None
        none = np.zeros(images.shape[2:], np.int32)
        label_maps = [none if label_map is None else number_cells(label_map) for label_map in cells[rows]]
        return device.put(torch.from_numpy(np.stack(label_maps)))

    maps, probs = zip(*in_parts(net, images.shape, see), strict=True)
    return np.concatenate(maps), np.concatenate(probs)


def see_images(net: CamNet, images: Tensor, device: Device, cells: Tensor | None = None) -> CamOutput:
    """Return the output for (B, C, H, W) images on the device, pooled over their (B, H, W) cells if there are any."""
    with device.autocast():
        output: CamOutput = net(images)
    return output if cells is None else net.pooled(output, cell_weights(cells, output.cam.shape[2:]))


@torch.no_grad()
def crop_probs(
    net: CamNet,
    batches: Iterable[np.ndarray],
    device: Device,
    activation: Literal["sigmoid", "softmax"] = "sigmoid",
) -> np.ndarray:
    """Return the probabilities (N, K) float32 of crops that come in batches of (n, C, s, s) uint8.

    Args:
        net: in evaluation mode.
        batches: of crops; there may be none. They are seen in parts where memory does not hold all of one.
        device: where to compute.
        activation: sigmoid for a network of images; softmax for one of single cells, whose rows sum to 1.
    """

    def probs(crops: np.ndarray) -> np.ndarray:
        def see(rows: slice) -> np.ndarray:
            logits = see_images(net, device.put(torch.from_numpy(crops[rows])), device).logits.float()
            return np.asarray((logits.sigmoid() if activation == "sigmoid" else logits.softmax(dim=1)).cpu().numpy())

        return np.concatenate(in_parts(net, crops.shape, see))

    none = np.zeros((0, net.classifier.out_channels), np.float32)
    return np.concatenate([none, *map(probs, batches)])
