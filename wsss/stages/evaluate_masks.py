"""The task 'masks' of `evaluate`: figures of predicted masks, the choice of a threshold, a picture to look at."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wsss.cells.instances import decode
from wsss.core.checks import ConfigError, DataError, some, unlike
from wsss.core.console import say
from wsss.core.csv_text import write_csv
from wsss.core.files import write_json
from wsss.data.large import TileSet, open_set
from wsss.data.masks import MaskSet
from wsss.data.origin import read_provenance
from wsss.metrics.instances import MaskScore, mean_score, overlap, score_mask, score_pixels, search
from wsss.options.evaluate import EvaluateOptions
from wsss.reports.masks import SheetRow, draw_sheet
from wsss.runs.output import Output
from wsss.runs.result_record import files_of_record
from wsss.stages import spread_evenly
from wsss.stages.mask_predictions import image_table, pixels_of, predicted_map, predicted_probs

THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
MIN_SIZES = (0, 10, 30, 100)
NAMES = {"dice": "Dice", "iou": "IoU", "threshold_mean": "mean over IoU .5 to .95", "instance_ap": "instance AP"}


def evaluate_masks(options: EvaluateOptions, output: Output, out: Path) -> None:
    """Score predicted masks as the options say, and publish the figures with the file `out`."""
    record = read_provenance(options.preds, "channels", "oof")
    masks = open_set(options.truth, record["channels"], record.get("tile", 1024))
    if isinstance(masks, TileSet):
        evaluate_large(options, masks, record, output, out)
        return
    indices = _common(options, masks)
    scores = [
        score_mask(predicted_map(options.preds, masks.ids[i], record), masks.label_map(i), masks.ignored(i))
        for i in indices
    ]
    report: dict[str, Any] = {"format": 1, "task": "masks", "preds": str(options.preds), "truth": str(options.truth)}
    missing = int(masks.has_truth.sum()) - len(indices)
    report |= {"images": len(indices), "without_prediction": missing, "oof": record["oof"], **mean_score(scores)}
    if options.search:
        report["search"] = _search(options, record, masks, indices)
    write_json(output.path(out.name), report)
    table = pd.DataFrame([{"ID": masks.ids[i], **asdict(score)} for i, score in zip(indices, scores, strict=True)])
    write_csv(output.path("image_scores.csv"), table)
    if options.sheet:
        _draw(options, record, masks, indices, scores, output.path("sheet.png"))
    output.publish()
    _say(report, out)
    if options.sheet:
        say(f"images from the worst score to the best, with truth, prediction and error: {out.with_name('sheet.png')}")


def _common(options: EvaluateOptions, masks: MaskSet) -> list[int]:
    """Return the images with truth and a prediction."""
    table = image_table(options.preds)
    done = set(table.ID[table.status == "ok"])
    indices = [i for i, name in enumerate(masks.ids) if masks.has_truth[i] and name in done]
    if not indices:
        raise DataError(
            f"no image of {options.truth} has both a mask and a prediction in {options.preds}: {_apart(masks, table)}."
        )
    return indices


def _apart(masks: MaskSet, table: pd.DataFrame) -> str:
    """Say why no image of the truth is predicted."""
    with_mask = [name for name, has in zip(masks.ids, masks.has_truth, strict=True) if has]
    if not with_mask:
        return "the truth has no mask"
    if both := sorted(set(with_mask) & set(table.ID)):
        return f"{some(both)} could not be predicted"
    return unlike(with_mask, table.ID.tolist(), "the truth", "the predictions")


def _search(
    options: EvaluateOptions, record: dict[str, Any], masks: MaskSet, indices: list[int]
) -> list[dict[str, Any]]:
    """Choose threshold and minimum size, among others those of the predictions."""
    if not record["oof"]:
        raise ConfigError(
            f"{options.preds} is not out of fold, and a threshold chosen on training images means "
            "nothing: predict with infer --oof true first."
        )
    used, target = record["segmentation"], record["target"]
    objects = used["objects"]
    choices = search(
        _pairs(options.preds, masks, indices),
        lambda probs, threshold, size: decode(probs, target, threshold, size, objects=objects),
        thresholds=sorted({*THRESHOLDS, used["threshold"]}),
        min_sizes=sorted({*MIN_SIZES, used["min_size"]}),
        metric="instance_ap" if objects else "threshold_mean",
    )
    return [asdict(choice) for choice in choices[:5]]


def _pairs(preds: Path, masks: MaskSet, indices: list[int]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    files = files_of_record(preds)
    for i in indices:
        yield predicted_probs(preds, masks.ids[i], files), masks.label_map(i), masks.ignored(i)


def _say(report: dict[str, Any], out: Path) -> None:
    where = "out of fold" if report["oof"] else "not out of fold"
    say(f"{report['images']} images, {where}; {report['without_prediction']} without a prediction left out")
    for key, name in NAMES.items():
        say(f"  {name:24} {report[key]:.4f}")
    for choice in report.get("search", [])[:1]:
        say(
            f"best on these images: --segmentation.threshold {choice['threshold']:g} "
            f"--segmentation.min_size {choice['min_size']} ({choice['score']:.4f})"
        )
    say(f"written to {out}")


def _draw(
    options: EvaluateOptions,
    record: dict[str, Any],
    masks: MaskSet,
    indices: list[int],
    scores: list[MaskScore],
    path: Path,
) -> None:
    """Write the picture of images, truths, predictions and errors, from the worst score to the best."""
    objects = record["segmentation"]["objects"]
    order = np.argsort([score.instance_ap if objects else score.iou for score in scores], kind="stable")
    shown = order[spread_evenly(len(order), options.sheet)]
    rows = (_row(options.preds, record, masks, indices[k], scores[k]) for k in shown)
    draw_sheet(rows, path)


def _row(preds: Path, record: dict[str, Any], masks: MaskSet, i: int, score: MaskScore) -> SheetRow:
    truth, predicted = masks.label_map(i), predicted_map(preds, masks.ids[i], record)
    figures, alone = f"Dice {score.dice:.3f}, IoU {score.iou:.3f}", None
    if record["segmentation"]["objects"]:
        pairs = overlap(predicted, truth)
        alone = pairs.ids_b[~(pairs.iou > 0.5).any(axis=0)]
        right = len(pairs.ids_b) - len(alone)
        figures += f", AP {score.instance_ap:.3f}; {right} of {len(pairs.ids_b)} objects at IoU .5, "
        figures += f"{len(pairs.ids_a) - right} too many"
    return SheetRow(masks.ids[i], masks.image(i), truth, predicted, figures, alone)


def evaluate_large(options: EvaluateOptions, truth: TileSet, record: dict[str, Any], output: Output, out: Path) -> None:
    """Publish Dice and IoU of every large image with truth and a prediction, and their means, with the file `out`.

    Raises:
        ConfigError: --search is set; only masks are kept of large images.
        DataError: no image has both.
    """
    if options.search:
        raise ConfigError(
            "no threshold can be chosen on large images, of which only masks are kept: leave --search out."
        )
    masks = {path.stem: path for path in (options.preds / "masks").glob("*.tif")}
    common = [name for name in truth.images if name in truth.truths and name in masks]
    if not common:
        raise DataError(
            f"no image of {options.truth} has both a mask and a prediction in {options.preds}: "
            f"{unlike(sorted(truth.truths), sorted(masks), 'the truth', 'the predictions')}."
        )
    scores = {name: score_pixels(*pixels_of(masks[name], truth.truths[name])) for name in common}
    table = pd.DataFrame([{"ID": name, "dice": score.dice, "iou": score.iou} for name, score in scores.items()])
    report = {"format": 1, "task": "masks", "preds": str(options.preds), "truth": str(options.truth)}
    figures = {name: float(table[name].mean()) for name in ("dice", "iou")}
    write_json(output.path(out.name), report | {"images": len(common), "oof": record["oof"]} | figures)
    write_csv(output.path("image_scores.csv"), table)
    output.publish()
    say(f"{len(common)} large images, {'out of fold' if record['oof'] else 'not out of fold'}")
    say(f"  Dice {figures['dice']:.4f}  IoU {figures['iou']:.4f}; written to {out}")
