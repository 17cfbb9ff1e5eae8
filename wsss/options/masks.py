"""Options of mask networks: targets, decoder, losses, sampling."""

from dataclasses import dataclass, field
from typing import Literal

from wsss.core.checks import ConfigError, check_choice, check_range

IGNORE = 255
"""Value of a target's pixels that must not count."""

LOSS_TERMS = ("bce", "dice", "jaccard", "lovasz", "focal", "ohem", "border")


@dataclass(frozen=True)
class UnetConfig:
    """The decoder on top of the backbone, and the stem under it."""

    channels: list[int] = field(default_factory=lambda: [256, 128, 64, 32, 16])
    """Channels of the decoder's blocks from the coarsest on; as many as the blocks, five with stride 32."""
    upsample: Literal["nearest", "bilinear", "transposed"] = "nearest"
    """How a block doubles its maps: nearest or bilinear before a convolution, or a transposed convolution."""
    attention: Literal["none", "scse", "cbam"] = "none"
    """Attention in every decoder block: concurrent squeeze and excitation, or CBAM."""
    gates: bool = False
    """Attention gates: the coarser maps say where the encoder's maps are let through."""
    hypercolumn: bool = False
    """The output sees all decoder scales, not the finest alone."""
    deep_supervision: bool = False
    """The coarser decoder scales have outputs of their own in the loss."""
    stem_pool: bool = True
    """Keep the pooling of the stem; without it small images keep twice the resolution."""
    dropout: float = 0.0
    """Dropout before the output."""

    def __post_init__(self) -> None:
        check_range("unet.dropout", self.dropout, 0, 0.95)
        if not self.channels:
            raise ConfigError("unet.channels is empty, expected one number for each decoder block.")
        for k, number in enumerate(self.channels):
            check_range(f"unet.channels[{k}]", number, 1)


@dataclass(frozen=True)
class MaskConfig:
    """What the network learns to find, and on which images."""

    target: Literal["binary", "border", "softmax"] = "binary"
    """binary: one mask; border: two channels, mask without border, and border; softmax: background, inside, border."""
    channels: Literal[1, 3] = 3
    """Read images as grey (1) or as colour (3)."""
    folds: int = 5
    """Folds of the images, each with its share of empty, small and large masks; drawn by `seed`."""
    border_px: int = 2
    """Width of the border channel on each side of the line between touching objects."""
    tile: int = 1024
    """Edge of the tiles in which large images (TIFF or .npy right in the folder) are learnt, px."""
    empty_share: float = 1.0
    """Share of the images without any object that an epoch draws."""

    def __post_init__(self) -> None:
        check_range("masks.folds", self.folds, 2, 100)
        check_range("masks.border_px", self.border_px, 1, 64)
        check_range("masks.tile", self.tile, 32)
        check_range("masks.empty_share", self.empty_share, 0, 1)

    @property
    def outputs(self) -> int:
        """Channels of the network's output."""
        return {"binary": 1, "border": 2, "softmax": 3}[self.target]


@dataclass(frozen=True)
class MaskLossConfig:
    """The loss of a mask network: a weighted sum of terms, which may change at an epoch."""

    terms: dict[str, float] = field(default_factory=lambda: {"bce": 1.0, "dice": 1.0})
    """Weights of bce, dice, jaccard, lovasz, focal, ohem (hardest pixels) and border (weighted bce)."""
    later: dict[str, float] = field(default_factory=dict)
    """Terms from epoch `switch` on; empty for the same ones."""
    switch: int = 0
    """Finished epochs from which `later` holds."""
    per_image: bool = True
    """Overlap losses of each image, or of the whole batch as one."""
    rectifier: Literal["relu", "elu"] = "relu"
    """Lovász hinge: relu, or elu + 1."""
    symmetric: bool = False
    """Lovász hinge: of mask and background, not of the mask alone."""
    focal_gamma: float = 2.0
    """Exponent of the focal loss."""
    ohem_share: float = 0.25
    """Share of the hardest pixels that count in ohem."""
    border_weight: float = 10.0
    """Largest extra weight of a gap between objects."""
    border_sigma: float = 5.0
    """How fast that weight falls with the width of the gap, px."""
    side_weight: float = 0.1
    """Weight of the coarser outputs (deep supervision)."""

    def __post_init__(self) -> None:
        for name, terms in (("terms", self.terms), ("later", self.later)):
            for term, weight in terms.items():
                check_choice(f"mask_loss.{name}", term, LOSS_TERMS)
                check_range(f"mask_loss.{name}.{term}", weight, 0)
        if not sum(self.terms.values()):
            raise ConfigError("mask_loss.terms has no term of a weight above 0.")
        if bool(self.later) != (self.switch > 0):
            raise ConfigError("mask_loss.later and mask_loss.switch belong together: give both, or none.")
        check_range("mask_loss.focal_gamma", self.focal_gamma, 0)
        check_range("mask_loss.ohem_share", self.ohem_share, 1e-6, 1)
        check_range("mask_loss.border_weight", self.border_weight, 0)
        check_range("mask_loss.border_sigma", self.border_sigma, 1e-3)
        check_range("mask_loss.side_weight", self.side_weight, 0)

    def at(self, epoch: int) -> dict[str, float]:
        """Return the terms and weights when `epoch` epochs are done."""
        return self.later if self.later and epoch >= self.switch else self.terms

    @property
    def needs_border(self) -> bool:
        """Whether the loss ever asks for pixel weights."""
        return "border" in self.terms or "border" in self.later


@dataclass(frozen=True)
class MaskInferConfig:
    """How a mask network is asked, and how its maps become masks."""

    tta: Literal["none", "flips", "turns"] = "none"
    """Predict the image as it is; flipped too (4 ways); or flipped and turned (8 ways); undone, then averaged."""
    scales: list[float] = field(default_factory=lambda: [1.0])
    """Sizes of the image that are predicted and averaged."""
    tile: int = 1024
    """Images larger than this are predicted in tiles of this edge, px."""
    overlap: float = 0.5
    """Share of a tile that its neighbour covers too; weights fall off towards a tile's border."""
    threshold: float = 0.5
    """Probability from which a pixel is of the mask."""
    min_size: int = 0
    """Objects of fewer pixels are dropped."""
    objects: bool = True
    """Part the mask into objects; false leaves one mask an image."""
    runs: Literal["columns", "rows"] = "columns"
    """Way in which the run-length text of submission.csv counts pixels."""

    def __post_init__(self) -> None:
        if not self.scales:
            raise ConfigError("segmentation.scales is empty, expected at least 1.0.")
        for k, scale in enumerate(self.scales):
            check_range(f"segmentation.scales[{k}]", scale, 0.1, 8)
        check_range("segmentation.tile", self.tile, 32)
        check_range("segmentation.overlap", self.overlap, 0, 0.9)
        check_range("segmentation.threshold", self.threshold, 0, 1)
        check_range("segmentation.min_size", self.min_size, 0)
