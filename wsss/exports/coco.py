"""COCO instances with scores: one JSON file, written annotation by annotation."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd

from wsss.core.checks import DataError
from wsss.core.files import write_atomic
from wsss.core.labels import ClassList
from wsss.exports.geojson import text_stream


def write_coco(
    path: Path,
    images: pd.DataFrame,
    cells: Iterable[tuple[str, pd.DataFrame]],
    classes: ClassList,
    *,
    every_class: bool = False,
    min_score: float = 0.01,
) -> int:
    """Write a COCO file (gzipped if `path` ends in .gz), whole or not at all; return the number of annotations.

    Category ids are the class ids, from 0. An image's `file_name` is its ID.

    Args:
        path: the file.
        images: every image: ID, ImageHeight, ImageWidth.
        cells: (ID, its cells with masks).
        classes: names of the classes.
        every_class: one annotation for each cell and class that scores at least `min_score`, as detection metrics
            want it; else one a cell, with its best class, and all its scores in `scores`.
        min_score: see `every_class`.

    Raises:
        DataError: cells of an image that is not in `images`.
    """
    numbers = {name: k for k, name in enumerate(images.ID, 1)}
    count = 0

    def pour(stream: IO[bytes]) -> None:
        nonlocal count
        with text_stream(stream, path) as text:
            text.write('{"info": ' + json.dumps({"description": "wsss: cells and their classes", "version": "1"}))
            categories = [{"id": k, "name": name, "supercategory": "cell"} for k, name in enumerate(classes.names)]
            text.write(',\n"categories": ' + json.dumps(categories) + ',\n"images": [')
            for number, record in enumerate(_images(images)):
                text.write((",\n" if number else "\n") + json.dumps(record))
            text.write('],\n"annotations": [')
            for name, own in cells:
                if name not in numbers:
                    raise DataError(f"{path}: cells of {name}, which is none of the images: pass its data set.")
                for record in _annotations(own, classes, min_score if every_class else None):
                    count += 1
                    found = {"id": count, "image_id": numbers[name], **record}
                    text.write((",\n" if count > 1 else "\n") + json.dumps(found, allow_nan=False))
            text.write("]}\n")

    write_atomic(path, pour)
    return count


def _images(images: pd.DataFrame) -> Iterator[dict[str, Any]]:
    rows = zip(images.ID, images.ImageHeight.astype(int), images.ImageWidth.astype(int), strict=True)
    for number, (name, height, width) in enumerate(rows, 1):
        yield {"id": number, "file_name": name, "height": int(height), "width": int(width)}


def _annotations(cells: pd.DataFrame, classes: ClassList, min_score: float | None) -> Iterator[dict[str, Any]]:
    scores = cells[classes.columns].to_numpy(np.float64)
    for row, own in zip(cells.to_dict("records"), scores, strict=True):
        y0, x0, y1, x1 = (row[name] for name in ("y0", "x0", "y1", "x1"))
        size = [row["ImageHeight"], row["ImageWidth"]]
        shared = {
            "segmentation": {"size": size, "counts": row["rle"]},
            "area": row["area_px"],
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "iscrowd": 0,
            "cell_id": row["cell_id"],
            "touches_border": bool(row["touches_border"]),
            "fold": row["fold"],
        }
        values = [float(f"{value:.6g}") for value in own]
        if min_score is None:
            top = int(own.argmax())
            yield {"category_id": top, "score": values[top], "scores": values, **shared}
        else:
            for k in np.flatnonzero(own >= min_score).tolist():
                yield {"category_id": k, "score": values[k], **shared}
