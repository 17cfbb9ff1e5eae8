"""Predicted masks as an HTML page in one file, and as a sheet: image, truth, prediction and error, one image a row."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from skimage.segmentation import find_boundaries

from wsss.core.files import write_atomic
from wsss.metrics.instances import HIT, INVENTED, MERGED, MISSED, SPLIT, Overlap, compare_objects
from wsss.reports.overlay import fit
from wsss.reports.page import Figure, Page, as_text, lay_out, outline_paths, packed, webp

SHEET_EDGE = 320
"""Longer edge of each picture, px."""
GAP = 6
LINE = 16
"""Height of a line of text, px."""
BLUE, RED, GREY, YELLOW = (40, 110, 255), (255, 60, 40), (90, 90, 90), (255, 220, 0)
"""Colours of true pixels not found, of false ones, of those that are right, and around true objects without partner."""
HEADS = (
    ("image", "contrast stretched to the darkest and brightest 1 %"),
    ("truth", ""),
    ("prediction", ""),
    ("error: blue missed, red too much", "yellow: true objects merged, split or missed"),
)


class SheetRow(NamedTuple):
    """What one row shows."""

    name: str
    image: np.ndarray
    """(C, H, W) uint8."""
    truth: np.ndarray
    """(H, W) label map."""
    predicted: np.ndarray
    """(H, W) label map."""
    figures: str = ""
    """Text about the row, such as its score."""
    alone: np.ndarray | None = None
    """(n,) numbers of the true objects without a partner in the prediction."""


def draw_sheet(rows: Iterable[SheetRow], path: Path) -> None:
    """Write the rows as one PNG."""
    strips = [_heads(), *(_strip(row) for row in rows)]
    padded = [np.pad(s, ((0, GAP), (0, 0), (0, 0)), constant_values=255) for s in strips]
    picture = Image.fromarray(np.concatenate(padded))
    write_atomic(path, lambda stream: picture.save(stream, "PNG"))


def _heads() -> np.ndarray:
    strip = Image.new("RGB", (len(HEADS) * (SHEET_EDGE + GAP), 2 * LINE), (255, 255, 255))
    for k, lines in enumerate(HEADS):
        for n, text in enumerate(lines):
            ImageDraw.Draw(strip).text((k * (SHEET_EDGE + GAP) + 2, n * LINE), text, fill=(0, 0, 0), font_size=12)
    return np.asarray(strip)


def _strip(row: SheetRow) -> np.ndarray:
    photo = natural(_fit(row.image))
    truth, predicted = (_fit(label_map[None])[..., 0] for label_map in (row.truth, row.predicted))
    views = [photo, _drawn_on(photo, truth), _drawn_on(photo, predicted), _errors(truth, predicted, row.alone)]
    width = SHEET_EDGE - photo.shape[1] + GAP
    strip = np.concatenate([np.pad(v, ((0, 0), (0, width), (0, 0)), constant_values=255) for v in views], axis=1)
    text = Image.new("RGB", (strip.shape[1], LINE), (255, 255, 255))
    name = row.name if len(row.name) <= 40 else row.name[:37] + "..."
    ImageDraw.Draw(text).text((2, 1), f"{name}   {row.figures}", fill=(0, 0, 0), font_size=12)
    return np.concatenate([np.asarray(text), strip])


def _fit(planes: np.ndarray) -> np.ndarray:
    """Scale (C, H, W) to the size of a picture, nearest neighbour: (h, w, C)."""
    size = planes.shape[1:]
    scale = max(size) / SHEET_EDGE
    rows, columns = (
        ((np.arange(max(1, round(n / scale))) + 0.5) * scale).astype(np.intp).clip(max=n - 1) for n in size
    )
    return np.ascontiguousarray(planes[:, rows[:, None], columns].transpose(1, 2, 0))


def natural(photo: np.ndarray) -> np.ndarray:
    """Turn (h, w, C) uint8 into RGB whose darkest and brightest 1 % are black and white: dim images show, too."""
    low, high = np.percentile(photo, (1, 99))
    shown = np.clip((photo - low) / max(1.0, high - low) * 255, 0, 255).astype(np.uint8)
    return shown if shown.shape[2] == 3 else np.repeat(shown[..., :1], 3, axis=2)


def _drawn_on(photo: np.ndarray, label_map: np.ndarray) -> np.ndarray:
    out = (photo // 2).astype(np.uint8)
    out[label_map > 0] += 60
    out[find_boundaries(label_map, mode="inner")] = YELLOW
    return out


def _errors(truth: np.ndarray, predicted: np.ndarray, alone: np.ndarray | None) -> np.ndarray:
    out = np.zeros((*truth.shape, 3), np.uint8)
    out[(truth > 0) & (predicted > 0)] = GREY
    out[(truth > 0) & (predicted == 0)] = BLUE
    out[(truth == 0) & (predicted > 0)] = RED
    if alone is not None:
        out[find_boundaries(truth * np.isin(truth, alone), mode="inner")] = YELLOW
    return out


FOUND = "found"
"""What an object is where no truth is known."""
COLOURS = {
    FOUND: "#ffe14d",
    HIT: "#2fd39a",
    MISSED: "#4db4ff",
    INVENTED: "#ff5a3c",
    MERGED: "#ffe14d",
    SPLIT: "#ff8ad8",
}
"""Of outlines; people with colour-blindness can distinguish them (after Okabe and Ito, lighter for dark pictures)."""
MEANINGS = {
    FOUND: "what was found",
    HIT: "IoU above .5 with a true object",
    MISSED: "true, and not found",
    INVENTED: "found, and nothing true there",
    MERGED: "several true ones, found as one",
    SPLIT: "a true one, found in parts",
}


def pack_masks(
    image: np.ndarray, predicted: np.ndarray, truth: np.ndarray | None, pairs: Overlap | None, edge: int, quality: int
) -> str:
    """Pack what the page needs to draw a field when it is scrolled to.

    Args:
        image: (C, H, W) uint8, grey or RGB.
        predicted: (H, W) label map.
        truth: the same, or None.
        pairs: of the two at full size, which may be larger than these maps; None without truth.
        edge: longer edge of the picture in px.
        quality: of WebP, 1..100.
    """
    picture = fit(np.ascontiguousarray(natural(image.transpose(1, 2, 0))), edge)
    cells = _outlined(predicted, pairs, edge, true=False)
    if truth is not None and pairs is not None:
        cells = _outlined(truth, pairs, edge, true=True) + cells  # those found lie above
    numbered = [{"id": k, **cell} for k, cell in enumerate(cells)]
    return packed({"picture": as_text(webp(picture, quality)), "cells": numbered})


def _outlined(label_map: np.ndarray, pairs: Overlap | None, edge: int, *, true: bool) -> list[dict[str, Any]]:
    """Return what the page shows of the objects of a map, the true ones or those found."""
    paths = outline_paths(fit(label_map, edge, labels=True))
    if pairs is None:
        ids, areas = np.unique(label_map[label_map > 0], return_counts=True)
        shown = zip(ids.tolist(), areas.tolist(), strict=True)
        return [{"number": k, "path": paths.get(k, ""), "area": area, "fate": FOUND} for k, area in shown]
    compared = compare_objects(pairs)
    ids, areas, others, iou, fates = pairs.ids_a, pairs.areas_a, pairs.ids_b, pairs.iou, compared.predicted
    if true:
        ids, areas, others, iou, fates = pairs.ids_b, pairs.areas_b, pairs.ids_a, pairs.iou.T, compared.true
    out = []
    for k, number in enumerate(ids.tolist()):
        best = int(iou[k].argmax()) if len(others) else 0
        partner = int(others[best]) if len(others) and iou[k, best] > 0 else 0
        about = {"number": number, "path": paths.get(number, ""), "area": int(areas[k]), "fate": str(fates[k])}
        out.append(about | {"true": true, "partner": partner, "iou": round(float(iou[k].max(initial=0)), 3)})
    return out


@dataclass(frozen=True)
class MaskPage(Page):
    """The report of predicted masks; a row of its table is an image: name, and the columns.

    Its fields come in the order in which they are worth a look.
    """

    errors: Sequence[tuple[str, str, int, int]]
    """Rows of the table of errors: what, what it means, true objects, objects found."""
    drawings: Sequence[Figure]
    order: str
    """The order of the fields in words."""
    separated: bool
    """Whether masks are parted into objects."""

    @property
    def fates(self) -> list[str]:
        """What becomes of objects in the gallery."""
        there = {fate for field in self.fields for fate in field.kinds}
        return [fate for fate in COLOURS if fate in there]


def render_masks(page: MaskPage) -> str:
    """Lay out the report."""
    setup = {"colours": COLOURS, "separated": page.separated}
    return lay_out("masks.html", page, setup, colours=COLOURS, meanings=MEANINGS)
