"""Bring image files and label table together, before anything is decoded."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from wsss.core.checks import ConfigError, DataError, nearest, some
from wsss.core.csv_text import carried_names
from wsss.core.files import composed, listed
from wsss.core.labels import format_label
from wsss.data import ids
from wsss.data.planes import ImageFiles
from wsss.data.tables import LabelTable


@dataclass(frozen=True)
class Matched:
    """The images of one source with their labels."""

    files: list[ImageFiles]
    labels: list[str | None]
    """As in the column Label: '8|5|0', None without labels."""
    notes: list[str]
    """What the user should know, a line each."""
    carried: pd.DataFrame
    """(N rows) the other columns of the label table as text, '' for images that it does not name."""


def match(files: Sequence[ImageFiles], table: LabelTable | None, *, allow_unlabelled: bool) -> Matched:
    """Give every image its labels.

    Raises:
        DataError: with a table, images that it does not name (unless they are allowed), or no image that it names.
    """
    if table is None:
        return Matched(list(files), [None] * len(files), [], pd.DataFrame(index=range(len(files))))
    named = table.labels.keys() | set(table.vanished)
    names = [ID if ID in named else table.aliases.get(ID, ID) for ID in (image.ID for image in files)]
    ids.check_distinct(sorted({*named, *names}), f"{table.path} and the image files")
    without = [image.ID for image, name in zip(files, names, strict=True) if name not in named]
    if len(without) == len(files):
        raise DataError(
            f"{table.path} names none of the {len(files)} images: it begins with {some(sorted(named), 2)}, "
            f"the images with {some(without, 2)}. Pass the table of these images."
        )
    if without and not allow_unlabelled:
        raise DataError(
            f"{table.path} has no row for {len(without)} of {len(files)} images: {some(without)}. "
            "Complete it, or pass --skip with their IDs, or --allow_unlabelled."
        )
    labels = [format_label(table.labels[name]) if name in table.labels else None for name in names]
    return Matched(list(files), labels, _notes(names, table, without), _carried(table.carried, names))


def _carried(table: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Return the carried columns of the images, named so that none is taken for a column of ours."""
    return table.reindex(names).fillna("").rename(columns=carried_names(table.columns)).reset_index(drop=True)


def _notes(names: Sequence[str], table: LabelTable, without: Sequence[str]) -> list[str]:
    notes = []
    here = set(names)
    absent = [ID for ID in [*table.labels, *table.vanished] if ID not in here]
    vanished = [ID for ID in table.vanished if ID in here]
    if absent:
        notes.append(f"{table.path} names {len(absent)} IDs that have no image files: {some(absent)}.")
    if without:
        notes.append(f"{len(without)} images are taken without labels: {some(without)}.")
    if table.lost:
        counts = some(f"{name} ({count} rows)" for name, count in table.lost.items())
        notes.append(f"labels without a counterpart among the classes are left out: {counts}.")
    if vanished:
        notes.append(f"{len(vanished)} images keep no label, as theirs have no counterpart: {some(vanished)}.")
    if table.merged:
        notes.append(f"{table.path} repeats {table.merged} rows; their labels agree.")
    return notes


def without(files: Sequence[ImageFiles], skip: str) -> list[ImageFiles]:
    """Leave out images by ID.

    Args:
        files: all images.
        skip: IDs separated by commas, or the path of a text file with one a line.

    Raises:
        ConfigError: an ID is not there, or none would be left.
    """
    if not skip:
        return list(files)
    wanted = {composed(name) for name in listed(skip)}
    known = {image.ID for image in files}
    if unknown := sorted(wanted - known):
        raise ConfigError(f"--skip names {some(unknown)}, not found among the images.{nearest(unknown[0], known)}")
    left = [image for image in files if image.ID not in wanted]
    if not left:
        raise ConfigError("--skip names all images: nothing is left.")
    return left
