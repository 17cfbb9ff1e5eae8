"""The report of cells as one self-contained HTML page, and the choice of the cells shown."""

import base64
import gzip
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from wsss.cells.instances import cell_boxes
from wsss.reports.figures import NO_CLASS, Colour, colour, data_uri
from wsss.reports.overlay import OTHER_TINT, TINTS, Note, fit, mark_cells, stretch

ROUGHNESS = 0.6
"""Largest distance of an outline from its pixels, in px of the picture."""
MAP_EDGE, MAP_QUALITY = 64, 70
"""Longer edge of a class map in px, and quality of its WebP: maps are smooth."""
MOST_VALUES = 100
"""Values of a column by which fields can be chosen, at most."""
CROP_EDGE = 144
"""Edge of a crop in px."""
CROP_MARGIN = 0.25
"""Surroundings shown on each side of a crop, as a share of its longer edge."""


@dataclass(frozen=True)
class FieldCell:
    """What the page shows of one cell."""

    cell_id: int
    scores: Sequence[float]
    area_px: int
    border: bool
    truth: Sequence[int] | None
    """True classes, or None where they are not known."""


@dataclass(frozen=True)
class ClassMap:
    """Where the networks see a class in one image."""

    class_id: int
    probability: float
    """Of the image."""
    values: np.ndarray
    """(h, w) float32 in [0, 1], over the picture."""


@dataclass(frozen=True)
class Field:
    """One image in the gallery."""

    name: str
    about: str
    """Its size and what is in it as text."""
    size: tuple[int, int]
    """(h, w) of its pictures."""
    kinds: Sequence[int | str]
    """What it can be chosen by: the top classes of its cells, or what became of its objects, each once."""
    count: int
    """Of its cells, or of the objects found."""
    packed: str
    """Pictures, outlines and what is known of each: JSON, compressed with gzip, in base64."""
    scale: tuple[float, str] | None = None
    """Length of the scale bar in percent of the width, and in words; None where the size of a pixel is not known."""
    carried: Mapping[str, str] = field(default_factory=dict)
    """Other columns of the label table."""


def pack_field(
    planes: np.ndarray,
    label_map: np.ndarray,
    cells: Sequence[FieldCell],
    edge: int,
    quality: int,
    maps: Sequence[ClassMap] = (),
) -> str:
    """Pack what the page needs to draw a field when it is scrolled to.

    Args:
        planes: (C, H, W) uint8.
        label_map: (H, W) int32 of the same size.
        cells: what is shown of each cell; one without pixels in the map has no outline.
        edge: longer edge of the pictures in px.
        quality: of WebP, 1..100.
    """
    paths = outline_paths(fit(label_map, edge, labels=True))
    small = [fit(np.rint(255 * stretch(plane)).astype(np.uint8), edge) for plane in planes]
    content = {
        "planes": [as_text(webp(plane, quality)) for plane in small],
        "maps": {
            str(class_map.class_id): {"p": round(1000 * class_map.probability), "webp": _map_text(class_map)}
            for class_map in maps
        },
        "cells": [
            {
                "id": cell.cell_id,
                "path": paths.get(cell.cell_id, ""),
                "scores": [round(1000 * float(score)) for score in cell.scores],
                "area": cell.area_px,
                "border": cell.border,
                "truth": cell.truth,
            }
            for cell in cells
        ],
    }
    return packed(content)


def packed(content: Mapping[str, Any]) -> str:
    """Return the content of a field as the page's script unpacks it: JSON, compressed with gzip, in base64."""
    return as_text(gzip.compress(json.dumps(content, separators=(",", ":")).encode(), mtime=0))


def as_text(content: bytes) -> str:
    """Return bytes in base64."""
    return base64.b64encode(content).decode()


def _map_text(class_map: ClassMap) -> str:
    grey = np.rint(255 * np.clip(class_map.values, 0, 1)).astype(np.uint8)
    return as_text(webp(fit(grey, MAP_EDGE), MAP_QUALITY))


def outline_paths(label_map: np.ndarray) -> dict[int, str]:
    """Return cell id -> the outline of all its pieces as an SVG path in px of the (H, W) map."""
    out: dict[int, str] = {}
    ids, boxes = cell_boxes(label_map)
    for cell_id, (y0, x0, y1, x1) in zip(ids.tolist(), boxes.tolist(), strict=True):
        mask = np.pad((label_map[y0:y1, x0:x1] == cell_id).astype(np.uint8), 1)
        rings, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        parts = []
        for ring in rings:
            smooth = cv2.approxPolyDP(ring, ROUGHNESS, True).reshape(-1, 2) + np.array([x0 - 1, y0 - 1])
            parts.append("M" + "L".join(f"{x + 0.5:g} {y + 0.5:g}" for x, y in smooth.tolist()) + "Z")
        out[cell_id] = "".join(parts)
    return out


def crop_uri(picture: np.ndarray, label_map: np.ndarray, cell_id: int, class_id: int, quality: int) -> str:
    """Cut out one cell with its surroundings, outlined in the colour of a class; '' if the map does not show it.

    Args:
        picture: (H, W, 3) uint8.
        label_map: (H, W) int32.
        class_id: whose colour it gets.
        quality: of WebP, 1..100.
    """
    mask = label_map == cell_id
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return ""
    margin = 2 + round(CROP_MARGIN * max(np.ptp(rows), np.ptp(columns)))
    part = tuple(slice(max(0, int(lines[0]) - margin), int(lines[-1]) + margin + 1) for lines in (rows, columns))
    large, large_map = fit(picture[part], CROP_EDGE), fit(label_map[part], CROP_EDGE, labels=True)
    return data_uri(
        webp(mark_cells(large, large_map, {cell_id: Note((class_id,), "")}, text=False), quality), "image/webp"
    )


def webp(picture: np.ndarray, quality: int) -> bytes:
    """Encode an (H, W) or (H, W, 3) uint8 picture as WebP."""
    stream = io.BytesIO()
    Image.fromarray(picture).convert("RGB").save(stream, format="WEBP", quality=quality)
    return stream.getvalue()


@dataclass(frozen=True)
class Crop:
    """One cell cut out."""

    uri: str
    """Its picture as a data URI."""
    name: str
    """ID of its image."""
    cell_id: int
    caption: str


@dataclass(frozen=True)
class NotableCells:
    """Cells of one kind, the most striking first."""

    key: str
    title: str
    about: str
    """How they were chosen."""
    rows: list[int]
    """Their rows in the table of cells."""
    count: int | None = None
    """How many such cells there are, where that can be counted."""


@dataclass(frozen=True)
class Figure:
    """A drawing with its title and caption."""

    title: str
    uri: str
    about: str


@dataclass(frozen=True)
class Page:
    """What every report shows, ready to be laid out."""

    title: str
    in_words: Sequence[str]
    """What was found, how far to trust it, what to do next: a sentence or two each."""
    tiles: Sequence[tuple[str, float | None, str]]
    """The few figures that matter most: name, value in [0, 1], what it is."""
    note: str
    """Where the figures come from, or how to get them."""
    overview: Sequence[tuple[str, str]]
    """What was run and on what: name, value."""
    records: Sequence[tuple[str, str]]
    """Files shown in full: name, text."""
    training: Sequence[Figure]
    fields: Sequence[Field]
    images: int
    """How many images there are, in the gallery or not."""
    columns: Sequence[tuple[str, str, str]]
    """Columns of its table: key, heading, 'count' or 'share'."""
    rows: Sequence[Mapping[str, Any]]
    """Rows of its table, a class or an image each: the columns, and what names the row."""
    failures: Sequence[tuple[str, str]]
    """ID, reason."""
    has_truth: bool

    @property
    def largest(self) -> dict[str, float]:
        """The largest value of each column."""
        return {key: max((_known(row[key]) for row in self.rows), default=0) for key, _, _ in self.columns}


@dataclass(frozen=True)
class CellPage(Page):
    """The report of predicted cells; a row of its table is a class: id, name, and the columns."""

    class_names: Sequence[str]
    channels: Sequence[str]
    tints: Sequence[str]
    """The colour of each channel, see `wsss.reports.overlay`."""
    calibration: Sequence[Figure]
    mistakes: Sequence[Figure]
    """Who is mistaken for whom; empty where no truth is known."""
    groups: Sequence[tuple[NotableCells, Sequence[Crop]]]
    has_maps: bool
    threshold: float
    """Scores from here on count as found."""

    @property
    def filters(self) -> dict[str, list[str]]:
        """Columns by which fields can be chosen, each with its values in the gallery."""
        names = dict.fromkeys(name for field in self.fields for name in field.carried)
        values = {name: sorted({field.carried.get(name, "") for field in self.fields} - {""}) for name in names}
        return {name: choices for name, choices in values.items() if 1 < len(choices) <= MOST_VALUES}


def render(page: CellPage) -> str:
    """Lay out the report."""
    setup = {
        "classes": [{"name": name, "colour": css_colour(colour(k))} for k, name in enumerate(page.class_names)],
        "tints": [css_colour(channel_colour(name)) for name in page.tints],
        "pale": css_colour(NO_CLASS),
    }
    return lay_out("report.html", page, setup, colour=colour)


def lay_out(template: str, page: Page, setup: Mapping[str, Any], **content: Any) -> str:
    """Fill in a template.

    Args:
        setup: what its script needs to know.

    Every text is escaped by the template engine, and a content security policy forbids the page to fetch anything.
    """
    rules = {"autoescape": True, "undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    engine = Environment(loader=PackageLoader("wsss.reports"), **rules)  # type: ignore[arg-type]
    engine.filters.update(css=css_colour, figure=figure_text, percent=percent)
    places = {field.name: number for number, field in enumerate(page.fields)}
    return engine.get_template(template).render(page=page, places=places, setup=setup, **content)


def css_colour(rgb: Colour) -> str:
    """Return '#rrggbb'."""
    return "#" + "".join(f"{part:02x}" for part in rgb)


def figure_text(value: float | None) -> str:
    """Return a share with three digits, or a dash if there is none."""
    return f"{value:.3f}" if _known(value) or value == 0 else "–"


def percent(value: float | None, most: float = 1.0) -> str:
    """Return the length of a bar, a number of percent of `most`."""
    return f"{100 * _known(value) / most:.1f}" if most else "0"


def _known(value: float | None) -> float:
    return 0.0 if value is None or math.isnan(value) else float(value)


def channel_colour(channel: str) -> Colour:
    """Return the RGB colour that a channel of this tint adds at full brightness."""
    red, green, blue = (round(255 * part) for part in TINTS.get(channel, OTHER_TINT))
    return red, green, blue


PER_IMAGE = 3
"""Cells that one image may add to a group, so that one bad field does not fill it."""
TINY, HUGE = 0.2, 3.0
"""Areas below and above these multiples of the image's median area are odd."""
LEAST_CELLS = 4
"""An image's median area means something from this many cells on."""


def spread(order: np.ndarray, images: np.ndarray, most: int) -> list[int]:
    """Take the first `most` rows of `order`, at most PER_IMAGE of one image.

    Args:
        order: rows of cells, the wanted ones first.
        images: (N,) the image of every cell.
    """
    rank = pd.Series(images[order]).groupby(images[order]).cumcount().to_numpy()
    return [int(row) for row in order[rank < PER_IMAGE][:most]]


def doubt(scores: np.ndarray) -> np.ndarray:
    """Return (N,) the mean entropy in bits of the (N, K) scores, each taken as a yes or no."""
    p = np.clip(np.asarray(scores, np.float64), 1e-9, 1 - 1e-9)
    return np.asarray(-(p * np.log2(p) + (1 - p) * np.log2(1 - p)).mean(axis=1))


def surprise(truth: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return (N,) the mean cross-entropy in bits of (N, K) scores; NaN where a cell's truth is NaN."""
    p = np.clip(np.asarray(scores, np.float64), 1e-6, 1 - 1e-6)
    return np.asarray(-(truth * np.log2(p) + (1 - truth) * np.log2(1 - p)).mean(axis=1))


def notable_by_score(
    images: np.ndarray, scores: np.ndarray, truth: np.ndarray | None, negative: int | None, most: int
) -> list[NotableCells]:
    """Choose cells by their scores.

    Args:
        images: (N,) the image of each cell.
        scores: (N, K) in [0, 1].
        truth: (N, K) of 0/1, rows of NaN for cells whose truth is not known; or None.
        negative: class id of 'no specific signal', or None.
    """
    top = scores.argmax(axis=1)
    shows_class = np.flatnonzero(top != negative) if negative is not None else np.arange(len(scores))
    order = shows_class[np.argsort(-scores[shows_class].max(axis=1), kind="stable")]
    about = "Highest top score" + ("." if negative is None else "; Negative left out.")
    groups = [NotableCells("confident", "Most confident", about, spread(order, images, most))]
    order = np.argsort(-doubt(scores), kind="stable")
    about = "Highest entropy of the scores: many classes are neither ruled out nor certain."
    groups.append(NotableCells("doubtful", "Most doubtful", about, spread(order, images, most)))
    if truth is not None:
        wrong = np.nan_to_num(surprise(truth, scores), nan=-1.0)
        order = np.argsort(-wrong, kind="stable")
        order = order[wrong[order] >= 0]
        about = "Highest cross-entropy between scores and true classes."
        groups.append(NotableCells("wrong", "Most wrong", about, spread(order, images, most)))
    if negative is not None:
        order = np.argsort(-scores[:, negative], kind="stable")
        count = int((top == negative).sum())
        about = "Highest score of the class Negative; the number counts cells whose top class it is."
        groups.append(NotableCells("negative", "Negative cells", about, spread(order, images, most), count))
    return groups


def notable_by_shape(cells: pd.DataFrame, most: int) -> list[NotableCells]:
    """Choose cells that the segmentation may have got wrong: tiny, huge, cut by the image's border.

    Args:
        cells: ID, area_px, touches_border.
    """
    images = cells.ID.to_numpy(object)
    group = cells.groupby("ID").area_px
    few = (group.transform("size") < LEAST_CELLS).to_numpy()
    ratio = np.where(few, 1.0, cells.area_px / group.transform("median"))
    border = cells.touches_border.to_numpy(bool)
    order = np.argsort(ratio, kind="stable")
    falling = order[::-1]
    kinds = (
        ("tiny", "Tiny", f"Less than {TINY:g} of the median area of their image.", order[ratio[order] < TINY]),
        (
            "huge",
            "Huge",
            f"More than {HUGE:g} times the median area of their image.",
            falling[ratio[falling] > HUGE],
        ),
        ("border", "Cut by the border", "They touch the image's edge; the smallest first.", order[border[order]]),
    )
    return [NotableCells(key, title, about, spread(rows, images, most), len(rows)) for key, title, about, rows in kinds]
