"""The methods that bench_labels.py compares, as data: a new method is one entry of METHODS.

A training is shared by all inferences that name it, an inference by all methods that evaluate a part of it.
"""

from dataclasses import dataclass, field
from pathlib import Path

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "natural_cells.yaml"


@dataclass(frozen=True)
class Training:
    """Flags of `train`, on top of configs/natural_cells.yaml."""

    flags: str = ""
    cost: float = 1.0
    """Seconds of an epoch over those of plain Puzzle-CAM; says how many epochs fit into the same time."""
    epochs: int | None = None
    """A fixed number of epochs instead, for networks that nobody looks at."""
    folds: bool = False
    """Train a network for every fold, the time shared among them."""


@dataclass(frozen=True)
class Inference:
    """Flags of `infer`, on top of the options kept in the run."""

    training: str
    flags: str = ""


@dataclass(frozen=True)
class Blend:
    """A blend of predictions by `ensemble`."""

    members: tuple[str, ...]
    """Inferences, or parts of them as 'inference/part'."""
    how: str = "mean"
    fitted: bool = False
    """Weights fitted on the members' out-of-fold predictions of the training fields; else equal ones."""
    seeds: bool = False
    """Blend the runs of all seeds, too."""


@dataclass(frozen=True)
class Method:
    """One row of the table."""

    name: str
    group: str
    about: str
    inference: str | None = None
    part: str = ""
    """What of the inference is evaluated: '' (the blended score), image, cam_scores, crop_scores,
    feature_classifier; without an inference: 'labels' (the true image labels) or 'supervised' (trained on true cell
    labels)."""
    blend: Blend | None = field(default=None)

    def inferences(self) -> list[str]:
        """Return the inferences that this row needs."""
        if self.blend:
            return sorted({member.split("/")[0] for member in self.blend.members})
        return [] if self.inference is None else [self.inference]


NO_FEATURES = "--feature_classifier.enabled false"
PLAIN = f"--puzzle.side 1 {NO_FEATURES}"
TRAININGS = {
    "puzzle": Training(),
    "plain": Training(PLAIN, cost=0.5),
    "plain-lite1": Training(f"{PLAIN} --backbone tf_efficientnet_lite1", cost=0.75),
    "plain-lite2": Training(f"{PLAIN} --backbone tf_efficientnet_lite2", cost=0.85),
    "drs-fixed": Training(f"{PLAIN} --drs.mode fixed", cost=0.52),
    "drs-learned": Training(f"{PLAIN} --drs.mode learned", cost=0.55),
    "features-plain": Training("--puzzle.side 1 --crop 128 --feature_classifier.copies 0", epochs=1),
    "puzzle-folds": Training(folds=True),
    "plain-folds": Training(PLAIN, cost=0.5, folds=True),
    "drs-learned-folds": Training(f"{PLAIN} --drs.mode learned", cost=0.55, folds=True),
}

RECIPE = (
    "--score.region quantile --score.relative true --score.min_prob 0.01 --score.min_ratio 0.02 "
    "--score.prob_power 1 --score.prob_for_negative true --score.negative recipe --score.blend mean "
    "--score.normalise_rows false --score.feature_share 0 --score.prior_rounds 0"
)
FORMULA = "--score.region mean --score.normalise_rows true --score.feature_share 0 --score.prior_rounds 0"
INFERENCES = {
    "puzzle-recipe": Inference("puzzle", RECIPE),
    "plain-recipe": Inference("plain", RECIPE),
    "drs-fixed-recipe": Inference("drs-fixed", RECIPE),
    "drs-learned-recipe": Inference("drs-learned", RECIPE),
    "puzzle-formula": Inference("puzzle", FORMULA),
    "plain-formula": Inference("plain", FORMULA),
    "plain-lite1-formula": Inference("plain-lite1", FORMULA),
    "plain-lite2-formula": Inference("plain-lite2", FORMULA),
    "drs-learned-formula": Inference("drs-learned", FORMULA),
    "puzzle-flips": Inference("puzzle", f"{FORMULA} --tta.views flips"),
    "puzzle-turns": Inference("puzzle", f"{FORMULA} --tta.views turns"),
    "puzzle-scales": Inference("puzzle", f"{FORMULA} --tta.scales [0.75,1,1.25]"),
    "recipe-turns": Inference("puzzle", f"{RECIPE} --tta.views turns"),
    "features-plain": Inference("features-plain"),
    "composed": Inference("puzzle"),
    "composed-no-features": Inference("puzzle", "--score.feature_share 0"),
    "composed-no-shares": Inference("puzzle", "--score.prior_rounds 0"),
    "composed-turns": Inference("puzzle", "--tta.views turns"),
    "composed-half": Inference("puzzle", f"{RECIPE} --score.feature_share 0.5"),
    "folds-puzzle": Inference("puzzle-folds", "--score.prior_rounds 0 --score.feature_share 0.5"),
    "folds-puzzle-formula": Inference("puzzle-folds", FORMULA),
    "folds-plain-formula": Inference("plain-folds", FORMULA),
    "folds-drs-formula": Inference("drs-learned-folds", FORMULA),
}

BACKBONES = ("plain-formula", "plain-lite1-formula", "plain-lite2-formula")
NETWORKS = ("plain-formula", "puzzle-formula", "drs-learned-formula")
FOLD_NETWORKS = ("folds-plain-formula", "folds-puzzle-formula", "folds-drs-formula")
FOLD_PARTS = ("folds-puzzle/cam", "folds-puzzle/crop", "folds-puzzle/feature_classifier")
METHODS = (
    Method("labels copied", "copied", "true image labels copied to every cell", part="labels"),
    Method("image probabilities", "copied", "image probabilities of the Puzzle network", "puzzle-recipe", "image"),
    Method("plain CAM, stage 1", "recipe", "quantile of the class map, no puzzle", "plain-recipe", "cam"),
    Method("plain CAM, recipe", "recipe", "stages 1 and 2, no puzzle", "plain-recipe"),
    Method("Puzzle, stage 1", "recipe", "quantile of the class map", "puzzle-recipe", "cam"),
    Method("Puzzle, stage 2", "recipe", "the cell's crop through the same network", "puzzle-recipe", "crop"),
    Method("published recipe", "recipe", "Puzzle-CAM, mean of stages 1 and 2", "puzzle-recipe"),
    Method("DRS fixed, stage 1", "drs", "share of the peak fixed, no puzzle", "drs-fixed-recipe", "cam"),
    Method("DRS fixed, recipe", "drs", "stages 1 and 2", "drs-fixed-recipe"),
    Method("DRS learned, stage 1", "drs", "share of the peak learnt, no puzzle", "drs-learned-recipe", "cam"),
    Method("DRS learned, recipe", "drs", "stages 1 and 2", "drs-learned-recipe"),
    Method("mean x prob", "formula", "mean of the map in the cell x image probability", "puzzle-formula", "cam"),
    Method("sqrt formula", "formula", "sqrt(mean x stage 2) x sqrt(prob), rows normalised", "puzzle-formula"),
    Method("sqrt formula, plain CAM", "formula", "sqrt formula without puzzle", "plain-formula"),
    Method("sqrt formula, DRS learned", "formula", "sqrt formula with DRS, no puzzle", "drs-learned-formula"),
    Method(
        "feature_classifier, plain images",
        "feature_classifier",
        "feature classifier without altered copies",
        "features-plain",
        "feature_classifier",
    ),
    Method(
        "feature_classifier",
        "feature_classifier",
        "feature classifier with altered copies",
        "composed",
        "feature_classifier",
    ),
    Method(
        "feature_classifier + recipe",
        "feature_classifier",
        "feature classifier and published recipe, half each",
        "composed-half",
    ),
    Method("natural_cells.yaml", "composed", "feature classifier and image prior", "composed"),
    Method("... without feature_classifier", "composed", "sqrt formula and image prior", "composed-no-features"),
    Method("... without image prior", "composed", "feature classifier alone", "composed-no-shares"),
    Method("published recipe, 8 views", "tta", "published recipe, images and crops flipped and turned", "recipe-turns"),
    Method("sqrt formula, 4 views", "tta", "sqrt formula, flipped", "puzzle-flips"),
    Method("sqrt formula, 8 views", "tta", "sqrt formula, flipped and turned", "puzzle-turns"),
    Method("sqrt formula, 3 scales", "tta", "sqrt formula at .75, 1 and 1.25 of the size", "puzzle-scales"),
    Method("natural_cells.yaml, 8 views", "tta", "its network flipped and turned", "composed-turns"),
    Method("plain + Puzzle + DRS, mean", "ensemble", "sqrt formula of three networks", blend=Blend(NETWORKS)),
    Method(
        "plain + Puzzle + DRS, geometric",
        "ensemble",
        "sqrt formula of three networks",
        blend=Blend(NETWORKS, "geometric"),
    ),
    Method("plain + Puzzle + DRS, rank", "ensemble", "sqrt formula of three networks", blend=Blend(NETWORKS, "rank")),
    Method("sqrt formula, plain CAM of lite1", "ensemble", "another backbone", "plain-lite1-formula"),
    Method("sqrt formula, plain CAM of lite2", "ensemble", "another backbone", "plain-lite2-formula"),
    Method("two backbones, plain CAM", "ensemble", "sqrt formula of lite0 and lite1", blend=Blend(BACKBONES[:2])),
    Method("three backbones, plain CAM", "ensemble", "sqrt formula of lite0, lite1 and lite2", blend=Blend(BACKBONES)),
    Method("seeds, plain CAM", "ensemble", "mean over the seeds", blend=Blend(("plain-formula",), seeds=True)),
    Method("seeds, sqrt formula", "ensemble", "mean over the seeds", blend=Blend(("puzzle-formula",), seeds=True)),
    Method("seeds, natural_cells.yaml", "ensemble", "mean over the seeds", blend=Blend(("composed",), seeds=True)),
    Method("four folds, equal", "oof", "plain, Puzzle and DRS, four folds each", blend=Blend(FOLD_NETWORKS)),
    Method(
        "four folds, fitted", "oof", "the same, weights fitted out of fold", blend=Blend(FOLD_NETWORKS, fitted=True)
    ),
    Method("parts, equal", "oof", "stages 1 and 2 and feature_classifier of four folds", blend=Blend(FOLD_PARTS)),
    Method("parts, fitted", "oof", "the same, weights fitted out of fold", blend=Blend(FOLD_PARTS, fitted=True)),
    Method("supervised", "supervised", "features and forest on the TRUE cell labels", part="supervised"),
)
