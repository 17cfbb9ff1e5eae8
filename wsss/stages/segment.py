"""Find the cells of a prepared data set: one lossless label map per image, written as it is made."""

import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from wsss.cells.plausible import doubt_notes
from wsss.core.checks import DiskError
from wsss.core.console import say
from wsss.core.files import digest_json, write_csv, write_json
from wsss.core.runtime import progress, versions
from wsss.data.catalog import DataSet, default_dataset
from wsss.inference.overlap import Overlap
from wsss.options.segment import SegmentOptions
from wsss.runs.journal import Journal
from wsss.runs.lock import hold
from wsss.segmenters import AnyBackend, BackendOptions, make_backend
from wsss.segmenters.many import RECORDABLE, Job, segment_images


def run(options: SegmentOptions) -> int:
    """Run the stage; return 0, or 1 if some images could not be segmented."""
    return segment(options)


def segment(options: SegmentOptions, overlap: Overlap | None = None) -> int:
    """Segment what is not segmented yet and write `segments.csv` and `segment.json`; return the exit code.

    `overlap` is told of each image as it is done, for a stage that works on them at the same time.
    """
    folder = default_dataset(options.data)
    DataSet.open(folder)  # a folder that is none is told before anything is written there
    with hold(folder, "cells", "nuclei"):
        return _segment(folder, options, overlap)


def _segment(folder: Path, options: SegmentOptions, overlap: Overlap | None) -> int:

    data = DataSet.open(folder)
    asked = _backend_options(options, data.roles)
    backend = make_backend(options.backend, asked)  # a wrong option shows before any work
    for note in getattr(backend, "notes", ()):
        say(f"note: {note}")
    what: dict[str, Any] = {"backend": options.backend, "masks": str(asked.masks), "weights": str(asked.weights)}
    if options.category:  # without it as ever: what earlier versions found stays known
        what["category"] = options.category
    what |= {"split": True} if asked.split else {}
    what |= {"grow": asked.grow} if asked.grow else {}
    fingerprint = digest_json({"size": data.size, "pixel_um": asked.pixel_um, **what})
    path = folder / "segment.journal"
    if options.overwrite:
        for old in (path, *folder.glob("segment.journal-*"), folder / "segments.csv"):
            old.unlink(missing_ok=True)
    began = time.perf_counter()
    with Journal(path, fingerprint) as journal:
        todo = _unfinished(data, journal)
        (folder / "segments.csv").unlink(missing_ok=True)
        if overlap is not None:
            number = {name: i for i, name in enumerate(data.ids)}
            todo = [number[name] for name in overlap.begin(data.ids[i] for i in todo)]
        _work(data, journal, todo, backend, options, overlap)
        table, spent = _summary(data, journal)
        doubts = {name: record.get("doubts", ()) for name, record, _ in journal.items()}
    for note in doubt_notes({name: doubts[name] for name in data.ids if name in doubts}):
        say(f"note: {note}")
    _write(folder, table, options, spent)
    return _report(table, len(todo), time.perf_counter() - began, spent)


def _backend_options(options: SegmentOptions, roles: tuple[str, ...]) -> BackendOptions:

    masks, weights = (path.resolve() if path else None for path in (options.masks, options.weights))
    return BackendOptions(
        masks,
        weights,
        options.device,
        options.batch,
        options.pixel_um,
        options.category,
        roles,
        options.split,
        options.grow,
    )


def _unfinished(data: DataSet, journal: Journal) -> list[int]:
    """Return the images that have no map yet, whose pixels have changed since, or that failed."""
    marks = _marks(data)
    done = {
        name
        for name, record, _ in journal.items()
        if record["status"] == "ok"
        and record["mark"] == marks.get(name)
        and (data.folder / record["map"]).exists()
        and (record["nuclei"] is None or (data.folder / record["nuclei"]).exists())
    }
    return [i for i, (name, ok) in enumerate(zip(data.ids, data.ok, strict=True)) if ok and name not in done]


def _marks(data: DataSet) -> dict[str, str]:
    """Return what tells an image's pixels from later ones under the same ID."""
    rows = zip(data.ids, data.table["crc32"], data.ok, strict=True)
    return {name: str(int(crc)) if ok else "" for name, crc, ok in rows}


def _work(
    data: DataSet,
    journal: Journal,
    todo: list[int],
    backend: AnyBackend,
    options: SegmentOptions,
    overlap: Overlap | None,
) -> None:
    """Segment the images `todo` and journal each as it is done."""
    marks = _marks(data)
    job = Job(data.folder, options.backend, _backend_options(options, data.roles))
    with progress(None, "segment", len(todo)) as bar:
        for index, result in segment_images(job, backend, todo, options.pool):
            name = data.ids[index]
            if isinstance(result, DiskError):
                raise result
            if isinstance(result, RECORDABLE):
                record = {"status": "failed", "reason": " ".join(str(result).split())}
            elif isinstance(result, Exception):
                result.add_note(f"while segmenting {name}")
                raise result
            else:
                record = result
            journal.add(name, {**record, "mark": marks[name]})
            if overlap is not None:
                overlap.done(name)
            bar.update()


COLUMNS = {
    "n_cells": 0,
    "n_border": 0,
    "n_broken": 0,
    "n_without_nucleus": None,
    "n_several_nuclei": None,
    "median_area_px": 0.0,
    "map": "",
}
"""Columns of segments.csv after ID, status and reason, and what stands there for a failed image."""


def _summary(data: DataSet, journal: Journal) -> tuple[pd.DataFrame, Counter[str]]:
    """Return one row per image of the data set, and the seconds spent on the ones of the journal."""
    records = {name: record for name, record, _ in journal.items()}
    spent: Counter[str] = Counter()
    rows = []
    for name, ok in zip(data.ids, data.ok, strict=True):
        record = records[name] if ok else {"status": "failed", "reason": "not prepared: see images.parquet"}
        spent.update(record.get("seconds", {}))
        shown = {column: record.get(column, default) for column, default in COLUMNS.items()}
        rows.append({"ID": name, "status": record["status"], "reason": record["reason"], **shown})
    table = pd.DataFrame(rows, columns=["ID", "status", "reason", *COLUMNS])
    counts = [column for column in COLUMNS if column.startswith("n_")]
    return table.astype(dict.fromkeys(counts, "Int64")), spent


def _write(folder: Path, table: pd.DataFrame, options: SegmentOptions, spent: Counter[str]) -> None:

    chosen = {
        name: value if value is None or isinstance(value, int | float) else str(value)
        for name, value in asdict(options).items()
    }
    write_json(
        folder / "segment.json",
        {
            "options": chosen,
            "images": len(table),
            "failed": int((table.status == "failed").sum()),
            "cells": int(table.n_cells.sum()),
            "seconds": dict(spent),
            "versions": versions(),
        },
    )
    write_csv(folder / "segments.csv", table)


def _report(table: pd.DataFrame, worked: int, seconds: float, spent: Counter[str]) -> int:
    """Print the outcome; return the exit code."""
    cells, border = int(table.n_cells.sum()), int(table.n_border.sum())
    broken = table[(table.status == "failed") & ~table.reason.str.startswith("not prepared")]
    rate = f"{worked / seconds:.1f} images/s" if worked else "nothing was left to do"
    parts = ", ".join(f"{name} {value:.1f} s" for name, value in spent.items())
    say(f"{len(table)} images, {cells} cells, {border} of them at the border; {rate} ({parts}).")
    empty = int(((table.status == "ok") & (table.n_cells == 0)).sum())
    if empty:
        say(f"{empty} images hold no cell.")
    for row in broken.head(5).itertuples():
        say(f"failed: {row.ID}: {row.reason}")
    if len(broken):
        say(f"{len(broken)} images failed; segments.csv names each with its reason.")
    return 1 if len(broken) else 0
