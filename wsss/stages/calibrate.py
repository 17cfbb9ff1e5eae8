"""Fit calibration curves on predictions of images that the networks were not trained on."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from wsss.core.checks import DataError, pasted, some
from wsss.core.console import say
from wsss.core.labels import HPA_CHANNELS, ClassList
from wsss.data.catalog import DataSet, default_dataset
from wsss.data.origin import recorded_data
from wsss.data.tables import read_labels
from wsss.inference.checkpoints import trained_since
from wsss.inference.ensemble import Prediction, foreign_note, read_predictions
from wsss.inference.pipeline import origin_of
from wsss.inference.tables import prediction_files
from wsss.metrics.calibration import Calibration, apply_curves, fit_curves, possible_targets, save_calibration
from wsss.metrics.classify import reliability
from wsss.options.calibrate import CalibrateOptions
from wsss.reports.figures import plot_reliability
from wsss.runs.inputs import Digests, what_is_read
from wsss.runs.output import Output, at_file
from wsss.runs.record import check_unseen
from wsss.runs.run_folder import RunFolder
from wsss.segmenters.masks import mask_files
from wsss.stages.evaluate import TrueCells, classes_of

GROUPS = 5
"""Parts for the cross-validated figures where predictions have no folds."""


@dataclass(frozen=True)
class Events:
    """Scores and their targets."""

    scores: np.ndarray
    """(N, K) in [0, 1]."""
    truth: np.ndarray
    """(N, K) in [0, 1]."""
    group: np.ndarray
    """(N,) part for cross-validation; all cells of an image are in one part."""
    weights: np.ndarray
    """(N,) float64, how many cells or images each stands for."""


SUBJECT = ("options.preds", "options.truth", "options.labels", "options.data")


def run(options: CalibrateOptions) -> int:
    """Fit the curves, write and plot them, print the calibration errors; return 0."""
    out = options.out or options.preds / "calibration.json"
    with at_file(out, "calibrate") as output:
        if output.begin(partial(_read, options), overwrite=options.overwrite, subject=SUBJECT):
            _calibrate(options, output, out)
    return 0


def _read(options: CalibrateOptions, digests: Digests) -> dict[str, Any]:
    files = [*prediction_files(options.preds), options.truth, *mask_files(options.masks), options.labels]
    data = _data_folder(options)
    return what_is_read(options, digests, [*files, None if data is None else data / "dataset.json"])


def _calibrate(options: CalibrateOptions, output: Output, out: Path) -> None:
    tables = read_predictions([options.preds])[0]
    folder = _data_folder(options)
    data = None if folder is None else DataSet.open(folder)
    classes = classes_of(options.preds, folder, tables.columns)
    predicted = {*tables.images.ID, *tables.cells.ID}
    labels = _labels(options, data, classes, predicted)
    _check_unseen(tables, predicted, {} if data is None else data.twins)
    if note := foreign_note(tables.provenance.get("published", {})):
        say(note)
    cells, basis = _cell_events(options, tables, labels, classes)
    both = {"cells": cells, "images": _image_events(tables, labels)}
    curves = {
        name: fit_curves(events.scores, events.truth, options.method, events.weights) for name, events in both.items()
    }
    after = {name: _cross_fitted(events, options.method) for name, events in both.items()}
    report: dict[str, Any] = {name: _report(events, after[name], classes) for name, events in both.items()}
    report |= {"cells_compared_with": basis, "preds": str(options.preds), "method": options.method}
    fitted = Calibration(curves["cells"], curves["images"], origin_of(tables.provenance))
    save_calibration(output.path(out.name), fitted, report)
    titles = {"cells": f"cells, {'truth known' if options.truth else 'from image labels alone'}", "images": "images"}
    panels = {
        titles[name]: (
            reliability(events.truth, events.scores, weights=events.weights),
            reliability(events.truth, after[name], weights=events.weights),
        )
        for name, events in both.items()
    }
    plot_reliability(panels, output.path(out.with_suffix(".png").name), "share that is true")
    output.publish()
    for name, events in both.items():
        _print(name, report[name], [curve.method for curve in curves[name]], len(events.scores))
    if worse := [name for name in both if report[name]["after"] > report[name]["before"]]:
        say(
            f"note: for {' and '.join(worse)} these curves are worse than none, as far as "
            f"{len(both['images'].scores)} labelled images can tell: leave them out, or fit them to more images."
        )
    say(f"cells are compared with {basis}; 'after' is cross-validated, part by part of the images")
    say(f"written to {out} and {out.with_suffix('.png')}; use it by infer --calibration {pasted(out)}")


def _data_folder(options: CalibrateOptions) -> Path | None:
    """Return the data set that the labels are taken from; None where they come from a table alone."""
    if options.data is not None:
        return options.data
    recorded = recorded_data(options.preds)
    return recorded if recorded is not None or options.labels is not None else default_dataset(None)


def _labels(
    options: CalibrateOptions, data: DataSet | None, classes: ClassList, predicted: set[str]
) -> dict[str, np.ndarray]:
    """Return ID -> (K,) labels of the images that have them."""
    if options.labels is not None:
        channels = HPA_CHANNELS if data is None else data.file_channels
        return read_labels(options.labels, classes, channels).encoded(sorted(predicted), classes)
    assert data is not None
    return {name: row for name, row, has in zip(data.ids, data.labels, data.has_labels, strict=True) if has}


def _check_unseen(tables: Prediction, ids: set[str], twins: Mapping[str, str]) -> None:
    """Refuse predictions of images that the networks were trained on."""
    if tables.is_oof:
        return
    if changed := trained_since(tables.provenance):
        raise DataError(
            f"{some(changed, 3)} was trained again since {tables.folder} was predicted, so what those networks had "
            "seen is not known: predict again."
        )
    for network in tables.provenance.get("members", [{}]):
        paths = [network.get("path"), *network.get("unet_paths", [None] * len(network.get("unets", [])))]
        for path in paths:
            if path is None or not (Path(path) / "best.safetensors").is_file():
                lacking = "no network is named" if path is None else f"{path} is not there"
                raise DataError(
                    f"{tables.folder} is not out of fold and does not record what its networks were trained on "
                    f"({lacking}): curves fitted on training images are misleading. Predict with infer --oof."
                )
            check_unseen(
                Path(path),
                RunFolder(Path(path)).read()[0].lineage,
                ids,
                f"images predicted in {tables.folder}, and curves fitted to what a network has seen mislead",
                "Make predictions with infer --oof, or of other labelled images.",
                twins,
            )


def _cell_events(
    options: CalibrateOptions, tables: Prediction, labels: dict[str, np.ndarray], classes: ClassList
) -> tuple[Events, str]:
    """Return the cells with their true labels, or with what the image labels leave possible; and which of the two."""
    cells, scores = tables.cells, tables.scores
    ids = cells.ID.to_numpy(object)
    groups = _groups(ids, cells.fold.to_numpy())
    if options.truth is not None:
        data = options.data or recorded_data(options.preds)
        given = TrueCells(options.truth, options.masks, data, options.join, options.join_iou)
        truth, join, how = given.join(options.preds, cells, classes)
        rows = join.rows
        known = rows >= 0
        if not known.any():
            raise DataError(f"{tables.folder} and {options.truth} have no cell in common: no curve can be fitted.")
        rows = rows[known]
        basis = f"the true cells of {options.truth}, joined by {how}"
        if truth.weights is None:
            weights = np.ones(len(rows))
        else:
            weights, basis = truth.weights[known], f"{basis}, each by how many cells it stands for"
        return Events(scores[rows], truth.labels[known], groups[rows], weights), basis
    labelled = np.array([name in labels for name in ids], bool)
    if not labelled.any():
        raise DataError(f"no cell of {tables.folder} is in an image with labels: pass --data or --labels.")
    of_image = np.stack([labels[name] for name in ids[labelled]])
    targets = possible_targets(scores[labelled], of_image, classes.negative)
    events = Events(scores[labelled], targets, groups[labelled], np.ones(len(targets)))
    return events, "what the image labels leave possible"


def _image_events(tables: Prediction, labels: dict[str, np.ndarray]) -> Events:
    table = tables.images[tables.images[tables.columns].notna().all(axis=1)]
    table = table[table.ID.isin(labels)]
    if not len(table):
        raise DataError(f"{tables.folder / 'images.csv'} has no image with labels: pass --data or --labels.")
    truth = np.stack([labels[name] for name in table.ID])
    groups = _groups(table.ID.to_numpy(object), table.fold.to_numpy())
    return Events(table[tables.columns].to_numpy(np.float32), truth, groups, np.ones(len(truth)))


def _groups(ids: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Return the fold of each row; if there is only one fold, a part derived from the image's ID."""
    if len(np.unique(folds)) > 1:
        return folds
    return np.array([zlib.crc32(str(name).encode()) % GROUPS for name in ids])


def _cross_fitted(events: Events, method: str) -> np.ndarray:
    """Calibrate each part by curves fitted on the others; (N, K)."""
    out = np.array(events.scores, np.float32)
    for part in np.unique(events.group):
        held_out = events.group == part
        if not held_out.all():
            rest = ~held_out
            curves = fit_curves(events.scores[rest], events.truth[rest], method, events.weights[rest])
            out[held_out] = apply_curves(curves, events.scores[held_out])
    return out


def _report(events: Events, after: np.ndarray, classes: ClassList) -> dict[str, Any]:
    """Return the calibration errors before and after, over all classes and for each class."""

    def errors(columns: slice) -> dict[str, float]:
        truth = events.truth[:, columns]
        both = {"before": events.scores[:, columns], "after": after[:, columns]}
        return {name: reliability(truth, scores, weights=events.weights).error for name, scores in both.items()}

    rows = [
        {"id": k, "name": name, "true": round(float(events.truth[:, k].sum()), 1), **errors(slice(k, k + 1))}
        for k, name in enumerate(classes.names)
    ]
    return {"count": len(events.scores), **errors(slice(None)), "per_class": rows}


def _print(what: str, report: dict[str, Any], methods: list[str], count: int) -> None:
    say(f"{what}: {count}; calibration error {report['before']:.4f} before, {report['after']:.4f} after")
    width = max(len(row["name"]) for row in report["per_class"])
    for row, method in zip(report["per_class"], methods, strict=True):
        if row["true"] >= 0.5:
            say(
                f"{row['id']:5}  {row['name']:{width}}  {row['true']:8.0f} true  "
                f"{row['before']:.4f} -> {row['after']:.4f}  {method}"
            )
