"""One HTML page of a data set's predictions: figures, training, fields to look through, cells to look at first."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wsss.core.checks import ConfigError, DataError, check_range, some
from wsss.core.files import read_json, write_text
from wsss.core.runtime import progress
from wsss.data.catalog import DataSet
from wsss.inference.tables import iter_cells, read_cells, read_images, score_columns
from wsss.options import parsing as cli
from wsss.reports.gallery import Field
from wsss.reports.notable import Pick, pick_by_score, pick_oddities
from wsss.reports.page import CropGroup, Page, render
from wsss.stages.evaluate_masks import is_mask_folder
from wsss.stages.export import data_folder_of
from wsss.stages.report_drawing import Drawing
from wsss.stages.report_evidence import Evidence, Truth, gather
from wsss.stages.report_maps import Mapper
from wsss.stages.report_run import records, run_folder, training
from wsss.stages.report_tables import calibration, class_table, facts, failures, images_note, mistakes, tiles

EXAMPLES = """\
  python -m wsss.report --preds preds/demo
  python -m wsss.report --preds preds/demo --run runs/demo --truth cells_truth.csv --masks true_masks --out demo.html
  python -m wsss.report --preds preds/demo --run runs/demo --maps
  python -m wsss.report --preds preds/hpa --most 200 --edge 512"""


@dataclass(frozen=True)
class ReportOptions:
    """What the page shows."""

    preds: Path
    """Folder of predictions, with cells.parquet and images.csv."""
    out: Path = Path("report.html")
    """The page to write."""
    run: Path | None = None
    """Run folder, for its training curves; default: the one the predictions were made with, where it is still there."""
    data: Path | None = None
    """Data set the predictions are of; default: the one they were made from, or the only one under data/."""
    truth: Path | None = None
    """Table of true cells, as for evaluate; default: the figures in scores.json, where there is one."""
    masks: Path | None = None
    """Folder of true label maps, as for evaluate: needed where the cells were not predicted on the true masks."""
    maps: bool = False
    """Show where the run's networks see each class: class maps over the fields, computed now."""
    most: int = 500
    """Fields in the gallery at most; of more images, so many spread evenly over the set."""
    crops: int = 24
    """Cells in each group of crops at most."""
    edge: int = 352
    """Longer edge of the fields' pictures in px."""
    quality: int = 45
    """Quality of the pictures (WebP), 1 to 100."""
    threshold: float = 0.5
    """Scores from here on count as found."""

    def __post_init__(self) -> None:
        check_range("--most", self.most, 0)
        check_range("--crops", self.crops, 0, 500)
        check_range("--edge", self.edge, 64, 4096)
        check_range("--quality", self.quality, 1, 100)
        check_range("--threshold", self.threshold, 1e-9, 1)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage; return the exit code."""
    parser = cli.make_parser("report", __doc__ or "", EXAMPLES, ReportOptions)
    (options,) = cli.parse(parser, argv, ReportOptions)
    return report(options)


@dataclass(frozen=True)
class Found:
    """Everything the page is made from."""

    options: ReportOptions
    data: DataSet
    cells: pd.DataFrame
    """All cells without their masks; row numbers are those of `scores` and of the picks."""
    images: pd.DataFrame
    scores: np.ndarray
    """(N, K) float32."""
    evidence: Evidence
    record: dict[str, Any]
    """The content of provenance.json, empty where there is none."""


def report(options: ReportOptions) -> int:
    """Write the page; return 0."""

    page = build(collect(options))
    text = render(page)
    write_text(options.out, text)
    packed = sum(len(field.packed) for field in page.fields)
    each = f", {packed / 1024 / len(page.fields):.0f} KiB each" if page.fields else ""
    size = len(text.encode()) / 1024**2
    cli.say(f"{options.out}: {size:.1f} MiB, {len(page.fields)} of {page.images} images in the gallery{each}")
    return 0


def collect(options: ReportOptions) -> Found:
    """Read the tables and work out the figures.

    Raises:
        DataError: predictions, data set and truth do not fit each other.
    """

    if is_mask_folder(options.preds):
        raise ConfigError(f"{options.preds} holds masks, not cells: python -m wsss.evaluate draws them as sheet.png.")
    data = DataSet.open(data_folder_of(options.preds, options.data))
    cells, images = read_cells(options.preds), read_images(options.preds)
    columns = score_columns(cells, options.preds)
    if columns != data.classes.columns or columns != score_columns(images, options.preds / "images.csv"):
        raise DataError(f"{options.preds} has {len(columns)} classes, {data.folder} has {len(data.classes)}.")
    strangers = sorted((set(images.ID) | set(cells.ID)) - set(data.ids))
    if strangers:
        raise DataError(f"{options.preds} has {some(strangers)}, which {data.folder} has not: pass its --data.")
    given = Truth(options.truth, options.masks, options.threshold)
    evidence = gather(options.preds, data, cells, images, given)
    path = options.preds / "provenance.json"
    record = read_json(path) if path.exists() else {}
    return Found(options, data, cells, images, cells[columns].to_numpy(np.float32), evidence, record)


def build(found: Found) -> Page:
    """Put the page together."""

    options, data, evidence = found.options, found.data, found.evidence
    names, most = found.cells.ID.to_numpy(object), options.crops
    picks = pick_by_score(names, found.scores, evidence.truth, data.classes.negative, most)
    picks += pick_oddities(found.cells, most)
    run = run_folder(found)
    fields, groups = draw(found, picks, run)
    columns, classes = class_table(found)
    return Page(
        title=f"Report of {options.preds.resolve().name}",
        facts=facts(found, run),
        tiles=tiles(evidence),
        classes=classes,
        columns=columns,
        class_names=data.classes.names,
        channels=data.channels,
        fields=fields,
        images=len(found.images),
        scores_note=f"{evidence.note} {images_note(found)}".strip(),
        training=training(run),
        calibration=calibration(evidence),
        mistakes=mistakes(evidence),
        groups=groups,
        failures=failures(found),
        records=records(found, run),
        has_truth=evidence.truth is not None,
        has_maps=options.maps,
    )


def draw(found: Found, picks: Sequence[Pick], run: Path | None) -> tuple[list[Field], list[CropGroup]]:
    """Draw the gallery's fields and the crops of the picked cells, image after image."""

    work = Drawing(found, picks, _mapper(found, run))
    for name, masks in progress(_each_wanted(found, work.wanted), "report", total=len(work.wanted)):
        work.add(name, masks)
    return work.fields, work.groups()


def _mapper(found: Found, run: Path | None) -> Mapper | None:
    """Load the networks for the class maps, where these are asked for."""
    if not found.options.maps:
        return None
    if run is None:
        raise ConfigError("--maps asks the networks of the run, which is not where it was: pass its folder as --run.")

    return Mapper(run, found.data, oof=bool(found.record.get("oof")))


def _each_wanted(found: Found, wanted: Mapping[str, Any]) -> Iterator[tuple[str, pd.DataFrame | None]]:
    """Yield (ID, its cells with masks or None) of the wanted images in the order of the table of images."""

    left = dict.fromkeys(wanted)
    for name, own in iter_cells(found.options.preds):
        if name in left:
            del left[name]
            yield name, own
    for name in left:
        yield name, None
