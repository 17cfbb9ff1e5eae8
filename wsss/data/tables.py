"""Label tables in every common form, read into class ids per image and matched with the image files."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pandas as pd

from wsss.core.checks import ConfigError, DataError, UserError, nearest, some, unlike
from wsss.core.console import say_notes
from wsss.core.csv_text import (
    NO_VALUE,
    any_case,
    carried_names,
    check_no_decimals,
    first_of,
    numbers,
    read_text,
    unguard_text,
)
from wsss.core.files import composed, listed
from wsss.core.labels import HPA, HPA_CHANNELS, KAGGLE2018_TO_HPA, LABEL_COLUMNS, ClassList, LabelReader, format_label
from wsss.core.rasters import image_names
from wsss.core.reading import read_yaml
from wsss.data import ids
from wsss.data.catalog import PIXEL_SIZE
from wsss.data.image_files import ImageFiles

Read = Callable[[Sequence[str]], "tuple[tuple[int, ...], list[str]]"]
"""Turns the label cells of a row into class ids and labels without a counterpart. Raises ValueError with the fault."""

TARGET = "Target"
"""The label column of the 2018 competition."""


@dataclass
class LabelTable:
    """Labels by ID."""

    path: Path
    labels: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """ID -> sorted class ids."""
    vanished: list[str] = field(default_factory=list)
    """IDs whose labels have no counterpart among the classes: they are in the table, without labels."""
    merged: int = 0
    """Rows that repeated an ID with the same labels."""
    differ: list[str] = field(default_factory=list)
    """Other columns that differ in such rows: the first row counts."""
    lost: dict[str, int] = field(default_factory=dict)
    """Label without a counterpart -> rows that have it."""
    aliases: dict[str, str] = field(default_factory=dict)
    """Other name of an image's files -> its ID here; only names that no two images share."""
    carried: pd.DataFrame = field(default_factory=pd.DataFrame)
    """The other columns as text, with the IDs as index."""

    @cached_property
    def named(self) -> set[str]:
        """The IDs in it."""
        return {*self.labels, *self.vanished}

    def name_of(self, ID: str) -> str:
        """Return what an image is called here, which may be by a file of one of its channels."""
        return ID if ID in self.named else self.aliases.get(ID, ID)

    def encoded(self, images: Iterable[str], classes: ClassList) -> dict[str, np.ndarray]:
        """Return ID -> (K,) float32 labels; some images are called as they are in `images`, others as they are here.

        Raises:
            DataError: it names none of these images.
        """
        names = {self.name_of(ID): ID for ID in images}
        if names and names.keys().isdisjoint(self.named):
            raise DataError(
                f"{self.path} names none of the {len(names)} images: "
                f"{unlike(sorted(self.named), list(names), 'it', 'the predictions')}. Pass the table of these images."
            )
        return {names.get(name, name): classes.encode(ids) for name, ids in self.labels.items()}


def read_labels(path: Path, classes: ClassList, channels: Sequence[str] = HPA_CHANNELS) -> LabelTable:
    """Read a label table.

    Columns, separated by comma, semicolon or tab: `ID,Label` with labels like `8|5|0`, `8 5 0`, `[8, 5, 0]` or
    `Nucleoplasm|Cytosol` (ids or names, see `LabelReader`); `Image,Label` of the public Atlas, with addresses or names
    of files; `Id,Target` of the 2018 competition, mapped to the 19 classes; or `ID` and one 0/1 column per class, named
    by its id or its name. Other columns are carried along. Upper and lower case of column names are the same. An image
    may be named by the file of one of its `channels`.

    Raises:
        DataError: the table is none of these, or has bad rows, named by their line in the file.
    """
    table = read_text(path, (), ["ID", *LABEL_COLUMNS, TARGET, PIXEL_SIZE])
    if "ID" not in table:
        raise DataError(f"{path} has the columns {some(table.columns)}: expected one named ID.")
    columns, read = _reader(path, table, classes)
    names = unguard_text(table[["ID"]]).ID.tolist()
    image_names([name for name in names if name and "://" not in name], path)
    rows = _read_rows(
        path, zip(table.index, names, table[columns].itertuples(index=False), strict=True), read, channels
    )
    first: dict[str, _Row] = {}
    others: dict[str, set[str]] = {}
    for row in rows:
        first.setdefault(row.ID, row)
        for name in row.also:
            others.setdefault(name, set()).add(row.ID)
    ids.check_distinct(first, str(path))
    gone = {row.ID for row in rows if row.lost and not row.labels}
    others_than = _with_pixel_sizes(table.drop(columns=["ID", *columns]), path)
    several = (
        others_than.groupby([row.ID for row in rows], sort=False).nunique() > 1 if len(first) < len(rows) else None
    )
    return LabelTable(
        path,
        labels={ID: row.labels for ID, row in first.items() if ID not in gone},
        vanished=[ID for ID in first if ID in gone],
        merged=len(rows) - len(first),
        differ=[] if several is None else [str(name) for name in several.columns[several.any()]],
        lost=dict(Counter(label for row in rows for label in row.lost)),
        aliases={name: alike.pop() for name, alike in others.items() if len(alike) == 1},
        carried=_carried(others_than.loc[[row.line for row in first.values()]], list(first)),
    )


@dataclass(frozen=True)
class _Row:
    """A row of a label table."""

    line: int
    ID: str
    also: list[str]
    """Further names that its image may go by."""
    labels: tuple[int, ...]
    lost: list[str]
    """Labels without a counterpart among the classes."""


def _read_rows(
    path: Path, rows: Iterable[tuple[int, str, Sequence[str]]], read: Read, channels: Sequence[str]
) -> list[_Row]:
    """Read the rows (line, name of the image, label cells) of a table."""
    found: list[_Row] = []
    first: dict[str, _Row] = {}
    faults: dict[str, list[int]] = {}
    for line, name, cells in rows:
        try:
            ID, *also = ids.from_name(name, channels)
            if reason := ids.fault(ID):
                raise ValueError(f"the ID {ids.shown(ID)} {reason}")
            row = _Row(line, ID, also, *read(cells))
            if (before := first.setdefault(ID, row)).labels != row.labels:
                raise ValueError(f"the ID {ids.shown(ID)} has other labels in row {before.line}")
        except ValueError as error:
            faults.setdefault(str(error), []).append(line)
            continue
        found.append(row)
    if faults:
        said = [f"row{'s' * (len(lines) > 1)} {some(lines, 3)}: {fault}" for fault, lines in faults.items()]
        bad = sum(map(len, faults.values()))
        raise DataError(f"{path}: {bad} bad row(s): {'; '.join(said[:5])}. Fix them and start again.")
    if not found:
        raise DataError(f"{path} has no rows below its header.")
    return found


def _with_pixel_sizes(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Return the columns with the edges of pixels, if they have any, as numbers with a decimal point, '' for none."""
    if PIXEL_SIZE not in table:
        return table
    known = table[~table[PIXEL_SIZE].str.lower().isin(NO_VALUE)]
    edges = [f"{edge:.6g}" for edge in numbers(known, PIXEL_SIZE, path, low=1e-4)]
    return table.assign(**{PIXEL_SIZE: pd.Series(edges, known.index, dtype="str").reindex(table.index, fill_value="")})


def _carried(table: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Return the columns that are no labels, without those that are empty, with the IDs as index."""
    table = table.set_axis(pd.Index(names, name="ID", dtype="str"))
    return table.loc[:, (table != "").any(axis=0).to_numpy(bool)]


def read_classes(path: Path) -> ClassList:
    """Read a class list from YAML: `names:` (list, in the order of ids) and `negative:` (id or name, optional).

    Raises:
        DataError: the file is not such a list.
    """
    value = read_yaml(path)
    names = value.get("names") if isinstance(value, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path}: expected 'names:' with a list of class names, and 'negative:' with one of them.")
    if unknown := set(value) - {"names", "negative"}:
        raise DataError(f"{path} has the unknown key {some(sorted(map(str, unknown)))}: names, negative.")
    names = [composed(name.strip()) for name in names]
    if "" in names:
        raise DataError(f"{path}: class {names.index('')} has no name, expected letters or digits.")
    negative = value.get("negative")
    if isinstance(negative, str):
        negative = composed(negative.strip())
        if negative not in names:
            raise DataError(f"{path}: negative is '{negative}', which is none of the names.")
        negative = names.index(negative)
    if negative is not None and not isinstance(negative, int):
        raise DataError(f"{path}: negative is {negative!r}, expected a class id or name.")
    try:
        return ClassList(tuple(names), negative)
    except UserError as error:
        raise DataError(f"{path}: {error}") from None


def _reader(path: Path, table: pd.DataFrame, classes: ClassList) -> tuple[list[str], Read]:
    """Return the columns of the labels, and what reads them in a row."""
    names = list(table.columns)
    name, notes = first_of([*LABEL_COLUMNS, TARGET], table, path)
    is_2018 = name == TARGET and classes == HPA
    if is_2018 and table[name].str.contains(r"\d").any():
        notes.append(
            f"{path}: {TARGET} is read as the 28 classes of the 2018 competition and mapped to the 19; if it holds ids "
            f"of the 19, call it {LABEL_COLUMNS[0]}."
        )
    say_notes(notes)
    hot: list[str] = []
    for wanted in (classes.columns, list(classes.names)):
        found = any_case(table, wanted, path).columns
        if not hot and set(wanted) <= set(found):
            hot = [names[k] for k in map(list(found).index, wanted)]
    if name:
        check_no_decimals(table, name, path)
        reader = LabelReader(classes, KAGGLE2018_TO_HPA if is_2018 else None)
        hot = [] if is_2018 else hot
        return [name, *hot], partial(_read_text, reader, [name, *hot])
    if hot:
        return hot, partial(_read_one_hot, hot, classes)
    raise DataError(
        f"{path} has the columns {some(names, 30)}: expected ID and Label, Id and Target, or ID and one column for "
        f"each of the {len(classes)} classes (0..{len(classes) - 1}, or their names)."
    )


def _read_text(reader: LabelReader, columns: Sequence[str], row: Sequence[str]) -> tuple[tuple[int, ...], list[str]]:
    """Read the label column of a row; behind it may stand a column for each class, which must say the same."""
    labels, lost = reader.read(row[0])
    if not lost:
        _check_any(labels, reader.classes)
    values = [_ONE_HOT.get(text.lower()) for text in row[1:]]
    if values and None not in values and (hot := tuple(k for k, value in enumerate(values) if value)) != labels:
        raise ValueError(
            f"{columns[0]} is {ids.shown(row[0])}, but the columns of the classes say '{format_label(hot)}': take "
            f"{columns[0]} or these out"
        )
    return labels, lost


_ONE_HOT = {"0": False, "0.0": False, "0,0": False, "false": False, "1": True, "1.0": True, "1,0": True, "true": True}


def _read_one_hot(columns: Sequence[str], classes: ClassList, row: Sequence[str]) -> tuple[tuple[int, ...], list[str]]:
    labels = []
    for k, (column, text) in enumerate(zip(columns, row, strict=True)):
        value = _ONE_HOT.get(text.strip().lower())
        if value is None:
            raise ValueError(f"column {column} is {ids.shown(text)}, expected 0 or 1")
        if value:
            labels.append(k)
    _check_any(labels, classes)
    return tuple(labels), []


def _check_any(labels: Sequence[int], classes: ClassList) -> None:
    """Refuse an image without any label where there is a negative class."""
    if not labels and classes.negative is not None:
        raise ValueError(f"no label (an image without signal is class {classes.negative})")


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


def match_labels(files: Sequence[ImageFiles], table: LabelTable | None, *, allow_unlabelled: bool) -> Matched:
    """Give every image its labels.

    Raises:
        DataError: with a table, images that it does not name (unless they are allowed), or no image that it names.
    """
    if table is None:
        return Matched(list(files), [None] * len(files), [], pd.DataFrame(index=range(len(files))))
    named = table.named
    names = [table.name_of(image.ID) for image in files]
    ids.check_distinct(sorted({*named, *names}), f"{table.path} and the image files")
    without = [image.ID for image, name in zip(files, names, strict=True) if name not in named]
    if len(without) == len(files):
        raise DataError(
            f"{table.path} names none of the {len(files)} images: "
            f"{unlike(sorted(named), without, 'it', 'the folder')}. Pass the table of these images."
        )
    if without and not allow_unlabelled:
        raise DataError(
            f"{table.path} has no row for {len(without)} of {len(files)} images: {some(without)}. "
            "Complete it, or pass --skip with their IDs, or --allow_unlabelled."
        )
    labels = [format_label(table.labels[name]) if name in table.labels else None for name in names]
    carried = table.carried.reindex(names).fillna("").reset_index(drop=True)
    carried = carried.rename(columns=carried_names(carried.columns))  # where they would clash with columns of wsss
    return Matched(list(files), labels, _notes(names, table, without), carried)


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
        differ = f", but not {some(table.differ)}: the first row of each image counts" if table.differ else ""
        notes.append(f"{table.path} repeats {table.merged} rows; their labels agree{differ}.")
    if none := [ID for ID in names if table.labels.get(ID) == ()]:
        notes.append(
            f"{len(none)} images are taken to show none of the classes, as their labels are empty: {some(none)}. Where "
            "they are unknown, leave the rows out, and pass --allow_unlabelled."
        )
    return notes


def leave_out(files: Sequence[ImageFiles], skip: str) -> list[ImageFiles]:
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
