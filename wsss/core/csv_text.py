"""CSV files read as text, column by column; what the writer put before formulas is taken off."""

import csv
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from wsss.core.checks import DataError, UserError, some

_GUARDED = r"^'(?=[=+\-@'\t\r])"


LONGEST_HEADER = 1 << 20
"""Bytes of the first line, at most."""
MOST_COLUMNS = 20_000


def read_text(path: Path, needed: Iterable[str] = ()) -> pd.DataFrame:
    """Read a CSV file with every value as text; an empty cell is ''.

    Raises:
        DataError: the file is missing, is no CSV, or lacks a needed column.
    """
    with _named(path):
        check_header(path)
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    check_columns(table, needed, path)
    return table


def read_chunks(path: Path, rows: int, needed: Iterable[str] = ()) -> Iterator[pd.DataFrame]:
    """Read a CSV file as `read_text` does, a number of rows at a time; their index counts on.

    Raises:
        DataError: see `read_text`.
    """
    with _named(path):
        check_header(path)
        with pd.read_csv(path, dtype=str, keep_default_na=False, chunksize=rows) as chunks:
            for chunk in chunks:
                check_columns(chunk, needed, path)
                yield chunk


def read_numbers(path: Path) -> pd.DataFrame:
    """Read a CSV file of numbers, such as log.csv; what is none is NaN.

    Raises:
        DataError: see `read_text`.
    """
    return read_text(path).apply(pd.to_numeric, errors="coerce")


def check_header(path: Path, separators: str = ",") -> None:
    """Refuse a table by its first line, before it is read: too long, or with too many columns.

    Raises:
        DataError: so it is.
        OSError: the file cannot be read.
    """
    with path.open("rb") as stream:
        begin = stream.read(LONGEST_HEADER + 1).lstrip()
    first = begin.splitlines()[0] if begin else b""
    columns = 1 + max(first.count(separator.encode()) for separator in separators)
    if len(first) >= LONGEST_HEADER or columns > MOST_COLUMNS:
        raise DataError(
            f"{path} begins with a line of {len(first)} bytes or more and {columns} columns, expected the names of at "
            f"most {MOST_COLUMNS} columns: it is no table."
        )


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Name the file that is missing or no CSV."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path} does not exist: check the path.") from None
    except UserError:
        raise
    except (OSError, ValueError, csv.Error, OverflowError) as error:  # those of pandas are ValueErrors
        raise DataError(f"{path} is no CSV table ({' '.join(str(error).split())[:200]}).") from error


def check_columns(table: pd.DataFrame, needed: Iterable[str], path: Path) -> None:
    """Raise DataError unless the table has all the needed columns."""
    missing = [name for name in needed if name not in table.columns]
    if missing:
        raise DataError(f"{path} lacks the column(s) {some(missing)}; it has {some(table.columns, 8)}.")


def unguard_text(table: pd.DataFrame, columns: Iterable[str] = ("ID",)) -> pd.DataFrame:
    """Undo `files.guard_text` in some columns."""
    return table.assign(**{name: table[name].str.replace(_GUARDED, "", regex=True) for name in columns})
