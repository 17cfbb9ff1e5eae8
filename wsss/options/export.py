"""Take results into other tools: predictions as AnnData, COCO, GeoJSON, TIFF or a table; a run as a model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wsss.core.checks import ConfigError, between, check_choice, check_ending, check_fields, refuse_idle

EXAMPLES = """\
  python -m wsss.export --preds preds/hpa --to h5ad --out hpa.h5ad                cells x classes, for scanpy
  python -m wsss.export --preds preds/hpa --to geojson --out qupath               a file an image, for QuPath
  python -m wsss.export --preds preds/hpa --to tiff --out labels                  label maps, for Fiji and napari
  python -m wsss.export --run runs/hpa-seresnext50 --to huggingface --out model   a model to share
"""

OF_PREDICTIONS = ("h5ad", "coco", "geojson", "tiff", "csv", "parquet", "kaggle")
OF_RUNS = ("huggingface", "onnx")
FOLDERS = ("geojson", "tiff", "huggingface", "onnx")
"""Forms that are a folder of files."""
ENDINGS = {
    "h5ad": (".h5ad",),
    "coco": (".json", ".json.gz"),
    "csv": (".csv",),
    "parquet": (".parquet",),
    "kaggle": (".csv",),
}
"""Endings of the forms that are one file."""
FILES = {"geojson": (".geojson", ".json", ".gz"), "tiff": (".tif", ".tiff", ".png"), "onnx": (".onnx",)}
"""Endings that folders are not to have."""
FORMS = Literal["h5ad", "coco", "geojson", "tiff", "csv", "parquet", "kaggle", "huggingface", "onnx"]


@dataclass(frozen=True)
class ExportOptions:
    """What is exported, and in which form."""

    to: FORMS
    """h5ad, coco, geojson, tiff, csv, parquet or kaggle (of --preds); huggingface or onnx (of --run)."""
    out: Path
    """File to write; a folder for geojson, tiff, huggingface and onnx. A .gz behind a COCO file compresses it."""
    preds: Path | None = None
    """Folder of predictions."""
    data: Path | None = None
    """Data set the predictions are of; default: the one they were made from, or the only one under data/."""
    run: Path | None = None
    """Run folder: all its folds, or one fold's."""
    gz: bool = True
    """Compress GeoJSON files (QuPath opens .geojson.gz)."""
    every_class: bool = False
    """COCO: one annotation for each cell and class from --min-score on, instead of one a cell."""
    min_score: float = between(0.01, 0, 1)
    """Scores below this are left out of kaggle, and of coco with --every-class."""
    push: str = ""
    """Hugging Face repository, USER/NAME, to upload the model to."""
    overwrite: bool = False
    """Replace another export, or files that are not of this stage."""

    def __post_init__(self) -> None:
        check_fields(self, "--")
        check_choice("--to", self.to, (*OF_PREDICTIONS, *OF_RUNS))
        wanted, other = ("run", "preds") if self.to in OF_RUNS else ("preds", "run")
        if getattr(self, wanted) is None or getattr(self, other) is not None:
            raise ConfigError(f"--to {self.to} is made from --{wanted}: pass --{wanted} FOLDER, and no --{other}.")
        if self.to in ENDINGS:
            check_ending(self.out, *ENDINGS[self.to])
        elif self.out.name.lower().endswith(FILES.get(self.to, ())):
            raise ConfigError(f"--to {self.to} writes a folder of files, and --out {self.out} is named like a file.")
        takes = {"geojson": ("gz",), "coco": ("every_class",), "kaggle": ("min_score",), "huggingface": ("push",)}
        taken = (*takes.get(self.to, ()), *(("min_score",) if self.every_class else ()))
        of_forms = ("gz", "every_class", "min_score", "push")
        idle = ("data",) if self.to in OF_RUNS else ()
        refuse_idle(self, [*idle, *(name for name in of_forms if name not in taken)], f"with --to {self.to}")


OPTIONS = (ExportOptions,)
