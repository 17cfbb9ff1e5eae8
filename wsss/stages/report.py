"""One HTML page of a data set's predictions: figures, training, fields to look through, cells to look at first."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wsss.cells.regions import describe_cells
from wsss.cells.scoring import normalise, resize
from wsss.core.checks import ConfigError
from wsss.core.console import progress, say
from wsss.core.files import write_text
from wsss.core.labels import parse_label
from wsss.data.catalog import DataSet
from wsss.data.origin import check_current, data_folder_of, marks_for, read_provenance
from wsss.exports.annotations import label_map_of
from wsss.inference.checkpoints import CamCheckpoint, check_fits, load_predicting, plan_all, plan_oof
from wsss.inference.tables import is_mask_folder, iter_cells, prediction_files
from wsss.models.cam_net import class_maps
from wsss.models.device import choose_device
from wsss.options.report import ReportOptions
from wsss.reports.figures import short_names
from wsss.reports.overlay import composite, scale_bar
from wsss.reports.page import (
    CellPage,
    ClassMap,
    Crop,
    Field,
    FieldCell,
    NotableCells,
    crop_uri,
    notable_by_score,
    notable_by_shape,
    pack_field,
    render,
)
from wsss.runs.inputs import Digests, what_is_read
from wsss.runs.output import Output, at_file
from wsss.runs.result_record import record_of, there_now
from wsss.runs.run_folder import RunFolder
from wsss.segmenters.masks import mask_files
from wsss.stages import spread_evenly
from wsss.stages.report_contents import (
    Contents,
    calibration,
    class_table,
    collect,
    failures,
    fold_folders,
    images_note,
    in_words,
    mistakes,
    overview,
    records,
    run_of,
    tiles,
    training,
)
from wsss.stages.report_masks import read_masks, report_masks

LEAST = 0.01
"""Classes of which an image has a probability no higher than this have no map, as in the recipe's cell score."""


Groups = list[tuple[NotableCells, list[Crop]]]
"""The notable cells of each kind with their pictures."""


class Mapper:
    """Computes class maps of one image after another with the networks of a run that predicted it.

    Args:
        data: the data set of the images.
        provenance: of the predictions.

    Raises:
        DataError: the run does not hold these networks, or they are damaged or not for this data set.
    """

    def __init__(self, run: Path, data: DataSet, provenance: Mapping[str, Any]) -> None:
        self.data, self.device = data, choose_device(predicts=True)
        checkpoints = load_predicting(run, self.device, provenance)
        check_fits(checkpoints, data)
        plan = plan_oof(checkpoints, data) if provenance.get("oof") else plan_all(checkpoints, data)
        self._predicting: dict[int, list[CamCheckpoint]] = {
            i: predicting for predicting, indices in plan for i in indices
        }

    def maps(self, i: int) -> list[ClassMap]:
        """Return the maps of the image with number i: of classes that the networks see somewhere in it."""
        checkpoints = self._predicting.get(i, [])
        if not checkpoints:
            return []
        image = np.array(self.data.image(i))[None]  # a copy: torch wants to be allowed to write
        seen = [class_maps(checkpoint.net, image, self.device) for checkpoint in checkpoints]
        probs = np.mean([p[0] for _, p in seen], axis=0)
        shown = np.flatnonzero(probs > LEAST)
        cam01 = np.mean([normalise(cam[0])[shown] for cam, _ in seen], axis=0)
        geometry = self.data.geometry(i)
        full = resize(cam01, (geometry.size, geometry.size))[:, : geometry.content_height, : geometry.content_width]
        return [ClassMap(int(k), float(probs[k]), map01) for k, map01 in zip(shown, full, strict=True) if map01.any()]


def run(options: ReportOptions) -> int:
    """Write the page; return 0."""
    read, write = (read_masks, report_masks) if is_mask_folder(options.preds) else (_read, _report)
    with at_file(options.out, "report") as output:
        if output.begin(partial(read, options), overwrite=options.overwrite, subject=("options.preds",)):
            write(options, output)
    return 0


def _read(options: ReportOptions, digests: Digests) -> dict[str, Any]:
    files = [*prediction_files(options.preds), options.truth, *mask_files(options.masks)]
    scores = record_of(options.preds, "scores.json")
    recorded = [there_now(path, options.preds, scores) for path in (scores or {"read": {}})["read"].get("files", {})]
    if options.truth is None:
        files += [options.preds / "scores.json", *recorded]
    data = DataSet.open(data_folder_of(options.preds, options.data))
    files.append(data.folder / "dataset.json")
    run = options.run or Path(str(read_provenance(options.preds).get("run", "")))
    files += [path for folder in fold_folders(run) for path in RunFolder(folder).used]
    return what_is_read(options, digests, files) | {"images": marks_for(options.preds, data, digests)}


def _report(options: ReportOptions, output: Output) -> None:
    contents = collect(options)
    page = build(contents)
    text = render(page)
    write_text(output.path(options.out.name), text)
    output.publish()
    packed = sum(len(field.packed) for field in page.fields)
    each = f", {packed / 1024 / len(page.fields):.0f} KiB each" if page.fields else ""
    size = len(text.encode()) / 1024**2
    say(f"{options.out}: {size:.1f} MiB, {len(page.fields)} of {page.images} images in the gallery{each}")


def build(contents: Contents) -> CellPage:
    """Put the page together."""
    options, data, evidence = contents.options, contents.data, contents.evidence
    names, most = contents.cells.ID.to_numpy(object), options.crops
    notable = notable_by_score(names, contents.scores, evidence.truth, data.classes.negative, most)
    notable += notable_by_shape(contents.cells, most)
    run = run_of(contents.options.run, contents.record)
    fields, groups = draw(contents, notable, run)
    columns, classes = class_table(contents)
    return CellPage(
        title=f"Report of {options.preds.resolve().name}",
        in_words=in_words(contents),
        overview=overview(contents, run),
        tiles=tiles(evidence),
        rows=classes,
        columns=columns,
        class_names=data.classes.names,
        channels=data.channels,
        tints=data.tints,
        fields=fields,
        images=len(contents.images),
        note=f"{evidence.note} {images_note(contents)}".strip(),
        training=training(run),
        calibration=calibration(evidence),
        mistakes=mistakes(evidence),
        groups=groups,
        failures=failures(contents),
        records=records(contents.record, run),
        has_truth=evidence.truth is not None,
        has_maps=options.maps,
        threshold=options.threshold,
    )


def draw(contents: Contents, notable: Sequence[NotableCells], run: Path | None) -> tuple[list[Field], Groups]:
    """Draw the gallery's fields and the crops of the notable cells, image after image."""
    work = Drawing(contents, notable, _mapper(contents, run))
    check_current(contents.options.preds, contents.data)
    for name, masks in progress(_each_wanted(contents, work.wanted), "report", total=len(work.wanted)):
        work.add(name, masks)
    return work.fields, work.groups()


def _mapper(contents: Contents, run: Path | None) -> Mapper | None:
    """Load the networks if class maps are to be drawn."""
    if not contents.options.maps:
        return None
    if run is None:
        raise ConfigError("--maps needs the networks of the run, which has moved: pass its folder as --run.")
    return Mapper(run, contents.data, contents.record)


def _each_wanted(contents: Contents, wanted: Mapping[str, Any]) -> Iterator[tuple[str, pd.DataFrame | None]]:
    """Yield (ID, its cells with masks or None) of the wanted images in the order of the table of images."""
    left = dict.fromkeys(wanted)
    for name, cells in iter_cells(contents.options.preds):
        if name in left:
            del left[name]
            yield name, cells
    for name in left:
        yield name, None


PIECES = "In several pieces"


class Drawing:
    """Fields and crops, filled in by `add`, one image at a time, so that memory holds one image."""

    def __init__(self, contents: Contents, notable: Sequence[NotableCells], mapper: Mapper | None = None) -> None:
        self.contents = contents
        self.notable = notable
        self.mapper = mapper
        self.rows: dict[str, np.ndarray] = {
            str(name): np.asarray(rows) for name, rows in contents.cells.groupby("ID", sort=False).indices.items()
        }
        self.places = {name: i for i, name in enumerate(contents.data.ids)}
        drawable = [name for name in contents.images.ID if contents.data.ok[self.places[name]]]
        self.shown = [drawable[k] for k in spread_evenly(len(drawable), contents.options.most)]
        with_notable = {contents.cells.ID.iloc[row] for group in notable for row in group.rows}
        self.wanted = dict.fromkeys([*self.shown, *sorted(with_notable - set(self.shown))])
        """IDs of the images that are read."""
        self._fields: dict[str, Field] = {}
        self._crops: dict[int, str] = {}
        """Row of a cell -> its picture."""
        self._broken: list[int] = []

    @property
    def fields(self) -> list[Field]:
        """The fields drawn, in the order of the table of images."""
        return [self._fields[name] for name in self.shown]

    def add(self, name: str, masks: pd.DataFrame | None) -> None:
        """Draw one image; `masks` are its cells with their column rle, None where it has no cells."""
        data = self.contents.data
        place = self.places[name]
        geometry = data.geometry(place)
        size = (geometry.height, geometry.width)
        given = ([], []) if masks is None else (masks.cell_id.tolist(), masks.rle.tolist())
        native = label_map_of(*given, size, f"{self.contents.options.preds}: {name}")
        content = (slice(0, geometry.content_height), slice(0, geometry.content_width))
        stored = geometry.labels_to_store(native)
        label_map = stored[content]
        planes = data.image(place)[(slice(None), *content)]
        rows = self.rows.get(name, np.zeros(0, np.intp))
        wanted = {row for group in self.notable for row in group.rows} & set(rows.tolist())
        if len(rows):
            wanted |= self._find_broken(native, rows)
        if wanted:
            picture = composite(planes, data.tints)
            for row in sorted(wanted):
                cell, top = int(self.contents.cells.cell_id.iloc[row]), int(self.contents.scores[row].argmax())
                self._crops[row] = crop_uri(picture, label_map, cell, top, self.contents.options.quality)
        if name in self.shown:
            maps = self.mapper.maps(place) if self.mapper else []
            self._fields[name] = self._field(name, planes, label_map, rows, maps)

    def groups(self) -> Groups:
        """Return the notable cells with their pictures."""
        about = f"More than one connected piece; looked for in the {len(self.wanted)} images that were drawn."
        broken = NotableCells("pieces", PIECES, about, self._broken[: self.contents.options.crops], len(self._broken))
        return [(group, [self._crop(row) for row in group.rows]) for group in [*self.notable, broken]]

    def _find_broken(self, native: np.ndarray, rows: np.ndarray) -> set[int]:
        """Note the cells in several pieces; return those whose picture is needed."""
        table = describe_cells(native)
        broken = set(table.cell_id[table.pieces > 1].tolist())
        broken_rows = [int(row) for row in rows if int(self.contents.cells.cell_id.iloc[row]) in broken]
        room = max(0, self.contents.options.crops - len(self._broken))
        self._broken += broken_rows
        return set(broken_rows[:room])

    def _field(
        self, name: str, planes: np.ndarray, label_map: np.ndarray, rows: np.ndarray, maps: Sequence[ClassMap]
    ) -> Field:
        contents, longest = self.contents, max(label_map.shape)
        edge = min(contents.options.edge, longest)
        height, width = (max(1, round(length * edge / longest)) for length in label_map.shape)
        return Field(
            name=name,
            about=self._about(name, len(rows)),
            size=(height, width),
            kinds=sorted(set(contents.scores[rows].argmax(axis=1).tolist())) if len(rows) else [],
            count=len(rows),
            packed=pack_field(
                planes, label_map, [self._cell(row) for row in rows], edge, contents.options.quality, maps
            ),
            scale=scale_bar(self._pixel_um(name) * contents.data.geometry(self.places[name]).width),
            carried=self._carried(name),
        )

    def _pixel_um(self, name: str) -> float:
        """Return the edge of an image's pixels in µm, 0 where neither the option nor the data set says."""
        return self.contents.options.pixel_size or self.contents.data.pixel_um(self.places[name]) or 0.0

    def _about(self, name: str, cells: int) -> str:
        data, row = self.contents.data, self.contents.data.table.iloc[self.places[name]]
        labels = "no labels"
        if data.has_labels[self.places[name]]:
            labels = "labels: " + (", ".join(data.classes.names[k] for k in parse_label(row.Label)) or "none")
        carried = [f"; {column}: {text}" for column, text in self._carried(name).items()]
        return f"{row.ImageHeight} × {row.ImageWidth} px, {cells} cells, {labels}{''.join(carried)}"

    def _carried(self, name: str) -> dict[str, str]:
        """Return the other columns of the label table for an image."""
        row = self.contents.data.carried.iloc[self.places[name]]
        return {str(column): str(text) for column, text in row.items() if text}

    def _truth(self, row: int) -> list[int] | None:
        truth = self.contents.evidence.truth
        return None if truth is None or np.isnan(truth[row, 0]) else np.flatnonzero(truth[row]).tolist()

    def _cell(self, row: int) -> FieldCell:
        cell = self.contents.cells.iloc[row]
        scores = self.contents.scores[row].tolist()
        return FieldCell(int(cell.cell_id), scores, int(cell.area_px), bool(cell.touches_border), self._truth(row))

    def _crop(self, row: int) -> Crop:
        cell = self.contents.cells.iloc[row]
        top, truth = int(self.contents.scores[row].argmax()), self._truth(row)
        short = short_names(self.contents.data.classes.names)
        said = f"{short[top]} {self.contents.scores[row, top]:.2f}"
        if truth is not None:
            said += "; true: " + ", ".join(short[k] for k in truth)
        return Crop(self._crops[row], str(cell.ID), int(cell.cell_id), said)
