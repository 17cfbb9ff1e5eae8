"""U-Net on any encoder: images of any size in, mask logits of the same size out."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsss.models.decoder import Decoder
from wsss.models.encoder import Encoder, build_encoder
from wsss.options.masks import UnetConfig
from wsss.options.recipe import MaskRecipe, UnetRecipe


class MaskOutput(NamedTuple):
    """What a mask network says of a batch."""

    logits: Tensor
    """(B, K, H, W) before sigmoid or softmax."""
    side: tuple[Tensor, ...]
    """The same of coarser decoder scales, brought to full size; only in training with deep supervision."""


class Unet(nn.Module):
    """An encoder, a decoder, and a 3x3 convolution to one map a channel of the target.

    Images come as stored (uint8 or float, 0..255); standardisation is the network's own, and so are sizes: they are
    filled up to a multiple of the stride by mirroring, and the maps are cut back.

    Args:
        encoder: with its scales and input statistics.
        outputs: K.
        config: options of the decoder.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: Encoder, outputs: int, config: UnetConfig) -> None:
        super().__init__()
        self.encoder = encoder.model
        self.stride = max(scale.stride for scale in encoder.scales)
        self.hypercolumn = config.hypercolumn
        self.decoder = Decoder(encoder.scales, config)
        self.dropout = nn.Dropout2d(config.dropout)
        channels = sum(config.channels) if config.hypercolumn else config.channels[-1]
        self.output = nn.Conv2d(channels, outputs, kernel_size=3, padding=1)
        sides = config.channels[:-1] if config.deep_supervision else []
        self.sides = nn.ModuleList(nn.Conv2d(own, outputs, kernel_size=1) for own in sides)
        self.register_buffer("mean", torch.tensor(encoder.statistics.mean).view(-1, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(encoder.statistics.std).view(-1, 1, 1) * 255)

    def forward(self, images: Tensor) -> MaskOutput:
        """Find the masks of (B, C, H, W) images of 0..255."""
        size = images.shape[2:]
        x = fill_to_multiple((images.to(self.mean.dtype) - self.mean) / self.std, self.stride)
        full = x.shape[2:]
        maps = self.decoder(self.encoder(x)[1:])
        top = maps[-1]
        if self.hypercolumn:
            top = torch.cat([_resize(own, full) for own in maps], dim=1)
        logits = self.output(self.dropout(top))
        side: tuple[Tensor, ...] = ()
        if self.training:
            side = tuple(  # strict=False: without deep supervision there are none, with it the finest has none
                cut_back(_resize(head(own), full), size) for head, own in zip(self.sides, maps, strict=False)
            )
        return MaskOutput(cut_back(logits, size), side)

    def new_parameters(self) -> set[nn.Parameter]:
        """Return the parameters that no pretrained weights hold."""
        encoder = {id(p) for p in self.encoder.parameters()}
        return {p for p in self.parameters() if id(p) not in encoder}


def fill_to_multiple(images: Tensor, step: int) -> Tensor:
    """Fill (B, C, H, W) up to multiples of `step`, evenly on both sides, by mirroring where the image is large enough.

    `cut_back` undoes it.
    """
    h, w = images.shape[2:]
    down, right = -h % step, -w % step
    if not down and not right:
        return images
    sides = (right // 2, right - right // 2, down // 2, down - down // 2)
    mirror = max(sides[:2]) < w and max(sides[2:]) < h
    return F.pad(images, sides, mode="reflect" if mirror else "replicate")


def cut_back(maps: Tensor, size: tuple[int, ...] | torch.Size) -> Tensor:
    """Cut (B, K, H', W') maps of filled images back to the images' (H, W)."""
    top, left = ((maps.shape[2 + axis] - size[axis]) // 2 for axis in (0, 1))
    return maps[:, :, top : top + size[0], left : left + size[1]]


def probabilities(logits: Tensor, target: str) -> Tensor:
    """Turn (B, K, H, W) logits into probabilities, by softmax where the channels exclude each other."""
    return logits.softmax(dim=1) if target == "softmax" else logits.sigmoid()


def _resize(maps: Tensor, size: torch.Size) -> Tensor:
    return maps if maps.shape[2:] == size else F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def build_unet(recipe: UnetRecipe, *, channels: int, outputs: int, pretrained: bool = True) -> Unet:
    """Build the mask network of a recipe; `pretrained` False leaves the weights random, for loading a checkpoint.

    Raises:
        ConfigError, DataError: see `build_encoder` and `Decoder`.
    """
    encoder = build_encoder(
        recipe.backbone,
        channels=channels,
        weights=recipe.weights if pretrained else "none",
        stem=recipe.stem,
        depth=len(recipe.unet.channels),
        stem_pool=recipe.unet.stem_pool,
    )
    return Unet(encoder, outputs, recipe.unet)


BACKBONE = "test_resnet"
"""timm's smallest residual network, half a million weights: what its name says of tests is about its size."""
CHANNELS = [64, 48, 32, 16, 8]
INPUTS, OUTPUTS = 3, 4
"""Red, blue, yellow; inside and border of nuclei, inside and border of cells."""


def build_cell_unet() -> Unet:
    """Build the network with random weights."""
    recipe = MaskRecipe(backbone=BACKBONE, weights="none", unet=UnetConfig(channels=CHANNELS, upsample="bilinear"))
    return build_unet(recipe, channels=INPUTS, outputs=OUTPUTS, pretrained=False)
