"""Contents of the report: predictions, data set, training and their quality, in figures and words."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wsss.core.checks import DataError, pasted, some
from wsss.core.files import RUN, not_that, read_lines, read_record, within
from wsss.data.catalog import DataSet
from wsss.data.origin import data_folder_of, read_provenance, seen_note
from wsss.inference.checkpoints import trained_since
from wsss.inference.tables import check_classes, read_cells, read_images, score_columns, table_digest
from wsss.metrics.cells import score_table
from wsss.metrics.classify import Reliability, reliability
from wsss.options.evaluate import EvaluateOptions
from wsss.options.report import ReportOptions
from wsss.reports.figures import calibration_svg, confusion_svg, curve_name, training_svg
from wsss.reports.page import Figure
from wsss.runs.inputs import in_short
from wsss.runs.result_record import outdated
from wsss.runs.run_folder import RunFolder
from wsss.stages.evaluate import evaluate


@dataclass(frozen=True)
class Evidence:
    """Figures of cells and of images; each part is None where there is nothing to say."""

    record: dict[str, Any] | None
    """What `evaluate` reports: the content of scores.json."""
    note: str
    """Where the figures of cells come from, or how to get them."""
    truth: np.ndarray | None
    """(P, K) true classes of each predicted cell, rows of NaN where they are not known."""
    cells: Reliability | None
    images: dict[str, Any] | None
    """Figures of images against their labels, as `score_table` gives them."""
    of_images: Reliability | None


@dataclass(frozen=True)
class Contents:
    """Everything the page is made from."""

    options: ReportOptions
    data: DataSet
    cells: pd.DataFrame
    """All cells without their masks; row numbers are those of `scores` and of the notable cells."""
    images: pd.DataFrame
    scores: np.ndarray
    """(N, K) float32."""
    evidence: Evidence
    record: dict[str, Any]
    """The content of provenance.json, empty if there is none."""


def collect(options: ReportOptions) -> Contents:
    """Read the tables and work out the figures.

    Raises:
        DataError: predictions, data set and truth do not fit each other.
    """
    data = DataSet.open(data_folder_of(options.preds, options.data))
    cells = read_cells(options.preds)
    columns = score_columns(cells, options.preds)
    check_classes(options.preds, columns, data.classes, data.folder)
    images = read_images(options.preds, columns)
    strangers = sorted((set(images.ID) | set(cells.ID)) - set(data.ids))
    if strangers:
        raise DataError(f"{options.preds} has {some(strangers)}, which {data.folder} lacks: pass its --data.")
    evidence = gather(options, data, cells, images)
    scores, record = cells[columns].to_numpy(np.float32), read_provenance(options.preds)
    return Contents(options, data, cells, images, scores, evidence, record)


def gather(options: ReportOptions, data: DataSet, cells: pd.DataFrame, images: pd.DataFrame) -> Evidence:
    """Collect the figures: computed where a truth is given, else from scores.json, where there is one.

    Raises:
        DataError: the truth cannot be used, or was joined by overlap before and its masks are not given now.
    """
    figures, of_images = _images(data, images, options.threshold)
    preds, path = options.preds, options.preds / "scores.json"
    known = read_record(path, "truth", "cells") if path.exists() else None
    if options.truth is None:
        note = "There are no figures of cells: run python -m wsss.evaluate first, or pass --truth."
        if known and known.get("table") != table_digest(preds):
            known, note = None, f"{path} is of other predictions than these: run python -m wsss.evaluate again."
        elif known and (changed := outdated(preds, path.name)):
            known, note = None, f"{path} is out of date ({in_short(changed)}): run python -m wsss.evaluate again."
        if known:
            note = f"Figures of cells: from {shown(path)}, compared with {shown(Path(known['truth']))}."
        return Evidence(known, note, None, None, figures, of_images)
    if known and options.masks is None and options.join != "number" and known["cells"]["joined_by"] == "iou":
        raise DataError(
            f"{path} was made by overlap with true masks, so cell numbers alone may not fit: pass their folder as "
            "--masks, or leave --truth out to show the figures that are there."
        )
    record, _, truth, join = evaluate(
        EvaluateOptions(
            preds,
            options.truth,
            masks=options.masks,
            data=data.folder,
            threshold=options.threshold,
            join=options.join,
        )
    )
    scores = cells[score_columns(cells, preds)].to_numpy(np.float32)
    of_cells = np.full(scores.shape, np.nan, np.float32)
    joined = join.rows >= 0
    of_cells[join.rows[joined]] = truth.labels[joined]
    against = f"compared with {shown(options.truth)}, joined by {record['cells']['joined_by']}"
    note = f"Figures of cells: {against}; {join.missing} of the true cells were not found."
    return Evidence(record, note, of_cells, reliability(truth.labels, join.scores(scores)), figures, of_images)


def _images(data: DataSet, images: pd.DataFrame, threshold: float) -> tuple[dict[str, Any] | None, Reliability | None]:
    """Compare the scores of images with their labels."""
    columns = data.classes.columns
    scored = images[images[columns].notna().all(axis=1)]
    places = {name: i for i, name in enumerate(data.ids) if data.has_labels[i]}
    scored = scored[scored.ID.isin(list(places))]
    if not len(scored):
        return None, None
    labels = data.labels[[places[name] for name in scored.ID]]
    scores = scored[columns].to_numpy(np.float32)
    return score_table(labels, scores, data.classes, threshold), reliability(labels, scores)


def shown(path: Path) -> str:
    """Return a path as the page shows it: from the working directory where it is in it."""
    full = path.resolve()
    return str(full.relative_to(Path.cwd())) if full.is_relative_to(Path.cwd()) else str(path)


def overview(contents: Contents, run: Path | None) -> list[tuple[str, str]]:
    """Return what was run on which data, as text."""
    data, record = contents.data, contents.record
    labelled = int(data.has_labels.sum())
    no_run = "none" if "published" in record else "not recorded"
    out = [
        ("predictions", shown(contents.options.preds)),
        ("data set", f"{shown(data.folder)}: {len(data)} images at {data.size} px, {labelled} labelled"),
        ("channels", ", ".join(data.channels)),
        ("predicted", f"{len(contents.images)} images, {len(contents.cells)} cells"),
        ("run", shown(Path(run or record["run"])) if run or "run" in record else no_run),
    ]
    if changed := trained_since(record):
        again = some(map(shown, changed), 3)
        out.append(("note", f"{again} was trained again since: the curves are not of these scores"))
    if note := seen_note(record):
        out.append(("note", note.removeprefix("note: ")))
    if len(data.carried.columns):
        values = [f"{name} ({data.carried[name].nunique()} values)" for name in data.carried]
        out.append(("from the label table", ", ".join(values)))
    if group := (data.manifest["folds"] or {}).get("group"):
        out.append(("folds", f"images of one {group} are in one fold"))
    networks = record.get("members") or []
    if networks:
        how = ", each for the images it never saw" if record.get("oof") else ", their mean" if len(networks) > 1 else ""
        out.append(("networks", f"{len(networks)}{how}"))
    shares = {name: share for name, share in record.get("sources", {}).items() if share}
    if shares:
        out.append(("score", ", ".join(f"{name.replace('_', ' ')} {share:.0%}" for name, share in shares.items())))
    if "versions" in record:
        out.append(("versions", ", ".join(f"{name} {version}" for name, version in record["versions"].items())))
    return out


SHOWN = 3
"""Classes that the first sentence of the report names."""


MANY = 0.5
"""Share of cells without a class from which on the threshold is to blame."""


def in_words(contents: Contents) -> list[str]:
    """Return a few sentences: the result, how far to trust it, and what to do next."""
    cells, images = len(contents.cells), int((contents.images.status == "ok").sum())
    if not cells:
        return [f"No cell was found in {images} images: look at the label maps first (wsss overlay, wsss doctor)."]
    names, threshold = contents.data.classes.names, contents.options.threshold
    above = contents.scores >= threshold
    order = [int(k) for k in np.argsort(-above.sum(axis=0), kind="stable")[:SHOWN] if above[:, k].any()]
    most = ", ".join(f"{names[k]} in {above[:, k].mean():.0%}" for k in order) or "no class"
    several, none = (above.sum(axis=1) > 1).mean(), (~above.any(axis=1)).mean()
    first = (
        f"{cells:,} cells in {images:,} images. Scores from {threshold:g} on say: {most} of the cells; "
        f"{several:.0%} show several classes, {none:.0%} none."
    )
    if none > MANY:
        first += (
            " Where so many cells show none, scores are low rather than cells empty: move the slider below the fields' "
            "title, or make scores mean how often they are right (wsss calibrate)."
        )
    return [first, _trust(contents)]


def _trust(contents: Contents) -> str:
    """Return how far the labels can be trusted, and what to do next."""
    preds, record = contents.options.preds, contents.evidence.record
    review = f"wsss review --preds {pasted(shown(preds))}"
    if record is None:
        return (
            "How far to trust this is not known yet: compare with cells labelled by hand. 100 random cells, "
            f"a quarter of an hour, give a first answer: {review}."
        )
    table = record["cells"]
    rows = [row for row in table["per_class"] if row["ap"] is not None and row["count"]]
    if table["mean_ap"] is None or not rows:
        return f"The true cells show nothing about these classes; label some more: {review}."
    worst = min(rows, key=lambda row: float(row["ap"]))
    sense = (
        "scores rank cells well"
        if table["mean_ap"] >= 0.9
        else "most scores rank cells well; look at the weak classes before you count them"
        if table["mean_ap"] >= 0.7
        else "treat single cells with care; compare shares between conditions only after a look at the classes"
    )
    weakest = f"{worst['name']} ({worst['ap']:.2f}, {worst['count']} true cells)"
    return (
        f"Against {table['count']:,} true cells the mean average precision is {table['mean_ap']:.2f}: {sense}. "
        f"The weakest class is {weakest}. Next: label doubtful cells ({review}), or compare conditions (wsss compare)."
    )


def tiles(evidence: Evidence) -> list[tuple[str, float | None, str]]:
    """Return the figures that matter most."""
    out: list[tuple[str, float | None, str]] = []
    if evidence.record:
        cells = evidence.record["cells"]
        out += [
            ("mean AP of cells", cells["mean_ap"], f"{cells['count']} true cells, {cells['classes']} classes"),
            ("mean F1 of cells", cells["mean_f1"], f"scores from {cells['threshold']:g} on"),
            ("calibration error of cells", cells["calibration_error"], "0 is best"),
        ]
        masks = evidence.record.get("instances")
        if masks:
            out.append(("mAP of masks", masks["mean_ap"], f"the competition's figure, IoU {masks['match_iou']:g}"))
    if evidence.images:
        figures = evidence.images
        out.append(("mean AP of images", figures["mean_ap"], f"{figures['count']} labelled images"))
        out.append(("mean F1 of images", figures["mean_f1"], f"scores from {figures['threshold']:g} on"))
    return out


def images_note(contents: Contents) -> str:
    """Return what the figures of images are measured against."""
    if contents.evidence.images is None:
        return ""
    if contents.record.get("oof"):
        return "Figures of images: out of fold, against the labels of the data set."
    return "Figures of images: against the labels of the data set; they flatter a run that was trained on these images."


def class_table(contents: Contents) -> tuple[list[tuple[str, str, str]], list[dict[str, Any]]]:
    """Return the columns of the table of classes (key, heading, kind) and its rows."""
    data, evidence, options = contents.data, contents.evidence, contents.options
    count = len(data.classes)
    columns = [("top", "top class of cells", "count"), ("above", f"cells ≥ {options.threshold:g}", "count")]
    values: dict[str, Sequence[Any]] = {
        "top": np.bincount(contents.scores.argmax(axis=1), minlength=count).tolist(),
        "above": (contents.scores >= options.threshold).sum(axis=0).tolist(),
    }
    if data.has_labels.any():
        columns.insert(0, ("labelled", "images labelled", "count"))
        values["labelled"] = data.labels.sum(axis=0).astype(int).tolist()
    for what, table in (
        ("cells", evidence.record["cells"] if evidence.record else None),
        ("images", evidence.images),
    ):
        if table is not None:
            rows = table["per_class"]
            for key, heading in (("count", f"true {what}"), ("ap", f"AP of {what}"), ("f1", f"F1 of {what}")):
                columns.append((f"{what}_{key}", heading, "count" if key == "count" else "share"))
                values[f"{what}_{key}"] = [row[key] for row in rows]
    names = enumerate(data.classes.names)
    return columns, [{"id": k, "name": name} | {key: column[k] for key, column in values.items()} for k, name in names]


def calibration(evidence: Evidence) -> list[Figure]:
    """Draw how far scores are true, of cells and of images."""
    parts = (("Cells", evidence.cells), ("Images", evidence.of_images))
    return [
        Figure(
            title,
            calibration_svg(curve),
            f"share of scores that are true; expected calibration error {curve.error:.3f}",
        )
        for title, curve in parts
        if curve is not None
    ]


def mistakes(evidence: Evidence) -> list[Figure]:
    """Draw the confusions of classes, and name the most frequent mistakes."""
    rows = evidence.record["cells"].get("confusions") if evidence.record else None
    if not rows:
        return []
    wrong = [row for row in rows if row["true"] != row["predicted"]][:3]
    most = "; ".join(
        f"{row['true_name']} taken for {row['predicted_name']}: {row['cells']:.1f}".removesuffix(".0")
        + f" cells, {row['share']:.0%}"
        for row in wrong
    )
    return [Figure("Cells", confusion_svg(rows), most or "no cell has another class on top than its own")]


def failures(contents: Contents) -> list[tuple[str, str]]:
    """Return ID and reason of every image that has no full prediction."""
    reasons = dict(zip(contents.data.ids, contents.data.table["reason"].fillna("").astype(str), strict=True))
    bad = contents.images[contents.images.status != "ok"]
    return [
        (name, f"{status}: {reasons[name]}" if reasons[name] else status)
        for name, status in zip(bad.ID, bad.status, strict=True)
    ]


def run_of(chosen: Path | None, record: Mapping[str, Any]) -> Path | None:
    """Return the run to report on: the one given by --run, or the recorded one if it still exists.

    Raises:
        DataError: the one given has no log.csv.
    """
    if chosen is None:
        recorded = record.get("run")
        folder = Path(str(recorded)) if recorded else None
        return folder if folder is not None and fold_folders(folder) else None
    if not fold_folders(chosen):
        raise DataError(f"{not_that(chosen, RUN)} with a log.csv, in itself or in its folds: check --run.")
    return chosen


def fold_folders(run: Path) -> list[Path]:
    """Return the folders of a run that have a log: itself, or those of its folds."""
    return [path.parent for path in within(run, "log.csv")]


def training(run: Path | None) -> list[Figure]:
    """Draw the curves of every fold of the run."""
    out = []
    for folder in fold_folders(run) if run else []:
        table = RunFolder(folder).read_log()
        rows = [{str(k): v for k, v in row.dropna().items()} for _, row in table.iterrows()]
        last = ", ".join(
            f"{curve_name(name)} {table[name].iloc[-1]:.4g}"
            for name in ("train_loss", "val_loss", "val_map", "val_f1", "val_dice", "val_instance_ap")
            if name in table and len(table)
        )
        out.append(
            Figure(shown(folder), training_svg(rows), f"{len(rows)} epoch{'s'[: len(rows) > 1]}; at the end {last}")
        )
    return out


def records(record: Mapping[str, Any], run: Path | None) -> list[tuple[str, str]]:
    """Return the files with the full record: that of the predictions, if there is one, and the recipes of the run."""
    out = [("provenance.json", json.dumps(record, indent=2))] if record else []
    configs = [folder / "config.yaml" for folder in (fold_folders(run) if run else [])]
    return out + [(shown(path), "\n".join(read_lines(path))) for path in configs if path.exists()]
