"""What the page shows of a cell: the pixels around it channel by channel, and outlines."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from wsss.core.labels import parse_label
from wsss.data.catalog import DataSet
from wsss.data.cell_maps import read_cells
from wsss.reports.overlay import LEAST_RANGE
from wsss.reports.page import outline_paths

MARGINS = {"near": 0.15, "far": 1.0}
"""Surroundings shown on each side of a cell, as a share of its longer edge; the view 'field' shows the whole image."""
VIEWS = (*MARGINS, "field")
LEAST_EDGE = 24
"""Windows are at least so wide, in stored px."""
KEPT = 8
"""Images whose label maps are kept in memory."""

Window = tuple[int, int, int, int]
"""y0, x0, y1, x1 in stored pixels, half-open."""


@dataclass(frozen=True)
class _Field:
    label_map: np.ndarray
    """(h, w) int32, the content at stored size."""
    ranges: list[tuple[int, int]]
    """Grey levels between which each channel is shown."""


class Views:
    """Draws cells of a data set. Not for several threads at once."""

    def __init__(self, data: DataSet) -> None:
        self.data = data
        self._places = {name: i for i, name in enumerate(data.ids)}
        self._fields: OrderedDict[int, _Field] = OrderedDict()

    def place(self, name: str) -> int:
        """Return the number of an image in the data set."""
        return self._places[name]

    def window(self, i: int, box: np.ndarray, view: str) -> Window:
        """Return the part of image i that is shown of a cell, a square where the image has room for it.

        Args:
            i: number of the image.
            box: y0 x0 y1 x1 of the cell in pixels of the original image.
            view: out of VIEWS.
        """
        geometry = self.data.geometry(i)
        height, width = geometry.content_height, geometry.content_width
        if view == "field":
            return 0, 0, height, width
        y0, x0, y1, x1 = np.asarray(box, np.float64) * geometry.scale
        edge = int(max(LEAST_EDGE, np.ceil(max(y1 - y0, x1 - x0) * (1 + 2 * MARGINS[view]))))
        top, left = (round((a + b - edge) / 2) for a, b in ((y0, y1), (x0, x1)))
        top, left = max(0, min(top, height - edge)), max(0, min(left, width - edge))
        return top, left, min(height, top + edge), min(width, left + edge)

    def outlines(self, i: int, cell_id: int, window: Window) -> tuple[str, list[str]]:
        """Return the outline of a cell ('' if it has no pixel left at stored size) and those of its neighbours.

        Raises:
            DataError: the label map is missing or damaged.
        """
        y0, x0, y1, x1 = window
        paths = outline_paths(self._field(i).label_map[y0:y1, x0:x1])
        return paths.pop(cell_id, ""), list(paths.values())

    def ranges(self, i: int) -> list[tuple[int, int]]:
        """Return for each channel of image i the grey levels that are shown as black and as full brightness."""
        return self._field(i).ranges

    def plane(self, i: int, channel: int, window: Window) -> bytes:
        """Return a window of one channel as PNG.

        Raises:
            DataError: the stored pixels are damaged.
        """
        y0, x0, y1, x1 = window
        part = self.data.image(i)[channel, y0:y1, x0:x1]
        done, encoded = cv2.imencode(".png", part, [cv2.IMWRITE_PNG_COMPRESSION, 1])
        assert done, "OpenCV encodes every uint8 plane"
        return bytes(encoded)

    def facts(self, i: int) -> dict[str, Any]:
        """Return what is known of image i beside its pixels: labels (ids, None if unknown) and carried columns."""
        label = self.data.table["Label"].iloc[i]
        labels = parse_label(label) if self.data.has_labels[i] else None
        carried = {str(name): str(self.data.carried[name].iloc[i]) for name in self.data.carried}
        return {"labels": labels, "carried": {name: text for name, text in carried.items() if text}}

    def _field(self, i: int) -> _Field:
        if i not in self._fields:
            geometry = self.data.geometry(i)
            content = (slice(0, geometry.content_height), slice(0, geometry.content_width))
            label_map = geometry.labels_to_store(read_cells(self.data, i))[content]
            planes = self.data.image(i)[(slice(None), *content)]
            limits = [np.percentile(plane[::2, ::2], (5, 99.7)) for plane in planes]
            ranges = [(int(low), int(max(high, low + LEAST_RANGE))) for low, high in limits]
            self._fields[i] = _Field(label_map, ranges)
            if len(self._fields) > KEPT:
                self._fields.popitem(last=False)
        self._fields.move_to_end(i)
        return self._fields[i]
