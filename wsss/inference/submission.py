"""The competition's submission: a row an image, `ID,ImageWidth,ImageHeight,PredictionString`.

A PredictionString holds class, confidence and mask of each prediction; every row is checked when written and when read.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd

from wsss.core import rle
from wsss.core.checks import DataError, check_range
from wsss.core.csv_text import check_columns, iter_text
from wsss.core.files import write_atomic
from wsss.inference.tables import score_columns
from wsss.runs.result_record import check_recorded

COLUMNS = ("ID", "ImageWidth", "ImageHeight", "PredictionString")


@dataclass(frozen=True)
class SubmittedImage:
    """What a submission says of one image."""

    image_id: str
    size: tuple[int, int]
    """(H, W) of the original image; (0, 0) where it could not be read."""
    class_ids: np.ndarray
    """(P,) int64."""
    scores: np.ndarray
    """(P,) float64 in [0, 1]."""
    mask_index: np.ndarray
    """(P,) int64, which of the masks each prediction has."""
    masks: tuple[bytes, ...]
    """The distinct masks as COCO counts."""


@dataclass(frozen=True)
class Written:
    """What a submission came to."""

    images: int
    empty: int
    """Images without a single prediction; they have a row all the same."""
    predictions: int


def write_submission(
    path: Path,
    images: pd.DataFrame,
    cells: Iterable[tuple[str, pd.DataFrame]],
    *,
    min_score: float = 0.01,
) -> Written:
    """Write a submission; every row is read back and checked first, and the file appears whole or not at all.

    Args:
        path: the file.
        images: every image in the wanted order: ID, ImageHeight, ImageWidth (missing sizes become 0).
        cells: (ID, its cells) in the order of `images`, for those that have cells: `tables.iter_cells`.
        min_score: leave out predictions below this. Average precision gains from low scores too, so this only
            keeps the file small.

    Raises:
        DataError: cells of an image that is not in `images` or comes too late, or a row that does not hold.
    """
    check_range("min_score", min_score, 0, 1)
    check_columns(images, COLUMNS[:3], path)
    totals = {"empty": 0, "predictions": 0}

    def pour(stream: IO[bytes]) -> None:
        stream.write((",".join(COLUMNS) + "\n").encode())
        for image_id, size, rows in _side_by_side(images, cells, path):
            text = _prediction_string(rows, min_score) if rows is not None else ""
            where = f"{path} ({image_id})"
            parsed = parse_row(where, image_id, size, text, _classes(rows, path))
            totals["empty"] += not text
            totals["predictions"] += len(parsed.scores)
            stream.write(f"{_quoted(image_id)},{size[1]},{size[0]},{text}\n".encode())

    write_atomic(path, pour)
    return Written(len(images), totals["empty"], totals["predictions"])


def _side_by_side(
    images: pd.DataFrame, cells: Iterable[tuple[str, pd.DataFrame]], path: Path
) -> Iterator[tuple[str, tuple[int, int], pd.DataFrame | None]]:
    """Yield (ID, size, its cells or None) for every image."""
    waiting = iter(cells)
    name, rows = next(waiting, (None, None))
    sizes = images[["ImageHeight", "ImageWidth"]].fillna(0).to_numpy(np.int64)
    for image_id, size in zip(images.ID, sizes.tolist(), strict=True):
        if name == image_id:
            yield image_id, (size[0], size[1]), rows
            name, rows = next(waiting, (None, None))
        else:
            yield image_id, (size[0], size[1]), None
    if name is not None:
        raise DataError(f"{path}: the cells of {name} are not in the order of the images, or it is none of them.")


def _classes(cells: pd.DataFrame | None, path: Path) -> int:
    return len(score_columns(cells, path)) if cells is not None else 0


def _prediction_string(cells: pd.DataFrame, min_score: float) -> str:
    names = [name for name in cells if str(name).isdecimal()]
    parts = []
    for values, counts in zip(cells[names].to_numpy(np.float64), cells.rle, strict=True):
        mask = rle.to_submission(counts.encode("ascii"))
        kept = np.flatnonzero((values >= min_score) & (values > 0))
        parts += [f"{names[k]} {values[k]:.6g} {mask}" for k in kept]
    return " ".join(parts)


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',"\n\r') else text


def parse_row(where: str, image_id: str, size: tuple[int, int], text: str, classes: int) -> SubmittedImage:
    """Read a row of a submission and check all of it: the triplets, class ids, confidences, every mask's size.

    Args:
        where: file and row, for messages.
        image_id: the image.
        size: its (H, W).
        text: the PredictionString; '' for no predictions.
        classes: number of classes K.

    Raises:
        DataError: something does not hold.
    """
    words = text.split()
    if len(words) % 3:
        raise DataError(f"{where}: {len(words)} words in PredictionString, expected class, confidence, mask each.")
    try:
        class_ids = np.array([int(word) for word in words[0::3]], np.int64)
        scores = np.array([float(word) for word in words[1::3]], np.float64)
    except ValueError as error:
        raise DataError(f"{where}: {error}; expected class, confidence, mask each.") from None
    for values, low, high, what in ((class_ids, 0, classes - 1, "class"), (scores, 0, 1, "confidence")):
        wrong = values[~((values >= low) & (values <= high))]
        if wrong.size:
            raise DataError(f"{where}: the {what} {wrong[0]:g} is outside {low}..{high}.")
    places: dict[str, int] = {}
    mask_index = np.array([places.setdefault(word, len(places)) for word in words[2::3]], np.int64)
    try:
        masks = tuple(rle.from_submission(word) for word in places)
        rle.check(masks, size)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    return SubmittedImage(image_id, size, class_ids, scores, mask_index, masks)


def iter_submission(path: Path, classes: int) -> Iterator[SubmittedImage]:
    """Read a submission image by image, checking everything; memory is that of a few rows.

    Raises:
        DataError: the file is missing, has other columns, an image comes twice, or a row does not hold.
    """
    check_recorded(path)
    seen: set[str] = set()
    for chunk in iter_text(path, COLUMNS, chunk=32):
        for row, image_id, width, height, text in chunk[list(COLUMNS)].itertuples(name=None):
            where = f"{path} row {row} ({image_id})"
            if image_id in seen:
                raise DataError(f"{where}: the image comes twice.")
            if not all(re.fullmatch(r"[0-9]{1,9}", text) for text in (width, height)):
                raise DataError(f"{where}: the image is '{width}' x '{height}', expected pixels.")
            seen.add(image_id)
            yield parse_row(where, image_id, (int(height), int(width)), text, classes)
