"""Test-time augmentation of masks: predict flips, turns and sizes, undo each on the output, average."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Predict = Callable[[Tensor], Tensor]
"""(B, C, H, W) images -> (B, K, H, W) probabilities."""
View = tuple[int, bool]
"""Quarter turns, then whether to flip left and right."""

VIEWS: dict[str, tuple[View, ...]] = {
    "none": ((0, False),),
    "flips": ((0, False), (0, True), (2, False), (2, True)),
    "turns": tuple((turns, flip) for turns in range(4) for flip in (False, True)),
}
"""By `MaskInferConfig.tta`; half a turn with and without a flip are the flip of both axes and that of one."""


def apply(images: Tensor, view: View) -> Tensor:
    """Turn and flip (..., H, W); `undo` takes it back."""
    turns, flip = view
    turned = torch.rot90(images, turns, (-2, -1))
    return turned.flip(-1) if flip else turned


def undo(maps: Tensor, view: View) -> Tensor:
    """Take back what `apply` did to the image the maps are of."""
    turns, flip = view
    return torch.rot90(maps.flip(-1) if flip else maps, -turns, (-2, -1))


def predict_views(predict: Predict, images: Tensor, kind: str = "none", scales: Sequence[float] = (1.0,)) -> Tensor:
    """Average the predictions of several views of (B, C, H, W) images.

    Args:
        predict: the network with its sigmoid or softmax, for images of any size.
        images: of 0..255.
        kind: none, flips or turns.
        scales: sizes of the image; not 1 for resized copies (bilinear), whose maps are resized back.

    Returns:
        (B, K, H, W) float32.
    """
    views = VIEWS[kind]
    total: Tensor | None = None
    for scale in scales:
        sized = images if scale == 1 else _resize(images.float(), [max(1, round(e * scale)) for e in images.shape[2:]])
        for view in views:
            maps = undo(predict(apply(sized, view)).float(), view)
            maps = maps if maps.shape[2:] == images.shape[2:] else _resize(maps, list(images.shape[2:]))
            total = maps if total is None else total + maps
    assert total is not None  # scales are checked not to be empty
    return total / (len(views) * len(scales))


def _resize(pixels: Tensor, size: list[int]) -> Tensor:
    return F.interpolate(pixels, size=size, mode="bilinear", align_corners=False, antialias=True)
