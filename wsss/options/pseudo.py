"""Turn a trained run's class maps into pseudo-masks with an ignore band, for a U-Net to learn from."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from wsss.core.checks import ConfigError, between, check_fields
from wsss.options.scoring import TtaConfig

EXAMPLES = """\
  python -m wsss.pseudo --data data/hpa --run runs/hpa-seresnext50
  python -m wsss.train --task maps --data data/hpa --pseudo pseudo/hpa-seresnext50 --fold all --run runs/hpa-unet
  python -m wsss.infer --data data/test --run runs/hpa-seresnext50 --unet runs/hpa-unet
"""


@dataclass(frozen=True)
class PseudoConfig:
    """How averaged class maps become masks of the image's labels.

    A map counts relative to its peak: what lies at `high` or above is of the class, what lies below `low` is not, the
    rest is ignored. Classes that the image is not labelled with are nowhere in it.
    """

    low: float = between(0.2, 0, 1)
    """Share of the peak below which a pixel (or cell) is not of the class."""
    high: float = between(0.5, 0, 1)
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
        check_fields(self, "pseudo")
        if self.low > self.high:
            raise ConfigError(f"pseudo.low is {self.low:g}, above pseudo.high {self.high:g}: expected it below.")
        if self.paint == "cells" and not self.inside_cells:
            raise ConfigError("pseudo.paint is cells, which needs the cell masks: leave pseudo.inside_cells at true.")


@dataclass(frozen=True)
class PseudoOptions:
    """Whose maps are turned into masks, and where they go."""

    run: Path
    """Run folder of a classifier: each of its networks makes the masks of the images it was trained on."""
    data: Path | None = None
    """Prepared and segmented data set that it was trained on; default: the only one under data/."""
    out: Path | None = None
    """Folder for the masks; default: pseudo/<run>."""
    oof: bool = False
    """Let each image's masks be made by the network that never saw it; for one U-Net on all images (--fold none)."""
    batch: int = between(8, 1)
    """Images the network sees at once."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    precision: str = "auto"
    """fp32, bf16, fp16, or auto: fp16 on a GPU that computes in it, fp32 on the CPU."""
    overwrite: bool = False
    """Replace the masks of other options in --out."""
    tta: TtaConfig = field(default_factory=lambda: TtaConfig("flips", [1.5, 1.0, 0.75]))
    """Views and sizes whose maps are averaged."""
    pseudo: PseudoConfig = field(default_factory=PseudoConfig)
    """From maps to masks."""

    def __post_init__(self) -> None:
        check_fields(self)


OPTIONS = (PseudoOptions,)
