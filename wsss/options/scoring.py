"""The options of the cell score: views, cell crops, and every rule from class maps to per-cell scores."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from wsss.core.checks import ConfigError, between, check_choice, check_fields

REGION_RULES = ("quantile", "mean", "topk", "lse", "max", "logit")
NEGATIVE_RULES = ("recipe", "complement", "max", "own")
BLENDS = ("mean", "geometric")
CROP_MODES = ("fit", "stored", "none")


@dataclass(frozen=True)
class ScoreConfig:
    """How class maps become cell scores; configs/published_recipe.yaml has the rules of the published recipe.

    With r the value of a class map (in [0, 1]) in a cell and p the class's image probability, stage 1 is r * p.
    """

    region: str = "logit"
    """What stands for the map in a cell. logit: sigmoid of the mean of the raw map, the probability that the network
    gives to an image which is this cell alone. Of the map divided by its maximum: quantile, mean, topk (mean of the
    highest pixels), lse (log of the mean of exp(sharpness * map), divided by sharpness), max."""
    quantile: float = between(0.99, 0, 1)
    """Which quantile the rule 'quantile' takes."""
    top_share: float = between(0.1, 1e-6, 1)
    """Share of a cell's pixels, at least one, that the rule 'topk' averages."""
    sharpness: float = between(8.0, 1e-3, 500)
    """How near the rule 'lse' comes to the maximum; towards 0 it is the mean."""
    relative: bool = False
    """Divide r by the same statistic of the whole image and clip at 1; a statistic of zero gives r = 0."""
    min_prob: float = between(0.0, 0, 1)
    """Classes whose image probability is not above this score 0."""
    min_ratio: float = between(0.0, 0, 1)
    """Scores whose r is not above this become 0."""
    prob_power: float | Literal["auto"] = between("auto", 0, 100)
    """Score = r * p ** prob_power; 0 leaves the image probability out. auto: 0 for the rule logit, else 1."""
    prob_for_negative: bool = False
    """Whether min_prob and prob_power count for the class Negative too."""
    compartment: float = between(0.0, 0, 1)
    """Share of r taken from the class's own compartment (needs nuclei): the nucleus for nuclear_classes, the rest of
    the cell for the others, always the whole cell for Negative and where a cell lacks the compartment."""
    nuclear_classes: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    """Classes whose compartment is the nucleus."""
    negative: str = "own"
    """Negative of a cell. recipe: 1 - highest other score before min_ratio, if min_ratio left the cell no label;
    complement: product of (1 - other score); max: the larger of its own score and complement, the others times
    (1 - Negative); own: a class like any other."""
    blend: str = "geometric"
    """Stages 1 and 2: mean, (1 - w) a + w b; geometric, a ** (1 - w) * b ** w; w is crop_share."""
    crop_share: float = between(0.5, 0, 1)
    """Weight w of stage 2 in the blend."""
    image_mix: float = between(0.0, 0, 1)
    """Share of a cell's score taken from the mean over the cells of its image."""
    normalise_rows: bool = False
    """Divide the scores of a cell by their sum, so that classes compete."""
    feature_share: float | Literal["auto"] = between("auto", 0, 1)
    """Share of a cell's score taken from the feature classifier, where the run has one (train
    --feature_classifier.enabled true). auto: what the training found on held-out images, class by class
    (feature_classifier.json); 1 where it held none out."""
    unet_share: float = between(0.2, 0, 1)
    """Share of stage 1 taken from the maps of a U-Net, where there is one (infer --unet RUN)."""
    prior_rounds: int = between(3, 0, 100)
    """Rounds of the image prior, class by class: the odds of a cell's score are multiplied by the odds of the class's
    share, the mean of the scores over the image's cells. Negative keeps its score; the others are multiplied by
    (1 - Negative). 0: no prior."""
    one_class: bool | Literal["auto"] = "auto"
    """Whether each cell shows one class alone, for the image prior: then the scores of a cell, Negative left out,
    compete. auto: as the feature classifier found in the training images (feature_classifier.json); false without."""
    border_power: float = between(0.0, 0, 100)
    """Multiply the scores of a cell by (visible share) ** border_power; 0 leaves cells at the border as they are."""

    calibrated: bool = True
    """Whether scores go through curves that make them probabilities, class by class, where the feature classifier alone
    makes them. The training fitted the curves to unseen cells and image labels, with prior_rounds, one_class and
    border_power as they are by default: with others there are none. They rise, so the order of cells stays."""

    def __post_init__(self) -> None:
        check_choice("region", self.region, REGION_RULES)
        check_choice("negative", self.negative, NEGATIVE_RULES)
        check_choice("blend", self.blend, BLENDS)
        check_fields(self)

    def facts(self) -> dict[str, Any]:
        """Return the rules as they stand in records, where `calibrated` is named only if it is false.

        What was made before there were curves is then not out of date: its feature classifiers have none.
        """
        return {name: value for name, value in asdict(self).items() if name != "calibrated" or not value}


@dataclass(frozen=True)
class CropConfig:
    """How each cell is cut out for stage 2."""

    mode: str = "fit"
    """fit: the cell's square, resized to `size` (recipe); stored: a window of `size` px at stored scale, cells larger
    than it shrunk to fit; none: no stage 2."""
    size: int = between(384, 32, 2048)
    """Edge of a crop in px."""
    margin: float = between(0.0, 0, 2)
    """Black border around the cell, as a share of its longer side, on each side."""
    batch: int = between(32, 1)
    """Crops the network sees at once."""

    def __post_init__(self) -> None:
        check_fields(self, "crops")
        check_choice("crops.mode", self.mode, CROP_MODES)


@dataclass(frozen=True)
class TtaConfig:
    """Views of each image, and of each cell's crop, that the network's answers are averaged over."""

    views: Literal["none", "flips", "turns"] = "none"
    """The image as it is; flipped too (4 ways); or flipped and turned (8 ways)."""
    scales: list[float] = between(lambda: [1.0], 0.1, 8)
    """Sizes of the image, relative to the stored one, rounded to multiples of 32 px; crops keep theirs."""

    def __post_init__(self) -> None:
        check_fields(self, "tta")
        if not self.scales:
            raise ConfigError("tta.scales is empty, expected at least 1.0.")
