"""Stage: pictures of images with their predicted cells, to look at before trusting any number."""

import io
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wsss.core.checks import DataError, some
from wsss.core.console import progress, say
from wsss.core.csv_text import check_columns
from wsss.core.files import write_bytes
from wsss.core.labels import ClassList
from wsss.core.parquet import read_parquet
from wsss.data.catalog import DataSet
from wsss.data.origin import check_cells, check_current, data_folder_of, marks_for
from wsss.inference.tables import check_classes, prediction_files, score_columns
from wsss.metrics.cells import read_cell_truth
from wsss.options.overlay import OverlayOptions
from wsss.reports.overlay import (
    Note,
    Panel,
    composite,
    contact_sheet,
    describe,
    describe_truth,
    draw_scale,
    fit,
    mark_cells,
    overlay_page,
    scale_bar,
)
from wsss.runs.inputs import Digests, what_is_read
from wsss.runs.output import Output, in_folder
from wsss.runs.result_record import check_recorded
from wsss.segmenters.masks import Masks, mask_files
from wsss.stages import spread_evenly
from wsss.stages.evaluate import check_numbers, true_masks

Notes = Mapping[str, Mapping[int, "Note"]]
"""ID -> cell id -> what is written on the cell."""

LEAST_EDGE = 768
"""Panels are not smaller than this (if --max-size allows), so that text fits on the cells of a small image."""

THUMB = 360
"""Edge in px of the small pictures in overview.png."""


def run(options: OverlayOptions) -> int:
    """Write the pictures; return 0."""
    with in_folder(options.out, "overlay") as output:
        if output.begin(partial(_read, options), overwrite=options.overwrite, subject=("options",)):
            _draw(options, output)
    return 0


def _read(options: OverlayOptions, digests: Digests) -> dict[str, Any]:
    data = DataSet.open(data_folder_of(options.preds, options.data))
    files = [*prediction_files(options.preds), options.truth, *mask_files(options.masks), data.folder / "dataset.json"]
    marks = marks_for(options.preds, data, digests, choose_images(data, options))
    return what_is_read(options, digests, [*files, data.folder / "segment.json"]) | {"images": marks}


def _draw(options: OverlayOptions, output: Output) -> None:
    data = DataSet.open(data_folder_of(options.preds, options.data))
    names = data.classes.names
    if options.truth is not None and options.masks is None and options.join == "auto":
        marks = read_cell_truth(options.truth, data.classes).marks
        check_numbers(data.folder, options.truth, preds=options.preds, marks=marks)
    chosen = choose_images(data, options)
    check_cells(data)
    check_current(options.preds, data, chosen)
    ids = [data.ids[i] for i in chosen]
    predicted = read_predictions(options.preds, data, ids, options.threshold)
    truth = read_truth(options.truth, ids, data.classes) if options.truth else None
    thumbs: list[Panel] = []
    shown: set[int] = set()
    with true_masks(options.masks, data.folder) as masks:
        for i in progress(chosen, "overlay"):
            page, thumb, classes = draw_image(data, i, predicted, truth, options, masks)
            write_bytes(output.path(f"{data.ids[i]}.png"), _png(page))
            thumbs.append(thumb)
            shown |= classes
    unsure = any(not note.classes for notes in predicted.values() for note in notes.values())
    pale = f"no class from {options.threshold:g} on" if unsure else ""
    write_bytes(output.path("overview.png"), _png(contact_sheet(thumbs, sorted(shown), names, pale=pale)))
    output.publish()
    say(f"images drawn: {len(chosen)}; they and overview.png are in {options.out}")


def choose_images(data: DataSet, options: OverlayOptions) -> list[int]:
    """Return the numbers of the images to draw: the ones asked for, or `most` spread evenly over the set.

    Raises:
        DataError: an ID is not in the set, or its image has no pixels, or no image has.
    """
    if options.ids:
        wanted = list(dict.fromkeys(name.strip() for name in options.ids.split(",") if name.strip()))
        places = {name: i for i, name in enumerate(data.ids)}
        missing = [name for name in wanted if name not in places]
        if missing or not wanted:
            lacking = some(missing) or repr(options.ids)
            raise DataError(f"--ids: {lacking} not in {data.folder}, expected IDs of its images.parquet.")
        empty = [name for name in wanted if not data.ok[places[name]]]
        if empty:
            raise DataError(f"--ids: {some(empty)} could not be prepared and cannot be drawn: leave them out.")
        return [places[name] for name in wanted]
    good = np.flatnonzero(data.ok)
    if len(good) == 0:
        raise DataError(f"{data.folder} has no image with pixels: see the reasons in its images.parquet.")
    return good[spread_evenly(len(good), options.most)].tolist()


def read_predictions(preds: Path, data: DataSet, ids: Sequence[str], threshold: float) -> Notes:
    """Read the cells of some images from cells.parquet: the classes of each whose scores reach the threshold.

    Raises:
        DataError: the table is missing, lacks a column, or has other classes than the data set.
    """
    path = preds / "cells.parquet"
    check_recorded(path)
    again = "Run python -m wsss.infer to make it, or pass another --preds."
    table = read_parquet(path, leave_out=["rle"], ids=ids, again=again)
    check_columns(table, ["ID", "cell_id"], path)
    columns = score_columns(table, path)
    check_classes(preds, columns, data.classes, data.folder)
    notes: dict[str, dict[int, Note]] = {name: {} for name in ids}
    for name, cell, row in zip(table["ID"], table["cell_id"], table[columns].to_numpy(np.float32), strict=True):
        notes[name][int(cell)] = describe(row, data.classes.names, threshold)
    return notes


def read_truth(path: Path, ids: Sequence[str], classes: ClassList) -> Notes:
    """Read the true classes of the cells of some images, from any table that `evaluate --truth` takes.

    Raises:
        DataError: the table is missing, lacks a column, or has a label that is no class.
    """
    truth = read_cell_truth(path, classes)
    notes: dict[str, dict[int, Note]] = {name: {} for name in ids}
    for name, cell, row in zip(truth.ids, truth.cells.tolist(), truth.labels, strict=True):
        if name in notes:
            notes[name][cell] = describe_truth(row.nonzero()[0].tolist(), classes.names)
    return notes


def draw_image(
    data: DataSet, i: int, predicted: Notes, truth: Notes | None, options: OverlayOptions, masks: Masks | None = None
) -> tuple[np.ndarray, Panel, set[int]]:
    """Draw one image; `masks` are those that the truth speaks of, None for the cells of the data set.

    Returns:
        Its page (H, W, 3) uint8, its small panel for the overview, and the classes shown on it.
    """
    name, geometry, names = data.ids[i], data.geometry(i), data.classes.names
    content = (slice(0, geometry.content_height), slice(0, geometry.content_width))
    label_map = geometry.labels_to_store(data.cells(i))[content]
    picture = composite(data.image(i)[(slice(None), *content)], data.tints)
    edge = min(options.max_size, max(LEAST_EDGE, *picture.shape[:2]))
    large = draw_scale(fit(picture, edge), scale_bar((options.pixel_size or data.pixel_um(i) or 0) * geometry.width))
    layers = [("predicted", label_map, predicted[name])]
    if truth:
        true_map = label_map
        if masks:
            native = masks.cells(name, (geometry.height, geometry.width))
            true_map = geometry.labels_to_store(native)[content]
        layers.append(("truth", true_map, truth[name]))
    panels = [Panel(large, "image")]
    for what, cells, notes in layers:
        count, unsure = int(np.count_nonzero(np.unique(cells))), sum(not note.classes for note in notes.values())
        doubt = f", {unsure} with no class from {options.threshold:g} on" if unsure else ""
        panels.append(Panel(mark_cells(large, fit(cells, edge, labels=True), notes), f"{what}, {count} cells{doubt}"))
    shown = {k for _, _, notes in layers for note in notes.values() for k in note.classes}
    title = f"{name}: image labels {_label_text(data, i)}"
    small = mark_cells(fit(picture, THUMB), fit(label_map, THUMB, labels=True), predicted[name], text=False)
    return overlay_page(title, panels, sorted(shown), names), Panel(small, name), shown


def _label_text(data: DataSet, i: int) -> str:
    if not data.has_labels[i]:
        return "unknown"
    return ", ".join(name for name, there in zip(data.classes.names, data.labels[i], strict=True) if there) or "none"


def _png(picture: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="PNG", compress_level=4)
    return stream.getvalue()
