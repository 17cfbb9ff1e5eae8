"""CSV files read as text, column by column, and text cells that no spreadsheet takes for a formula."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from wsss.core.checks import DataError, some

_FORMULA = r"^(?=[=+\-@'])"
_GUARDED = r"^'(?=[=+\-@'])"


def read_text(path: Path, needed: Iterable[str] = ()) -> pd.DataFrame:
    """Read a CSV file with every value as text; an empty cell is ''.

    Raises:
        DataError: the file is missing, is no CSV, or lacks a needed column.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist: check the path.") from None
    except (OSError, pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is no CSV table ({' '.join(str(error).split())}).") from error
    check_columns(table, needed, path)
    return table


def check_columns(table: pd.DataFrame, needed: Iterable[str], path: Path) -> None:
    """Raise DataError unless the table has all the needed columns."""
    missing = [name for name in needed if name not in table.columns]
    if missing:
        raise DataError(f"{path} lacks the column(s) {some(missing)}; it has {some(table.columns, 8)}.")


def guard_text(table: pd.DataFrame, columns: Iterable[str] = ("ID",)) -> pd.DataFrame:
    """Put ' before text that begins with = + - @ or ', so that a spreadsheet shows it and does not run it."""
    return table.assign(**{name: table[name].str.replace(_FORMULA, "'", regex=True) for name in columns})


def unguard_text(table: pd.DataFrame, columns: Iterable[str] = ("ID",)) -> pd.DataFrame:
    """Undo guard_text."""
    return table.assign(**{name: table[name].str.replace(_GUARDED, "", regex=True) for name in columns})
