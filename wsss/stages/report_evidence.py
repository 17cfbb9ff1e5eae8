"""What is known of the quality of predictions, for the report: figures, truth of each cell, calibration."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wsss.core.checks import DataError
from wsss.core.digests import in_short
from wsss.core.files import read_record
from wsss.data.catalog import DataSet
from wsss.inference.tables import score_columns, table_digest
from wsss.metrics.cells import score_table
from wsss.metrics.classify import Reliability, reliability
from wsss.metrics.true_masks import TrueMasks
from wsss.metrics.truth import read_cell_truth
from wsss.options.evaluate import EvaluateOptions
from wsss.runs.output import outdated
from wsss.stages.evaluate import evaluate
from wsss.stages.evaluate_join import join_cells


@dataclass(frozen=True)
class Evidence:
    """Figures of cells and of images; each part is None where there is nothing to say."""

    record: dict[str, Any] | None
    """What evaluate tells: the content of scores.json."""
    note: str
    """Where the figures of cells come from, or how to get them."""
    truth: np.ndarray | None
    """(P, K) true classes of each predicted cell, rows of NaN where they are not known."""
    cells: Reliability | None
    images: dict[str, Any] | None
    """Figures of images against their labels, as `score_table` gives them."""
    of_images: Reliability | None


@dataclass(frozen=True)
class Truth:
    """Where the true classes of cells are."""

    table: Path | None
    masks: Path | None
    threshold: float


def gather(preds: Path, data: DataSet, cells: pd.DataFrame, images: pd.DataFrame, given: Truth) -> Evidence:
    """Collect the figures: computed where a truth is given, else from scores.json, where there is one.

    Raises:
        DataError: the truth cannot be used, or was joined by overlap before and its masks are not given now.
    """
    figures, of_images = _images(data, images, given.threshold)
    path = preds / "scores.json"
    known = read_record(path, "truth", "cells") if path.exists() else None
    if given.table is None:
        note = "There are no figures of cells: run python -m wsss.evaluate first, or pass --truth."
        if known and known.get("table") != table_digest(preds):
            known, note = None, f"{path} is of other predictions than these: run python -m wsss.evaluate again."
        elif known and (changed := outdated(preds, path.name)):
            known, note = None, f"{path} is out of date ({in_short(changed)}): run python -m wsss.evaluate again."
        if known:
            note = f"Figures of cells: from {path}, compared with {known['truth']}."
        return Evidence(known, note, None, None, figures, of_images)
    if known and given.masks is None and known["cells"]["joined_by"] == "iou":
        raise DataError(
            f"{path} was made by overlap with true masks, so cell numbers alone may not fit: pass their folder as "
            "--masks, or leave --truth out to show the figures that are there."
        )
    options = EvaluateOptions(preds, given.table, masks=given.masks, data=data.folder, threshold=given.threshold)
    record, classes = evaluate(options)
    truth = read_cell_truth(given.table, classes)
    join, how = join_cells(options, truth, cells, TrueMasks(given.masks, truth) if given.masks else None)
    scores = cells[score_columns(cells, preds)].to_numpy(np.float32)
    of_cells = np.full(scores.shape, np.nan, np.float32)
    joined = join.rows >= 0
    of_cells[join.rows[joined]] = truth.labels[joined]
    note = f"Figures of cells: compared with {given.table}, joined by {how}; {join.missing} true cells were not found."
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
