"""What the report tells in figures and words: facts, scores, classes, calibration, mistakes, failures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wsss.reports.figures import calibration_svg, confusion_svg
from wsss.reports.page import Figure
from wsss.stages.report_contents import Contents
from wsss.stages.report_evidence import Evidence


def facts(contents: Contents, run: Path | None) -> list[tuple[str, str]]:
    """Return what was run and on what, in words."""
    data, record = contents.data, contents.record
    labelled = int(data.has_labels.sum())
    out = [
        ("predictions", str(contents.options.preds)),
        ("data set", f"{data.folder}: {len(data)} images at {data.size} px, {labelled} labelled"),
        ("channels", ", ".join(data.channels)),
        ("predicted", f"{len(contents.images)} images, {len(contents.cells)} cells"),
        ("run", str(run or record.get("run", "not recorded"))),
    ]
    if len(data.carried.columns):
        values = [f"{name} ({data.carried[name].nunique()} values)" for name in data.carried]
        out.append(("from the label table", ", ".join(values)))
    if group := (data.manifest["folds"] or {}).get("group"):
        out.append(("folds", f"images of one {group} are in one fold"))
    members = record.get("members") or []
    if members:
        how = ", each for the images it never saw" if record.get("oof") else ", their mean" if len(members) > 1 else ""
        out.append(("networks", f"{len(members)}{how}"))
    if "versions" in record:
        out.append(("versions", ", ".join(f"{name} {version}" for name, version in record["versions"].items())))
    return out


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
        own = evidence.images
        out.append(("mean AP of images", own["mean_ap"], f"{own['count']} labelled images"))
        out.append(("mean F1 of images", own["mean_f1"], f"scores from {own['threshold']:g} on"))
    return out


def images_note(contents: Contents) -> str:
    """Say what the figures of images are measured against."""
    if contents.evidence.images is None:
        return ""
    if contents.record.get("oof"):
        return "Figures of images: out of fold, against the labels of the data set."
    return "Figures of images: against the labels of the data set; they flatter a run that was trained on these images."


def class_table(contents: Contents) -> tuple[list[tuple[str, str, str]], list[dict[str, Any]]]:
    """Return the columns of the table of classes (key, heading, kind) and its rows."""
    data, evidence, options = contents.data, contents.evidence, contents.options
    count = len(data.classes)
    columns = [("top", "top class of cells", "count"), ("contents", f"cells ≥ {options.threshold:g}", "count")]
    values: dict[str, Sequence[Any]] = {
        "top": np.bincount(contents.scores.argmax(axis=1), minlength=count).tolist(),
        "contents": (contents.scores >= options.threshold).sum(axis=0).tolist(),
    }
    if data.has_labels.any():
        columns.insert(0, ("labelled", "images labelled", "count"))
        values["labelled"] = data.labels.sum(axis=0).astype(int).tolist()
    for what, table in (
        ("cells", evidence.record["cells"] if evidence.record else None),
        ("images", evidence.images),
    ):
        if table is not None:
            own = table["per_class"]
            for key, heading in (("count", f"true {what}"), ("ap", f"AP of {what}"), ("f1", f"F1 of {what}")):
                columns.append((f"{what}_{key}", heading, "count" if key == "count" else "share"))
                values[f"{what}_{key}"] = [row[key] for row in own]
    names = enumerate(data.classes.names)
    return columns, [{"id": k, "name": name} | {key: own[k] for key, own in values.items()} for k, name in names]


def calibration(evidence: Evidence) -> list[Figure]:
    """Draw how far scores are true, of cells and of images."""
    parts = (("Cells", evidence.cells), ("Images", evidence.of_images))
    return [
        Figure(
            title,
            calibration_svg(own.count, own.score, own.truth),
            f"share of scores that are true; expected calibration error {own.error:.3f}",
        )
        for title, own in parts
        if own is not None
    ]


def mistakes(evidence: Evidence) -> list[Figure]:
    """Draw which class the cells of each are taken for, and name the most frequent mistakes."""
    rows = evidence.record["cells"].get("confusions") if evidence.record else None
    if not rows:
        return []
    wrong = [row for row in rows if row["true"] != row["predicted"]][:3]
    most = "; ".join(
        f"{row['true_name']} taken for {row['predicted_name']}: {row['cells']:.0f} cells, {row['share']:.0%}"
        for row in wrong
    )
    return [Figure("Cells", confusion_svg(rows), most or "no cell has another class on top than its own")]


def failures(contents: Contents) -> list[tuple[str, str, str]]:
    """Return ID, status and reason of every image that has no full prediction."""
    reasons = dict(zip(contents.data.ids, contents.data.table["reason"].fillna("").astype(str), strict=True))
    bad = contents.images[contents.images.status != "ok"]
    return [(name, status, reasons[name]) for name, status in zip(bad.ID, bad.status, strict=True)]
