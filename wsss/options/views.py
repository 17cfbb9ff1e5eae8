"""The options of test-time augmentation of the class maps."""

from dataclasses import dataclass, field
from typing import Literal

from wsss.core.checks import ConfigError, check_range


@dataclass(frozen=True)
class TtaConfig:
    """Views of each image, and of each cell's crop, that the network's answers are averaged over."""

    views: Literal["none", "flips", "turns"] = "none"
    """The image as it is; flipped too (4 ways); or flipped and turned (8 ways)."""
    scales: list[float] = field(default_factory=lambda: [1.0])
    """Sizes of the image, relative to the stored one, rounded to multiples of 32 px; crops keep theirs."""

    def __post_init__(self) -> None:
        if not self.scales:
            raise ConfigError("tta.scales is empty, expected at least 1.0.")
        for k, scale in enumerate(self.scales):
            check_range(f"tta.scales[{k}]", scale, 0.1, 8)

    @property
    def active(self) -> bool:
        """Whether there is more than the image as it is."""
        return self.views != "none" or self.scales != [1.0]
