"""Options of mask networks: targets, decoder, losses, sampling."""

from dataclasses import dataclass, field
from typing import Literal

from wsss.core.checks import ConfigError, between, check_choice, check_fields, check_range

IGNORE = 255
"""Value of a target's pixels that must not count."""
MOST = 254
"""Value of a target's pixels where a share is 1."""

LOSS_TERMS = ("bce", "dice", "jaccard", "lovasz", "focal", "ohem", "border")


@dataclass(frozen=True)
class UnetConfig:
    """The decoder on top of the backbone, and the stem under it."""

    channels: list[int] = between(lambda: [256, 128, 64, 32, 16], 1)
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
    dropout: float = between(0.0, 0, 0.95)
    """Dropout before the output."""
    empty_head: bool = False
    """An output that says whether the image holds anything at all; see segmentation.empty_below."""

    def __post_init__(self) -> None:
        check_fields(self, "unet")
        if not self.channels:
            raise ConfigError("unet.channels is empty, expected one number for each decoder block.")


@dataclass(frozen=True)
class MaskConfig:
    """What the network learns to find, and on which images."""

    target: Literal["binary", "border", "softmax", "distance"] = "binary"
    """binary: one mask; border: two channels, mask without border, and border; softmax: background, inside, border;
    distance: mask, and distance to the object's edge as a share of the largest in it."""
    channels: Literal[1, 3] = 3
    """Read images as grey (1) or as colour (3)."""
    contrast: Literal["stored", "stretched"] = "stored"
    """stretched: the greys of each image from its 1st to its 99.8th percentile become black to white, and pictures with
    a bright ground are inverted, so that dim and bright-field images look like the others."""
    folds: int = between(5, 2, 100)
    """Folds of the images, each with its share of empty, small and large masks; drawn by `seed`."""
    border_px: int = between(2, 1, 64)
    """Width of the border channel on each side of the line between touching objects."""
    tile: int = between(1024, 32)
    """Edge of the tiles in which large images (TIFF or .npy right in the folder) are learnt, px."""
    empty_share: float = between(1.0, 0, 1)
    """Share of the images without any object that an epoch draws."""

    def __post_init__(self) -> None:
        check_fields(self, "masks")

    @property
    def outputs(self) -> int:
        """Channels of the network's output."""
        return {"binary": 1, "border": 2, "softmax": 3, "distance": 2}[self.target]


@dataclass(frozen=True)
class MaskLossConfig:
    """The loss of a mask network: a weighted sum of terms, which may change at an epoch."""

    terms: dict[str, float] = field(default_factory=lambda: {"bce": 1.0, "dice": 1.0})
    """Weights of bce, dice, jaccard, lovasz, focal, ohem (hardest pixels) and border (weighted bce)."""
    later: dict[str, float] = field(default_factory=dict)
    """Terms from epoch `switch` on; empty for the same ones."""
    switch: int = between(0, 0)
    """Finished epochs from which `later` holds."""
    per_image: bool = True
    """Overlap losses of each image, or of the whole batch as one."""
    rectifier: Literal["relu", "elu"] = "relu"
    """Lovász hinge: relu, or elu + 1."""
    symmetric: bool = False
    """Lovász hinge: of mask and background, not of the mask alone."""
    focal_gamma: float = between(2.0, 0)
    """Exponent of the focal loss."""
    ohem_share: float = between(0.25, 1e-6, 1)
    """Least share of the pixels that count in ohem: the hardest; so do all whose true side is less probable than .7."""
    border_weight: float = between(10.0, 0)
    """Largest extra weight of a gap between objects."""
    border_sigma: float = between(5.0, 1e-3)
    """How fast that weight falls with the width of the gap, px."""
    side_weight: float = between(0.1, 0)
    """Weight of the coarser outputs (deep supervision)."""
    empty_weight: float = between(0.2, 0)
    """Weight of the output that says whether the image holds anything (unet.empty_head)."""

    def __post_init__(self) -> None:
        check_fields(self, "mask_loss")
        for name, terms in (("terms", self.terms), ("later", self.later)):
            for term, weight in terms.items():
                check_choice(f"mask_loss.{name}", term, LOSS_TERMS)
                check_range(f"mask_loss.{name}.{term}", weight, 0)
        if not sum(self.terms.values()):
            raise ConfigError("mask_loss.terms has no term of a weight above 0.")
        if bool(self.later) != (self.switch > 0):
            raise ConfigError("mask_loss.later and mask_loss.switch belong together: give both, or none.")

    def at(self, epoch: int) -> dict[str, float]:
        """Return the terms and weights when `epoch` epochs are done."""
        return self.later if self.later and epoch >= self.switch else self.terms

    @property
    def needs_border(self) -> bool:
        """Whether the loss ever asks for pixel weights."""
        return "border" in self.terms or "border" in self.later


@dataclass(frozen=True)
class MaskInferConfig:
    """How a mask network predicts, and how its maps become masks."""

    tta: Literal["none", "mirror", "flips", "turns"] = "none"
    """Predict the image as it is; mirrored left to right too (2 ways); flipped too (4 ways); or flipped and turned (8
    ways); undone, then averaged."""
    scales: list[float] = between(lambda: [1.0], 0.1, 8)
    """Sizes of the image that are predicted and averaged."""
    tile: int = between(1024, 32)
    """Images larger than this are predicted in tiles of this edge, px."""
    overlap: float = between(0.5, 0, 0.9)
    """Share of a tile that its neighbour covers too; weights fall off towards a tile's border."""
    threshold: float = between(0.5, 0, 1)
    """Probability from which a pixel is of the mask."""
    empty_below: float = between(0.5, 0, 1)
    """Images, or tiles of large ones, that hold anything with a lower probability have an empty mask; for networks
    with unet.empty_head."""
    min_size: int | None = between(None, 0)
    """Objects of fewer pixels are dropped; without objects, masks of fewer. Default: the size that 99.5 % of the
    objects reach which the network learnt from; 0 without objects, or where the run does not say it."""
    objects: bool = True
    """Part the mask into objects; false leaves one mask an image."""
    runs: Literal["columns", "rows"] = "columns"
    """Way in which the run-length text of submission.csv counts pixels."""

    def __post_init__(self) -> None:
        check_fields(self, "segmentation")
        if not self.scales:
            raise ConfigError("segmentation.scales is empty, expected at least 1.0.")
