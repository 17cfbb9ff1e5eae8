"""Puzzle-CAM: the same network sees the image and its tiles, and the maps must agree.

Source: Jo and Yu, Puzzle-CAM (arXiv 2101.11253), with the recipe's changes (method, section 2).
"""

from typing import NamedTuple

from torch import Tensor, nn

from wsss.models.cam_net import CamNet, CamOutput


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
