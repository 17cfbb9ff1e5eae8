"""Bring one source into the store: what is left to do, doing it, and its rows for the catalogue."""

import itertools
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wsss.core.checks import DataError, some
from wsss.core.digests import mark_of
from wsss.core.files import digest_json
from wsss.core.runtime import Workers, parallel, progress
from wsss.data.build import COLUMNS, write_extra
from wsss.data.duplicates import EDGE
from wsss.data.existing import Known
from wsss.data.ingest import Job, ingest, precheck
from wsss.data.matching import Matched
from wsss.data.store import Shards
from wsss.runs.journal import Journal

CHUNK = 64


@dataclass(frozen=True)
class Source:
    """The images of one source, matched with their labels, and where they go."""

    name: str
    images: Path
    depth: str
    matched: Matched
    shards: Shards

    @property
    def ids(self) -> list[str]:
        """The IDs, sorted."""
        return [files.ID for files in self.matched.files]

    @property
    def fingerprint(self) -> str:
        """Digest of what decides where each image lies and how it is stored."""
        return digest_json([self.ids, self.depth, self.shards.size, self.name])

    @property
    def inputs(self) -> dict[str, Any]:
        """The same in words, for messages."""
        return {"--source": self.name, "--size": self.shards.size, "--depth": self.depth, "IDs": digest_json(self.ids)}

    def jobs(self) -> list[Job]:
        """Return one job per image, in the order of IDs."""
        return [Job(k, files, self.images, self.depth, self.shards) for k, files in enumerate(self.matched.files)]


def stamps(source: Source) -> dict[str, int]:
    """Return for each ID a number that changes with its files, by inode, size and times, and with their channels."""
    out = {}
    for files in source.matched.files:
        facts = [files.reason, *files.channels]
        for name in files.names:
            try:
                facts += [f"{name} {mark_of(path)}" for path in _parts(source.images / name)]
            except OSError as error:
                facts.append(f"{name} {error.strerror}")
        out[files.ID] = zlib.crc32("\n".join(facts).encode())
    return out


def _parts(path: Path) -> list[Path]:
    """Return the files that an image is made of: itself, or all below a folder (OME-Zarr)."""
    return sorted(own for own in path.rglob("*") if own.is_file()) if path.is_dir() else [path]


def recall(journal: Journal, source: Source, stamp: dict[str, int]) -> Known:
    """Return the images that an interrupted run finished, files unchanged and stored bytes intact; none that failed."""
    number = {ID: k for k, ID in enumerate(source.ids)}
    known: Known = {}
    for ID, record, thumbnail in journal.items():
        intact = record["status"] == "ok" and source.shards.crc32(number[ID]) == record["crc32"]
        if record.pop("stamp") == stamp[ID] and intact:
            known[ID] = (record, thumbnail)
    return known


def check(jobs: list[Job], workers: Workers, *, others: bool = False) -> list[Job]:
    """Read all headers; return the jobs, the hopeless ones with their reason.

    Args:
        jobs: the images.
        workers: see `parallel`.
        others: whether the source has further images that are stored already.

    Raises:
        DataError: no image can be used.
    """
    reasons: dict[int, str] = {}
    with progress(None, "check", len(jobs)) as bar:
        for chunk, result in parallel(_precheck, _chunks(jobs), workers if len(jobs) > CHUNK else 0):
            if isinstance(result, Exception):
                raise result
            reasons.update({job.k: reason for job, reason in zip(chunk, result, strict=True) if reason})
            bar.update(len(chunk))
    if len(reasons) == len(jobs) and not others:
        raise DataError(f"none of the {len(jobs)} images can be used: {some(reasons.values(), 2)}")
    return [replace(job, files=replace(job.files, reason=reasons[job.k])) if job.k in reasons else job for job in jobs]


def _precheck(jobs: tuple[Job, ...]) -> list[str]:
    return [precheck(job) for job in jobs]


def _chunks(jobs: Iterable[Job]) -> Iterator[tuple[Job, ...]]:
    todo = iter(jobs)
    while chunk := tuple(itertools.islice(todo, CHUNK)):
        yield chunk


def execute(jobs: list[Job], journal: Journal, stamp: dict[str, int], workers: Workers) -> Known:
    """Decode and store images in parallel, each journalled when it is done.

    Raises:
        DataError: the store cannot be written, or a worker was killed.
    """
    known: Known = {}
    with progress(None, "prepare", len(jobs)) as bar:
        for job, result in parallel(ingest, jobs, workers):
            if isinstance(result, Exception):
                raise result
            record, thumbnail = result
            journal.add(job.files.ID, {**record, "stamp": stamp[job.files.ID]}, thumbnail)
            known[job.files.ID] = result
            bar.update()
    return known


def rows(source: Source, known: Known) -> pd.DataFrame:
    """Return the catalogue rows of a source that is in the store."""
    records: list[dict[str, Any]] = []
    for k, (ID, label) in enumerate(zip(source.ids, source.matched.labels, strict=True)):
        shard, slot = source.shards.place(k)
        place = {"ID": ID, "source": source.name, "shard": shard, "slot": slot, "Label": label}
        records.append({**place, **known[ID][0]})
    empty = {"duplicate_of": None, "fold": -1}
    return pd.DataFrame(records).assign(**empty).astype(COLUMNS)[list(COLUMNS)]


def write_extras(folder: Path, source: Source, known: Known, stamp: dict[str, int]) -> None:
    """Write the thumbnails and file stamps of a source that is in the store."""
    shape = (source.shards.channels, EDGE, EDGE)
    thumbnails = np.zeros((len(source.ids), *shape), np.int8)
    for k, ID in enumerate(source.ids):
        if known[ID][1]:
            thumbnails[k] = np.frombuffer(known[ID][1], np.int8).reshape(shape)
    numbers = np.array([stamp[ID] for ID in source.ids], np.int64)
    write_extra(folder, source.name, thumbnails=thumbnails, stamps=numbers)
