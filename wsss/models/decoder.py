"""The decoder of a U-Net: blocks that double the maps and join the encoder's, with attention where asked for.

Convolutions and scSE are those of segmentation_models_pytorch, CBAM is timm's; its decoder has neither CBAM, gates,
transposed convolutions, encoders with two maps of one scale, nor the coarser maps that hypercolumns and deep
supervision need.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from segmentation_models_pytorch.base.initialization import initialize_decoder
from segmentation_models_pytorch.base.modules import Conv2dReLU, SCSEModule
from timm.layers.cbam import CbamModule
from torch import Tensor, nn

from wsss.core.checks import ConfigError
from wsss.models.encoder import Scale
from wsss.options.masks import UnetConfig


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
    """Let the encoder's maps through where they and the decoder's agree (Oktay et al., arXiv 1804.03999).

    Args:
        skip: channels of the encoder's maps.
        gating: channels of the decoder's.
    """

    def __init__(self, skip: int, gating: int) -> None:
        super().__init__()
        inner = max(1, skip // 2)
        self.skip = nn.Conv2d(skip, inner, 1, bias=False)
        self.gating = nn.Conv2d(gating, inner, 1)
        self.weight = nn.Sequential(nn.ReLU(), nn.Conv2d(inner, 1, 1), nn.Sigmoid())

    def forward(self, skip: Tensor, gating: Tensor) -> Tensor:
        """Weigh (B, C, h, w) `skip` by what (B, D, h, w) `gating` says of each pixel."""
        weighted: Tensor = skip * self.weight(self.skip(skip) + self.gating(gating))
        return weighted


def _attention(name: str, channels: int) -> nn.Module:
    if name == "scse":
        return SCSEModule(channels, reduction=min(16, channels))
    if name == "cbam":
        return CbamModule(channels, rd_channels=max(1, channels // 16))
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
        config: options.

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
        found = []
        for block, skip in zip(self.blocks, [*skips, None], strict=True):
            x = block(x, skip if skip is not None and skip.shape[1] else None)  # some encoders have no finest scale
            found.append(x)
        return found
