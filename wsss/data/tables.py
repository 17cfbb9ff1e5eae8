"""Label tables: every form that is around, read into class ids per image, every doubt named with file and row."""

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wsss.core.checks import DataError, UserError, some
from wsss.core.csv_text import check_header
from wsss.core.labels import HPA, KAGGLE2018_TO_HPA, ClassList
from wsss.core.reading import read_yaml
from wsss.data import ids

Reader = Callable[[Sequence[str]], "tuple[int, ...] | None"]
"""Turns a row into class ids; None where the labels have no counterpart here. Raises ValueError with the fault."""


@dataclass
class LabelTable:
    """Labels by ID."""

    path: Path
    labels: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """ID -> sorted class ids."""
    vanished: list[str] = field(default_factory=list)
    """IDs of the 2018 table whose classes have no counterpart: they are in the table, without labels."""
    merged: int = 0
    """Rows that repeated an ID with the same labels."""


def read_labels(path: Path, classes: ClassList) -> LabelTable:
    """Read a label table.

    Columns, separated by comma, semicolon or tab: `ID,Label` with labels like `8|5|0`, `8 5 0` or `[8, 5, 0]`;
    `Id,Target` of the 2018 competition, mapped to the 19 classes; or `ID` and one 0/1 column per class, named by its
    id or its name. Other columns do not count. Upper and lower case of ID, Label and Target are the same.

    Raises:
        DataError: the table is none of these, or has bad rows, named by their line in the file.
    """
    rows = _rows(path)
    _, header = next(rows, (0, list[str]()))
    at, read = _reader(path, header, classes)
    table = LabelTable(path)
    lines: dict[str, int] = {}
    found: dict[str, tuple[int, ...] | None] = {}
    faults: list[str] = []
    for line, row in rows:
        try:
            if len(row) != len(header):
                raise ValueError(f"has {len(row)} fields, the header has {len(header)}")
            ID = row[at].strip()
            if reason := ids.fault(ID):
                raise ValueError(f"the ID {ids.shown(ID)} {reason}")
            value = read(row)
            if found.setdefault(ID, value) != value:
                raise ValueError(f"the ID {ids.shown(ID)} has other labels in row {lines[ID]}")
        except ValueError as error:
            faults.append(f"row {line}: {error}")
            continue
        table.merged += ID in lines
        lines.setdefault(ID, line)
    if faults:
        raise DataError(f"{path}: {len(faults)} bad row(s): {'; '.join(faults[:5])}. Mend them and start again.")
    if not found:
        raise DataError(f"{path} has no rows below its header.")
    ids.check_distinct(found, str(path))
    table.labels = {ID: value for ID, value in found.items() if value is not None}
    table.vanished = [ID for ID, value in found.items() if value is None]
    return table


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
    negative = value.get("negative")
    if isinstance(negative, str):
        if negative not in names:
            raise DataError(f"{path}: negative is '{negative}', which is none of the names.")
        negative = names.index(negative)
    if negative is not None and not isinstance(negative, int):
        raise DataError(f"{path}: negative is {negative!r}, expected a class id or name.")
    try:
        return ClassList(tuple(names), negative)
    except UserError as error:
        raise DataError(f"{path}: {error}") from None


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, fields) of every row that is not blank."""
    try:
        check_header(path, ",;\t")
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}): save it as CSV in UTF-8.") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{path} has a NUL byte in row {line}: it is not a text table.")
    first = text.lstrip("\r\n").split("\n", 1)[0]
    separator = max(",;\t", key=first.count)
    reader = csv.reader(re.split(r"(?<=\n)|(?<=\r)(?!\n)", text), delimiter=separator, strict=True)
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise DataError(f"{path}, row {reader.line_num}: {error}.") from None
        if row is None:
            return
        if any(cell.strip() for cell in row):
            yield reader.line_num, row


def _reader(path: Path, header: Sequence[str], classes: ClassList) -> tuple[int, Reader]:
    """Return the column of the ID and what reads the labels of a row."""
    names = [name.strip() for name in header]
    lower = [name.lower() for name in names]
    if len(set(names)) != len(names):
        raise DataError(f"{path} has two columns of one name: {some(names)}.")
    if lower.count("id") != 1:
        raise DataError(f"{path} has the columns {some(names)}: expected one named ID.")
    at = lower.index("id")
    for name in ("label", "labels"):
        if name in lower:
            return at, _text_reader(lower.index(name), classes)
    if "target" in lower:
        return at, _text_reader(lower.index("target"), classes, KAGGLE2018_TO_HPA if classes == HPA else None)
    for wanted in (classes.columns, list(classes.names)):
        if set(wanted) <= set(names):
            return at, _one_hot_reader([names.index(name) for name in wanted], names, classes)
    raise DataError(
        f"{path} has the columns {some(names, 30)}: expected ID and Label, Id and Target, or ID and one column for "
        f"each of the {len(classes)} classes (0..{len(classes) - 1}, or their names)."
    )


def _text_reader(column: int, classes: ClassList, mapping: dict[int, int | None] | None = None) -> Reader:
    last = max(mapping) if mapping else len(classes) - 1

    def read(row: Sequence[str]) -> tuple[int, ...] | None:
        parts = re.split(r"[|,;\s]+", row[column].strip().strip("[]").strip())
        found: set[int] = set()
        for part in filter(None, parts):
            if not re.fullmatch(r"[0-9]{1,9}", part):
                raise ValueError(f"label {ids.shown(part)} is not a class id")
            if int(part) > last:
                raise ValueError(f"label {part} is outside the classes 0..{last}")
            found.add(int(part))
        _check_any(found, classes)
        if mapping is None:
            return tuple(sorted(found))
        kept = {target for k in found if (target := mapping[k]) is not None}
        return tuple(sorted(kept)) if kept else None

    return read


def _one_hot_reader(columns: Sequence[int], names: Sequence[str], classes: ClassList) -> Reader:
    values = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}

    def read(row: Sequence[str]) -> tuple[int, ...]:
        found = set()
        for k, column in enumerate(columns):
            value = values.get(row[column].strip().lower())
            if value is None:
                raise ValueError(f"column {names[column]} is {ids.shown(row[column])}, expected 0 or 1")
            if value:
                found.add(k)
        _check_any(found, classes)
        return tuple(sorted(found))

    return read


def _check_any(found: set[int], classes: ClassList) -> None:
    """An image of a data set with a negative class shows at least that."""
    if not found and classes.negative is not None:
        raise ValueError(f"no label (an image without signal is class {classes.negative})")
