"""Blend several predictions of the same cells into one: the same tables, and what each prediction adds."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from wsss.core.checks import DataError, some
from wsss.core.console import say
from wsss.data.catalog import DataSet
from wsss.data.origin import PROVENANCE, SEEN, data_folder_of, recorded_data, write_provenance
from wsss.inference.ensemble import (
    Fitted,
    Prediction,
    Score,
    blend,
    blended_frames,
    fit_nested,
    foreign_note,
    image_sizes,
    prepare,
    read_predictions,
)
from wsss.inference.tables import (
    check_classes,
    iter_cells,
    prediction_files,
    write_cells,
    write_images,
    write_submission,
)
from wsss.metrics.classify import average_precision, mean_of_classes
from wsss.options.ensemble import EnsembleOptions, given_weights
from wsss.runs.inputs import Digests, what_is_read
from wsss.runs.output import Output, in_folder
from wsss.runs.result_record import record_over
from wsss.segmenters.masks import mask_files
from wsss.stages.evaluate import TrueCells, classes_of


def run(options: EnsembleOptions) -> int:
    """Blend, write the tables, show what each prediction adds; return 0."""
    with in_folder(options.out, "ensemble") as output:
        if output.begin(
            partial(_read, options), overwrite=options.overwrite, subject=("options",), legacy=(PROVENANCE,)
        ):
            _ensemble(options, output)
    return 0


def _read(options: EnsembleOptions, digests: Digests) -> dict[str, Any]:
    files = [path for folder in options.preds for path in prediction_files(folder)]
    data = _data_folder(options) if options.weights == "auto" else None
    files += [] if data is None else [data / "dataset.json"]
    return what_is_read(options, digests, [*files, options.truth, *mask_files(options.masks)])


def _data_folder(options: EnsembleOptions) -> Path | None:
    """Return the data set whose labels weights are fitted to; with a table of true cells, it only names classes."""
    if options.truth is None:
        return data_folder_of(options.preds[0], options.data)
    return options.data or recorded_data(options.preds[0])


def _ensemble(options: EnsembleOptions, output: Output) -> None:
    predictions = read_predictions(options.preds)
    prepared = [prepare(prediction.scores, options.how) for prediction in predictions]
    folds = predictions[0].cells.fold.to_numpy()
    record: dict[str, Any] = {"fitted_on": None, "report": None}
    if options.weights == "auto":
        score, record["fitted_on"] = _target(options, predictions)
        fitted = fit_nested(prepared, folds, options.how, score)
        scores = fitted.apply(prepared, folds, options.how)
        record["by_fold"] = {str(fold): fold_weights.tolist() for fold, fold_weights in fitted.by_fold.items()}
        record["report"] = _report(prepared, folds, scores, score, options)
        _print(fitted.final, record, int((predictions[0].images.fold < 0).sum()))
    else:
        count = len(predictions)
        weights = np.array([1.0] * count if options.weights == "equal" else given_weights(options.weights, count))
        fitted = Fitted({}, weights / weights.sum())
        scores = fitted.apply(prepared, folds, options.how)
        _print_differences(options, prepared, fitted.final, scores)
    _write(options, output.home, predictions, scores, _blend_images(predictions, fitted, options.how))
    record |= {
        "weights": fitted.final.tolist(),
        "how": options.how,
        "members": [prediction.facts() for prediction in predictions],
    }
    first = predictions[0].provenance
    record |= {name: first[name] for name in ("data", "table", "classes") if name in first}
    record |= _history(predictions)
    write_provenance(output, record)
    output.publish(items=(record_over(options.preds[0]) or {}).get("items", {}))


def _history(predictions: list[Prediction]) -> dict[str, Any]:
    """Return what the blend's record says of the images that its members have seen: the worst of all of them."""
    records = [prediction.provenance for prediction in predictions]
    history: dict[str, Any] = {"oof": all(prediction.is_oof for prediction in predictions)} if any(records) else {}
    if published := {name: facts for record in records for name, facts in record.get("published", {}).items()}:
        history["published"] = published
    if seen := max(record.get(SEEN, 0) for record in records):
        history[SEEN] = seen
    if history.get("oof") is False and any(prediction.is_oof for prediction in predictions):
        unknown = [prediction.folder for prediction in predictions if not prediction.provenance]
        say(f"note: {some(unknown)} has no record of what it was trained on: the blend does not count as out of fold.")
    return history


def _target(options: EnsembleOptions, predictions: list[Prediction]) -> tuple[Score, str]:
    """Return the function that scores a blend, and a description of what it compares with."""
    cells = predictions[0].cells
    not_oof = [prediction.folder for prediction in predictions if prediction.provenance and not prediction.is_oof]
    if not_oof or cells.fold[cells.fold >= 0].nunique() < 2:
        where = not_oof[0] if not_oof else predictions[0].folder
        raise DataError(
            f"{where} is not out of fold (infer --oof, two folds or more): weights fitted on what networks have seen "
            "mislead. Fit them on out-of-fold predictions, and pass the result as numbers."
        )
    if note := foreign_note({name: 0 for one in predictions for name in one.provenance.get("published", {})}):
        say(note)
    if options.truth:
        return _cell_target(options, predictions)
    data = DataSet.open(data_folder_of(predictions[0].folder, options.data))
    check_classes(predictions[0].folder, predictions[0].columns, data.classes, data.folder)
    labels = dict(zip(data.ids, data.labels, strict=True))
    known = {name for name, has in zip(data.ids, data.has_labels, strict=True) if has}
    ids = cells.ID.to_numpy(object)
    starts = np.flatnonzero(np.append(True, ids[1:] != ids[:-1]))
    late = cells.fold.to_numpy()[starts] < 0
    lacking = [name for name in ids[starts[~late]] if name not in known]
    if lacking:
        raise DataError(f"{data.folder} has no labels of {lacking[0]}: pass the data set with labels, or --truth.")
    wanted = np.stack([labels.get(name, np.zeros(len(data.classes))) for name in ids[starts]])
    image_of_cell = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(ids))))

    def score(blended: np.ndarray, rows: np.ndarray) -> float:
        """Compare the highest score among an image's cells with the label of the image."""
        images = np.unique(image_of_cell[rows])
        return _mean_ap(wanted[images], np.maximum.reduceat(blended, starts, axis=0)[images])

    return score, f"image labels of {data.folder}: mean AP of the highest score among an image's cells"


def _cell_target(options: EnsembleOptions, predictions: list[Prediction]) -> tuple[Score, str]:
    assert options.truth is not None
    first, data = predictions[0], _data_folder(options)
    cells, classes = first.cells, classes_of(first.folder, data, first.columns)
    given = TrueCells(options.truth, options.masks, data, options.join, options.join_iou)
    truth, join, how = given.join(first.folder, cells, classes)
    true_row = np.full(len(cells), -1)
    true_row[join.rows[join.rows >= 0]] = np.flatnonzero(join.rows >= 0)

    def score(blended: np.ndarray, rows: np.ndarray) -> float:
        known = rows[true_row[rows] >= 0]
        return _mean_ap(truth.labels[true_row[known]], blended[known])

    return score, f"cells of {options.truth}: mean AP of {int((true_row >= 0).sum())} cells, joined by {how}"


def _mean_ap(truth: np.ndarray, scores: np.ndarray) -> float:
    mean = mean_of_classes(average_precision(truth, scores))
    return mean if np.isfinite(mean) else 0.0


def _report(
    prepared: list[np.ndarray], folds: np.ndarray, scores: np.ndarray, score: Score, options: EnsembleOptions
) -> dict[str, Any]:
    """Score the blend, equal weights, each prediction alone and the blend without it; all on unseen folds."""
    every = np.flatnonzero(folds >= 0)
    count, full = len(prepared), score(scores, every)
    rows = []
    for k, path in enumerate(options.preds):
        others = [prediction for j, prediction in enumerate(prepared) if j != k]
        without = fit_nested(others, folds, options.how, score).apply(others, folds, options.how)
        alone = score(blend([prepared[k]], np.ones(1), options.how), every)
        rows.append({"preds": str(path), "alone": alone, "adds": full - score(without, every)})
    return {"blend": full, "equal": score(blend(prepared, np.ones(count), options.how), every), "members": rows}


def _print(weights: np.ndarray, record: dict[str, Any], late: int) -> None:
    report = record["report"]
    say(f"weights fitted on the {record['fitted_on']}; each fold scored with weights fitted on the others")
    if late:
        say(f"{late} images are in no fold: they are left out of the fit and blended with the weights below")
    say(f"{'predictions':40} {'weight':>7} {'alone':>7} {'adds':>7}   weights by fold")
    for k, (row, weight) in enumerate(zip(report["members"], weights, strict=True)):
        by_fold = " ".join(f"{values[k]:.2f}" for values in record["by_fold"].values())
        say(f"{row['preds'][-40:]:40} {weight:7.3f} {row['alone']:7.4f} {row['adds']:+7.4f}   {by_fold}")
    say(f"blend {report['blend']:.4f}, equal weights {report['equal']:.4f}")
    say(f"for predictions of new images: --weights {','.join(f'{weight:.3g}' for weight in weights)}")


def _print_differences(
    options: EnsembleOptions, prepared: list[np.ndarray], weights: np.ndarray, scores: np.ndarray
) -> None:
    """Without labels, print how far each prediction is from the blend: a prediction like the others adds nothing."""
    say(f"{'predictions':40} {'weight':>7} {'mean |score - blend|':>22}")
    for path, prediction, weight in zip(options.preds, prepared, weights, strict=True):
        apart = np.abs(blend([prediction], np.ones(1), options.how) - scores)
        say(f"{str(path)[-40:]:40} {weight:7.3f} {apart.mean() if apart.size else 0:22.4f}")


def _blend_images(predictions: list[Prediction], fitted: Fitted, how: str) -> np.ndarray:
    """Return (I, K) scores of the images, blended as their cells are; NaN where an image failed."""
    columns, folds = predictions[0].columns, predictions[0].images.fold.to_numpy()
    by_prediction = [prediction.images[columns].to_numpy(np.float32) for prediction in predictions]
    good = ~np.isnan(np.stack(by_prediction)).any(axis=(0, 2))
    prepared = [prepare(scores[good], how) for scores in by_prediction]
    out = np.full(by_prediction[0].shape, np.nan, np.float32)
    out[good] = fitted.apply(prepared, folds[good], how)
    return out


def _write(
    options: EnsembleOptions, home: Path, predictions: list[Prediction], scores: np.ndarray, of_images: np.ndarray
) -> None:
    first = predictions[0]
    sizes = image_sizes(first)
    count = write_cells(home, blended_frames(first, scores))
    images = first.images.copy()
    images[first.columns] = of_images
    write_images(home, images)
    done = write_submission(home / "submission.csv", sizes, iter_cells(home), min_score=options.min_score)
    say(f"{options.out}: {count} cells in {len(images)} images; {done.predictions} predictions in submission.csv")
