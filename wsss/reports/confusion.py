"""The confusion table as a CSV file and as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from wsss.core.files import write_atomic, write_csv


def write_confusion(rows: Sequence[Mapping[str, Any]], csv: Path, picture: Path) -> None:
    """Write who is mistaken for whom: a row a true class, a column what its cells were taken for.

    Args:
        rows: as for `confusion_table`.
        csv: receives numbers of cells, fractional where a cell has several true classes.
        picture: receives shares of the true class's cells, as PNG.
    """
    table, true, found = confusion_table(rows)
    frame = pd.DataFrame(table, columns=found)
    frame.insert(0, "true class", true)
    write_csv(csv, frame)
    figure = draw_confusion(table, true, found)
    write_atomic(picture, lambda stream: figure.savefig(stream, format="png"))


def confusion_table(rows: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, list[str], list[str]]:
    """Return the numbers of cells (T, F), the names of the T true classes and of the F ones they were taken for.

    Args:
        rows: entries that are not 0: true and predicted (ids, -1 for no score), true_name, predicted_name, cells.
    """
    names = {int(row[side]): str(row[f"{side}_name"]) for row in rows for side in ("true", "predicted")}
    true = sorted({int(row["true"]) for row in rows})
    # a class that does not occur has no row; what no cell is taken for and none is has no column
    found = sorted(names, key=lambda k: (k < 0, k))
    table = np.zeros((len(true), len(found)))
    for row in rows:
        table[true.index(int(row["true"])), found.index(int(row["predicted"]))] = row["cells"]
    return table, [names[k] for k in true], [names[k] for k in found]


def draw_confusion(table: np.ndarray, true: Sequence[str], found: Sequence[str]) -> Any:
    """Draw (T, F) numbers of cells as a matplotlib figure; fields show per cent of their row."""
    cells = table.sum(axis=1)
    shares = table / np.maximum(cells, 1e-9)[:, None]
    figure = Figure(figsize=(3.5 + 0.42 * len(found), 2.6 + 0.36 * len(true)), layout="constrained", dpi=110)
    panel = figure.subplots()
    panel.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (y, x), share in np.ndenumerate(shares):
        if share >= 0.01:
            colour = "white" if share > 0.6 else "black"
            panel.text(x, y, f"{100 * share:.0f}", ha="center", va="center", fontsize=8, color=colour)
    panel.set_xticks(range(len(found)), [_short(name) for name in found], rotation=50, ha="right", fontsize=8)
    labels = [f"{_short(name)} ({count:.0f})" for name, count in zip(true, cells, strict=True)]
    panel.set_yticks(range(len(true)), labels, fontsize=8)
    panel.set(xlabel="class with the highest score", ylabel="true class (cells)")
    panel.set_title("Per cent of the cells of each true class", fontsize=10)
    return figure


def _short(name: str) -> str:
    return name if len(name) <= 26 else f"{name[:24].rstrip()}…"
