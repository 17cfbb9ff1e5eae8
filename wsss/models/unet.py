"""U-Net on any encoder: images of any size in, mask logits of the same size out.

The decoder's blocks double the maps and join the encoder's, with attention where configured. Convolutions and scSE are
those of segmentation_models_pytorch, CBAM is timm's; its decoder has neither CBAM, gates, transposed convolutions,
encoders with two maps of one scale, nor the coarser maps that hypercolumns and deep supervision need.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from segmentation_models_pytorch.base.initialization import initialize_decoder
from segmentation_models_pytorch.base.modules import Conv2dReLU, SCSEModule
from timm.layers.cbam import CbamModule
from torch import Tensor, nn

from wsss.core.checks import ConfigError
from wsss.models.backbone import fast_layout
from wsss.models.encoder import Encoder, Scale, build_encoder
from wsss.options.masks import UnetConfig
from wsss.options.recipe import MaskRecipe, UnetRecipe


class MaskOutput(NamedTuple):
    """Output of a mask network for a batch."""

    logits: Tensor
    """(B, K, H, W) before sigmoid or softmax."""
    side: tuple[Tensor, ...]
    """The same of coarser decoder scales, brought to full size; only in training with deep supervision."""
    holds: Tensor | None = None
    """(B,) logits of whether the image holds anything; None without such a head."""


class Unet(nn.Module):
    """An encoder, a decoder, and a 3x3 convolution to one map a channel of the target.

    Images come as stored (uint8 or float, 0..255); standardisation is the network's own, and so are sizes: they are
    filled up to a multiple of the stride by mirroring, and the maps are cut back.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: Encoder, outputs: int, config: UnetConfig) -> None:
        super().__init__()
        self.encoder, self.layout = encoder.model, fast_layout(encoder.model)
        self.stride = max(scale.stride for scale in encoder.scales)
        self.hypercolumn = config.hypercolumn
        self.decoder = Decoder(encoder.scales, config)
        self.dropout = nn.Dropout2d(config.dropout)
        channels = sum(config.channels) if config.hypercolumn else config.channels[-1]
        self.output = nn.Conv2d(channels, outputs, kernel_size=3, padding=1)
        sides = config.channels[:-1] if config.deep_supervision else []
        self.sides = nn.ModuleList(nn.Conv2d(channels, outputs, kernel_size=1) for channels in sides)
        self.empty_head = nn.Linear(encoder.scales[-1].channels, 1) if config.empty_head else None
        self.register_buffer("mean", torch.tensor(encoder.statistics.mean).view(-1, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(encoder.statistics.std).view(-1, 1, 1) * 255)

    def forward(self, images: Tensor) -> MaskOutput:
        """Find the masks of (B, C, H, W) images of 0..255."""
        size = images.shape[2:]
        x = fill_to_multiple((images.to(self.mean.dtype) - self.mean) / self.std, self.stride)
        x = x.contiguous(memory_format=self.layout)
        full = x.shape[2:]
        encoded = self.encoder(x)[1:]
        maps = self.decoder(encoded)
        if self.hypercolumn:
            logits = convolve_hypercolumn([self.dropout(scale) for scale in maps], self.output)
        else:
            logits = self.output(self.dropout(maps[-1]))
        side: tuple[Tensor, ...] = ()
        if self.training:
            side = tuple(  # strict=False: without deep supervision there are none, with it the finest has none
                cut_back(_resize(head(scale), full), size) for head, scale in zip(self.sides, maps, strict=False)
            )
        holds = None if self.empty_head is None else self.empty_head(encoded[-1].mean(dim=(2, 3)))[:, 0]
        return MaskOutput(cut_back(logits, size), side, holds)

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


def convolve_hypercolumn(maps: Sequence[Tensor], output: nn.Conv2d) -> Tensor:
    """Return what `output` (3x3, padding 1) makes of all `maps` brought to the size of the last and joined.

    A scale is multiplied with the kernel before it is enlarged, so that 9 K maps are enlarged in place of all its
    channels: the same sums in another order, at a fraction of the time and memory.

    Args:
        maps: (B, C_i, h_i, w_i), the largest last.
        output: from the sum of C_i channels to K.

    Returns:
        (B, K, H, W) of the largest map's size.
    """
    size, outputs = maps[-1].shape[2:], output.out_channels
    kernels = list(output.weight.split([scale.shape[1] for scale in maps], dim=1))
    direct = F.conv2d(maps[-1], kernels.pop(), output.bias, padding=1)
    shifts: Tensor | None = None
    for scale, kernel in zip(maps, kernels, strict=False):  # the last one is done
        # (K, C, 3, 3) as a 1x1 convolution to K x 9 maps; the fold adds them up shifted, the other way round.
        taps = kernel.flip(2, 3).permute(0, 2, 3, 1).reshape(9 * outputs, scale.shape[1], 1, 1)
        maps_of_taps = _resize(F.conv2d(scale, taps), size)
        shifts = maps_of_taps if shifts is None else shifts + maps_of_taps
    if shifts is not None:
        direct = direct + F.fold(shifts.flatten(2), size, kernel_size=3, padding=1)
    return direct


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
    net = Unet(encoder, outputs, recipe.unet)
    return net.to(memory_format=net.layout)


BACKBONE = "test_resnet"
"""timm's smallest residual network, half a million weights; it is made for tests because it is small."""
CHANNELS = [64, 48, 32, 16, 8]
INPUTS, OUTPUTS = 3, 4
"""Red, blue, yellow; inside and border of nuclei, inside and border of cells."""


def build_cell_unet() -> Unet:
    """Build the network with random weights."""
    recipe = MaskRecipe(backbone=BACKBONE, weights="none", unet=UnetConfig(channels=CHANNELS, upsample="bilinear"))
    return build_unet(recipe, channels=INPUTS, outputs=OUTPUTS, pretrained=False)


class Upsample(nn.Module):
    """Make maps `factor` times as large: nearest, bilinear, or by transposed convolutions of stride 2.

    Args:
        channels: of the maps; they stay.
        factor: a power of 2; 1 leaves the maps alone.
        how: nearest, bilinear or transposed.
    """

    def __init__(self, channels: int, factor: int, how: str) -> None:
        super().__init__()
        self.factor, self.how = factor, how
        steps = factor.bit_length() - 1 if how == "transposed" else 0
        self.steps = nn.Sequential(*(nn.ConvTranspose2d(channels, channels, 2, stride=2) for _ in range(steps)))

    def forward(self, x: Tensor) -> Tensor:
        """Turn (B, C, h, w) into (B, C, h * factor, w * factor)."""
        if self.factor == 1 or self.how == "transposed":
            return self.steps(x)
        if self.how == "nearest":
            return F.interpolate(x, scale_factor=self.factor, mode="nearest")
        return F.interpolate(x, scale_factor=self.factor, mode="bilinear", align_corners=False)


class AttentionGate(nn.Module):
    """Let the encoder's maps through where they and the decoder's agree (Oktay et al., arXiv 1804.03999)."""

    def __init__(self, skip: int, gating: int) -> None:
        super().__init__()
        inner = max(1, skip // 2)
        self.skip = nn.Conv2d(skip, inner, 1, bias=False)
        self.gating = nn.Conv2d(gating, inner, 1)
        self.weight = nn.Sequential(nn.ReLU(), nn.Conv2d(inner, 1, 1), nn.Sigmoid())

    def forward(self, skip: Tensor, gating: Tensor) -> Tensor:
        """Weigh (B, C, h, w) `skip` by the (B, D, h, w) `gating` maps at each pixel."""
        weighted: Tensor = skip * self.weight(self.skip(skip) + self.gating(gating))
        return weighted


class ResidualCbam(nn.Module):
    """CBAM, added to what it weighs: its two gates begin at a half each, and nine of them in a row would end near 0."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weighed = CbamModule(channels, rd_channels=max(1, channels // 16))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, h, w) maps plus the same maps weighed by channel and by pixel."""
        return x + self.weighed(x)


def _attention(name: str, channels: int) -> nn.Module:
    if name == "scse":
        return SCSEModule(channels, reduction=min(16, channels))
    if name == "cbam":
        return ResidualCbam(channels)
    return nn.Identity()


class Block(nn.Module):
    """Upsample, join the encoder's maps, two convolutions; attention after joining and at the end."""

    def __init__(self, below: int, skip: int, out: int, factor: int, config: UnetConfig) -> None:
        super().__init__()
        self.upsample = Upsample(below, factor, config.upsample)
        self.gate = AttentionGate(skip, below) if config.gates and skip else None
        joined = below + skip
        self.joined_attention = _attention(config.attention, joined) if skip else nn.Identity()
        self.convolve = nn.Sequential(
            Conv2dReLU(joined, out, kernel_size=3, padding=1), Conv2dReLU(out, out, kernel_size=3, padding=1)
        )
        self.attention = _attention(config.attention, out)

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """Turn the (B, below, h, w) maps of the block before into (B, out, h * factor, w * factor)."""
        x = self.upsample(x)
        if skip is not None:
            skip = skip if self.gate is None else self.gate(skip, x)
            x = self.joined_attention(torch.cat([x, skip], dim=1))
        return self.attention(self.convolve(x))


class Decoder(nn.Module):
    """From the encoder's maps to maps of the image's size.

    Args:
        scales: of the encoder, from fine to coarse.

    Raises:
        ConfigError: not one number of channels for each scale.
    """

    def __init__(self, scales: Sequence[Scale], config: UnetConfig) -> None:
        super().__init__()
        if len(config.channels) != len(scales):
            raise ConfigError(f"unet.channels has {len(config.channels)} numbers, expected {len(scales)}.")
        coarse_to_fine = list(scales)[::-1]
        targets = [*coarse_to_fine[1:], Scale(0, 1)]
        self.blocks = nn.ModuleList()
        self.strides: list[int] = []
        """Of the blocks' outputs."""
        below = coarse_to_fine[0]
        for target, out in zip(targets, config.channels, strict=True):
            factor = below.stride // target.stride
            self.blocks.append(Block(below.channels, target.channels, out, factor, config))
            self.strides.append(target.stride)
            below = Scale(out, target.stride)
        initialize_decoder(self.blocks)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return the maps of every block, the last of the image's size, given the encoder's from fine to coarse."""
        x, *skips = list(maps)[::-1]
        outputs = []
        for block, skip in zip(self.blocks, [*skips, None], strict=True):
            x = block(x, skip if skip is not None and skip.shape[1] else None)  # some encoders have no finest scale
            outputs.append(x)
        return outputs
