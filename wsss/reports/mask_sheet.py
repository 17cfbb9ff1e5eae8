"""A picture of masks to look at: image, truth, prediction and error, one image a row."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from skimage.segmentation import find_boundaries

from wsss.core.files import write_atomic

EDGE = 256
"""Longer edge of each picture, px."""
GAP = 6
MISSED, EXTRA, RIGHT = (40, 110, 255), (255, 60, 40), (90, 90, 90)
"""Colours of true pixels not found, of false ones, and of those that are right."""


class SheetRow(NamedTuple):
    """What one row shows."""

    name: str
    image: np.ndarray
    """(C, H, W) uint8."""
    truth: np.ndarray
    """(H, W) label map."""
    predicted: np.ndarray
    """(H, W) label map."""


def draw_sheet(rows: Iterable[SheetRow], path: Path) -> None:
    """Write the rows as one PNG."""
    strips = [_strip(row) for row in rows]
    width = max(strip.shape[1] for strip in strips)
    padded = [np.pad(s, ((0, GAP), (0, width - s.shape[1]), (0, 0)), constant_values=255) for s in strips]
    picture = Image.fromarray(np.concatenate(padded))
    write_atomic(path, lambda stream: picture.save(stream, "PNG"))


def _strip(row: SheetRow) -> np.ndarray:
    grey = np.repeat(row.image[:1], 3, axis=0) if len(row.image) != 3 else row.image
    photo = np.ascontiguousarray(grey.transpose(1, 2, 0))
    views = [photo, _outlined(photo, row.truth), _outlined(photo, row.predicted), _errors(row.truth, row.predicted)]
    scaled = [np.pad(_fit(view), ((0, 0), (0, GAP), (0, 0)), constant_values=255) for view in views]
    strip = Image.fromarray(np.concatenate(scaled, axis=1))
    ImageDraw.Draw(strip).text((4, 4), row.name, fill=(255, 255, 0), stroke_width=1, stroke_fill=(0, 0, 0))
    return np.asarray(strip)


def _outlined(photo: np.ndarray, label_map: np.ndarray) -> np.ndarray:
    out = (photo // 2).astype(np.uint8)
    out[label_map > 0] += 60
    out[find_boundaries(label_map, mode="inner")] = (255, 220, 0)
    return out


def _errors(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    out = np.zeros((*truth.shape, 3), np.uint8)
    out[(truth > 0) & (predicted > 0)] = RIGHT
    out[(truth > 0) & (predicted == 0)] = MISSED
    out[(truth == 0) & (predicted > 0)] = EXTRA
    return out


def _fit(view: np.ndarray) -> np.ndarray:
    scale = EDGE / max(view.shape[:2])
    size = (max(1, round(view.shape[1] * scale)), max(1, round(view.shape[0] * scale)))
    return np.asarray(Image.fromarray(view).resize(size, Image.Resampling.NEAREST))
