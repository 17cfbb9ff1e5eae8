"""What the report tells of the training run: its folder, curves and files."""

import json
from pathlib import Path

from wsss.core.checks import DataError
from wsss.core.csv_text import read_numbers
from wsss.core.files import read_lines
from wsss.reports.figures import training_svg
from wsss.reports.page import Figure
from wsss.stages.report_contents import Contents


def run_folder(contents: Contents) -> Path | None:
    """Return the run to tell of: the one asked for, or the recorded one where it is still there.

    Raises:
        DataError: the one asked for has no log.csv.
    """
    chosen = contents.options.run
    if chosen is None:
        recorded = contents.record.get("run")
        folder = Path(str(recorded)) if recorded else None
        return folder if folder is not None and fold_folders(folder) else None
    if not fold_folders(chosen):
        raise DataError(f"{chosen} holds no log.csv, in itself or in its folds: pass the folder of a training.")
    return chosen


def fold_folders(run: Path) -> list[Path]:
    """Return the folders of a run that have a log: itself, or those of its folds."""
    return sorted(path.parent for path in [*run.glob("log.csv"), *run.glob("*/log.csv")])


def training(run: Path | None) -> list[Figure]:
    """Draw the curves of every fold of the run."""
    out = []
    for folder in fold_folders(run) if run else []:
        table = read_numbers(folder / "log.csv")
        rows = [{str(k): v for k, v in row.dropna().items()} for _, row in table.iterrows()]
        last = ", ".join(
            f"{name} {table[name].iloc[-1]:.4g}"
            for name in ("train_loss", "val_loss", "val_map", "val_f1")
            if name in table and len(table)
        )
        out.append(Figure(str(folder), training_svg(rows), f"{len(rows)} epochs; at the end {last}"))
    return out


def records(contents: Contents, run: Path | None) -> list[tuple[str, str]]:
    """Return the files that tell all of it."""
    out = [("provenance.json", json.dumps(contents.record, indent=2))] if contents.record else []
    configs = [folder / "config.yaml" for folder in (fold_folders(run) if run else [])]
    return out + [(str(path), "\n".join(read_lines(path))) for path in configs if path.exists()]
