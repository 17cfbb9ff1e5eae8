"""One flat table of cells for napari, R, Excel: a row a cell, its number as `label`, a column a class by name."""

from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd

from wsss.core.console import progress
from wsss.core.files import csv_bytes, write_atomic
from wsss.core.labels import ClassList
from wsss.core.parquet import write_parquet

ROWS = 20_000
"""Written at once, between two looks at the progress."""


def named_table(cells: pd.DataFrame, classes: ClassList) -> pd.DataFrame:
    """Return cells with `label` (the value in the label map), best class and its score, and scores by class name.

    A class that bears the name of another column gets its id behind it, such as 'fold (3)'.
    """
    scores = cells[classes.columns].to_numpy(np.float32)
    plain = cells.drop(columns=[*classes.columns, "rle"], errors="ignore").rename(columns={"cell_id": "label"})
    top = scores.argmax(axis=1) if len(scores) else np.zeros(0, np.intp)
    plain["top_class"] = pd.Series(np.array(classes.names, object)[top], index=plain.index, dtype="str")
    plain["top_score"] = scores[np.arange(len(top)), top]
    taken = set(plain.columns)
    names = [f"{name} ({k})" if name in taken else name for k, name in enumerate(classes.names)]
    return pd.concat([plain, pd.DataFrame(scores, columns=names, index=plain.index)], axis=1)


def write_table(path: Path, cells: pd.DataFrame, classes: ClassList, *, parquet: bool) -> None:
    """Write `named_table` as CSV or Parquet, whole or not at all."""
    table = named_table(cells, classes)
    if parquet:
        write_parquet(path, table)
    else:
        write_atomic(path, lambda stream: _pour(table, stream))


def _pour(table: pd.DataFrame, stream: IO[bytes]) -> None:
    with progress(None, "export", total=len(table), unit="cell") as bar:
        for first in range(0, max(1, len(table)), ROWS):
            own = table.iloc[first : first + ROWS]
            stream.write(csv_bytes(own, header=first == 0))
            bar.update(len(own))
