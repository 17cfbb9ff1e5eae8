"""Text tables: one reader, whatever wrote them; one writer, whose cells no spreadsheet takes for a formula.

And the names that a user's columns get in our tables.
"""

import csv
import io
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wsss.core.checks import DataError, some
from wsss.core.files import composed, write_bytes
from wsss.core.reading import open_text, opening

_FORMULA = re.compile(r"[=+\-@'\t\r]")
"""What a formula of a spreadsheet begins with."""
LONGEST_HEADER = 1 << 20
"""Characters of the first line, at most."""
MOST_COLUMNS = 5_000
SEPARATORS = ",;\t"
ID_COLUMNS = ("ID", "Image", "image_id", "ImageId", "image_name", "filename", "file_name", "file")
"""Names of the column with the image, in order of preference; in a table without the first it is called ID."""
NO_VALUE = ("", "na", "nan", "n/a", "null")
"""What spreadsheets, R and pandas write, in any case, where nothing is known."""
CHUNK = 50_000
"""Rows that are turned into columns at once."""
_PACKED = {
    b"PK\x03\x04": "an Excel workbook, or another zip file: save the sheet as CSV",
    b"\x1f\x8b": "compressed by gzip: unpack it first (gunzip)",
    b"BZh": "compressed by bzip2: unpack it first (bunzip2)",
    b"\xfd7zXZ": "compressed by xz: unpack it first (unxz)",
    b"\x28\xb5\x2f\xfd": "compressed by zstd: unpack it first (unzstd)",
    b"\xff\xfe\0\0": "text in UTF-32: save it as CSV in UTF-8",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook: save the sheet as CSV",
    b"PAR1": "a Parquet file, expected a text table: save it as CSV",
}
"""First bytes of files that are not text tables, and what they are."""
_SEP_LINE = re.compile(r'"?sep=(.)"?[;,\t]*\r?\n?', re.IGNORECASE)
_DECIMAL_COMMA = r"^(\s*[+-]?\d*),(\d+(?:[eE][+-]?\d+)?\s*)$"

csv.field_size_limit(2**31 - 1)  # the masks of one image may stand in a single field


@dataclass(frozen=True)
class TextRows:
    """The rows of a text table, read one by one."""

    path: Path
    separator: str
    rows: Iterator[tuple[int, list[str]]]
    """(line in the file, counted from 1; fields) of every row that is not blank."""


def open_rows(path: Path) -> TextRows:
    """Open a text table; its fields are separated by comma, semicolon or tab, whichever its first row uses.

    Reads what spreadsheets write: a byte order mark (UTF-8 or UTF-16), a first line `sep=;`, quoted fields, blank rows.
    Text is returned in composed Unicode (NFC), so that names written under macOS are the same as elsewhere, and without
    blanks around it.

    Raises:
        DataError: the file is missing, or is no text table; names the row.
    """
    lines = _lines(path)
    skipped, first, separator = 0, "", ""
    for first in lines:
        match = _SEP_LINE.fullmatch(first)
        if match and not skipped:
            separator = match[1]
        elif first.strip():
            break
        skipped += 1
    else:
        raise DataError(f"{path} is no CSV table (it is empty).")
    bare = re.sub(r'"[^"]*"', "", first)
    separator = separator or max(SEPARATORS, key=bare.count)
    return TextRows(path, separator, _rows(path, itertools.chain([first], lines), separator, skipped))


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file with their ends, in NFC."""
    number = 0
    try:
        with opening(path), open_text(path, None, "a table") as binary:
            start = binary.peek(5)[:5]
            if packed := next((what for magic, what in _PACKED.items() if start.startswith(magic)), ""):
                raise DataError(f"{path} is {packed}.")
            utf16 = start[:2] in (b"\xff\xfe", b"\xfe\xff")
            text = io.TextIOWrapper(binary, "utf-16" if utf16 else "utf-8-sig", newline="")
            while line := text.readline(LONGEST_HEADER if number == 0 else -1):
                number += 1
                if number == 1 and len(line) >= LONGEST_HEADER:
                    raise DataError(
                        f"{path} begins with a line of {LONGEST_HEADER} characters or more: it is no table."
                    )
                if "\0" in line:
                    raise DataError(
                        f"{path} has a NUL byte in row {number}: it is no text, or save it as CSV in UTF-8."
                    )
                line = line.lstrip("\ufeff") if number == 1 else line  # a second mark
                yield line if line.isascii() else composed(line)
    except UnicodeError as error:  # its position counts from a block of the file: the row says more
        raise DataError(
            f"{path} is not UTF-8 text (after row {number}: {' '.join(str(error).split())[:80]}): "
            "save it as CSV in UTF-8."
        ) from None


def _rows(path: Path, lines: Iterable[str], separator: str, skipped: int) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=True)
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise DataError(
                f"{path}, row {reader.line_num + skipped}: {error}. Fields stand apart by comma, semicolon or tab."
            ) from None
        if row is None:
            return
        row = list(map(str.strip, row))
        if any(row):
            yield reader.line_num + skipped, row


def iter_text(
    path: Path, needed: Iterable[str] = (), optional: Iterable[str] = (), chunk: int = CHUNK
) -> Iterator[pd.DataFrame]:
    """Read a table with every value as text, `chunk` rows at a time; an empty cell is ''.

    Columns of the names in `needed` and `optional` are found in any upper or lower case, with blanks for '_', and named
    as they stand there; ID also by its other names (ID_COLUMNS). Other columns keep their names. The index holds each
    row's line in the file. A first column without a name is somebody's row numbers and left out, like columns and rows
    that are empty.

    Raises:
        DataError: the file is missing, is no text table, lacks a needed column, or has a row of another length.
    """
    source = open_rows(path)
    _, header = next(source.rows)
    names = header
    while names and not names[-1]:
        names.pop()
    _check_header(names, path)
    needed = list(needed)
    kept = [k for k, name in enumerate(names) if name]
    columns = _canonical([names[k] for k in kept], [*needed, *optional], path)
    check_columns(pd.DataFrame(columns=columns), needed, path)
    full = _full(source.rows, names, path)
    begun = False
    while block := list(itertools.islice(full, chunk)):
        fields = list(zip(*(row for _, row in block), strict=True))
        index = pd.Index([line for line, _ in block], name="row")
        yield _frame({name: fields[k] for k, name in zip(kept, columns, strict=True)}, index, source.separator)
        begun = True
    if not begun:
        yield _frame(dict.fromkeys(columns, ()), pd.Index([], dtype=np.int64, name="row"), source.separator)


def _frame(columns: dict[str, Sequence[str]], index: pd.Index, separator: str) -> pd.DataFrame:
    table = pd.DataFrame({name: pd.Series(values, index, dtype="str") for name, values in columns.items()}, index)
    table.attrs["separator"] = separator
    return table


def read_text(path: Path, needed: Iterable[str] = (), optional: Iterable[str] = ()) -> pd.DataFrame:
    """Read a table whole, as `iter_text` does.

    Raises:
        DataError: see `iter_text`.
    """
    parts = list(iter_text(path, needed, optional))
    return parts[0] if len(parts) == 1 else pd.concat(parts)


def _check_header(names: Sequence[str], path: Path) -> None:
    given = [name for name in names if name]
    if len(names) > MOST_COLUMNS:
        raise DataError(f"{path} names {len(names)} columns, expected {MOST_COLUMNS} at most: it is no table.")
    if twice := sorted(name for name, count in Counter(given).items() if count > 1):
        raise DataError(f"{path} has two columns of one name: {some(twice)}.")
    if not given:
        raise DataError(f"{path} is no CSV table (its first row names no column).")


def _canonical(names: list[str], wanted: Iterable[str], path: Path) -> list[str]:
    """Rename columns that differ from a wanted name in case or blanks only; an exact name goes first."""
    out, wanted, there = list(names), list(wanted), set(names)
    places: dict[str, list[int]] = {}
    for k, other in enumerate(names):
        places.setdefault(_plain(other), []).append(k)
    for name in wanted:
        if name in there:
            continue
        alike = [k for k in places.get(_plain(name), []) if out[k] == names[k]]
        if len(alike) > 1:
            raise DataError(f"{path} has the columns {some(names[k] for k in alike)}: keep one {name}.")
        if alike:
            out[alike[0]] = name
            there.add(name)
    missing = next((name for name in wanted if _plain(name) == "id" and name not in out), "")
    others = [k for synonym in ID_COLUMNS for k in places.get(_plain(synonym), [])]
    if missing and others:
        out[others[0]] = missing
    return out


def _plain(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.casefold())


def _full(rows: Iterable[tuple[int, list[str]]], names: Sequence[str], path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows with as many fields as there are names, after checking that none is lost."""
    width, nameless = len(names), [k for k, name in enumerate(names) if not name and k]
    for line, row in rows:
        if len(row) > width and not any(row[width:]):
            row = row[:width]
        if len(row) != width:
            decimal = " (is a decimal comma among them?)" if len(row) > width else ""
            raise DataError(f"{path} row {line}: has {len(row)} fields, the header has {width}{decimal}.")
        for k in nameless:
            if row[k]:
                raise DataError(f"{path} row {line}: column {k + 1} holds '{row[k][:40]}' and has no name.")
        yield line, row


def check_columns(table: pd.DataFrame, needed: Iterable[str], path: Path) -> None:
    """Raise DataError unless the table has all the needed columns."""
    missing = [name for name in needed if name not in table.columns]
    if missing:
        raise DataError(f"{path} lacks the column(s) {some(missing)}; it has {some(table.columns, 8)}.")


def first_of(names: Sequence[str], table: pd.DataFrame, path: Path) -> tuple[str, list[str]]:
    """Return the first of several names of a column that a table has, '' for none, and a note if others differ."""
    there = [name for name in names if name in table]
    others = [name for name in there[1:] if (table[name] != table[there[0]]).any()]
    if not others:
        return "".join(there[:1]), []
    return there[0], [f"{path} has the columns {some([there[0], *others])}, which differ: {there[0]} is read."]


def any_case(table: pd.DataFrame, wanted: Iterable[str], path: Path) -> pd.DataFrame:
    """Return a table whose columns of the wanted names, in any upper or lower case, are named as they stand there."""
    return table.set_axis(_canonical([str(name) for name in table.columns], wanted, path), axis=1)


def numbers(
    table: pd.DataFrame, name: str, path: Path, *, whole: bool = False, low: float = -np.inf, called: str = ""
) -> np.ndarray:
    """Return a column as (N,) float64, or int64 for whole numbers.

    A decimal comma is read, unless the table is separated by commas and it may part thousands ('1,234').

    Args:
        table: as `read_text` gives it: the index holds the rows' numbers.
        whole: accept only whole numbers below 2**53; '3.0' is one.
        low: the smallest valid value.
        called: what the column is called in messages, if not by its name.

    Raises:
        DataError: a value is not such a number; file, row and column are named.
    """
    column = table[name]
    if not pd.api.types.is_numeric_dtype(column):
        text = column.astype("str")
        comma = text.str.match(_DECIMAL_COMMA)
        if table.attrs.get("separator") == ",":
            comma &= ~text.str.match(r"^\s*[+-]?[1-9]\d{0,2},\d{3}\s*$")
        if comma.any():
            text = text.where(~comma, text.str.replace(_DECIMAL_COMMA, r"\1.\2", regex=True))
        column = pd.to_numeric(text, errors="coerce")
    values = column.to_numpy(np.float64, na_value=np.nan)
    good = np.isfinite(values) & (values >= low)
    if whole:
        good[good] = (values[good] == np.floor(values[good])) & (np.abs(values[good]) < 2**53)
    if not good.all():
        at = int(np.flatnonzero(~good)[0])
        kind = "a whole number" if whole else "a number"
        least = f" of at least {low:g}" if np.isfinite(low) else ""
        raise DataError(
            f"{path} row {table.index[at]}: {called or name} is '{table[name].iloc[at]}', expected {kind}{least}."
        )
    return values.astype(np.int64) if whole else values


def check_no_decimals(table: pd.DataFrame, name: str, path: Path) -> None:
    """Refuse a column of labels that all end with ',0', as class ids with a decimal comma do: '3,0' is no class 0.

    Raises:
        DataError: it is one.
    """
    texts = table[name][table[name] != ""]
    if len(texts) and texts.str.fullmatch(r"\d+,0+").all():
        raise DataError(
            f"{path}: every {name} ends with ',0', such as '{texts.iloc[0]}': write whole numbers if it is a decimal "
            f"comma, or '|' between two labels."
        )


def guard_text(table: pd.DataFrame) -> pd.DataFrame:
    """Put ' before every text, column names included, that begins with = + - @ ' tab or return.

    A spreadsheet then shows it and does not run it. `unguard_text` undoes this.
    """
    texts = table.select_dtypes(["object", "string", "category"])
    table = table.assign(**{str(name): table[name].astype(object).map(_guarded) for name in texts})
    return table.rename(columns=_guarded)


def _guarded(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def csv_bytes(table: pd.DataFrame, *, header: bool = True, guard: bool = True) -> bytes:
    """Return a table as CSV: UTF-8, comma, no index; floats with 6 significant digits.

    Args:
        header: begin with the names of the columns.
        guard: prevent text from being run as a formula (see `guard_text`).
    """
    table = guard_text(table) if guard else table
    text: str = table.to_csv(index=False, header=header, float_format="%.6g", lineterminator="\n")
    return text.encode()


def write_csv(path: Path, table: pd.DataFrame, *, guard: bool = True) -> None:
    """Write a table as CSV (see `csv_bytes`), whole or not at all."""
    write_bytes(path, csv_bytes(table, guard=guard))


def unguard_text(table: pd.DataFrame, columns: Iterable[str] = ("ID",)) -> pd.DataFrame:
    """Undo `guard_text` in some columns."""
    text = [name for name in columns if pd.api.types.is_string_dtype(table[name])]
    guarded = f"^'({_FORMULA.pattern})"
    return table.assign(**{name: table[name].str.replace(guarded, r"\1", regex=True) for name in text})


def read_numbers(path: Path) -> pd.DataFrame:
    """Read a CSV file of numbers, such as log.csv; other values become NaN.

    Raises:
        DataError: see `iter_text`.
    """
    return read_text(path).apply(pd.to_numeric, errors="coerce")


_OURS = """
    id source status reason shard slot imageheight imagewidth depth label crc32 duplicate_of fold n_cells
    cell_id center_y center_x y0 x0 y1 x1 area_px touches_border rle top_class top_score
    image cell area border image_height image_width
"""
RESERVED = frozenset(_OURS.split())
"""Names, in lower case, that are used in images.parquet, the tables of predictions or the exports."""


def carried_names(names: Iterable[str]) -> dict[str, str]:
    """Return name -> name here, for columns that are carried along.

    Names that are reserved, or look like a score ('0'), get the prefix 'given_'; leading characters that make
    a spreadsheet formula are removed; no two names are the same in lower case.
    """
    out: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        plain = " ".join(name.split()).replace(":", "_").lstrip("=+-@' ") or "column"
        if plain.lower() in RESERVED or plain.isdecimal():
            plain = f"given_{plain}"
        while plain.lower() in taken:
            plain += "_"
        taken.add(plain.lower())
        out[name] = plain
    return out


def carried_columns(names: Iterable[str]) -> list[str]:
    """Return those of a table's columns that were carried along from a user's table."""
    return [name for name in names if name.lower() not in RESERVED and not name.isdecimal() and ":" not in name]
