"""Compare conditions: shares of cells per class and condition, with intervals, as a table and a picture."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wsss.core.checks import ConfigError, DataError, nearest, some
from wsss.core.console import say
from wsss.core.csv_text import carried_columns, write_csv
from wsss.core.labels import ClassList
from wsss.data.catalog import DataSet
from wsss.data.origin import data_folder_of
from wsss.inference.tables import check_classes, is_mask_folder, prediction_files, read_cells, score_columns
from wsss.metrics.weighted import LEAST_IMAGES, GroupShares, difference, group_shares
from wsss.options.compare import CompareOptions
from wsss.reports.figures import plot_shares
from wsss.runs.inputs import Digests, what_is_read
from wsss.runs.output import Output, in_folder

MOST = 64
"""Conditions at most: a column with more values is no condition."""
WHAT = {"above": "score from {threshold:g} on", "top": "highest score", "mean": "mean score"}


def run(options: CompareOptions) -> int:
    """Run the stage; return the exit code."""
    if is_mask_folder(options.preds):
        raise ConfigError(f"{options.preds} holds masks, not cells: there are no classes to compare.")
    out = options.out or Path("compare") / f"{options.preds.resolve().name}-{options.by.replace('/', '_')}"
    with in_folder(out, "compare") as output:
        if output.begin(partial(_read, options), overwrite=options.overwrite, subject=("options",)):
            _compare(options, output, out)
    return 0


def _read(options: CompareOptions, digests: Digests) -> dict[str, Any]:
    data = data_folder_of(options.preds, None) / "dataset.json"
    return what_is_read(options, digests, [*prediction_files(options.preds), data])


def _compare(options: CompareOptions, output: Output, out: Path) -> None:
    cells = read_cells(options.preds)
    data = DataSet.open(data_folder_of(options.preds, None))
    classes = data.classes
    check_classes(options.preds, score_columns(cells, options.preds), classes, data.folder)
    groups = count_groups(options, cells)
    _check_carried(options, cells, data)
    table = share_table(groups, classes, options.reference)
    write_csv(output.path("shares.csv"), table)
    what = WHAT[options.count].format(threshold=options.threshold)
    plot_shares(groups, classes.names, options.by, what, output.path("shares.png"))
    output.publish()
    for line in summary(groups, classes):
        say(line)
    say(f"shares.csv and shares.png written to {out}")


def count_groups(options: CompareOptions, cells: pd.DataFrame) -> list[GroupShares]:
    """Count the cells of each condition.

    Raises:
        ConfigError: there is no such column or reference.
        DataError: the column is no condition.
    """
    known = carried_columns(cells.columns)
    if options.by not in known:
        carried = some(known) or "no column"
        raise ConfigError(
            f"--by is '{options.by}', the cells of {options.preds} carry {carried}.{nearest(options.by, known)} "
            "Columns beside ID and Label in the table given to prepare --labels are carried along."
        )
    values = cells[options.by].fillna("").astype(str)
    left_out = int((values == "").sum())
    if left_out:
        say(f"note: {left_out} cells have no {options.by}: left out.")
    cells, values = cells[values != ""], values[values != ""]
    names = sorted(values.unique())
    if not names or len(names) > MOST:
        raise DataError(f"{options.by} has {len(names)} values, expected 1 to {MOST}: choose a column of conditions.")
    if options.reference and options.reference not in names:
        raise ConfigError(
            f"--reference is '{options.reference}', expected one of {some(names, 8)}."
            + nearest(options.reference, names)
        )
    scores = cells[score_columns(cells, options.preds)].to_numpy(np.float64)
    counted = {
        "above": lambda: scores >= options.threshold,
        "top": lambda: np.eye(scores.shape[1])[scores.argmax(axis=1)],
        "mean": lambda: scores,
    }[options.count]()
    group = np.searchsorted(names, values.to_numpy(object))
    return group_shares(counted, cells.ID.factorize()[0], group, names, options.rounds)


def _check_carried(options: CompareOptions, cells: pd.DataFrame, data: DataSet) -> None:
    """Refuse predictions whose column was corrected in the data set since."""
    if options.by not in data.carried:
        return
    now = dict(zip(data.ids, data.carried[options.by].fillna("").astype(str), strict=True))
    of_images = cells.drop_duplicates("ID")
    before = dict(zip(of_images.ID, of_images[options.by].fillna("").astype(str), strict=True))
    if changed := [name for name, value in before.items() if now.get(name, value) != value]:
        first = changed[0]
        raise DataError(
            f"{options.by} of {some(changed, 3)} was corrected in {data.folder} since {options.preds} was predicted "
            f"({first}: '{before[first]}', now '{now[first]}'): run python -m wsss.infer again."
        )


def share_table(groups: list[GroupShares], classes: ClassList, reference: str) -> pd.DataFrame:
    """Return a row for each condition and class."""
    base = next((group for group in groups if group.name == reference), None)
    rows = []
    for group in groups:
        against = None if base is None else difference(group, base)
        for k, name in enumerate(classes.names):
            row = {"condition": group.name, "class_id": k, "class": name, "images": group.images, "cells": group.cells}
            row |= {"share": group.share[k], "low": group.low[k], "high": group.high[k]}
            if against is not None:
                value, low, high = (part[k] for part in against)
                row |= {"difference": value, "difference_low": low, "difference_high": high}
            rows.append(row)
    return pd.DataFrame(rows)


def summary(groups: list[GroupShares], classes: ClassList) -> list[str]:
    """Return the three most frequent classes of each condition as text."""
    lines = []
    for group in groups:
        parts = []
        for k in np.argsort(-group.share, kind="stable")[:3]:
            interval = f" ({group.low[k]:.0%} to {group.high[k]:.0%})" if len(group.resampled) else ""
            parts.append(f"{classes.names[k]} {group.share[k]:.0%}{interval}")
        lines.append(f"{group.name}: {group.cells} cells in {group.images} images; {', '.join(parts)}")
    few = [group.name for group in groups if group.images < LEAST_IMAGES]
    if few:
        lines.append(f"note: {some(few)} have fewer than {LEAST_IMAGES} images: no interval.")
    return lines
