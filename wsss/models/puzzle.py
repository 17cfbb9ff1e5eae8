"""Puzzle-CAM: the same network sees the image and its tiles, and the maps must agree.

Where the images' cells are known, they may be puzzle pieces beside the tiles: each alone must say what it says in the
image, so that stages 1 and 2 are trained to agree.

Source: Jo and Yu, Puzzle-CAM (arXiv 2101.11253), with the recipe's changes (method, section 2).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from wsss.models.cam_net import CamNet, CamOutput
from wsss.models.cell_pieces import cut_pieces, still_norms
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
