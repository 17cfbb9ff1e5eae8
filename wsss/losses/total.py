"""The whole training loss, every part by name."""

from dataclasses import replace

from torch import Tensor

from wsss.losses.classify import build_classify
from wsss.losses.puzzle import agreement, ramp_weight
from wsss.options.recipe import CellTrainConfig, LossConfig, PuzzleConfig

Pieces = tuple[Tensor | None, Tensor, Tensor]


class ComboLoss:
    """BCE of the whole image + BCE of its merged tiles + weight x mean |difference of the maps|.

    Cells as pieces add the BCE of the image with its pieces in place + weight x mean |difference of the cells' logits|.

    Source: the recipe's ComboLoss, method, section 2; each part has its options.
    """

    def __init__(self, loss: LossConfig, puzzle: PuzzleConfig, cells: CellTrainConfig | None = None) -> None:
        cells = cells or CellTrainConfig()
        self.loss, self.puzzle = loss, puzzle
        self.of_cells = replace(puzzle, weight=cells.weight, maps="raw")
        self.classify = build_classify(loss)
        self.names = ["loss", "full"]
        """Of what a call returns."""
        self.names += ["tiles", "agreement"] if puzzle.side > 1 else []
        self.names += ["pieces"] if cells.pieces and cells.pooled else []
        self.names += ["cell_agreement"] if cells.pieces else []

    def __call__(
        self,
        full: tuple[Tensor, Tensor],
        tiles: tuple[Tensor, Tensor] | None,
        labels: Tensor,
        progress: float = 1.0,
        pieces: Pieces | None = None,
    ) -> dict[str, Tensor]:
        """Return scalars by name: 'loss' is the sum to minimise, the others its parts before weighting.

        Args:
            full: of whole images: (B, K) logits and the (B, K, h, w) maps (or features) that must agree.
            tiles: the same of the merged tiles, or None without a puzzle.
            labels: (B, K) 0/1.
            progress: share of the training that is done, for the ramp of the agreement's weight.
            pieces: None without; else the (B, K) logits of images with their pieces in place, or None, and the
                (B, K, P, 1) logits of these cells in the image and alone.
        """
        parts = {"full": self.classify(full[0], labels)}
        total = parts["full"]
        if tiles is not None:
            parts["tiles"] = self.classify(tiles[0], labels)
            parts["agreement"] = agreement(full[1], tiles[1], labels, self.puzzle)
            total = total + self.loss.tile_weight * parts["tiles"]
            total = total + ramp_weight(self.puzzle, progress) * parts["agreement"]
        if pieces is not None:
            logits, inside, alone = pieces
            if logits is not None:
                parts["pieces"] = self.classify(logits, labels)
                total = total + self.loss.tile_weight * parts["pieces"]
            parts["cell_agreement"] = agreement(inside, alone, labels, self.of_cells)
            total = total + ramp_weight(self.of_cells, progress) * parts["cell_agreement"]
        return {"loss": total, **parts}
