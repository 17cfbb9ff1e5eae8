"""The whole training loss, every part by name."""

from torch import Tensor

from wsss.core.recipe import LossConfig, PuzzleConfig
from wsss.losses.classify import build_classify
from wsss.losses.puzzle import agreement, ramp_weight


class ComboLoss:
    """BCE of the whole image + BCE of its merged tiles + weight x mean |difference of the maps|.

    Source: the recipe's ComboLoss, method, section 2; each part has its options.
    """

    def __init__(self, loss: LossConfig, puzzle: PuzzleConfig) -> None:
        self.loss, self.puzzle = loss, puzzle
        self.classify = build_classify(loss)

    def __call__(
        self,
        full: tuple[Tensor, Tensor],
        tiles: tuple[Tensor, Tensor] | None,
        labels: Tensor,
        progress: float = 1.0,
    ) -> dict[str, Tensor]:
        """Return scalars by name: 'loss' is the sum to minimise, the others its parts before weighting.

        Args:
            full: of whole images: (B, K) logits and the (B, K, h, w) maps (or features) that must agree.
            tiles: the same of the merged tiles, or None without a puzzle.
            labels: (B, K) 0/1.
            progress: share of the training that is done, for the ramp of the agreement's weight.
        """
        parts = {"full": self.classify(full[0], labels)}
        total = parts["full"]
        if tiles is not None:
            parts["tiles"] = self.classify(tiles[0], labels)
            parts["agreement"] = agreement(full[1], tiles[1], labels, self.puzzle)
            total = total + self.loss.tile_weight * parts["tiles"]
            total = total + ramp_weight(self.puzzle, progress) * parts["agreement"]
        return {"loss": total, **parts}
