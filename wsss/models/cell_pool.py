"""Multiple-instance learning over cells: class maps averaged in each cell, an image's logits pooled from its cells.

The background is left out: labels are of cells, and a class map may not explain a label by what lies between them. An
image without any cell counts as one cell that fills it, so that its logits are the means of its maps, as without
pooling; this also makes a single cell's crop an ordinary image.

Source: noisy-or and attention pooling as in Ilse, Tomczak, Welling, Attention-based deep multiple instance learning
(arXiv 1802.04712), attention without its hidden layer; log-sum-exp as in Pinheiro and Collobert (arXiv 1411.6228).
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsss.options.recipe import CellTrainConfig


def cell_weights(cells: Tensor, size: Sequence[int], least: int = 1, most: int | None = None) -> Tensor:
    """Return what each pixel of a class map counts in the mean over each cell.

    The mean of a cell is that of the map resized to the image (bilinear, align_corners=False), as stage 1 takes it.

    Args:
        cells: (B, H, W) whole numbers, 0 background, cells 1..M in each image; gaps count as cells without pixels.
        size: (h, w) of the maps.
        least: lowest M wanted.
        most: highest number in `cells`; None looks for it, for which a GPU has to be waited for.

    Returns:
        (B, M, h * w) float32. Rows sum to 1, or to 0 where there is no such cell; in images without any
        cell the first one fills the image.
    """
    b, height, width = cells.shape
    h, w = size
    most = max(1, least, int(cells.max()) if most is None else most)
    place = (torch.arange(b, device=cells.device).view(-1, 1, 1) * (most + 1) + cells.long()) * h
    out = torch.zeros(b * (most + 1) * h * w, device=cells.device)
    for rows, share_y in _corners(height, h, cells.device):
        for columns, share_x in _corners(width, w, cells.device):
            index = (place + rows.view(-1, 1)) * w + columns
            share = (share_y.view(-1, 1) * share_x).expand(b, height, width)
            out.index_add_(0, index.flatten(), share.flatten())
    weights = out.view(b, most + 1, h * w)[:, 1:]  # without the background
    empty = weights.sum(dim=(1, 2)) == 0
    weights[:, 0] += empty.unsqueeze(1)
    return weights / weights.sum(dim=2, keepdim=True).clamp(min=1e-12)


def _corners(wanted: int, given: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the two neighbours among `given` pixels, and their shares, that bilinear resizing to `wanted` takes."""
    place = ((torch.arange(wanted, device=device) + 0.5) * (given / wanted) - 0.5).clamp(0, given - 1)
    low = place.long()
    share = place - low
    yield low, 1 - share
    yield (low + 1).clamp(max=given - 1), share


def cell_means(maps: Tensor, weights: Tensor) -> Tensor:
    """Average (B, J, h, w) maps in each cell of `weights` (B, M, h * w): (B, M, J) float32."""
    with torch.autocast(maps.device.type, enabled=False):  # sums over many pixels need float32
        return weights @ maps.float().flatten(2).transpose(1, 2)


class CellPool(nn.Module):
    """From the cells of an image to its logits.

    Args:
        config: how; not 'none'.
        features: channels of the features below the classifier.
        classes: K.
    """

    def __init__(self, config: CellTrainConfig, features: int, classes: int) -> None:
        super().__init__()
        self.config, self.classes = config, classes
        self.attention = None
        if config.pooling == "attention":
            self.attention = nn.Conv2d(features, classes, kernel_size=1, bias=False)
            nn.init.zeros_(self.attention.weight)  # begins with the mean over the cells

    def maps(self, cam: Tensor, features: Tensor) -> Tensor:
        """Return what must be averaged in the cells, (B, J, h, w): the class maps; attention has K more, J = 2 K.

        Args:
            cam: (B, K, h, w) raw class maps.
            features: (B, C, h, w) below the classifier.
        """
        return cam if self.attention is None else torch.cat([cam, self.attention(features)], dim=1)

    def forward(self, values: Tensor, present: Tensor) -> Tensor:
        """Pool the cells' means of `maps`.

        Args:
            values: (B, M, J) float32; the first K are the cells' logits.
            present: (B, M) bool; at least one cell an image.

        Returns:
            (B, K) float32 logits.
        """
        logits, there = values[..., : self.classes], present.unsqueeze(-1)
        if self.config.pooling == "noisy_or":
            return noisy_or(logits, there)
        if self.config.pooling == "lse":
            sharp = self.config.sharpness
            raised = (sharp * logits).masked_fill(~there, -torch.inf).logsumexp(dim=1)
            return (raised - there.sum(dim=1).log()) / sharp
        weights = values[..., self.classes :].masked_fill(~there, -torch.inf).softmax(dim=1)
        return (weights * logits).sum(dim=1)


def is_present(weights: Tensor) -> Tensor:
    """Say which cells of `cell_weights` there are, (B, M) bool."""
    return weights.sum(dim=2) > 0.5


def noisy_or(logits: Tensor, present: Tensor) -> Tensor:
    """Return the logits (B, K) of p = 1 - product of (1 - p_m) over the cells that are present.

    Args:
        logits: (B, M, K) of the cells.
        present: (B, M, 1) bool.

    With s the sum of softplus(logit), p = 1 - exp(-s), whose logit is s + log(1 - exp(-s)): exact for tiny and for
    large s alike; one cell keeps its logit.
    """
    s = F.softplus(logits).where(present, 0.0).sum(dim=1).clamp(min=1e-30)
    return s + torch.log(-torch.expm1(-s))
