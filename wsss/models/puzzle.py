"""Puzzle-CAM: the same network sees the image and its tiles, and the maps must agree.

Where the images' cells are known, they may be puzzle pieces beside the tiles: each alone must say what it says in the
image, so that stages 1 and 2 are trained to agree.

Source: Jo and Yu, Puzzle-CAM (arXiv 2101.11253), with the recipe's changes (method, section 2).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from wsss.models.cam_net import CamNet, CamOutput
from wsss.models.cell_pool import cell_means, cell_weights, is_present


class PieceOutput(NamedTuple):
    """Cells in the image and alone; P pieces an image."""

    logits: Tensor | None
    """(B, K) of the images, pooled with each piece in the place of its cell; None where cells are not pooled."""
    full: Tensor
    """(B, K, P, 1) logits of the cells in the image."""
    alone: Tensor
    """(B, K, P, 1) logits of the cells alone; those of `full` where an image has fewer cells."""


class SiameseOutput(NamedTuple):
    """The two views of a batch."""

    full: CamOutput
    """Of the whole images."""
    tiles: CamOutput | None
    """Of the tiles, merged to the shapes of `full`; None without a puzzle."""
    pieces: PieceOutput | None = None
    """Of cells as puzzle pieces; None without them."""

    def views(self, maps: str) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor] | None]:
        """Return (logits, maps) of both views; the maps are the features where `maps` is 'features'."""
        pick = (lambda o: (o.logits, o.features)) if maps == "features" else (lambda o: (o.logits, o.cam))
        return pick(self.full), None if self.tiles is None else pick(self.tiles)


class PuzzleCam(nn.Module):
    """The training view of a `CamNet`: whole image and side x side tiles through the same weights.

    Args:
        net: the network; inference uses it alone.
        side: tiles per side; 1 for no tiles.
        pieces: cells of each image that are seen alone; 0 for none.
        piece_size: edge of the window that each is cut out with, pixels.
    """

    def __init__(self, net: CamNet, side: int = 2, pieces: int = 0, piece_size: int = 96) -> None:
        super().__init__()
        self.net = net
        self.side, self.pieces, self.piece_size = side, pieces, piece_size

    def forward(
        self, images: Tensor, cells: Tensor | None = None, counts: Sequence[int] | None = None
    ) -> SiameseOutput:
        """See images, and pool over their cells where they are given.

        Args:
            images: (B, C, H, W), H and W divisible by side x stride.
            cells: (B, H, W) whole numbers, 0 background, cells 1..M in each image; 1..P are the pieces.
            counts: cells of each image; None counts them, for which a GPU has to be waited for.
        """
        full = self.net(images)
        tiles = None if self.side == 1 else self._see_tiles(images, full)
        if cells is None:
            return SiameseOutput(full, tiles)
        most = None if counts is None else max(counts)
        weights = cell_weights(cells, full.cam.shape[2:], self.pieces, most)
        pieces = self._see_pieces(images, cells, full, weights, counts) if self.pieces else None
        tiles = None if tiles is None else self.net.pooled(tiles, weights)
        return SiameseOutput(self.net.pooled(full, weights), tiles, pieces)

    def _see_tiles(self, images: Tensor, full: CamOutput) -> CamOutput:
        tiles = self.net(split(images, self.side))  # on (B*s*s, C, H/s, W/s)
        cam = merge(tiles.cam, self.side)
        if cam.shape != full.cam.shape:
            raise ValueError(
                f"merged maps are {tuple(cam.shape)}, full maps {tuple(full.cam.shape)}: the image's height and width "
                f"must divide by {self.side} x the network's stride, got {tuple(images.shape)}"
            )
        return CamOutput(cam.float().mean(dim=(2, 3)), cam, merge(tiles.features, self.side))

    def _see_pieces(
        self, images: Tensor, cells: Tensor, full: CamOutput, weights: Tensor, counts: Sequence[int] | None
    ) -> PieceOutput:
        """See the first cells of each image alone."""
        found = None if counts is None else sum(min(count, self.pieces) for count in counts)
        cut = cut_pieces(images, cells, self.pieces, self.piece_size, found)
        with still_norms(self.net):
            seen = self.net.poolable(self.net(cut.crops)).float().mean(dim=(2, 3))  # (n, J)
        inside = cell_means(self.net.poolable(full), weights)  # (B, M, J)
        own, others = inside[:, : self.pieces], inside[:, self.pieces :]
        alone = torch.zeros_like(own).flatten(0, 1).index_copy(0, cut.slots, seen).view_as(own)
        alone = alone.where(cut.present.unsqueeze(2), own)  # (B, P, J)
        pool, classes = self.net.pool, full.logits.shape[1]
        logits = None if pool is None else pool(torch.cat([alone, others], dim=1), is_present(weights))
        full_logits, alone_logits = (x[..., :classes].transpose(1, 2).unsqueeze(3) for x in (own, alone))
        return PieceOutput(logits, full_logits, alone_logits)


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


class Pieces(NamedTuple):
    """Cells cut out of a batch."""

    crops: Tensor
    """(n, C, size, size) float32, 0..255; n is at least 1."""
    slots: Tensor
    """(n,) int64: image * count + cell - 1."""
    present: Tensor
    """(B, count) bool: which slots hold a cell; a single black crop stands in where no image has any."""


def cut_pieces(images: Tensor, cells: Tensor, count: int, size: int, found: int | None = None) -> Pieces:
    """Cut out the cells 1..count of every image, as `cells.instances.cell_crops` does in mode 'stored'.

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
