"""Find the cells of a prepared data set: one lossless label map per image, written as it is made."""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from wsss.cells.instances import doubt_notes
from wsss.core.checks import ConfigError, DataError, DiskError, exit_code, some
from wsss.core.console import progress, say, say_notes
from wsss.core.csv_text import write_csv
from wsss.core.files import digest_json, write_json
from wsss.core.runtime import Overlap, version_of, versions
from wsss.data.catalog import DataSet, default_dataset
from wsss.data.origin import SEGMENT_JOURNAL, SEGMENTS
from wsss.options.segment import SegmentOptions
from wsss.runs.inputs import Digests
from wsss.runs.journal import Journal, remove_journal
from wsss.runs.output import Output, in_folder
from wsss.runs.result_record import SEGMENT
from wsss.segmenters import UNET_WEIGHTS, AnyBackend, BackendOptions, choose_backend, make_backend
from wsss.segmenters.many import RECORDABLE, Job, recount, segment_images
from wsss.segmenters.masks import GivenCells, MaskFolder, mask_files


def run(options: SegmentOptions, overlap: Overlap | None = None) -> int:
    """Segment what is not segmented yet; return 0, 1 if some images could not be segmented, 2 if none could.

    `overlap` is notified of each finished image, for a stage that works on the images at the same time.
    """
    folder = default_dataset(options.data)
    DataSet.open(folder)  # refuses what is not a data set before anything is written there
    with in_folder(folder, "segment", "cells", "nuclei", name=SEGMENT) as output:
        return _segment(folder, options, overlap, output)


def _segment(folder: Path, options: SegmentOptions, overlap: Overlap | None, output: Output) -> int:
    data = DataSet.open(folder)
    options = replace(options, backend=choose_backend(options.backend, data.roles))
    asked = _backend_options(options, data)
    backend = make_backend(options.backend, asked)  # a wrong option shows before any work
    say_notes(getattr(backend, "notes", ()))
    output.begin(partial(_read, data, options), marks=partial(_marks, data, options), subject=(), always=True)
    output.overwrite = True  # the tables are of this stage, whatever version of it
    path = folder / SEGMENT_JOURNAL
    if options.overwrite:
        remove_journal(path)
    began = time.perf_counter()
    refusal = partial(_other_backend, folder, options.backend)
    with Journal(path, output.read, folder, f"or {AGAIN}", refusal) as journal:
        todo = _unfinished(data, journal, output)
        if todo:
            (folder / SEGMENTS).unlink(missing_ok=True)  # until it is whole again
        if overlap is not None:
            number = {name: i for i, name in enumerate(data.ids)}
            todo = [number[name] for name in overlap.begin(data.ids[i] for i in todo)]
        _work(data, journal, todo, backend, options, overlap, output)
        table, spent = _summary(data, journal)
        doubts = {name: record.get("doubts", ()) for name, record, _ in journal.items()}
    several = backend.given.several(doubts) if isinstance(backend, GivenCells) else []
    say_notes([*several, *doubt_notes({name: doubts[name] for name in data.ids if name in doubts})])
    _write(output.home, table, options, spent)
    output.publish(failed=table.ID[(table.status == "failed") & table.ID.isin(list(output.items))].tolist())
    return _report(table, len(todo), time.perf_counter() - began, spent)


AGAIN = "pass --overwrite true to find all cells again"


def _other_backend(folder: Path, backend: str, before: Mapping[str, Any]) -> str:
    """Return the refusal to go on with cells that another backend found, perhaps the default of then; else ''."""
    chosen = before.get("options")
    known = chosen.get("backend") if isinstance(chosen, dict) else None
    if known in (None, backend):
        return ""
    return (
        f"{folder} holds cells found by the backend {known}, and {backend} would find others: keep them with --backend "
        f"{known} (infer: --segment {known}), or {AGAIN}."
    )


def _backend_options(options: SegmentOptions, data: DataSet) -> BackendOptions:
    masks, weights = (path.resolve() if path else None for path in (options.masks, options.weights))
    return BackendOptions(
        masks,
        weights,
        options.device,
        options.batch,
        options.pixel_um,
        options.category,
        data.roles,
        options.split,
        data.file_channels,
        options.grow,
        options.background,
    )


def _read(data: DataSet, options: SegmentOptions, digests: Digests) -> dict[str, Any]:
    """Return what all label maps are made from, except the images and their given masks."""
    asked = _backend_options(options, data)
    files = {} if asked.weights is None else {str(options.weights): digests.of(asked.weights)}
    if options.backend == "unet" and asked.weights is None:
        files["weights of wsss"] = digests.of(UNET_WEIGHTS)
    chosen: dict[str, Any] = {"backend": options.backend, "pixel_um": asked.pixel_um, "size": data.size}
    chosen |= {"masks": str(asked.masks), "weights": str(asked.weights), "category": options.category or ""}
    chosen |= {"split": asked.split, "grow": asked.grow, "roles": list(data.roles)}
    if asked.background:
        chosen["background"] = asked.background
    known = {"cellpose", "instanseg"} & {options.backend}
    return {"options": chosen, "files": files, "versions": {name: version_of(name) for name in known}}


def _marks(data: DataSet, options: SegmentOptions, digests: Digests) -> dict[str, str]:
    """Return digests of each image's pixels, of their size where it counts, and of its masks where they are given."""
    given = options.masks
    crc = dict(zip(data.ids, data.table["crc32"].tolist(), strict=True))
    names = [name for name, ok in zip(data.ids, data.ok, strict=True) if ok]
    if given is None:
        sized = options.backend == "instanseg" and options.pixel_um is None
        edges = [data.pixel_um(int(i)) if sized else None for i in data.ok.nonzero()[0]]
        return {name: f"{int(crc[name])}{f' {um:g} um' if um else ''}" for name, um in zip(names, edges, strict=True)}
    if given.is_dir():
        folder = MaskFolder(given, data.file_channels)
        mask_digests = digests.of_files([_mask_file(folder, name) for name in names])
    else:
        of_all = [digest for path in mask_files(given) if (digest := digests.of(path))]
        mask_digests = ["".join(of_all)] * len(names)
    return {name: digest_json([int(crc[name]), digest]) for name, digest in zip(names, mask_digests, strict=True)}


def _mask_file(folder: MaskFolder, name: str) -> Path:
    """Return the file of an image's given masks; if it has none or several, a path that does not exist."""
    try:
        return folder.find(name) or folder.folder / f"{name}.none"
    except DataError:  # several: the image fails, with the reason
        return folder.folder / f"{name}.none"


def _unfinished(data: DataSet, journal: Journal, output: Output) -> list[int]:
    """Return the images that have no map yet, whose pixels or given masks have changed since, or that failed.

    Maps that were corrected by hand are kept, and their cells are counted again.
    """
    done, corrected, lost, number = set(), [], [], {name: i for i, name in enumerate(data.ids)}
    digests = Digests(output.seen)
    for name, record, _ in list(journal.items()):
        if record["status"] != "ok" or name not in output.items:
            continue
        maps = [data.folder / path for path in (record["map"], record["nuclei"]) if path is not None]
        if not all(path.exists() for path in maps):
            continue
        by_hand = record.get("digest", now := digests.of(maps[0])) != now
        if record["mark"] != output.items[name]:
            lost += [name] if by_hand or record.get("by_hand") else []
            continue
        done.add(name)
        if by_hand:
            corrected.append(name)
            journal.add(name, {**record, **recount(data, number[name]), "digest": now, "by_hand": True})
    if lost:
        raise ConfigError(
            f"the label maps of {some(lost)} in {data.folder / 'cells'} were corrected by hand, and their images or "
            "given masks have changed since: delete them to find these cells again; to keep them, move the folder away "
            "and take it with --backend masks --masks."
        )
    if corrected:
        say(f"{some(corrected)}: the label maps were changed by hand since, and are kept.")
    return [i for i, (name, ok) in enumerate(zip(data.ids, data.ok, strict=True)) if ok and name not in done]


def _work(
    data: DataSet,
    journal: Journal,
    todo: list[int],
    backend: AnyBackend,
    options: SegmentOptions,
    overlap: Overlap | None,
    output: Output,
) -> None:
    """Segment the images `todo` and journal each as it is done."""
    marks = output.items
    job = Job(data.folder, options.backend, _backend_options(options, data))
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
    write_csv(folder / SEGMENTS, table)


def _report(table: pd.DataFrame, worked: int, seconds: float, spent: Counter[str]) -> int:
    """Print the outcome; return the exit code."""
    cells, border = int(table.n_cells.sum()), int(table.n_border.sum())
    broken = table[(table.status == "failed") & ~table.reason.str.startswith("not prepared")]
    rate = f"{worked / seconds:.1f} images/s" if worked else "nothing was left to do"
    parts = ", ".join(f"{name} {value:.1f} s" for name, value in spent.items())
    say(f"{len(table)} images, {cells} cells, {border} of them at the border; {rate} ({parts}).")
    empty = table.ID[(table.status == "ok") & (table.n_cells == 0)].tolist()
    if empty:
        say(f"no cells in {len(empty)} of them: {some(empty)}.")
    for row in broken.head(5).itertuples():
        say(f"failed: {row.ID}: {row.reason}")
    if len(broken):
        say(f"{len(broken)} images failed; segments.csv names each with its reason.")
    return exit_code(len(broken), len(broken) + int((table.status == "ok").sum()))
