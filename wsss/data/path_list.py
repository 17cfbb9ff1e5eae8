"""Images listed in a table of paths, `path_list.csv`: r_image, y_image, b_image, g_image, ..., output_prefix."""

import itertools
from pathlib import Path

from wsss.core.checks import DataError, some
from wsss.core.csv_text import open_rows
from wsss.core.files import as_on_disk
from wsss.core.rasters import SUFFIXES
from wsss.data import ids
from wsss.data.planes import Found, ImageFiles

COLUMNS = ("r_image", "g_image", "b_image", "y_image")
"""Columns of the channels, in the order red, green, blue, yellow."""
_OLD = ("r_image", "y_image", "b_image", "g_image", "output_folder", "output_prefix")
"""Columns of a list without a header."""


def read_path_list(path: Path, channels: tuple[str, ...]) -> Found:
    """Read a list of images; paths in it start from its own folder.

    The first line may be a header, also one behind '#'. An image's ID is its output_prefix without a '_' at the end
    and with '_' for '/'; without a prefix, the name of its green file without the channel.

    Raises:
        DataError: the list is missing, empty or lacks a column, or an ID is none or comes twice.
    """
    rows = _rows(path)
    found = Found()
    for line, row in rows:
        ID = _id(row, channels)
        reason = ids.fault(ID)
        if reason:
            raise DataError(f"{path} row {line}: the ID {ids.shown(ID)} {reason}: mend its output_prefix.")
        found.images.append(_image(ID, row, channels, line, path.parent))
    found.images.sort(key=lambda image: image.ID)
    names = [image.ID for image in found.images]
    twice = sorted({name for name, after in itertools.pairwise(names) if name == after})
    if twice:
        raise DataError(f"{path}: the ID(s) {some(twice)} come twice: give each row its own output_prefix.")
    ids.check_distinct(names, str(path))
    return found


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Return (line, column -> value) of every row."""
    lines = [(line, [value.strip() for value in row]) for line, row in open_rows(path).rows]
    header = list(_OLD)
    if lines and "r_image" in (first := [value.lstrip("# ").lower() for value in lines[0][1]]):
        header, lines = first, lines[1:]
    missing = [name for name in COLUMNS if name not in header]
    if missing or not lines:
        what = f"lacks the column(s) {some(missing)}" if missing else "lists no images"
        raise DataError(f"{path} {what}: expected {', '.join(COLUMNS)} and output_prefix.")
    rows = [(k, row) for k, row in lines if not row[0].startswith("#")]
    return [(k, dict(zip(header, [*row, *[""] * len(header)], strict=False))) for k, row in rows]


def _id(row: dict[str, str], channels: tuple[str, ...]) -> str:
    prefix = row.get("output_prefix", "").replace("\\", "/").strip("/").replace("/", "_").rstrip("_")
    if prefix:
        return prefix
    stem = Path(row["g_image"].replace("\\", "/")).stem
    head, _, tail = stem.rpartition("_")
    return head if head and tail in (*channels, "green") else stem


def _image(ID: str, row: dict[str, str], channels: tuple[str, ...], line: int, folder: Path) -> ImageFiles:
    names = tuple(as_on_disk(folder, row[column]) for column in COLUMNS)
    missing = [channel for channel, name in zip(channels, names, strict=True) if not name]
    if missing:
        return ImageFiles(ID, tuple(filter(None, names)), f"channel {', '.join(missing)} is missing (row {line})")
    foreign = [name for name in names if not name.lower().endswith(SUFFIXES)]
    if foreign:
        return ImageFiles(ID, names, f"{foreign[0]} is no image that is read, expected {', '.join(SUFFIXES)}")
    return ImageFiles(ID, names, channels=channels)
