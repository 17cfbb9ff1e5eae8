"""One HTML page of a data set's predictions: figures, training, fields to look through, cells to look at first."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsss.core import cli
from wsss.core.checks import ConfigError, DataError, check_range, some
from wsss.report_run import records, run_folder, training

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from wsss.data.catalog import DataSet
    from wsss.report_evidence import Evidence
    from wsss.report_maps import Mapper
    from wsss.reports.gallery import Field
    from wsss.reports.page import CropGroup, Figure, Page
    from wsss.reports.picks import Pick

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
    data: "DataSet"
    cells: "pd.DataFrame"
    """All cells without their masks; row numbers are those of `scores` and of the picks."""
    images: "pd.DataFrame"
    scores: "np.ndarray"
    """(N, K) float32."""
    evidence: "Evidence"
    record: dict[str, Any]
    """The content of provenance.json, empty where there is none."""


def report(options: ReportOptions) -> int:
    """Write the page; return 0."""
    from wsss.core.files import write_text
    from wsss.reports.page import render

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
    import numpy as np

    from wsss.core.files import read_json
    from wsss.data.catalog import DataSet
    from wsss.evaluate_masks import is_mask_folder
    from wsss.export import data_folder_of
    from wsss.predict.tables import read_cells, read_images, score_columns
    from wsss.report_evidence import Truth, gather

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


def build(found: Found) -> "Page":
    """Put the page together."""
    from wsss.reports.page import Page
    from wsss.reports.picks import pick_by_score, pick_oddities

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
        scores_note=f"{evidence.note} {_images_note(found)}".strip(),
        training=training(run),
        calibration=calibration(evidence),
        mistakes=mistakes(evidence),
        groups=groups,
        failures=failures(found),
        records=records(found, run),
        has_truth=evidence.truth is not None,
        has_maps=options.maps,
    )


def facts(found: Found, run: Path | None) -> list[tuple[str, str]]:
    """Return what was run and on what, in words."""
    data, record = found.data, found.record
    labelled = int(data.has_labels.sum())
    out = [
        ("predictions", str(found.options.preds)),
        ("data set", f"{data.folder}: {len(data)} images at {data.size} px, {labelled} labelled"),
        ("channels", ", ".join(data.channels)),
        ("predicted", f"{len(found.images)} images, {len(found.cells)} cells"),
        ("run", str(run or record.get("run", "not recorded"))),
    ]
    members = record.get("members") or []
    if members:
        how = ", each for the images it never saw" if record.get("oof") else ", their mean" if len(members) > 1 else ""
        out.append(("networks", f"{len(members)}{how}"))
    if "versions" in record:
        out.append(("versions", ", ".join(f"{name} {version}" for name, version in record["versions"].items())))
    return out


def tiles(evidence: "Evidence") -> list[tuple[str, float | None, str]]:
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


def _images_note(found: Found) -> str:
    if found.evidence.images is None:
        return ""
    if found.record.get("oof"):
        return "Figures of images: out of fold, against the labels of the data set."
    return "Figures of images: against the labels of the data set; they flatter a run that was trained on these images."


def class_table(found: Found) -> tuple[list[tuple[str, str, str]], list[dict[str, Any]]]:
    """Return the columns of the table of classes (key, heading, kind) and its rows."""
    import numpy as np

    data, evidence, options = found.data, found.evidence, found.options
    count = len(data.classes)
    columns = [("top", "top class of cells", "count"), ("found", f"cells ≥ {options.threshold:g}", "count")]
    values: dict[str, Sequence[Any]] = {
        "top": np.bincount(found.scores.argmax(axis=1), minlength=count).tolist(),
        "found": (found.scores >= options.threshold).sum(axis=0).tolist(),
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


def calibration(evidence: "Evidence") -> "list[Figure]":
    """Draw how far scores are true, of cells and of images."""
    from wsss.reports.figures import calibration_svg
    from wsss.reports.page import Figure

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


def mistakes(evidence: "Evidence") -> "list[Figure]":
    """Draw which class the cells of each are taken for, and name the most frequent mistakes."""
    from wsss.reports.figures import confusion_svg
    from wsss.reports.page import Figure

    rows = evidence.record["cells"].get("confusions") if evidence.record else None
    if not rows:
        return []
    wrong = [row for row in rows if row["true"] != row["predicted"]][:3]
    most = "; ".join(
        f"{row['true_name']} taken for {row['predicted_name']}: {row['cells']:.0f} cells, {row['share']:.0%}"
        for row in wrong
    )
    return [Figure("Cells", confusion_svg(rows), most or "no cell has another class on top than its own")]


def failures(found: Found) -> list[tuple[str, str, str]]:
    """Return ID, status and reason of every image that has no full prediction."""
    reasons = dict(zip(found.data.ids, found.data.table["reason"].fillna("").astype(str), strict=True))
    bad = found.images[found.images.status != "ok"]
    return [(name, status, reasons[name]) for name, status in zip(bad.ID, bad.status, strict=True)]


def draw(found: Found, picks: "Sequence[Pick]", run: Path | None) -> "tuple[list[Field], list[CropGroup]]":
    """Draw the gallery's fields and the crops of the picked cells, image after image."""
    from wsss.core.runtime import progress
    from wsss.report_drawing import Drawing

    work = Drawing(found, picks, _mapper(found, run))
    for name, masks in progress(_each_wanted(found, work.wanted), "report", total=len(work.wanted)):
        work.add(name, masks)
    return work.fields, work.groups()


def _mapper(found: Found, run: Path | None) -> "Mapper | None":
    """Load the networks for the class maps, where these are asked for."""
    if not found.options.maps:
        return None
    if run is None:
        raise ConfigError("--maps asks the networks of the run, which is not where it was: pass its folder as --run.")

    from wsss.report_maps import Mapper

    return Mapper(run, found.data, oof=bool(found.record.get("oof")))


def _each_wanted(found: Found, wanted: Mapping[str, Any]) -> "Iterator[tuple[str, pd.DataFrame | None]]":
    """Yield (ID, its cells with masks or None) of the wanted images in the order of the table of images."""
    from wsss.predict.tables import iter_cells

    left = dict.fromkeys(wanted)
    for name, own in iter_cells(found.options.preds):
        if name in left:
            del left[name]
            yield name, own
    for name in left:
        yield name, None


if __name__ == "__main__":
    cli.run(main)
