"""Augmentation of a whole batch where the network computes; what happens to which image is drawn elsewhere.

Each op changes images (n, C, H, W) uint8 with as many sets of values as images, and rounds as its counterpart on the
CPU does (albumentations, wsss.data.photometric). Noise is a function of seed and pixel alone, the same on every device.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

BORDERS = {"constant": "zeros", "replicate": "border", "reflect_101": "reflection"}
"""What lies beyond the edge, as OpenCV calls it -> as PyTorch does."""


@dataclass(frozen=True)
class Drawn:
    """One op for those images of a batch that are to undergo it."""

    op: str
    """A key of OPS."""
    fixed: tuple[Any, ...]
    """Values that these images share."""
    rows: np.ndarray
    """(n,) int64, their places in the batch."""
    values: dict[str, np.ndarray]
    """Values of their own: (n, ...) each."""


def augment_batch(images: Tensor, drawn: Sequence[Drawn]) -> Tensor:
    """Return (B, C, H, W) uint8 images after all ops, one after another; the CPU waits for none of them.

    Args:
        images: (B, C, H, W) uint8, on any device; left as they are.
        drawn: the ops in order.
    """
    if not drawn:
        return images

    def put(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(images.device, non_blocking=True)

    out = images.clone()
    for step in drawn:
        rows = put(step.rows)
        values = {name: put(array) for name, array in step.values.items()}
        out.index_copy_(0, rows, OPS[step.op](out.index_select(0, rows), *step.fixed, **values))
    return out


def turn(images: Tensor, quarters: int) -> Tensor:
    """Turn images counterclockwise by quarters."""
    return images.rot90(quarters, (2, 3))


def warp(images: Tensor, x: Tensor, y: Tensor, border: str) -> Tensor:
    """Take each pixel from elsewhere, bilinearly.

    Args:
        images: (n, C, H, W) uint8.
        x, y: (n, H, W) float32, where the pixels come from; or (n, 1, W) and (n, H, 1).
        border: a key of BORDERS.
    """
    height, width = images.shape[2:]
    shape = (len(images), height, width)
    x, y = x.expand(shape) * (2 / (width - 1)) - 1, y.expand(shape) * (2 / (height - 1)) - 1
    grid = torch.stack([x, y], dim=-1)
    return levels(F.grid_sample(images.float(), grid, padding_mode=BORDERS[border], align_corners=True))


def affine(images: Tensor, border: str, *, back: Tensor) -> Tensor:
    """Shift, scale, turn, shear; `back` (n, 2, 3) leads from pixels (x, y, 1) of the result to those of the image."""
    x, y = _places(images)
    rows = back[:, :, 0, None, None] * x + back[:, :, 1, None, None] * y + back[:, :, 2, None, None]
    return warp(images, rows[:, 0], rows[:, 1], border)


def stretch(images: Tensor, border: str, *, x: Tensor, y: Tensor) -> Tensor:
    """Take column k from x[:, k] and row k from y[:, k]; (n, W) and (n, H) float32."""
    return warp(images, x[:, None, :], y[:, :, None], border)


def bend(images: Tensor, border: str, *, k: Tensor) -> Tensor:
    """Distort as a lens with the radial coefficients (k, k) does; the edge of the image is the unit of the radius."""
    height, width = images.shape[2:]
    x, y = _places(images)
    # OpenCV's initUndistortRectifyMap sees the middle half a pixel apart in the two images
    x, y = (x - (width - 1) / 2) / width, (y - (height - 1) / 2) / height
    square = x * x + y * y
    away = 1 + k[:, None, None] * (square + square * square)
    return warp(images, x * away * width + width / 2, y * away * height + height / 2, border)


def crumple(images: Tensor, alpha: float, sigma: float, same: bool, border: str, *, seed: Tensor) -> Tensor:
    """Move pixels by smooth noise."""
    shift = smooth_shift(normals(seed, (1 if same else 2, *images.shape[2:])), alpha, sigma)
    x, y = _places(images)
    return warp(images, x + shift[:, 0], y + shift[:, -1], border)


def smooth_shift(noise: Tensor, alpha: float, sigma: float) -> Tensor:
    """Return `alpha` times the blurred noise (n, k, H, W), whose largest absolute value was made 1 before."""
    noise = noise / noise.abs().amax(dim=(1, 2, 3), keepdim=True)
    kernel = gaussian(sigma, round(8 * sigma + 1) | 1, noise)
    return alpha * _separable(noise, kernel, "replicate")


def add_noise(images: Tensor, *, mean: Tensor, std: Tensor, seed: Tensor) -> Tensor:
    """Add Gaussian noise; mean and standard deviation (n,) are shares of 255. It is cut to whole levels."""
    noise = normals(seed, images.shape[1:]) * (255 * _each(std)) + 255 * _each(mean)
    return (images + noise.trunc()).clamp(0, 255).to(torch.uint8)


def add_photons(images: Tensor, *, photons: Tensor, seed: Tensor) -> Tensor:
    """Add shot noise as if a pixel of 255 had caught so many photons (n,)."""
    light = images.float()
    return levels(light + normals(seed, images.shape[1:]) * (light * (255 / _each(photons))).sqrt())


def drop(images: Tensor, fill: float, *, holes: Tensor) -> Tensor:
    """Fill rectangles; holes are (n, k, 4): x0 y0 x1 y1 each."""
    x, y = _places(images)
    x0, y0, x1, y1 = holes[..., None, None].unbind(2)
    inside = ((x >= x0) & (x < x1) & (y >= y0) & (y < y1)).any(dim=1)  # (n, H, W)
    return images.masked_fill(inside[:, None], fill)


def blur(images: Tensor, *, kernel: Tensor) -> Tensor:
    """Convolve rows and columns with one kernel an image, (n, L), L odd."""
    return levels(_separable(images.float(), kernel, "reflect_101"))


def convolve(images: Tensor, *, kernel: Tensor) -> Tensor:
    """Convolve with one kernel an image, (n, L, L), L odd."""
    return levels(_convolve(images.float(), kernel, "reflect_101"))


def median(images: Tensor, edge: int) -> Tensor:
    """Take the median of edge x edge pixels."""
    windows = _pad(images, edge // 2, edge // 2, "replicate").unfold(2, edge, 1).unfold(3, edge, 1)
    return windows.flatten(4).median(dim=-1).values


def look_up(images: Tensor, *, table: Tensor) -> Tensor:
    """Replace each level by its entry in a table (n, 1, 256) or (n, C, 256), uint8."""
    table = table.expand(-1, images.shape[1], -1)
    return table.gather(2, images.flatten(2).long()).view_as(images)


def brighten(images: Tensor, by_max: bool, *, alpha: Tensor, beta: Tensor) -> Tensor:
    """Multiply by alpha and add beta x 255, or beta x the image's mean; cut to whole levels."""
    light = images.float()
    unit = 255.0 if by_max else light.mean(dim=(1, 2, 3), keepdim=True)
    return (light * _each(alpha) + _each(beta) * unit).clamp(0, 255).to(torch.uint8)


def light_unevenly(images: Tensor, *, strength: Tensor, coarse: Tensor) -> Tensor:
    """Multiply by 1 + strength x a field that is drawn at few points, (n, knots, knots) in -1..1."""
    field = F.interpolate(coarse[:, None], images.shape[2:], mode="bicubic", align_corners=False).clamp(-1, 1)
    return levels(images * (1 + _each(strength) * field))


def haze(images: Tensor, shrink: int, veil: float, sigma: float, *, amount: Tensor) -> Tensor:
    """Mix with the image's own blurred light, worked out on a `shrink`-th of its edge, and a veil."""
    small = [max(1, edge // shrink) for edge in images.shape[2:]]
    coarse = F.interpolate(images.float(), small, mode="area").round()
    kernel = gaussian(sigma / shrink, round(6 * sigma / shrink + 1) | 1, coarse)
    coarse = _separable(coarse, kernel, "reflect_101").round()
    blurred = F.interpolate(coarse, images.shape[2:], mode="bilinear", align_corners=False).round()
    share = _each(amount)
    return levels(images * (1 - share) + (blurred + veil) * share)


OPS: dict[str, Callable[..., Tensor]] = {
    "flip": lambda images: images.flip(3),
    "turn over": lambda images: images.flip(2),
    "turn": turn,
    "affine": affine,
    "stretch": stretch,
    "bend": bend,
    "crumple": crumple,
    "add noise": add_noise,
    "add photons": add_photons,
    "drop": drop,
    "blur": blur,
    "convolve": convolve,
    "median": median,
    "look up": look_up,
    "brighten": brighten,
    "light unevenly": light_unevenly,
    "haze": haze,
}
"""What can be done to a batch, by name."""


def normals(seeds: Tensor, shape: Sequence[int]) -> Tensor:
    """Return (n, *shape) float32 of standard normal noise, a function of each seed (n,) int64 and the place alone.

    Source: Box and Muller, A Note on the Generation of Random Normal Deviates, 1958; uniform numbers by hashing.
    """
    count = int(np.prod(shape))
    places = torch.arange(count + count % 2, device=seeds.device)
    bits = _hash(_hash(places) + _hash(seeds + 1)[:, None])
    first, second = ((bits.float() + 0.5) * 2.0**-32).chunk(2, dim=1)
    radius, angle = (-2 * first.log()).clamp(min=0).sqrt(), 2 * np.pi * second
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :count].view(-1, *shape)


def _hash(numbers: Tensor) -> Tensor:
    """Scatter int64 numbers over 0 .. 2^32 - 1. Source: Wellons, Prospecting for Hash Functions, 2018 (lowbias32)."""
    numbers = numbers & 0xFFFFFFFF
    numbers = ((numbers ^ (numbers >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    numbers = ((numbers ^ (numbers >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    return numbers ^ (numbers >> 16)


def levels(light: Tensor) -> Tensor:
    """Round to uint8."""
    return light.round().clamp(0, 255).to(torch.uint8)


def gaussian(sigma: float, size: int, like: Tensor) -> Tensor:
    """Return a Gaussian of `size` taps for each image of a batch, (n, size)."""
    taps = torch.arange(size, device=like.device, dtype=like.dtype) - size // 2
    kernel = torch.exp(-0.5 * (taps / sigma) ** 2)
    return (kernel / kernel.sum()).expand(len(like), size)


def _each(values: Tensor) -> Tensor:
    """Return (n, 1, 1, 1) float32 of (n,)."""
    return values.float().view(-1, 1, 1, 1)


def _places(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the pixels' columns (1, W) and rows (H, 1)."""
    height, width = images.shape[2:]
    columns = torch.arange(width, device=images.device, dtype=torch.float32)
    return columns[None], torch.arange(height, device=images.device, dtype=torch.float32)[:, None]


def _separable(light: Tensor, kernel: Tensor, border: str) -> Tensor:
    return _convolve(_convolve(light, kernel[:, None, :], border), kernel[:, :, None], border)


def _convolve(light: Tensor, kernel: Tensor, border: str) -> Tensor:
    """Convolve (n, C, H, W) float32 with a kernel an image, (n, h, w), both odd."""
    n, channels = light.shape[:2]
    padded = _pad(light, kernel.shape[1] // 2, kernel.shape[2] // 2, border).flatten(0, 1)[None]
    weights = kernel.repeat_interleave(channels, dim=0)[:, None].to(light.dtype)
    return F.conv2d(padded, weights, groups=n * channels).view_as(light)


def _pad(images: Tensor, up: int, left: int, border: str) -> Tensor:
    """Add rows and columns on all sides; PyTorch's own padding takes neither uint8 nor more than the image."""
    rows, columns = (_beyond(images, dim, pad, border) for dim, pad in ((2, up), (3, left)))
    return images.index_select(2, rows).index_select(3, columns)


def _beyond(images: Tensor, dim: int, pad: int, border: str) -> Tensor:
    """Return the places of an axis, with `pad` more on both sides."""
    size = images.shape[dim]
    places = torch.arange(-pad, size + pad, device=images.device)
    if border == "replicate" or size == 1:
        return places.clamp(0, size - 1)
    places = places.abs() % (2 * size - 2)
    return torch.minimum(places, 2 * size - 2 - places)
