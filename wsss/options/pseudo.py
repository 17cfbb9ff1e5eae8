"""Options of pseudo-masks: from class maps to masks with an ignore band."""

from dataclasses import dataclass
from typing import Literal

from wsss.core.checks import ConfigError, check_range


@dataclass(frozen=True)
class PseudoConfig:
    """How averaged class maps become masks of the image's labels.

    A map counts relative to its peak: what lies at `high` or above is of the class, what lies below `low` is not, the
    rest is ignored. Classes that the image does not bear are nowhere in it.
    """

    low: float = 0.2
    """Share of the peak below which a pixel (or cell) is not of the class."""
    high: float = 0.5
    """Share of the peak from which it is."""
    peak: Literal["image", "class"] = "image"
    """The peak of a map: its highest value in this image, or the median of those of all images with the label."""
    paint: Literal["pixels", "cells"] = "pixels"
    """pixels: every pixel by its own value; cells: every cell as a whole, by the mean of the map in it."""
    refine: Literal["none", "adaptive", "walk"] = "none"
    """Fit the maps to the image first: pixel-adaptive averaging, or a random walk from the sure pixels."""
    inside_cells: bool = True
    """Nothing outside the cells is of any class; false leaves the cell masks out."""

    def __post_init__(self) -> None:
        check_range("pseudo.low", self.low, 0, 1)
        check_range("pseudo.high", self.high, 0, 1)
        if self.low > self.high:
            raise ConfigError(f"pseudo.low is {self.low:g}, above pseudo.high {self.high:g}: expected it below.")
        if self.paint == "cells" and not self.inside_cells:
            raise ConfigError("pseudo.paint is cells, which needs the cell masks: leave pseudo.inside_cells at true.")
