"""Score predictions against true labels of cells: average precision per class, and the competition's mAP."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from wsss.core.checks import DataError, some
from wsss.core.console import say
from wsss.core.digests import Digests
from wsss.core.files import read_record, without_nan, write_json
from wsss.core.labels import HPA, ClassList
from wsss.core.runtime import progress
from wsss.data.build import read_manifest
from wsss.data.tables import read_labels
from wsss.inference.submission import iter_submission
from wsss.inference.tables import prediction_files, read_cells, read_images, score_columns, table_digest
from wsss.metrics.cells import copy_to_cells, score_table
from wsss.metrics.classify import precision_recall
from wsss.metrics.confusion import confusion_rows
from wsss.metrics.instances import InstanceScorer, instance_table
from wsss.metrics.true_masks import TrueMasks
from wsss.metrics.truth import CellTruth, read_cell_truth
from wsss.options.evaluate import EvaluateOptions
from wsss.reports.confusion import write_confusion
from wsss.runs.output import Output, beside_file, what_is_read
from wsss.stages.evaluate_join import join_cells
from wsss.stages.evaluate_masks import evaluate_masks, is_mask_folder
from wsss.stages.evaluate_text import print_scores

Values = dict[str, np.ndarray]


def run(options: EvaluateOptions) -> int:
    """Evaluate as the options say; return the exit code."""
    out = options.out or options.preds / "scores.json"
    with beside_file(out, "evaluate") as output:
        if not output.begin(partial(_read, options), overwrite=options.overwrite, subject=SUBJECT):
            if not is_mask_folder(options.preds):
                report = read_record(out)
                print_scores(report, _classes(options.data, len(report["cells"]["per_class"])))
        elif is_mask_folder(options.preds):
            evaluate_masks(options, output, out)
        else:
            _evaluate(options, output, out)
    return 0


SUBJECT = ("options.preds", "options.truth")


def _read(options: EvaluateOptions, digests: Digests) -> dict[str, Any]:
    files = [*prediction_files(options.preds), options.truth, options.masks, options.labels, options.submission]
    files += [options.preds / name for name in ("masks", "objects", "probs")]
    return what_is_read(options, digests, [*files, None if options.data is None else options.data / "dataset.json"])


def _evaluate(options: EvaluateOptions, output: Output, out: Path) -> None:
    report, classes = evaluate(options)
    write_json(output.path(out.name), report)
    if report["cells"]["confusions"]:
        pictures = (output.path(f"confusion.{kind}") for kind in ("csv", "png"))
        write_confusion(report["cells"]["confusions"], *pictures)
    output.publish()
    print_scores(report, classes)
    say(f"written to {out}")


def evaluate(options: EvaluateOptions) -> tuple[dict[str, Any], ClassList]:
    """Return all figures as a JSON record (null where there is none), and the classes they are about."""
    cells = read_cells(options.preds)
    columns = score_columns(cells, options.preds)
    classes = _classes(options.data or _recorded(options.preds), len(columns))
    truth = read_cell_truth(options.truth, classes)
    masks = TrueMasks(options.masks, truth) if options.masks else None
    join, joined_by = join_cells(options, truth, cells, masks)
    if len(truth.ids) and join.missing == len(truth.ids):
        raise DataError(
            f"no cell of {options.truth} is among the predictions in {options.preds}: "
            f"the table begins with {some(truth.ids[:1])}, the predictions with {some(cells.ID[:1]) or 'nothing'}."
        )
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
    labels, origin = _image_labels(options, truth, classes)
    probs = _image_scores(options, columns)
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
    report["instances"] = _instances(options, masks, classes) if masks else None
    plain: dict[str, Any] = without_nan(report)
    return plain, classes


def _recorded(preds: Path) -> Path | None:
    """Return the data set that the predictions say they were made from, if it is there."""
    record = preds / "provenance.json"
    found = Path(str(read_record(record).get("data", ""))) if record.exists() else None
    return found if found is not None and (found / "dataset.json").is_file() else None


def _classes(data: Path | None, count: int) -> ClassList:
    if data is not None:
        known = read_manifest(data)
        classes = ClassList(tuple(known["classes"]), known["negative"])
        if len(classes) != count:
            raise DataError(f"{data} has {len(classes)} classes, the predictions have {count}.")
        return classes
    return HPA if count == len(HPA) else ClassList(tuple(f"class {k}" for k in range(count)), None)


def _image_labels(options: EvaluateOptions, truth: CellTruth, classes: ClassList) -> tuple[Values, str]:

    if options.labels:
        found = read_labels(options.labels, classes).labels
        return {name: classes.encode(own) for name, own in found.items()}, str(options.labels)
    if truth.image_labels:
        return truth.image_labels, "the truth table"
    return truth.union(classes.negative), "the labels of the cells together"


def _image_scores(options: EvaluateOptions, columns: list[str]) -> Values:
    """Return ID -> (K,) scores of the images that have them; nothing where there is no images.csv."""
    if not (options.preds / "images.csv").exists():
        return {}
    table = read_images(options.preds)
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
    left, others = dict.fromkeys(masks.image_ids), 0
    for image in progress(iter_submission(path, len(classes)), "match masks", total=len(masks.image_ids)):
        if image.image_id not in left:
            others += 1
            continue
        del left[image.image_id]
        true = masks.read(image.image_id)
        iou = true.iou(list(image.masks), image.size, f"{path}: {image.image_id}")
        scorer.add(iou, image.mask_index, image.class_ids, image.scores, true.labels, true.known)
    for image_id in left:
        scorer.miss(masks.read(image_id).labels)
    return {
        "submission": str(path),
        "images_not_submitted": len(left),
        "images_without_truth": others,
    } | instance_table(scorer, classes)
