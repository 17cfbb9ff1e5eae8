"""What prepare tells at its end, as lines of text."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from wsss.core.labels import ClassList, parse_label
from wsss.data.folds import fold_table

MOST = 10


def summary(table: pd.DataFrame, classes: ClassList) -> Iterator[str]:
    """Yield lines on images, depths, sizes, near-duplicates, failures, and the table of classes and folds."""
    ok = table[table["status"] == "ok"]
    failed = table[table["status"] == "failed"]
    yield from _class_lines(ok, classes)
    yield f"{len(table)} images, {len(failed)} failed, {int(ok['Label'].notna().sum())} with labels."
    yield "  bits: " + _counted(ok["depth"])
    sizes = ok["ImageHeight"].astype(str) + " x " + ok["ImageWidth"].astype(str)
    yield "  sizes (height x width): " + _counted(sizes)
    if len(table["source"].unique()) > 1:
        yield "  sources: " + _counted(table["source"])
    if {"12", "16"} <= set(ok["depth"]):
        yield "  note: 12 and 16 bit are mixed; if the microscope wrote 16 bit throughout, pass --bits 16."
    doubles = table[table["duplicate_of"].notna()]
    yield f"{len(doubles)} near-duplicates" + (", kept in one fold (duplicates.csv):" if len(doubles) else ".")
    for row in doubles.head(MOST).itertuples():
        yield f"  {row.ID} is like {row.duplicate_of}"
    for row in failed.head(MOST).itertuples():
        yield f"failed: {row.reason}"
    if len(failed) > MOST:
        yield f"... and {len(failed) - MOST} more failed: column reason of images.parquet."


def _counted(values: pd.Series) -> str:
    counts = values.value_counts().sort_index(kind="stable").sort_values(ascending=False, kind="stable")
    shown = [f"{value} ({number})" for value, number in counts.head(MOST).items()]
    return ", ".join(shown) + (f" and {len(counts) - MOST} more" if len(counts) > MOST else "")


def _class_lines(table: pd.DataFrame, classes: ClassList) -> Iterator[str]:
    held = table[table["fold"] >= 0]
    if len(held):
        labels = np.stack([classes.encode(parse_label(text)) for text in held["Label"]])
        yield from fold_lines(labels, held["fold"].to_numpy(), classes)


def fold_lines(labels: np.ndarray, fold: np.ndarray, classes: ClassList) -> Iterator[str]:
    """Yield a table of images per class and fold; the last column is how far the folds differ.

    Args:
        labels: (N, K) of 0/1.
        fold: (N,) in 0..n-1.
        classes: their names.
    """
    n = int(fold.max()) + 1
    names = [f"{k:>3} {name}" for k, name in enumerate(classes.names)]
    wide = max(map(len, names))
    yield f"{'class':<{wide}} {'images':>7}" + "".join(f"{f'fold {f}':>8}" for f in range(n)) + "  max - min"
    counts = np.vstack([fold_table(labels, fold, n), [np.bincount(fold, minlength=n)]])
    for name, row in zip([*names, "    all images"], counts, strict=True):
        cells = "".join(f"{value:>8}" for value in row)
        yield f"{name:<{wide}} {row.sum():>7}{cells}{row.max() - row.min():>11}"
