"""Find the cells of a prepared data set: one lossless label map per image, written as it is made."""

import functools
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsss.core import cli
from wsss.core.checks import UserError, check_range

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from wsss.cells.backends import Backend
    from wsss.core.journal import Journal
    from wsss.data.catalog import DataSet

EXAMPLES = """\
  python -m wsss.segment --data data/mine                                  find the cells by their stains
  python -m wsss.segment --data data/mine --backend masks --masks maps/    take given label maps
"""

RECORDABLE = (UserError, OSError)
"""What one image can have wrong: recorded, and the run goes on. Anything else is a bug and stops it."""


@dataclass(frozen=True)
class SegmentOptions:
    """What the stage is asked to do."""

    data: Path | None = None
    """The prepared data set; may be left out where only one is prepared under data/."""
    backend: str = "classical"
    """How cells are found: classical, masks, or one that another package registers (group wsss.backends)."""
    masks: Path | None = None
    """Folder of given label maps, <ID>.png|tif|npz|npy at original or stored size, for the backend masks."""
    workers: int | None = None
    """Processes; one per core if left out, 0 for none beside the main one."""
    overwrite: bool = False
    """Forget what earlier runs made and segment every image again."""

    def __post_init__(self) -> None:
        if self.workers is not None:
            check_range("--workers", self.workers, 0)


@dataclass(frozen=True)
class _Task:
    folder: Path
    index: int
    backend: str
    masks: Path | None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage; return 0, or 1 if some images could not be segmented."""
    parser = cli.make_parser("segment", __doc__ or "", EXAMPLES, SegmentOptions)
    (options,) = cli.parse(parser, argv, SegmentOptions)
    return segment(options)


def segment(options: SegmentOptions) -> int:
    """Segment what is not segmented yet and write `segments.csv` and `segment.json`; return the exit code."""
    from wsss.cells.backends import BackendOptions, make_backend
    from wsss.core.files import digest_json
    from wsss.core.journal import Journal
    from wsss.data.catalog import DataSet

    folder = cli.default_dataset(options.data)
    data = DataSet.open(folder)
    make_backend(options.backend, BackendOptions(options.masks))  # a wrong option shows before any work
    masks = options.masks.resolve() if options.masks else None
    fingerprint = digest_json({"size": data.size, "backend": options.backend, "masks": str(masks)})
    path = folder / "segment.journal"
    if options.overwrite:
        for old in (path, *folder.glob("segment.journal-*"), folder / "segments.csv"):
            old.unlink(missing_ok=True)
    began = time.perf_counter()
    with Journal(path, fingerprint) as journal:
        todo = _unfinished(data, journal)
        (folder / "segments.csv").unlink(missing_ok=True)
        _work(data, journal, [_Task(folder, i, options.backend, masks) for i in todo], options.workers)
        table, spent = _summary(data, journal)
    _write(folder, table, options, spent)
    return _report(table, len(todo), time.perf_counter() - began, spent)


def _unfinished(data: "DataSet", journal: "Journal") -> list[int]:
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


def _marks(data: "DataSet") -> dict[str, str]:
    """Return what tells an image's pixels from later ones under the same ID."""
    rows = zip(data.ids, data.table["crc32"], data.ok, strict=True)
    return {name: str(int(crc)) if ok else "" for name, crc, ok in rows}


def _work(data: "DataSet", journal: "Journal", tasks: list[_Task], workers: int | None) -> None:
    from wsss.core.runtime import parallel, progress

    marks = _marks(data)
    _open_data.cache_clear()
    _open_backend.cache_clear()
    with progress(None, "segment", len(tasks)) as bar:
        for task, result in parallel(_segment_one, tasks, workers):
            name = data.ids[task.index]
            if isinstance(result, RECORDABLE):
                record = {"status": "failed", "reason": " ".join(str(result).split())}
            elif isinstance(result, Exception):
                result.add_note(f"while segmenting {name}")
                raise result
            else:
                record = result
            journal.add(name, {**record, "mark": marks[name]})
            bar.update()


@functools.lru_cache(maxsize=1)
def _open_data(folder: Path) -> "DataSet":
    from wsss.data.catalog import DataSet

    return DataSet.open(folder)


@functools.lru_cache(maxsize=1)
def _open_backend(name: str, masks: Path | None) -> "Backend":
    import cv2

    from wsss.cells.backends import BackendOptions, make_backend

    cv2.setNumThreads(1)  # the processes already share the cores
    return make_backend(name, BackendOptions(masks))


def _segment_one(task: _Task) -> dict[str, Any]:
    """Segment one image, write its maps, and return its record for the journal."""
    import numpy as np

    from wsss.cells.backends import Field
    from wsss.core.label_maps import discard_label_map, write_label_map

    data, backend = _open_data(task.folder), _open_backend(task.backend, task.masks)
    name, geometry = data.ids[task.index], data.geometry(task.index)
    clock = [time.perf_counter()]
    content = data.image(task.index)[:, : geometry.content_height, : geometry.content_width]
    field = Field(name, np.ascontiguousarray(content), geometry.height, geometry.width, geometry.size)
    clock.append(time.perf_counter())
    try:
        found = backend(field)
    except RECORDABLE:
        for kind in ("cells", "nuclei"):
            discard_label_map(task.folder / kind / name)
        raise
    clock.append(time.perf_counter())
    cells, nuclei = _padded(found.cells, field), None if found.nuclei is None else _padded(found.nuclei, field)
    record = _describe(cells, nuclei, geometry)
    clock.append(time.perf_counter())
    if nuclei is None:
        discard_label_map(task.folder / "nuclei" / name)
        record["nuclei"] = None
    else:
        record["nuclei"] = str(write_label_map(task.folder / "nuclei" / name, nuclei).relative_to(task.folder))
    record["map"] = str(write_label_map(task.folder / "cells" / name, cells).relative_to(task.folder))
    clock.append(time.perf_counter())
    seconds = dict(zip(("reading", "segmenting", "measuring", "writing"), np.diff(clock).tolist(), strict=True))
    return {"status": "ok", "reason": "", **record, "seconds": seconds}


def _padded(label_map: "np.ndarray", field: Any) -> "np.ndarray":
    """Put a map of the image's content into the stored square; others pass as they are."""
    import numpy as np

    shape = label_map.shape
    if shape == (field.height, field.width) or shape != field.image.shape[1:]:
        return label_map
    return np.pad(label_map, ((0, field.size - shape[0]), (0, field.size - shape[1])))


def _describe(cells: "np.ndarray", nuclei: "np.ndarray | None", geometry: Any) -> dict[str, Any]:
    from wsss.cells.instances import describe_cells

    table = describe_cells(cells, nuclei, geometry=geometry)
    found = {
        "n_cells": len(table),
        "n_border": int(table.touches_border.sum()),
        "n_broken": int((table.pieces > 1).sum()),
        "median_area_px": float(table.area_px.median()) if len(table) else 0.0,
    }
    if nuclei is not None:
        found["n_without_nucleus"] = int((table.n_nuclei == 0).sum())
        found["n_several_nuclei"] = int((table.n_nuclei > 1).sum())
    return found


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


def _summary(data: "DataSet", journal: "Journal") -> tuple["pd.DataFrame", Counter[str]]:
    """Return one row per image of the data set, and the seconds spent on the ones of the journal."""
    import pandas as pd

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


def _write(folder: Path, table: "pd.DataFrame", options: SegmentOptions, spent: Counter[str]) -> None:
    from wsss.core.files import write_csv, write_json
    from wsss.core.runtime import versions

    chosen = {
        name: value if value is None or isinstance(value, int) else str(value)
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


def _report(table: "pd.DataFrame", worked: int, seconds: float, spent: Counter[str]) -> int:
    """Print the outcome; return the exit code."""
    cells, border = int(table.n_cells.sum()), int(table.n_border.sum())
    broken = table[(table.status == "failed") & ~table.reason.str.startswith("not prepared")]
    rate = f"{worked / seconds:.1f} images/s" if worked else "nothing was left to do"
    parts = ", ".join(f"{name} {value:.1f} s" for name, value in spent.items())
    cli.say(f"{len(table)} images, {cells} cells, {border} of them at the border; {rate} ({parts}).")
    empty = int(((table.status == "ok") & (table.n_cells == 0)).sum())
    if empty:
        cli.say(f"{empty} images hold no cell.")
    for row in broken.head(5).itertuples():
        cli.say(f"failed: {row.ID}: {row.reason}")
    if len(broken):
        cli.say(f"{len(broken)} images failed; segments.csv names each with its reason.")
    return 1 if len(broken) else 0


if __name__ == "__main__":
    cli.run(main)
