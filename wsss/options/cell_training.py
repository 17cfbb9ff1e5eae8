"""The options of training that knows the cells of its images."""

from dataclasses import dataclass
from typing import Literal

from wsss.core.checks import ConfigError, check_choice, check_range
from wsss.options.scoring import CropConfig

POOLINGS = ("none", "noisy_or", "lse", "attention")


@dataclass(frozen=True)
class CellTrainConfig:
    """Training with the label maps that the stage segment made: pooling over cells, cells as puzzle pieces."""

    pooling: Literal["none", "noisy_or", "lse", "attention"] = "none"
    """How an image's probability comes from its class maps. none: mean over the image; the others pool the means of
    the maps in each cell, background left out. noisy_or: 1 - product of (1 - p of the cell); lse: log of the mean of
    exp(sharpness * logit), divided by sharpness; attention: mean of the logits with learnt weights."""
    sharpness: float = 1.0
    """How near lse comes to the highest logit; towards 0 it is the mean."""
    pieces: int = 0
    """Cells of each image, drawn anew each time, that the network also sees alone, cut out as for stage 2; 0 for none.
    A cell's logits in the image and alone must agree (distance, classes, ramp and stop_gradient as in puzzle)."""
    piece_size: int = 96
    """Edge of the window in px that a piece is cut with, at stored scale; must be crops.size."""
    weight: float = 0.5
    """Weight of the agreement between cells in the image and alone."""
    min_visible: float = 0.3
    """Cells of which the training crop shows a smaller share are left out."""

    def __post_init__(self) -> None:
        check_choice("cells.pooling", self.pooling, POOLINGS)
        check_range("cells.sharpness", self.sharpness, 1e-3, 1e3)
        check_range("cells.pieces", self.pieces, 0, 1000)
        check_range("cells.piece_size", self.piece_size, 32, 2048)
        check_range("cells.weight", self.weight, 0)
        check_range("cells.min_visible", self.min_visible, 0, 1)

    def check_crops(self, crops: CropConfig) -> None:
        """Refuse pieces that stage 2 would cut out in another way.

        Raises:
            ConfigError: `crops` differs.
        """
        if self.pieces and crops != CropConfig("stored", self.piece_size, batch=crops.batch):
            raise ConfigError(
                f"cells.pieces are windows of {self.piece_size} px at stored scale, but stage 2 would cut cells out by "
                f"crops.mode {crops.mode}, crops.size {crops.size}, crops.margin {crops.margin:g}: "
                f"pass --crops.mode stored --crops.size {self.piece_size} --crops.margin 0."
            )

    @property
    def pooled(self) -> bool:
        """Whether images are classified by their cells."""
        return self.pooling != "none"

    @property
    def wanted(self) -> bool:
        """Whether training needs label maps."""
        return self.pooled or self.pieces > 0
