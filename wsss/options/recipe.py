"""The recipes of a training run, one class a task: every option that shapes the weights.

`configs/*.yaml` hold whole recipes, flags override them, and the run folder keeps the one that was used.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal, cast

from wsss.core.checks import ConfigError, DataError, between, check_choice, check_fields
from wsss.options.masks import MaskConfig, MaskLossConfig, UnetConfig
from wsss.options.renamed import renamed
from wsss.options.scoring import CropConfig, ScoreConfig


@dataclass(frozen=True)
class FitConfig:
    """How cell labels are learnt from image labels."""

    rounds: int = between(3, 1, 100)
    """Times the soft labels are updated."""
    folds: int = between(4, 2, 100)
    """Parts into which the images are split for predictions of unseen cells."""
    trees: int = between(100, 1)
    """Trees of the forest; in the rounds, a third of them."""
    leaf: int = between(5, 1)
    """Fewest cells in a leaf."""
    strength: float = between(0.01, 1e-6, 1e6)
    """Inverse regularisation (C) of the linear model: lower is smoother."""
    shown_share: float = between(0.65, 0.05, 0.95)
    """Initial share of the cells of an image with several labels that are assumed to show each label; later, each
    image and class has its own share."""
    negative_share: float = between(0.125, 0, 0.9)
    """Initial share of cells without signal that is assumed in images with other labels."""

    answer_weight: float = between(5.0, 1, 1000)
    """Weight of a cell labelled by hand (train --cell_labels), relative to other cells."""

    def __post_init__(self) -> None:
        check_fields(self, "weak")


@dataclass(frozen=True)
class FeatureClassifierConfig:
    """A classifier on cell features, fitted on the cells of the training images in addition to the network."""

    enabled: bool | Literal["auto"] = "auto"
    """Fit one per fold, which infer then blends with the network's scores. auto: if enough training images have
    segmented cells; true: stop if they do not."""
    copies: int = between(2, 0, 100)
    """Changed copies of every training image to learn from in addition to the original: dim or bright cells, cells
    without signal, uneven light, haze, shot noise. 0 for original images only."""
    weak: FitConfig = field(default_factory=FitConfig)
    """How its labels are learnt."""

    def __post_init__(self) -> None:
        check_fields(self, "feature_classifier")


@dataclass(frozen=True)
class PuzzleConfig:
    """Agreement between the maps of the whole image and the merged maps of its tiles (Puzzle-CAM)."""

    side: int = between(2, 1, 16)
    """Tiles per side; 1 turns the puzzle off (plain CAM). The crop must divide by side x stride of the network."""
    weight: float = between(0.5, 0)
    """Weight of the agreement term in the loss (recipe: 0.25 to 0.5; original Puzzle-CAM: 4 with ramp and mask)."""
    distance: Literal["l1", "l2"] = "l1"
    """Mean absolute or mean squared difference of the two maps."""
    maps: Literal["raw", "relu", "features"] = "raw"
    """What must agree: raw class maps, rectified class maps, or the features below the classifier."""
    classes: Literal["all", "labels", "present"] = "all"
    """Classes in the term: all; all, maps of absent classes zeroed (original); or the mean over present ones."""
    ramp: float = between(0.0, 0, 1)
    """Share of the training over which the weight rises linearly from 0 (original: 0.5)."""
    stop_gradient: Literal["none", "full", "tiles"] = "none"
    """Which side of the agreement is a fixed target: neither, the full maps, or the merged maps."""

    def __post_init__(self) -> None:
        check_fields(self, "puzzle")


@dataclass(frozen=True)
class DrsConfig:
    """Discriminative Region Suppression: activations are held below a share of their channel's peak."""

    mode: Literal["none", "fixed", "learned"] = "none"
    """none; a fixed share; or a share learnt for each channel."""
    delta: float = between(0.55, 0.01, 1)
    """The fixed share of the peak."""
    after: Literal["stages", "activations"] = "stages"
    """Behind the last activation of each stage, or behind every one (authors, on VGG16)."""
    extra: int = between(0, 0, 16)
    """Convolutions (3x3, 512 maps, suppressed too) added below the classifier (authors, on VGG16: 3)."""
    refine_from: str | None = None
    """Run whose network of the same fold is the teacher: its maps, each pixel's strongest class, are the target."""
    refine_weight: float = between(1.0, 0)
    """Weight of this term (mean squared error) in the loss."""

    def __post_init__(self) -> None:
        check_fields(self, "drs")


@dataclass(frozen=True)
class LossConfig:
    """The classification loss of whole images and of merged tiles."""

    name: Literal["bce", "focal", "asymmetric"] = "bce"
    """Binary cross-entropy, focal loss, or asymmetric loss (easy negatives count less)."""
    tile_weight: float = between(1.0, 0)
    """Weight of the merged tiles' loss; the whole image's is 1.0."""
    focal_gamma: float = between(2.0, 0)
    """Exponent of the focal loss."""
    negative_gamma: float = between(4.0, 0)
    """Exponent of the asymmetric loss for absent classes."""
    negative_margin: float = between(0.05, 0, 0.5)
    """Probability under which an absent class costs nothing in the asymmetric loss."""
    smoothing: float = between(0.0, 0, 0.5)
    """Label smoothing: targets become y (1 - s) + s / 2."""
    class_weights: list[float] | None = between(None, 0)
    """One weight per class, in the order of ids; none for equal weights."""

    def __post_init__(self) -> None:
        check_fields(self, "loss")


@dataclass(frozen=True)
class OptimConfig:
    """Optimiser and learning rate."""

    name: Literal["adam", "adamw", "sgd"] = "adam"
    """Adam as in the recipe, AdamW, or SGD with momentum."""
    lr: float = between(3e-4, 1e-12, 1000)
    """Learning rate at the start (peak of one-cycle)."""
    beta1: float = between(0.9, 0, 0.9999)
    """First moment of Adam; momentum of SGD."""
    weight_decay: float = between(0.0, 0)
    """Weight decay; biases and norms are spared."""
    head_lr_factor: float = between(1.0, 0)
    """Learning rate of the new layers over that of the backbone (DRS: 10)."""
    schedule: Literal["plateau", "cosine", "cyclic", "onecycle", "constant"] = "plateau"
    """How the rate goes: falls on a plateau of the validation loss (without validation, of the training loss), by
    cosine or in triangles (see `cycles`), one-cycle or constant."""
    factor: float = between(0.3, 1e-6, 1)
    """Plateau: what the rate is multiplied with."""
    patience: int = between(8, 0)
    """Plateau: epochs without improvement before the rate falls."""
    floor: float = between(1e-6, 0)
    """The rate never falls below, unless `lr` itself lies below."""
    cycles: int = between(1, 1)
    """Cosine (warm restarts), cyclic: number of equal cycles; the weights at the end of each are kept as a snapshot."""
    cycle_low: float = between(0.1, 0, 1)
    """Cyclic: lowest rate over the highest; each cycle rises from it to `lr` and falls back, both linearly."""
    warmup: float = between(0.0, 0, 1)
    """Share of the training over which the rate rises linearly (one-cycle: .3 if 0)."""
    accumulate: int = between(1, 1)
    """Batches whose gradients are summed into one step."""
    clip: float = between(0.0, 0)
    """Largest norm of the gradient; 0 for no clipping."""
    ema: float = between(0.0, 0, 0.99999)
    """Decay of the moving average of the weights that validation and inference use; 0 for none."""
    early_stop: int = between(0, 0)
    """Epochs without a better validation loss after which the run ends; 0 to go on to the last."""

    def __post_init__(self) -> None:
        check_fields(self, "optim")

    def cycle_ends(self, epochs: int) -> list[float]:
        """Return the epoch (from 1) with which each cycle ends; fractions where it ends within one."""
        begin = self.warmup * epochs
        return [round(begin + (epochs - begin) * (k + 1) / self.cycles, 6) for k in range(self.cycles)]


@dataclass(frozen=True)
class SamplerConfig:
    """Which images an epoch draws."""

    balanced: bool = True
    """Draw images of rare classes more often, with replacement; else every image once."""
    clip: str = "rank:3"
    """Class whose weight is the most an image may have: rank:3 (third rarest; in the recipe's set
    that is class:8), class:ID, or none."""


@dataclass(frozen=True)
class Recipe:
    """What shapes the weights of a run, whatever its task."""

    task: str = ""
    """classify: image labels and class maps (Puzzle-CAM); masks: a U-Net that learns masks; maps: a U-Net that learns
    the pseudo-masks of wsss.pseudo, a map a class. Each task has its own options."""
    backbone: str = "seresnext50"
    """Any convolutional timm model; short names of the recipe work (seresnext50, regnety_64, ...)."""
    weights: str = "hub"
    """Where the backbone's weights come from: hub, package, none, or a .safetensors / .pth file."""
    init_from: str | None = None
    """Run whose network of the same fold these weights start from (fine-tuning), instead of `weights`."""
    stem: Literal["mean", "timm"] = "mean"
    """Kernels of the channels after the third: mean of the three pretrained ones (recipe), or timm's rule."""
    epochs: int = between(48, 1)
    """Passes over the training images."""
    batch: int = between(32, 1)
    """Images in a batch; of several processes together, each gets its share."""
    crop: int = between(384, 0, 16384)
    """Edge of the random training crop in px; 0 for whole images. Validation always sees whole images."""
    augment: str = "hpa"
    """Augmentation recipe: hpa, none, or a YAML file."""
    seed: int = between(0, 0)
    """Seed of weights, sampling and augmentation."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic: auto is bf16 or fp16 on a GPU that has it, fp32 on the CPU."""
    sync_bn: bool = False
    """Batch norm over the batches of all GPUs; else over each GPU's share. Without effect on one."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimiser options."""

    def __post_init__(self) -> None:
        check_fields(self)
        ends = self.optim.cycle_ends(self.epochs)
        if self.optim.schedule in ("cosine", "cyclic") and any(end % 1 for end in ends):
            raise ConfigError(
                f"optim.cycles {self.optim.cycles} of {self.epochs} epochs end within an epoch ({ends[0]:g}): "
                "choose epochs, less the share of optim.warmup, that divide by the cycles."
            )


@dataclass(frozen=True)
class ClassifyRecipe(Recipe):
    """What shapes a classifier with class maps."""

    task: Literal["classify"] = "classify"
    augment_device: Literal["cpu", "device"] = "cpu"
    """Where images are augmented: cpu, one by one in the loader processes; device, in whole batches where the network
    computes, for a GPU that would wait for its images."""
    output_stride: int = 32
    """Input pixels per pixel of the class maps (8, 16 or 32), where the backbone allows it."""
    drop_rate: float = between(0.0, 0, 0.95)
    """Dropout on the features below the classifier."""
    puzzle: PuzzleConfig = field(default_factory=PuzzleConfig)
    """Puzzle options."""
    drs: DrsConfig = field(default_factory=DrsConfig)
    """Region suppression options."""
    loss: LossConfig = field(default_factory=LossConfig)
    """Loss options."""
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    """Sampler options."""
    score: ScoreConfig = field(default_factory=ScoreConfig)
    """Cell score options: kept for infer, no part of the training."""
    crops: CropConfig = field(default_factory=CropConfig)
    """Cell crop options of stage 2: kept for infer, no part of the training."""
    feature_classifier: FeatureClassifierConfig = field(default_factory=FeatureClassifierConfig)
    """Options of the feature classifier on cells; without effect on the network."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output_stride not in (8, 16, 32):
            raise ConfigError(f"output_stride is {self.output_stride}, expected 8, 16 or 32.")
        step = self.puzzle.side * self.output_stride
        if self.crop % step:
            raise ConfigError(
                f"crop is {self.crop}, expected a multiple of {step} (puzzle.side x output_stride), "
                f"such as {max(step, self.crop // step * step)}."
            )


@dataclass(frozen=True)
class UnetRecipe(Recipe):
    """What shapes a U-Net."""

    unet: UnetConfig = field(default_factory=UnetConfig)
    """Decoder options."""
    mask_loss: MaskLossConfig = field(default_factory=MaskLossConfig)
    """Loss options."""


@dataclass(frozen=True)
class MaskRecipe(UnetRecipe):
    """What shapes a U-Net that learns masks."""

    task: Literal["masks"] = "masks"
    masks: MaskConfig = field(default_factory=MaskConfig)
    """Target options."""


@dataclass(frozen=True)
class MapRecipe(UnetRecipe):
    """What shapes a U-Net that learns the pseudo-masks of class maps."""

    task: Literal["maps"] = "maps"
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    """Sampler options."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mask_loss.needs_border:
            raise ConfigError("mask_loss term 'border' is for objects: pseudo-masks have none, choose other terms.")
        if self.unet.empty_head:
            raise ConfigError("unet.empty_head is for the task masks: the image's labels say what class maps hold.")
        if self.optim.early_stop:
            raise ConfigError("optim.early_stop needs a validation loss, and the task maps has none: leave it out.")


RECIPES: dict[str, type[Recipe]] = {"classify": ClassifyRecipe, "masks": MaskRecipe, "maps": MapRecipe}
"""The recipe of each task."""


def recipe_class(task: object) -> type[Recipe]:
    """Return the recipe class of a task.

    Raises:
        ConfigError: there is no such task.
    """
    check_choice("task", str(task), RECIPES)
    return RECIPES[str(task)]


def recipe_from(values: Mapping[str, Any], where: str) -> Recipe:
    """Build a recipe from the nested dictionary that `dataclasses.asdict` made of one.

    Those of version 0.1.0 open too: options of other tasks are dropped, options that have been renamed are taken by
    their new names.

    Raises:
        DataError: it has an option this version does not know, or one of another kind.
    """
    try:
        kind = recipe_class(values.get("task", "classify"))
        known = {option.name for option in fields(kind)}
        others = {option.name for other in RECIPES.values() for option in fields(other)} - known
        current = {name: value for name, value in renamed(values, where).items() if name not in others}
        return cast(Recipe, _build(kind, current, where))
    except ConfigError as error:
        raise DataError(f"{where} has an option that this version of wsss does not take: {error}") from None
    except (TypeError, AttributeError, ValueError, OverflowError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{where} has an option of another kind ({error}): restore it.") from error


def _build(kind: Any, values: Mapping[str, Any], where: str) -> Any:
    if not isinstance(values, Mapping):
        raise DataError(f"{where} has '{str(values)[:80]}' in place of options, expected names and values.")
    known = {option.name: option for option in fields(kind)}
    for name in values:
        if name not in known:
            raise DataError(
                f"{where} has the option '{name}', which this version of wsss does not know: it was made by a newer "
                "wsss, or changed by hand. Update wsss, or take the option out."
            )
    nested = {name: option.default_factory for name, option in known.items() if is_dataclass(option.default_factory)}
    return kind(**{n: _build(nested[n], v, f"{where} ({n})") if n in nested else v for n, v in values.items()})
