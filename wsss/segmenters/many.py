"""Find the cells of many images: workers around a function, or behind a network that stays in the main process."""

import functools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import cv2
import numpy as np

from wsss.cells.regions import describe_cells
from wsss.core.checks import DataError, UserError
from wsss.core.files import digest_file
from wsss.core.label_maps import Geometry, discard_label_map, find_label_map, read_label_map, write_label_map
from wsss.core.runtime import Workers, parallel
from wsss.data.catalog import DataSet
from wsss.segmenters import (
    AnyBackend,
    Backend,
    BackendOptions,
    CellMaps,
    Field,
    Finish,
    NetworkBackend,
    make_backend,
)

RECORDABLE = (UserError, OSError)
"""What one image can have wrong: recorded, and the run goes on. Anything else is a bug and stops it."""


@dataclass(frozen=True)
class Job:
    """What every worker must know."""

    folder: Path
    """The prepared data set, which also receives the maps."""
    backend: str
    """Name of the backend."""
    options: BackendOptions


@dataclass(frozen=True)
class _Task:
    """One image on its way to a worker; `finish` is there if a network has seen it already."""

    job: Job
    index: int
    finish: Finish | None = None
    seconds: tuple[tuple[str, float], ...] = ()


def segment_images(
    job: Job, backend: AnyBackend, indices: Sequence[int], workers: Workers
) -> Iterator[tuple[int, dict[str, Any] | Exception]]:
    """Segment images of a data set and write their maps; yield (index, record or what went wrong) as they finish.

    Args:
        backend: the backend, made in this process. A network runs here, and the workers label, measure and write
            beside it; of a function each worker makes its own.
        workers: processes; None for one a core, 0 for none; 'ray' for the cores of a Ray cluster.
    """
    _open_data.cache_clear()
    _open_backend.cache_clear()
    network = isinstance(backend, NetworkBackend)
    tasks = _predicted(job, backend, indices) if network else (_Task(job, index) for index in indices)  # type: ignore[arg-type]
    for task, result in parallel(_work, tasks, workers):
        yield task.index, result


def _predicted(job: Job, backend: NetworkBackend, indices: Sequence[int]) -> Iterator[_Task]:
    """Run the network batch after batch, each as soon as the workers want more."""
    data, batch = _open_data(job.folder), job.options.batch
    for start in range(0, len(indices), batch):
        fields: dict[int, Field] = {}
        began = time.perf_counter()
        for index in indices[start : start + batch]:
            try:
                fields[index] = _read(data, index)
            except RECORDABLE as error:
                yield _Task(job, index, functools.partial(_fail, error))
        read = time.perf_counter()
        finishes = backend.segment_batch(list(fields.values())) if fields else []
        seconds = (
            ("reading", (read - began) / max(len(fields), 1)),
            ("network", (time.perf_counter() - read) / max(len(fields), 1)),
        )
        for index, finish in zip(fields, finishes, strict=True):
            yield _Task(job, index, finish, seconds)


def _fail(error: Exception) -> NoReturn:
    raise error


@functools.lru_cache(maxsize=1)
def _open_data(folder: Path) -> DataSet:
    return DataSet.open(folder)


@functools.lru_cache(maxsize=1)
def _open_backend(name: str, options: BackendOptions) -> Backend:
    cv2.setNumThreads(1)  # the processes already share the cores
    backend = make_backend(name, options)
    assert not isinstance(backend, NetworkBackend), "a network stays in the main process"
    return backend


def _read(data: DataSet, index: int) -> Field:
    geometry = data.geometry(index)
    content = data.image(index)[:, : geometry.content_height, : geometry.content_width]
    return Field(
        data.ids[index],
        np.ascontiguousarray(content),
        geometry.height,
        geometry.width,
        geometry.size,
        data.roles,
        data.channels,
        data.pixel_um(index),
    )


def _work(task: _Task) -> dict[str, Any]:
    """Segment one image, or finish what a network has begun; write its maps; return its record for the journal."""
    folder, data = task.job.folder, _open_data(task.job.folder)
    name, geometry = data.ids[task.index], data.geometry(task.index)
    seconds, clock = dict(task.seconds), _Clock()
    try:
        if task.finish is None:
            field = _read(data, task.index)
            seconds["reading"] = clock.lap()
            maps = _open_backend(task.job.backend, task.job.options)(field)
            seconds["segmenting"] = clock.lap()
        else:
            maps = task.finish()
            seconds["labelling"] = clock.lap()
    except RECORDABLE:
        for kind in ("cells", "nuclei"):
            discard_label_map(folder / kind / name)
        raise
    maps = _padded(maps, geometry)
    record = _describe(maps, geometry)
    seconds["measuring"] = clock.lap()
    record |= _write(folder, name, maps)
    seconds["writing"] = clock.lap()
    return {"status": "ok", "reason": "", **record, "doubts": list(maps.doubts), "seconds": seconds}


class _Clock:
    """A stopwatch."""

    def __init__(self) -> None:
        self.last = time.perf_counter()

    def lap(self) -> float:
        """Return the seconds since the last lap."""
        now = time.perf_counter()
        passed, self.last = now - self.last, now
        return passed


def _padded(maps: CellMaps, geometry: Geometry) -> CellMaps:
    """Put maps of the image's content into the stored square; others pass as they are."""
    content = (geometry.content_height, geometry.content_width)

    def pad(label_map: np.ndarray) -> np.ndarray:
        if label_map.shape == (geometry.height, geometry.width) or label_map.shape != content:
            return label_map
        return np.pad(label_map, ((0, geometry.size - content[0]), (0, geometry.size - content[1])))

    return replace(maps, cells=pad(maps.cells), nuclei=None if maps.nuclei is None else pad(maps.nuclei))


def _describe(maps: CellMaps, geometry: Geometry) -> dict[str, Any]:
    table = describe_cells(maps.cells, maps.nuclei, geometry=geometry)
    record = {
        "n_cells": len(table),
        "n_border": int(table.touches_border.sum()),
        "n_broken": int((table.pieces > 1).sum()),
        "median_area_px": float(table.area_px.median()) if len(table) else 0.0,
    }
    if maps.nuclei is not None:
        record["n_without_nucleus"] = int((table.n_nuclei == 0).sum())
        record["n_several_nuclei"] = int((table.n_nuclei > 1).sum())
    return record


def recount(data: DataSet, index: int) -> dict[str, Any]:
    """Return the figures of an image's label maps as they are on the disk."""
    try:
        path = find_label_map(data.folder / "nuclei", data.ids[index])
        nuclei = read_label_map(path, *data.geometry(index).sizes)
    except DataError:  # given label maps come without nuclei
        nuclei = None
    return _describe(CellMaps(data.cells(index), nuclei), data.geometry(index))


def _write(folder: Path, name: str, maps: CellMaps) -> dict[str, str | None]:
    """Write an image's maps; return where they are."""
    written: dict[str, str | None] = {"nuclei": None}
    if maps.nuclei is None:
        discard_label_map(folder / "nuclei" / name)
    else:
        written["nuclei"] = str(write_label_map(folder / "nuclei" / name, maps.nuclei).relative_to(folder))
    path = write_label_map(folder / "cells" / name, maps.cells)
    written |= {"map": str(path.relative_to(folder)), "digest": digest_file(path)}
    return written
