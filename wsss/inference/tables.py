"""The tables of predictions: cells.csv and cells.parquet with a row a cell, images.csv with a row an image.

They are the contract with the outside world, so they are checked when read: by us, or by whoever made them.
Positions and sizes are in pixels of the original image; the score of class k stands in the column named k.

The competition's submission has a row an image, `ID,ImageWidth,ImageHeight,PredictionString`; a PredictionString holds
class, confidence and mask of each prediction. Every row is checked when written and when read.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd

from wsss.cells.regions import GEOMETRY_COLUMNS
from wsss.core import rle
from wsss.core.checks import DataError, check_range, some
from wsss.core.csv_text import (
    any_case,
    carried_columns,
    check_columns,
    csv_bytes,
    iter_text,
    numbers,
    read_text,
    unguard_text,
    write_csv,
)
from wsss.core.files import digest_file, write_atomic
from wsss.core.labels import ClassList
from wsss.core.parquet import TableWriter, batches, named, open_parquet, read_parquet
from wsss.data.ids import check_names
from wsss.data.origin import PROVENANCE, check_predictions, read_provenance
from wsss.runs.result_record import check_recorded, check_sizes

CELL_COLUMNS = ("ID", "cell_id", "fold", "ImageHeight", "ImageWidth", *GEOMETRY_COLUMNS)
IMAGE_COLUMNS = ("ID", "fold", "n_cells", "status")
_AGAIN = "Run python -m wsss.infer again to make it."
WHOLE = ("cell_id", "fold", "ImageHeight", "ImageWidth", "y0", "x0", "y1", "x1", "area_px")


FILES = ("cells.parquet", "cells.csv", "images.csv", "submission.csv", PROVENANCE)
"""What the folder of a prediction holds."""


def prediction_files(folder: Path) -> list[Path]:
    """Return the files of a prediction, whether they are there or not; a publishing that was cut short is completed."""
    check_predictions(folder)
    check_sizes(folder)
    check_recorded(folder / PROVENANCE)
    return [folder / name for name in FILES]


def is_mask_folder(preds: Path) -> bool:
    """Whether a folder of predictions is of the task 'masks'."""
    return read_provenance(preds).get("task") == "masks"


def cells_frame(
    image_id: str,
    *,
    fold: int,
    size: tuple[int, int],
    cell_ids: np.ndarray,
    geometry: Mapping[str, Any],
    scores: np.ndarray,
    rle: Sequence[bytes],
) -> pd.DataFrame:
    """Build the rows of one image's cells.

    Args:
        fold: the fold that held it out, -1 for none.
        size: (H, W) of the original image.
        cell_ids: (N,) values of the cells in the label map.
        geometry: the columns of GEOMETRY_COLUMNS, (N,) each.
        scores: (N, K) in [0, 1].
        rle: N masks as COCO counts at `size`.
    """
    columns: dict[str, Any] = {
        "ID": pd.Series([image_id] * len(cell_ids), dtype="str"),
        "cell_id": np.asarray(cell_ids, np.int64),
        "fold": np.full(len(cell_ids), fold, np.int64),
        "ImageHeight": np.full(len(cell_ids), size[0], np.int64),
        "ImageWidth": np.full(len(cell_ids), size[1], np.int64),
    }
    for name in GEOMETRY_COLUMNS:
        kind = bool if name == "touches_border" else np.int64 if name in WHOLE else np.float64
        columns[name] = np.asarray(geometry[name], kind)
    columns |= {str(k): np.asarray(scores[:, k], np.float32) for k in range(scores.shape[1])}
    columns["rle"] = pd.Series([counts.decode("ascii") for counts in rle], dtype="str")
    return pd.DataFrame(columns)


def write_cells(folder: Path, frames: Iterable[pd.DataFrame]) -> int:
    """Write cells.csv and cells.parquet from frames of cells, one or more images each, and return the rows.

    The frames are taken one by one, so memory stays flat; both files appear whole, or neither. An image's rows must
    follow each other. Where there are no cells at all, give one frame without rows, for its columns.
    """
    rows = 0

    def pour(text: IO[bytes], binary: IO[bytes]) -> None:
        nonlocal rows
        with TableWriter(binary) as writer:
            for frame in gathered(frames):
                text.write(csv_bytes(frame.drop(columns="rle"), header=writer.empty))
                writer.add(frame)
        rows = writer.rows

    def both(text: IO[bytes]) -> None:
        write_atomic(folder / "cells.parquet", lambda binary: pour(text, binary))

    write_atomic(folder / "cells.csv", both)
    return rows


TOGETHER = 1 << 17
"""Values that are turned into rows of a file at once: a call of pandas takes as long for one image as for a hundred."""


def gathered(frames: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    """Join frames of the same columns, as many as fit into TOGETHER values."""
    waiting: list[pd.DataFrame] = []
    size = 0
    for frame in frames:
        waiting.append(frame)
        size += frame.size
        if size >= TOGETHER:
            yield _joined(waiting)
            waiting, size = [], 0
    if waiting:
        yield _joined(waiting)


def _joined(frames: list[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0]


EMBEDDINGS = "embeddings.parquet"
"""ID, cell_id, and a float32 column for each element of the cells' vectors; rows as in cells.parquet."""


def write_embeddings(folder: Path, frames: Iterable[pd.DataFrame]) -> int:
    """Write embeddings.parquet from frames that are taken one by one: ID, cell_id and a column for each element.

    Returns:
        the elements of a vector.
    """
    width = 0

    def pour(stream: IO[bytes]) -> None:
        nonlocal width
        with TableWriter(stream) as writer:
            for frame in gathered(frames):
                writer.add(frame)
                width = len(frame.columns) - 2

    write_atomic(folder / EMBEDDINGS, pour)
    return width


def read_embeddings(folder: Path, cells: pd.DataFrame) -> pd.DataFrame | None:
    """Read the vectors of the cells of `read_cells`, (N, D) float32 with named columns; None where there are none.

    A cell that vanished when its image was scaled has no vector: its row is NaN.

    Raises:
        DataError: the file is damaged, is not of these cells, or holds other than numbers.
    """
    path = folder / EMBEDDINGS
    check_recorded(path)
    if not path.exists():
        return None
    table = read_parquet(path, again=_AGAIN)
    check_columns(table, ["ID", "cell_id"], path)
    same = len(table) == len(cells) and (table.ID.to_numpy() == cells.ID.to_numpy()).all()
    if not same or (table.cell_id.to_numpy() != cells.cell_id.to_numpy()).any():
        raise DataError(f"{path} is not of the cells in {folder / 'cells.parquet'}, row for row. {_AGAIN}")
    vectors = table.drop(columns=["ID", "cell_id"])
    if wrong := [name for name in vectors if vectors[name].dtype.kind != "f"]:
        raise DataError(f"{path}: the column {some(wrong)} holds no numbers. {_AGAIN}")
    return vectors


def write_images(folder: Path, table: pd.DataFrame) -> None:
    """Write images.csv: IMAGE_COLUMNS and a score column per class; a failed image has no scores."""
    write_csv(folder / "images.csv", table)


def _unguarded(table: pd.DataFrame) -> pd.DataFrame:
    return unguard_text(table, ["ID", *carried_columns(table.columns)])


def put_carried(frame: pd.DataFrame, carried: Mapping[str, str]) -> pd.DataFrame:
    """Put columns that are the same for all rows of an image before its scores."""
    at = next((k for k, name in enumerate(frame.columns) if name.isdecimal()), len(frame.columns))
    new = pd.DataFrame({name: pd.Series([text] * len(frame), frame.index, "str") for name, text in carried.items()})
    return pd.concat([frame.iloc[:, :at], new, frame.iloc[:, at:]], axis=1) if carried else frame


def score_columns(table: pd.DataFrame, path: Path) -> list[str]:
    """Return the names of the score columns, '0' ... 'K-1'.

    Raises:
        DataError: there is none, or they have a gap.
    """
    columns = {name for name in map(str, table.columns) if name.isdecimal()}
    names = [str(k) for k in range(len(columns))]
    if not columns or columns != set(names):
        raise DataError(f"{path} has the score columns {some(sorted(columns))}, expected 0, 1, 2, ... without a gap.")
    return names


def other_names(recorded: Any, names: Sequence[str]) -> str:
    """Return in which places recorded names of classes are others, in words; '' if in none, or nothing is recorded."""
    pairs = zip(recorded if isinstance(recorded, list) else (), names, strict=False)
    return some([f"{now} instead of {then}" for then, now in pairs if then != now], 3)


def check_classes(preds: Path, columns: Sequence[str], classes: ClassList, data: Path) -> None:
    """Refuse predictions whose score columns are not those of the classes of a data set.

    Raises:
        DataError: there are more or fewer, or they are recorded under other names or in another order.
    """
    if others := other_names(read_provenance(preds).get("classes"), classes.names):
        raise DataError(
            f"the classes of {data} are others than those that {preds} has scores of ({others}): prepare it as it was, "
            "or predict again."
        )
    if list(columns) != classes.columns:
        raise DataError(
            f"{preds} has {len(columns)} classes, {data} has {len(classes)}: it is not the data set that was predicted."
        )


def read_cells(folder: Path) -> pd.DataFrame:
    """Read all cells without their masks, from cells.parquet or else cells.csv.

    Raises:
        DataError: neither is there, or a row is not what it must be; names file and row.
    """
    path = cells_file(folder)
    check_recorded(path)
    if path.suffix == ".parquet":
        table = read_parquet(path, leave_out=["rle"], again=_AGAIN)
        table.index = pd.RangeIndex(1, len(table) + 1)
    else:
        table = _unguarded(read_text(path, CELL_COLUMNS))
    return _checked_cells(table, path)


def cells_file(folder: Path) -> Path:
    """Return the file that cells are read from: cells.parquet, or cells.csv where that is not there."""
    path = folder / "cells.parquet"
    return path if path.exists() else folder / "cells.csv"


def table_digest(folder: Path) -> str:
    """Return the digest of the table of cells, by which figures know the predictions they are of."""
    return digest_file(cells_file(folder))


def iter_cells(folder: Path) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield (ID, its cells with `rle`) image by image from cells.parquet, memory flat in the number of images.

    Raises:
        DataError: the file is missing, has no masks, or a row is not what it must be.
    """
    path = folder / "cells.parquet"
    check_recorded(path)
    file = open_parquet(path, _AGAIN)
    check_columns(pd.DataFrame(columns=file.schema_arrow.names), ["rle"], path)
    held, row = pd.DataFrame(), 1
    seen: set[str] = set()
    for batch in _batches(file, path):
        if not batch.num_rows:
            continue
        table = batch.to_pandas().set_axis(pd.RangeIndex(row, row + batch.num_rows), axis=0)
        table = _checked_cells(table, path)
        row += len(table)
        table = pd.concat([held, table], ignore_index=True) if len(held) else table
        borders = np.flatnonzero(table.ID.ne(table.ID.shift()))
        for start, stop in zip(borders, [*borders[1:], None], strict=True):
            rows = table.iloc[start:stop].reset_index(drop=True)
            if stop is None:
                held = rows  # its image may go on in the next batch
            else:
                yield _once(rows, seen, path), rows
    if len(held):
        yield _once(held, seen, path), held


def _once(cells: pd.DataFrame, seen: set[str], path: Path) -> str:
    name = str(cells.ID.iloc[0])
    if name in seen:
        raise DataError(f"{path}: the cells of {name} do not follow each other; sort the table by ID.")
    if cells.cell_id.duplicated().any():
        raise DataError(f"{path}: a cell of {name} comes twice.")
    seen.add(name)
    return name


def _batches(file: Any, path: Path) -> Iterator[Any]:
    with named(path, _AGAIN):
        yield from batches(file, path, rows=4096)


def read_images(folder: Path, columns: Sequence[str] = ()) -> pd.DataFrame:
    """Read images.csv; images whose status is not ok may have no scores (NaN).

    Args:
        columns: the score columns of their cells; empty where these are not read.

    Raises:
        DataError: the file is missing, has other classes than the cells, or a row is not what it must be; names file
            and row.
    """
    path = folder / "images.csv"
    check_recorded(path)
    table = _unguarded(read_text(path, IMAGE_COLUMNS))
    found = score_columns(table, path)
    if columns and found != list(columns):
        raise DataError(f"{path} has {len(found)} classes, the table of cells beside it has {len(columns)}.")
    table = _numbers(table, ("fold", "n_cells"), path, whole=True)
    good = (table.status == "ok").to_numpy()
    _put_scores(table, path, good)
    _no_doubles(table, ["ID"], path)
    check_names(table.ID, path)
    return table.reset_index(drop=True)


def _checked_cells(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Check cells whose index holds their rows in the file."""
    table = any_case(table, CELL_COLUMNS, path)
    check_columns(table, CELL_COLUMNS, path)
    table = _numbers(table, WHOLE, path, whole=True)
    table = _numbers(table, ("center_y", "center_x"), path)
    _put_scores(table, path, np.ones(len(table), bool))
    table["touches_border"] = table.touches_border.astype(str).str.lower().isin(["true", "1"])
    _no_doubles(table, ["ID", "cell_id"], path)
    check_names(table.ID.unique(), path)
    return table.reset_index(drop=True)


def _numbers(table: pd.DataFrame, names: Sequence[str], path: Path, *, whole: bool = False) -> pd.DataFrame:
    return table.assign(**{name: numbers(table, name, path, whole=whole) for name in names})


def _put_scores(table: pd.DataFrame, path: Path, wanted: np.ndarray) -> None:
    """Turn the scores into float32, after checking that they lie in [0, 1]; only rows not wanted may be empty."""
    names = score_columns(table, path)
    scores = _scores_at_once(table[names], path) if wanted.all() else None
    if scores is not None:
        table[names] = scores
        return
    for name in names:
        text = table[name]
        empty = ~wanted & (text.isna() | (text.astype("str").str.strip() == "")).to_numpy()
        values = np.full(len(table), np.nan)
        values[~empty] = numbers(table[~empty], name, path, called=f"the score of class {name}")
        wrong = np.flatnonzero(~empty & ~((values >= 0) & (values <= 1)))
        if wrong.size:
            raise DataError(
                f"{path} row {table.index[wrong[0]]}: the score of class {name} is '{text.iloc[wrong[0]]}', "
                "expected 0..1."
            )
        table[name] = values.astype(np.float32)


def _scores_at_once(table: pd.DataFrame, path: Path) -> np.ndarray | None:
    """Return (N, K) float32 scores; None where one is none: column by column, which takes far longer, tells which."""
    found = np.empty(table.shape, np.float32)
    step = max(1, TOGETHER // table.shape[1])
    for start in range(0, len(table), step):
        rows = table.iloc[start : start + step]
        flat = pd.DataFrame({"score": rows.to_numpy().ravel()})
        flat.attrs = table.attrs
        try:
            values = numbers(flat, "score", path)
        except DataError:
            return None
        if not ((values >= 0) & (values <= 1)).all():
            return None
        found[start : start + step] = values.reshape(rows.shape)
    return found


def _no_doubles(table: pd.DataFrame, key: list[str], path: Path) -> None:
    twice = np.flatnonzero(table.duplicated(key))
    if twice.size:
        row = int(twice[0])
        what = " of ".join(str(v) for v in table[key].iloc[row][::-1])
        raise DataError(f"{path} row {table.index[row]}: {what} comes twice.")


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
    except (ValueError, OverflowError) as error:
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
