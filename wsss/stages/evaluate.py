"""Score predictions against true labels of cells: average precision per class, and the competition's mAP."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from wsss.core.checks import DataError, refuse_idle, some, unlike
from wsss.core.console import progress, say, say_notes
from wsss.core.files import read_record, without_nan, write_json
from wsss.core.labels import HPA, HPA_CHANNELS, ClassList
from wsss.data.catalog import file_channels, read_manifest
from wsss.data.origin import recorded_data
from wsss.data.tables import read_labels
from wsss.inference.ensemble import say_figure_notes
from wsss.inference.tables import (
    check_classes,
    is_mask_folder,
    iter_cells,
    iter_submission,
    prediction_files,
    read_cells,
    read_images,
    score_columns,
    table_digest,
)
from wsss.metrics.cells import (
    CellTruth,
    Join,
    TrueMasks,
    confusion_rows,
    copy_to_cells,
    join_by_number,
    joined,
    read_cell_truth,
    score_table,
)
from wsss.metrics.classify import precision_recall
from wsss.metrics.instances import InstanceScorer, instance_table, match_pairs
from wsss.options.evaluate import EvaluateOptions
from wsss.reports.figures import write_confusion
from wsss.runs.inputs import Digests, what_is_read
from wsss.runs.output import Output, at_file
from wsss.runs.result_record import check_recorded, record_over
from wsss.segmenters.masks import Masks, mask_files, open_cell_masks
from wsss.stages.evaluate_masks import evaluate_masks

Values = dict[str, np.ndarray]


@dataclass(frozen=True)
class TrueCells:
    """True cells as the options of a stage give them, and how the predicted cells of these are found."""

    table: Path
    masks: Path | None
    """Their label maps, in any form that segment reads; None where cells have the numbers of the predictions."""
    data: Path | None
    """The data set of the images; None where it is not known."""
    how: str = "auto"
    """auto, number or iou."""
    least: float = 0.5
    """Lowest IoU of the join by overlap."""

    @contextmanager
    def read(self, classes: ClassList) -> Iterator[tuple[CellTruth, TrueMasks | None]]:
        """Read the table and open the label maps; print in the end what is to be known of them."""
        truth = read_cell_truth(self.table, classes)
        with true_masks(self.masks, self.data) as masks:
            yield truth, TrueMasks(masks.cells, truth) if masks else None

    def join(self, preds: Path, cells: pd.DataFrame, classes: ClassList) -> tuple[CellTruth, Join, str]:
        """Return the true cells, which of the `cells` predicted in `preds` stands for each, and how that was found."""
        with self.read(classes) as (truth, masks):
            return truth, *join_cells(preds, self, truth, cells, masks)


class Evaluation(NamedTuple):
    """What came of comparing predictions with true cells."""

    report: dict[str, Any]
    """All figures as a JSON record, null for missing ones."""
    classes: ClassList
    truth: CellTruth
    join: Join


def check_numbers(
    data: Path | None, truth: Path, *, preds: Path | None = None, marks: Mapping[str, str] | None = None
) -> None:
    """Refuse to join cells by number if a segmentation backend numbered the cells of the data set.

    A table of wsss review names by `marks` the label maps it was made on: it fits predictions made from the same maps.

    Args:
        data: the data set; None where it is not known.
        preds: the predictions of these cells, if they are what is joined.
        marks: of the table.

    Raises:
        DataError: a backend numbered them, or the label maps of a review have changed since.
    """
    items = (record_over(preds) or {}).get("items", {}) if marks and preds is not None else {}
    if marks and items:
        changed = [name for name, mark in marks.items() if items.get(name, mark) != mark]
        if changed:
            raise DataError(
                f"{truth} was made on other pixels or label maps of {some(changed, 3)} than {preds}: review these "
                "predictions, or pass --join number if the numbers of the cells are the same."
            )
        return
    if data is None or not (record := data / "segment.json").is_file():
        return
    check_recorded(record)
    chosen = read_record(record, "options")["options"]
    if chosen["backend"] == "masks" and not chosen.get("split", False):
        return
    origin = f"by --backend {chosen['backend']}" if chosen["backend"] != "masks" else "as parts of masks (--split)"
    raise DataError(
        f"the cells of {data} were found {origin}, so their numbers need not be those of {truth}: pass the folder of "
        "the true label maps as --masks, or --join number if the table was made for these very cells."
    )


def run(options: EvaluateOptions) -> int:
    """Evaluate as the options say; return the exit code."""
    of_masks = is_mask_folder(options.preds)
    refuse_idle(options, OF_CELLS if of_masks else OF_MASKS, f"for predicted {'masks' if of_masks else 'cells'}")
    out = options.out or options.preds / "scores.json"
    with at_file(out, "evaluate") as output:
        if not output.begin(partial(_read, options), overwrite=options.overwrite, subject=SUBJECT):
            if not of_masks:
                report = read_record(out)
                columns = [str(row["id"]) for row in report["cells"]["per_class"]]
                data = options.data or recorded_data(options.preds)
                print_scores(report, classes_of(options.preds, data, columns))
                say_figure_notes(options.preds)
        elif of_masks:
            evaluate_masks(options, output, out)
        else:
            _evaluate(options, output, out)
    return 0


OF_CELLS = ("masks", "labels", "submission", "data", "join", "join_iou", "match_iou", "threshold")
OF_MASKS = ("search", "sheet")
SUBJECT = ("options.preds", "options.truth")
UNEVEN = 1.5
"""Ratio of the largest to the least weight of true cells from which they are no random sample."""


def _read(options: EvaluateOptions, digests: Digests) -> dict[str, Any]:
    files = [
        *prediction_files(options.preds),
        options.truth,
        *mask_files(options.masks),
        options.labels,
        options.submission,
    ]
    files += [options.preds / name for name in ("masks", "objects", "probs")]
    data = options.data or recorded_data(options.preds)
    return what_is_read(options, digests, [*files, None if data is None else data / "dataset.json"])


def _evaluate(options: EvaluateOptions, output: Output, out: Path) -> None:
    report, classes, _, _ = evaluate(options)
    write_json(output.path(out.name), report)
    if report["cells"]["confusions"]:
        pictures = (output.path(f"confusion.{kind}") for kind in ("csv", "png"))
        write_confusion(report["cells"]["confusions"], *pictures)
    output.publish()
    print_scores(report, classes)
    say_figure_notes(options.preds)
    say(f"written to {out}")


def evaluate(options: EvaluateOptions) -> Evaluation:
    """Compare predictions with true cells."""
    cells = read_cells(options.preds)
    data = options.data or recorded_data(options.preds)
    classes = classes_of(options.preds, data, score_columns(cells, options.preds))
    given = TrueCells(options.truth, options.masks, data, options.join, options.join_iou)
    with given.read(classes) as (truth, masks):
        if truth.weights is not None and truth.weights.max() > UNEVEN * truth.weights.min():
            say(
                f"note: {options.truth} is no random sample, and each cell counts once here: "
                "review --summary weighs them."
            )
        join, how = join_cells(options.preds, given, truth, cells, masks)
        report = _figures(options, cells, truth, classes, join, how)
        report["instances"] = _instances(options, masks, classes) if masks else None
    return Evaluation(without_nan(report), classes, truth, join)


def _figures(
    options: EvaluateOptions, cells: pd.DataFrame, truth: CellTruth, classes: ClassList, join: Join, joined_by: str
) -> dict[str, Any]:
    columns = score_columns(cells, options.preds)
    report: dict[str, Any] = {"format": 1, "preds": str(options.preds), "truth": str(options.truth)}
    report["table"] = table_digest(options.preds)
    scores = join.scores(cells[columns].to_numpy(np.float32))
    report["cells"] = score_table(truth.labels, scores, classes, options.threshold)
    report["cells"] |= {
        "confusions": confusion_rows(truth.labels, scores, classes),
        "joined_by": joined_by,
        "missing": join.missing,
        "unknown": join.unknown,
        "of_other_images": join.other_images,
    }
    probs = _image_scores(options, columns)
    labels, origin = _image_labels(options, truth, classes, probs)
    copied = copy_to_cells(truth, labels, classes)
    report["baselines"] = {
        "image_labels_copied": _copied_labels(truth, copied, origin, classes),
        "image_scores_copied": score_table(
            truth.labels, copy_to_cells(truth, probs, classes), classes, options.threshold
        )
        if probs
        else None,
    }
    report["images"] = _images(labels, probs, classes, options.threshold) if probs else None
    return report


@contextmanager
def true_masks(path: Path | None, data: Path | None) -> Iterator[Masks | None]:
    """Open the masks of true cells, in any form that segment reads; print in the end what is to be known of them.

    Args:
        path: the folder or file; None gives None.
        data: the data set of the images; None where it is not known.
    """
    if path is None:
        yield None
        return
    given = open_cell_masks(path, channel_words(data))
    try:
        yield given
    finally:
        say_notes(given.told())


def classes_of(preds: Path, data: Path | None, columns: Sequence[str]) -> ClassList:
    """Return the classes of predictions: their data set's; without one, HPA's if the number fits, else numbered ones.

    Raises:
        DataError: the data set has more or fewer classes than there are score columns.
    """
    if data is None:
        return HPA if len(columns) == len(HPA) else ClassList(tuple(f"class {k}" for k in columns), None)
    known = read_manifest(data)
    classes = ClassList(tuple(known["classes"]), known["negative"])
    check_classes(preds, columns, classes, data)
    return classes


def channel_words(data: Path | None) -> tuple[str, ...]:
    """Return the names that files of single channels may bear: those of a data set, or of the Atlas."""
    return file_channels(read_manifest(data)) if data is not None else HPA_CHANNELS


def _image_labels(
    options: EvaluateOptions, truth: CellTruth, classes: ClassList, probs: Iterable[str]
) -> tuple[Values, str]:
    if options.labels:
        table = read_labels(options.labels, classes, channel_words(options.data or recorded_data(options.preds)))
        return table.encoded([*truth.ids.tolist(), *probs], classes), str(options.labels)
    if truth.image_labels:
        return truth.image_labels, "the truth table"
    return truth.union(classes.negative), "the labels of the cells together"


def _image_scores(options: EvaluateOptions, columns: list[str]) -> Values:
    """Return ID -> (K,) scores of the images that have them; nothing where there is no images.csv."""
    if not (options.preds / "images.csv").exists():
        return {}
    table = read_images(options.preds, columns)
    table = table[table[columns].notna().all(axis=1)]
    return dict(zip(table.ID, table[columns].to_numpy(np.float32), strict=True))


def _copied_labels(truth: CellTruth, copied: np.ndarray, origin: str, classes: ClassList) -> dict[str, Any]:
    precision, recall = precision_recall(truth.labels, copied)
    return {"labels_from": origin, "precision": precision, "recall": recall} | score_table(
        truth.labels, copied, classes
    )


def _images(labels: Values, probs: Values, classes: ClassList, threshold: float) -> dict[str, Any] | None:
    both = [name for name in labels if name in probs]
    if not both:
        return None
    true, scores = (np.stack([values[name] for name in both]) for values in (labels, probs))
    return score_table(true, scores, classes, threshold) | {"without_scores": len(labels) - len(both)}


def _instances(options: EvaluateOptions, masks: TrueMasks, classes: ClassList) -> dict[str, Any] | None:
    """Score the submission against the true masks; None where there is no submission."""
    path = options.submission or options.preds / "submission.csv"
    if options.submission is None and not path.exists():
        return None
    scorer = InstanceScorer(len(classes), options.match_iou)
    left, others, empty = dict.fromkeys(masks.image_ids), 0, 0
    for image in progress(iter_submission(path, len(classes)), "match masks", total=len(masks.image_ids)):
        if image.image_id not in left:
            others += 1
            continue
        if not image.masks:
            empty += 1
            continue
        del left[image.image_id]
        true = masks.read(image.image_id, image.size)
        iou = true.iou(list(image.masks))
        scorer.add(iou, image.mask_index, image.class_ids, image.scores, true.labels, true.known)
    for image_id in left:
        scorer.miss(masks.labels(image_id))
    return {
        "submission": str(path),
        "images_not_submitted": len(left) - empty,
        "images_without_truth": others,
    } | instance_table(scorer, classes)


def print_scores(report: dict[str, Any], classes: ClassList) -> None:
    """Print the figures of each class, the means, and the most frequent mistakes."""
    cells, instances = report["cells"], report["instances"]
    width = max(map(len, classes.names))
    say(f"{'class':>5}  {'name':{width}}  {'cells':>7}  {'AP':>6}  {'F1':>6}  {'mask AP' if instances else ''}")
    for row in cells["per_class"]:
        mask = _number(instances["per_class"][row["id"]]["ap"]) if instances else ""
        say(
            f"{row['id']:5}  {row['name']:{width}}  {row['count']:7}  {_number(row['ap'])}  {_number(row['f1'])}  "
            f"{mask:>7}".rstrip()
        )
    counts = f"{cells['count']} cells, {cells['missing']} without a prediction, joined by {cells['joined_by']}"
    origin = report["baselines"]["image_labels_copied"]["labels_from"]
    say(f"\n{counts}; {cells['unknown']} predicted cells without a truth left out; image labels: {origin}")
    lines = [("cells, mean AP", cells)]
    lines += [("  image scores copied to all cells", report["baselines"]["image_scores_copied"])]
    lines += [("  image labels copied to all cells", report["baselines"]["image_labels_copied"])]
    lines += [("images, mean AP", report["images"]), ("masks, mAP", instances)]
    for name, part in lines:
        if part:
            about = [f"{part['classes']} classes"]
            if classes.negative is not None:
                about.append(f"{_number(part['mean_ap_without_negative'])} without Negative")
            if "mean_f1" in part:
                about.append(f"mean F1 {_number(part['mean_f1'])}")
            at = f" at IoU {part['match_iou']:g}" if "match_iou" in part else ""
            say(f"{name + at:35} {_number(part['mean_ap'])} ({'; '.join(about)})")
    if cells["several_class_count"]:
        value = _number(cells["mean_ap_of_several_classes"])
        say(f"{'cells of several classes, mean AP':35} {value} ({cells['several_class_count']} cells)")
    for row in [row for row in cells["confusions"] if row["true"] != row["predicted"]][:5]:
        what = f"{row['true_name']} taken for {row['predicted_name']}"
        count = f"{row['cells']:.1f}".removesuffix(".0")  # a cell of several classes may count in parts
        say(f"{what}: {count} cells, {row['share']:.0%} of those counted as {row['true_name']}")


def _number(value: float | None) -> str:
    return "     -" if value is None else f"{value:6.3f}"


def join_cells(
    preds: Path, given: TrueCells, truth: CellTruth, cells: pd.DataFrame, masks: TrueMasks | None
) -> tuple[Join, str]:
    """Find the predicted cell of each true one.

    Args:
        given: where the true cells are from, and the rule: auto joins by overlap where both have masks, else by number,
            if that can be right.

    Returns:
        The join, and how it was made.

    Raises:
        DataError: there are no masks to join by, the numbers of the cells are not those of the table, or no cell is
            predicted.
    """
    how, table = given.how, given.table
    if how == "auto":
        how = "iou" if masks and (preds / "cells.parquet").exists() else "number"
        if how == "number":
            check_numbers(recorded_data(preds), table, preds=preds, marks=truth.marks)
    if how == "number":
        join = join_by_number(truth, cells.ID.to_numpy(), cells.cell_id.to_numpy())
    elif masks is None:
        raise DataError("--join iou needs the true label maps: pass --masks DIR.")
    else:
        join = joined(truth, _overlapping(preds, given.least, masks, cells.ID.nunique()), cells.ID.to_numpy())
    if len(truth.ids) and join.missing == len(truth.ids):
        raise DataError(
            f"no cell of {table} is among the predictions in {preds}: {_apart(truth, cells, how, given.least)}."
        )
    return join, how


def _apart(truth: CellTruth, cells: pd.DataFrame, how: str, least: float) -> str:
    """Say why no true cell is predicted."""
    predicted, rows = set(cells.ID), truth.rows()
    name = next((name for name in rows if name in predicted), None)
    if name is None:
        return unlike(truth.ids.tolist(), cells.ID.tolist(), "the table", "the predictions")
    if how == "iou":
        return f"in {name} and the others, none overlaps one by an IoU of {least:g}: check that the masks are theirs"
    numbers = truth.cells[rows[name]].tolist(), cells.cell_id[name == cells.ID].tolist()
    return f"of {name}, the table has the cells {some(numbers[0], 3)}, the predictions {some(numbers[1], 3)}"


def _overlapping(preds: Path, least: float, masks: TrueMasks, images: int) -> np.ndarray:
    """Return the (N,) row of the predicted cell that overlaps each true one, -1 for none; `images` have cells."""
    rows = np.full(len(masks.truth.ids), -1)
    known, start = set(masks.image_ids), 0
    for image_id, cells in progress(iter_cells(preds), "join cells", total=images):
        if image_id in known:
            size = (int(cells.ImageHeight.iloc[0]), int(cells.ImageWidth.iloc[0]))
            true = masks.read(image_id, size)
            iou = true.iou([text.encode("ascii") for text in cells.rle])
            matches = match_pairs(iou, least)[: len(true.rows)]
            rows[true.rows] = np.where(matches >= 0, start + matches, -1)
        start += len(cells)
    return rows
