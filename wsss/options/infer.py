"""Score every cell of a data set with a trained run: cells.csv and .parquet, images.csv, submission.csv."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser

from wsss.core.checks import ConfigError, DataError, between, check_choice, check_fields, refuse_idle
from wsss.core.files import OF_OPTIONS, RUN, check_seal, not_that, within
from wsss.core.reading import MOST_YAML, read_yaml
from wsss.core.runtime import ENGINES
from wsss.options.masks import MaskInferConfig
from wsss.options.parsing import parse
from wsss.options.recipe import recipe_from
from wsss.options.renamed import renamed
from wsss.options.scoring import CropConfig, ScoreConfig, TtaConfig

EXAMPLES = """\
  python -m wsss.infer --run runs/hpa-seresnext50
  python -m wsss.infer --data data/test --run runs/hpa-seresnext50 --out preds/test
  python -m wsss.infer --data data/hpa --run runs/hpa-seresnext50 --out preds/hpa-oof --oof true
  python -m wsss.infer --data data/mine --source subcell=encoder.pth,classifier.pth   (published network, no run)
  python -m wsss.infer --run runs/hpa-seresnext50 --shard 2/4   (of 4 jobs; afterwards the same with --merge)
"""


@dataclass(frozen=True)
class Shard:
    """Part `number` of `count`, counted from 1."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read 'i/n'.

        Raises:
            ConfigError: it is not two whole numbers with 1 <= i <= n.
        """
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise ConfigError(f"shard is '{text}', expected i/n with i from 1 to n, such as 1/4.")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def journal(self) -> str:
        """Name of the file that holds what this shard has done."""
        return f"shard-{self.number}-of-{self.count}.sqlite"


PUBLISHED = {"subcell": ("rybg", "rbg", "ybg", "bg"), "densenet": ()}
"""Published networks, and the channels that their name may be followed by."""


def parse_source(text: str) -> tuple[str, str, list[str]]:
    """Read 'NAME=FILE,FILE' or 'NAME:CHANNELS=FILE': the network, its channels ('' for none), and its files.

    Raises:
        ConfigError: there is no such network, or there are no files.
    """
    head, _, rest = text.partition("=")
    name, _, letters = head.partition(":")
    files = [file.strip() for file in rest.split(",") if file.strip()]
    if name not in PUBLISHED or (letters and letters not in PUBLISHED[name]) or not files:
        raise ConfigError(
            f"--source is '{text}', expected subcell=ENCODER,CLASSIFIER (files or addresses; subcell:ybg=... names the "
            "channels), or densenet=FILE."
        )
    if wrong := [file for file in files if not re.fullmatch(r"[^#]+|.*#sha256=[0-9a-fA-F]{16,64}", file)]:
        raise ConfigError(f"--source has '{wrong[0]}', expected a file or an address, with #sha256=DIGEST or without.")
    return name, letters, files


Embeddings = bool | Literal["crops"]
"""Which vectors of each cell are kept."""


@dataclass(frozen=True)
class InferOptions:
    """What to predict with what, and where to write it."""

    run: Path | None = None
    """Run folder: all its folds are averaged; or one fold's folder. Not needed with --source."""
    data: Path | None = None
    """Prepared and segmented data set, labels not needed; default: the only one under data/."""
    out: Path | None = None
    """Folder for the tables; default: preds/<data set>-<run>."""
    unet: Path | None = None
    """Run of U-Nets of class maps (train --task maps), scored in addition to the run's maps: see score.unet_share."""
    encoder: str = ""
    """The encoder of U-Nets trained with a --backbone module:Class of your own, by the same name: its code is run."""
    source: list[str] = field(default_factory=list)
    """Published networks that score each cell, beside the run or without one: subcell=ENCODER,CLASSIFIER,... (several
    classifiers are averaged), densenet=FILE. Files (.pth, .safetensors) or addresses; #sha256=DIGEST behind one has it
    compared. subcell:rbg= and subcell:ybg= say which cell stain a network of three channels takes."""
    source_share: float = between(0.5, 0, 1)
    """Share of a cell's score taken from --source, where there is a run too; 0 keeps its --embeddings alone."""
    pixel_um: float | None = between(None, 1e-4)
    """Micrometres per pixel of the original images, for --source; left out, what their files declare; an image whose
    file does not is taken for a whole field of the HPA (164 um)."""
    segment: str = ""
    """Find the cells at the same time with this backend of the stage segment, one that needs no further options (auto,
    unet, classical); empty: they were segmented before. The results are the same."""
    oof: bool = False
    """Predict each training image with the network that never saw it, and prove it."""
    snapshots: bool = False
    """Average the networks at the end of each cycle (optim.cycles) instead of taking the best one."""
    batch: int = between(8, 1)
    """Images the network sees at once."""
    engine: str = "local"
    """local; or ray: spread the images over the Ray cluster that RAY_ADDRESS names or this machine belongs to."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N; with --engine ray, auto is the cluster's GPUs where it has any."""
    precision: str = "auto"
    """fp32, bf16, fp16, or auto: fp16 on a GPU that computes in it; on the CPU fp32, or bf16 where the first images of
    a long run show that it is faster and changes no score by more than .02."""
    runtime: Literal["torch", "openvino"] = "torch"
    """What computes the networks of a run on the CPU: PyTorch, or OpenVINO (pip install -e '.[openvino]'), 1.3 to 2.3
    times as fast as PyTorch's fp32; scores differ by rounding alone."""
    overwrite: bool = False
    """Replace the results of other options in --out."""
    shard: str = ""
    """i/n: predict only the i-th of n parts (from 1) and write no tables yet; for the jobs of a scheduler."""
    merge: bool = False
    """Write the tables of n shards that were predicted into --out with the same options."""
    min_score: float = between(0.01, 0, 1)
    """Predictions below this are left out of submission.csv."""
    embeddings: Embeddings = False
    """Keep a vector of each cell in embeddings.parquet. true: the features that the feature classifier goes by, by
    name, and, where crops are scored, the network's pooled features of each crop; crops: these in any case, which takes
    a network pass over every cell."""
    parts: bool = False
    """Write the parts of the blended score too, as predictions of their own: image/, cam/, crop/, feature_classifier/
    and unet/ in --out, as far as there are."""
    score: ScoreConfig = field(default_factory=ScoreConfig)
    """Cell score options (default: those of the run)."""
    crops: CropConfig = field(default_factory=CropConfig)
    """Cell crop options of stage 2 (default: those of the run)."""
    calibration: Path | None = None
    """Curves of python -m wsss.calibrate: scores are then how often such scores are right."""
    tta: TtaConfig = field(default_factory=TtaConfig)
    """Test-time augmentation options."""
    large: list[Path] = field(default_factory=list)
    """Images larger than memory (TIFF or .npy) for a run that finds masks, instead of --data."""
    segmentation: MaskInferConfig = field(default_factory=MaskInferConfig)
    """Options of runs that find masks (task masks)."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_choice("engine", self.engine, ENGINES)
        if not self.source:
            refuse_idle(self, ("source_share", "pixel_um"), "without --source")
        names = [parse_source(text)[0] for text in self.source]
        if len(set(names)) < len(names):
            raise ConfigError(
                f"--source names a network twice ({', '.join(names)}): put all its files behind one name."
            )
        if self.run is None:
            self._check_without_run()
        if self.oof and self.calibration is not None:
            raise ConfigError(
                "calibration curves have seen the labels of the images that --oof predicts: leave one of the two out."
            )
        if self.shard:
            Shard.parse(self.shard)
        if self.segment and (self.shard or self.merge or self.engine != "local"):
            raise ConfigError(
                "segment works with one process only: run python -m wsss.segment first, then split the work."
            )
        if self.engine != "local" and (self.shard or self.merge):
            raise ConfigError("engine ray spreads the images itself: leave --shard and --merge out.")
        if self.shard and self.merge:
            raise ConfigError("shard and merge are two steps: run every --shard first, then --merge true without it.")

    def _check_without_run(self) -> None:
        if not self.source:
            raise ConfigError("--run is missing: pass the folder of a training, or a published network as --source.")
        if of_runs := [n for n in ("oof", "snapshots", "unet") if getattr(self, n) not in (False, None)]:
            raise ConfigError(f"--{of_runs[0]} needs a run: pass its folder as --run, or leave it out.")
        refuse_idle(self, ("runtime",), "without --run")
        if self.embeddings == "crops":
            raise ConfigError("--embeddings crops are those of a run's network: pass true for those of --source.")


OPTIONS = (InferOptions,)

CELLS_ALONE: tuple[str, ...] = (
    "unet",
    "source",
    "source_share",
    "pixel_um",
    "segment",
    "shard",
    "merge",
    "engine",
    "runtime",
    "min_score",
    "parts",
    "embeddings",
    "score",
    "crops",
    "calibration",
    "tta",
)
"""Options of runs that score cells, without any meaning for those that find masks."""
MASKS_ALONE: tuple[str, ...] = ("large", "segmentation")
"""The other way round."""


def read(parser: ArgumentParser, words: Sequence[str] | None) -> list[Any]:
    """Read the flags, with the score and crop options of the run as defaults."""
    first: InferOptions = parse(parser, words, *OPTIONS)[0]
    if first.run is None:  # the published scores as they are: the image prior was chosen for those of runs
        own: dict[str, Any] = {"score": {"prior_rounds": 0}}
    else:
        recipe = run_config(first.run)  # that of an old version holds the options of all tasks
        own = {} if recipe.get("task") == "masks" else {n: recipe[n] for n in ("score", "crops") if n in recipe}
    try:
        parser.set_defaults(own)
        return parse(parser, words, *OPTIONS)
    finally:  # the parser is kept
        parser.set_defaults({"score": asdict(ScoreConfig()), "crops": asdict(CropConfig())})


def refuse_of_other_task(options: InferOptions, run: Path, *, finds_masks: bool) -> None:
    """Refuse options that mean nothing to the run.

    Raises:
        ConfigError: one is set, by its name.
    """
    usual, idle = InferOptions(run), MASKS_ALONE
    what, own = "scores cells", "cell scores are --score.*, --crops.* and --tta.*"
    if finds_masks:
        idle, what, own = CELLS_ALONE, "finds masks", "masks are --segmentation.*"
    for name in idle:
        for flag in _changed(name, getattr(options, name), getattr(usual, name)):
            raise ConfigError(f"{run} {what}, to which --{flag} means nothing: leave it out; the options of {own}.")


def _changed(name: str, value: Any, usual: Any) -> list[str]:
    """Return the names of the options, nested ones with dots, in which a value differs from the usual one."""
    if not is_dataclass(usual):
        return [name] if value != usual else []
    return [
        flag
        for option in fields(usual)
        for flag in _changed(f"{name}.{option.name}", getattr(value, option.name), getattr(usual, option.name))
    ]


def run_config(run: Path) -> dict[str, Any]:
    """Return the recipe of a run from its config.yaml."""
    path = next(iter(within(run, "config.yaml")), None)
    if path is None:
        raise ConfigError(f"{not_that(run, RUN)}: check --run, or train it first.")
    check_seal(path, OF_OPTIONS, MOST_YAML)
    recipe = read_yaml(path)
    if not isinstance(recipe, dict):
        raise DataError(f"{path} holds no options, expected 'name: value' lines: restore it.")
    recipe_from(recipe, str(path))
    return renamed(recipe, str(path))
