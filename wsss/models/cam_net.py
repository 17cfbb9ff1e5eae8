"""The classifier whose class maps are its class activation maps, and its training view (Puzzle-CAM)."""

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from wsss.core.device import Device
from wsss.models.backbone import Backbone, build_backbone, fast_layout, features_of
from wsss.models.drs import Suppress, add_drs, build_neck
from wsss.models.memory import in_parts
from wsss.models.weights import check_outputs
from wsss.options.recipe import ClassifyRecipe


class CamOutput(NamedTuple):
    """Output of a CAM network for a batch."""

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
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, backbone: Backbone, classes: int, drop_rate: float = 0.0, neck: nn.Sequential | None = None
    ) -> None:
        super().__init__()
        self.backbone, self.layout = backbone.model, fast_layout(backbone.model)
        self.neck = nn.Sequential() if neck is None else neck
        self.dropout = nn.Dropout2d(drop_rate)
        self.classifier = nn.Conv2d(backbone.features, classes, kernel_size=1, bias=False)
        self.register_buffer("mean", torch.tensor(backbone.statistics.mean).view(-1, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(backbone.statistics.std).view(-1, 1, 1) * 255)

    def forward(self, images: Tensor) -> CamOutput:
        """Classify (B, channels, H, W) images of 0..255."""
        x = ((images.to(self.mean.dtype) - self.mean) / self.std).contiguous(memory_format=self.layout)
        features = self.neck(features_of(self.backbone, x))  # (B, C, h, w)
        cam = self.classifier(self.dropout(features))  # (B, K, h, w)
        return CamOutput(cam.float().mean(dim=(2, 3)), cam, features)

    def new_parameters(self) -> set[nn.Parameter]:
        """Return the parameters that no pretrained weights hold: classifier, neck, learnt suppression."""
        gates = [module for module in self.backbone.modules() if isinstance(module, Suppress)]
        return {p for module in (self.classifier, self.neck, *gates) for p in module.parameters()}


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
    net = CamNet(replace(backbone, features=features), classes, recipe.drop_rate, neck)
    return net.to(memory_format=net.layout)


@torch.no_grad()
def class_maps(net: CamNet, images: np.ndarray, device: Device) -> tuple[np.ndarray, np.ndarray]:
    """Return the raw class maps (B, K, h, w) and probabilities (B, K), float32, of (B, C, H, W) uint8 images.

    Args:
        net: the network.
        images: (B, C, H, W) uint8, B at least 1; seen in parts where memory does not hold all.
        device: where to compute.
    """

    def see(rows: slice) -> tuple[np.ndarray, np.ndarray]:
        output = see_images(net, device.put(torch.from_numpy(images[rows])), device)
        maps, probs = output.cam.float().cpu(), output.logits.sigmoid().cpu()
        check_outputs(maps, probs)
        return maps.numpy(), probs.numpy()

    maps, probs = zip(*in_parts(net, images.shape, see), strict=True)
    return np.concatenate(maps), np.concatenate(probs)


def see_images(net: CamNet, images: Tensor, device: Device) -> CamOutput:
    """Return the output for (B, C, H, W) images on the device."""
    with device.autocast():
        output: CamOutput = net(images)
    return output


@torch.no_grad()
def crop_probs(
    net: CamNet,
    batches: Iterable[np.ndarray],
    device: Device,
) -> np.ndarray:
    """Return the probabilities (N, K) float32 of crops; see `crop_outputs`."""
    return crop_outputs(net, batches, device)[0]


@torch.no_grad()
def crop_outputs(net: CamNet, batches: Iterable[np.ndarray], device: Device) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities (N, K) and features (N, D), float32: the mean over each crop of what the classifier sees.

    Args:
        net: in evaluation mode.
        batches: of crops, (n, C, s, s) uint8 each; there may be none. They are seen in parts where memory does not
            hold all of one.
        device: where to compute.
    """
    width, classes = net.classifier.in_channels, net.classifier.out_channels
    outputs = [(np.zeros((0, classes), np.float32), np.zeros((0, width), np.float32))]
    for crops in batches:

        def see(rows: slice, crops: np.ndarray = crops) -> tuple[np.ndarray, np.ndarray]:
            output = see_images(net, device.put(torch.from_numpy(crops[rows])), device)
            pooled = output.features.float().mean(dim=(2, 3))
            both = torch.cat([output.logits.float().sigmoid(), pooled], dim=1).cpu()  # one wait for the device
            check_outputs(both)
            return both[:, :classes].numpy(), both[:, classes:].numpy()

        outputs += in_parts(net, crops.shape, see)
    probs, features = zip(*outputs, strict=True)
    return np.concatenate(probs), np.concatenate(features)


class SiameseOutput(NamedTuple):
    """The two views of a batch."""

    full: CamOutput
    """Of the whole images."""
    tiles: CamOutput | None
    """Of the tiles, merged to the shapes of `full`; None without a puzzle."""

    def views(self, maps: str) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor] | None]:
        """Return (logits, maps) of both views; the maps are the features where `maps` is 'features'."""
        pick = (lambda o: (o.logits, o.features)) if maps == "features" else (lambda o: (o.logits, o.cam))
        return pick(self.full), None if self.tiles is None else pick(self.tiles)


class PuzzleCam(nn.Module):
    """The training view of a `CamNet`: whole image and side x side tiles through the same weights.

    Source: Jo and Yu, Puzzle-CAM (arXiv 2101.11253), with the recipe's changes (method, section 2).

    Args:
        net: the network; inference uses it alone.
        side: tiles per side; 1 for no tiles.
    """

    def __init__(self, net: CamNet, side: int = 2) -> None:
        super().__init__()
        self.net, self.side = net, side

    def forward(self, images: Tensor) -> SiameseOutput:
        """See (B, C, H, W) images, H and W divisible by side x stride."""
        full = self.net(images)
        return SiameseOutput(full, None if self.side == 1 else self._see_tiles(images, full))

    def _see_tiles(self, images: Tensor, full: CamOutput) -> CamOutput:
        tiles = self.net(split(images, self.side))  # on (B*s*s, C, H/s, W/s)
        cam = merge(tiles.cam, self.side)
        if cam.shape != full.cam.shape:
            raise ValueError(
                f"merged maps are {tuple(cam.shape)}, full maps {tuple(full.cam.shape)}: the image's height and width "
                f"must divide by {self.side} x the network's stride, got {tuple(images.shape)}"
            )
        return CamOutput(cam.float().mean(dim=(2, 3)), cam, merge(tiles.features, self.side))


def split(images: Tensor, side: int) -> Tensor:
    """Cut (B, C, H, W) into (B*side*side, C, H/side, W/side), row by row, an image's tiles together.

    Raises:
        ValueError: H or W does not divide by `side`.
    """
    b, c, h, w = images.shape
    if h % side or w % side:
        raise ValueError(f"images of {h} x {w} do not divide into {side} x {side} equal tiles")
    grid = images.reshape(b, c, side, h // side, side, w // side)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(b * side * side, c, h // side, w // side)


def merge(tiles: Tensor, side: int) -> Tensor:
    """Put (B*side*side, C, h, w) tiles back to (B, C, h*side, w*side); undoes `split`.

    Raises:
        ValueError: the number of tiles does not divide by side * side.
    """
    n, c, h, w = tiles.shape
    if n % (side * side):
        raise ValueError(f"{n} tiles are no whole number of images of {side} x {side} tiles")
    grid = tiles.reshape(n // (side * side), side, side, c, h, w)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(n // (side * side), c, side * h, side * w)
