"""A sheet of masks as PNG: image, truth, prediction and error, one image a row."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from skimage.segmentation import find_boundaries

from wsss.core.files import write_atomic

SHEET_EDGE = 320
"""Longer edge of each picture, px."""
GAP = 6
LINE = 16
"""Height of a line of text, px."""
MISSED, EXTRA, RIGHT, ALONE = (40, 110, 255), (255, 60, 40), (90, 90, 90), (255, 220, 0)
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
    views = [photo, _outlined(photo, truth), _outlined(photo, predicted), _errors(truth, predicted, row.alone)]
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


def _outlined(photo: np.ndarray, label_map: np.ndarray) -> np.ndarray:
    out = (photo // 2).astype(np.uint8)
    out[label_map > 0] += 60
    out[find_boundaries(label_map, mode="inner")] = ALONE
    return out


def _errors(truth: np.ndarray, predicted: np.ndarray, alone: np.ndarray | None) -> np.ndarray:
    out = np.zeros((*truth.shape, 3), np.uint8)
    out[(truth > 0) & (predicted > 0)] = RIGHT
    out[(truth > 0) & (predicted == 0)] = MISSED
    out[(truth == 0) & (predicted > 0)] = EXTRA
    if alone is not None:
        out[find_boundaries(truth * np.isin(truth, alone), mode="inner")] = ALONE
    return out
