"""The table: a row a method, mean and spread over seeds for each set; as Markdown and as CSV."""

from pathlib import Path
from typing import Any

import pandas as pd

from wsss.core.csv_text import write_csv
from wsss.core.files import write_text

FIGURES = {"ap": "mean AP", "several": "several classes", "ece": "ECE"}


def figures(report: dict[str, Any]) -> dict[str, float | None]:
    """Return what the table wants of a record of `evaluate`."""
    row = {"ap": report["mean_ap"], "several": report["mean_ap_of_several_classes"]}
    row["ece"] = report["calibration_error"]
    classes = {f"AP {row['id']} {row['name']}": row["ap"] for row in report["per_class"] if row["count"]}
    return row | classes


def write_table(folder: Path, rows: list[dict[str, Any]], about: str) -> str:
    """Write runs.csv (a row a method, set and seed), table.csv (a row a method and set) and table.md; return the last.

    Args:
        folder: where they go.
        rows: method, about, set, seed, train_s, infer_s and the `figures` of each.
        about: what was done, for the foot of the table.
    """
    runs = pd.DataFrame(rows)
    write_csv(folder / "runs.csv", runs)
    values = [name for name in runs if name not in ("method", "about", "set", "seed")]
    groups = runs.groupby(["method", "about", "set"], sort=False)[values]
    table = groups.mean().join(groups.std(ddof=1).add_suffix(" sd")).join(groups.size().rename("seeds"))
    write_csv(folder / "table.csv", table.reset_index())
    text = _overview(table) + "".join(_per_class(table, name) for name in runs["set"].unique()) + f"\n{about}\n"
    write_text(folder / "table.md", text)
    return text


def _overview(table: pd.DataFrame) -> str:
    """One row a method: mean AP with its spread, AP of cells of several classes and ECE of each set; times."""
    sets = list(dict.fromkeys(table.index.get_level_values("set")))
    head = ["method", "scores of a cell", *(f"{one}: {FIGURES[f]}" for one in sets for f in FIGURES)]
    lines = _head([*head, "seeds", "training, min", "inference, s"])
    for names, rows in table.groupby(level=["method", "about"], sort=False):
        cells = [str(name) for name in names]
        for name in sets:
            of_set = rows[rows.index.get_level_values("set") == name]
            cells += [_figure(of_set, figure, spread=figure == "ap") for figure in FIGURES]
        times = [rows["train_s"].mean() / 60, rows["infer_s"].mean()]
        lines.append(_line([*cells, str(int(rows["seeds"].max())), *(f"{t:.1f}" if t else "" for t in times)]))
    return "\n".join(lines) + "\n"


def _per_class(table: pd.DataFrame, name: str) -> str:
    rows = table[table.index.get_level_values("set") == name]
    classes = [c for c in map(str, rows) if c.startswith("AP ") and not c.endswith(" sd") and rows[c].notna().any()]
    lines = [f"\nAP per class, {name}:\n", *_head(["method", *(c.removeprefix("AP ") for c in classes)])]
    for k in range(len(rows)):
        row = rows.iloc[[k]]
        lines.append(_line([rows.index[k][0], *(_figure(row, c) for c in classes)]))
    return "\n".join(lines) + "\n"


def _figure(row: pd.DataFrame, name: str, spread: bool = False) -> str:
    """Write a figure without its leading zero, as .812, and its spread where there are several seeds."""
    if row.empty or pd.isna(row[name].iloc[0]):
        return ""
    text = f"{row[name].iloc[0]:.3f}"
    more = row[f"{name} sd"].iloc[0]
    return text + (f" ± {more:.3f}" if spread and pd.notna(more) else "")


def _head(names: list[str]) -> list[str]:
    return [_line(names), "|" + "---|" * len(names)]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
