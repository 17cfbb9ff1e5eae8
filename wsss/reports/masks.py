"""The report of predicted masks as one self-contained HTML page."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wsss.metrics.instances import HIT, INVENTED, MERGED, MISSED, SPLIT, Overlap, compare_objects
from wsss.reports.overlay import fit
from wsss.reports.page import Figure, Page, as_text, lay_out, outline_paths, packed, webp
from wsss.reports.sheet import natural

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
