"""Cells as puzzle pieces: each cut out of its image, its surroundings black, as stage 2 sees it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class Pieces(NamedTuple):
    """Cells cut out of a batch."""

    crops: Tensor
    """(n, C, size, size) float32, 0..255; n is at least 1."""
    slots: Tensor
    """(n,) int64: image * count + cell - 1."""
    present: Tensor
    """(B, count) bool: which slots hold a cell; a single black crop stands in where no image has any."""


def cut_pieces(images: Tensor, cells: Tensor, count: int, size: int, found: int | None = None) -> Pieces:
    """Cut out the cells 1..count of every image, as `cells.crops.cell_crops` does in mode 'stored'.

    A window of `size` pixels at the image's scale; cells larger than it are shrunk to fit (bilinear).

    Args:
        images: (B, C, H, W), 0..255.
        cells: (B, H, W) whole numbers, 0 background.
        count: most cells of an image.
        size: edge of the window in pixels.
        found: how many of these cells there are in all; None counts them, for which a GPU has to be waited for.
    """
    low, high = _boxes(cells, count)  # (B * count, 2) y and x
    present = high[:, 0] > low[:, 0]
    found = int(present.sum()) if found is None else found
    slots = (~present).byte().argsort(stable=True)[: max(1, found)]  # the present ones come first, in their order
    low, edges = low[slots], (high - low)[slots]
    step = (edges.amax(dim=1, keepdim=True) / size).clamp(min=1.0)  # image pixels per pixel of the crop
    margin = torch.div(size - (edges / step).round(), 2, rounding_mode="floor")
    pixel = torch.arange(size, device=cells.device) + 0.5
    places = low.unsqueeze(2) + (pixel - margin.unsqueeze(2)) * step.unsqueeze(2) - 0.5  # (n, 2, size)
    crops = _sample(images.permute(0, 2, 3, 1), cells, slots // count, slots % count + 1, places)
    return Pieces(crops.permute(0, 3, 1, 2), slots, present.view(-1, count))


def _boxes(cells: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the first y and x, and those after the last, (B * count, 2) float32 both; low > high without pixels."""
    b, height, width = cells.shape
    wanted = cells.long().where(cells <= count, 0)
    row = (torch.arange(b, device=cells.device).view(-1, 1, 1) * (count + 1) + wanted).flatten()
    ends = []
    for axis, edge in ((0, height), (1, width)):
        place = torch.arange(edge, device=cells.device, dtype=torch.float32)
        place = (place.view(-1, 1) if axis == 0 else place).expand(b, height, width).flatten()
        start = torch.full((b * (count + 1),), float(edge), device=cells.device)
        stop = torch.full_like(start, -1.0)
        ends.append((start.scatter_reduce(0, row, place, "amin"), stop.scatter_reduce(0, row, place, "amax") + 1))
    low, high = (torch.stack(pair, dim=1) for pair in zip(*ends, strict=True))
    return tuple(end.view(b, count + 1, 2)[:, 1:].flatten(0, 1) for end in (low, high))  # type: ignore[return-value]


def _sample(images: Tensor, cells: Tensor, owner: Tensor, number: Tensor, places: Tensor) -> Tensor:
    """Sample (B, H, W, C) images, black outside each cell, bilinear at `places` (n, 2, size): (n, size, size, C)."""
    height, width = cells.shape[1:]
    low = places.floor()
    share = places - low
    image = owner.view(-1, 1, 1)
    total: Tensor | None = None
    for y, share_y in ((low[:, 0], 1 - share[:, 0]), (low[:, 0] + 1, share[:, 0])):
        for x, share_x in ((low[:, 1], 1 - share[:, 1]), (low[:, 1] + 1, share[:, 1])):
            inside = ((y >= 0) & (y < height)).unsqueeze(2) & ((x >= 0) & (x < width)).unsqueeze(1)
            at = image, y.long().clamp(0, height - 1).unsqueeze(2), x.long().clamp(0, width - 1).unsqueeze(1)
            own = inside & (cells[at] == number.view(-1, 1, 1))
            part = images[at] * (share_y.unsqueeze(2) * share_x.unsqueeze(1) * own).unsqueeze(3)
            total = part if total is None else total + part
    assert total is not None  # there are four corners
    return total


@contextmanager
def still_norms(net: nn.Module) -> Iterator[None]:
    """Let batch norms use their running statistics, and keep them as they are.

    Those belong to whole images, by which crops are standardised at inference too; crops, mostly black, would drag
    them away.
    """
    norms = [module for module in net.modules() if isinstance(module, _BatchNorm) and module.training]
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()
