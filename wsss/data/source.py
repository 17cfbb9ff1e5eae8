"""Bring one source into the store: check, decode, resize and store its images, and make its rows of the catalogue."""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from wsss.core.channels import BITS
from wsss.core.checks import DataError, some
from wsss.core.console import progress
from wsss.core.files import digest_json
from wsss.core.label_maps import Geometry
from wsss.core.runtime import Workers, parallel
from wsss.core.tiff import NO_CHOICE, PlaneChoice
from wsss.data.build import ExistingSet, Known, write_extra
from wsss.data.catalog import COLUMNS, PIXEL_SIZE, Shards
from wsss.data.duplicates import EDGE, thumbnail
from wsss.data.image_files import ImageFiles
from wsss.data.pixels import bits_for, check_headers, declared_bits, in_order_of_colours, read_planes, to_uint8
from wsss.data.tables import Matched
from wsss.runs.inputs import mark_of
from wsss.runs.journal import Journal


@dataclass(frozen=True)
class Job:
    """One image to be prepared."""

    k: int
    """Its number in the source."""
    files: ImageFiles
    folder: Path
    shards: Shards
    bits: int | None = None
    """Bits that its 16-bit files use."""
    choice: PlaneChoice = NO_CHOICE
    """What is taken of a stack."""

    @property
    def paths(self) -> list[Path]:
        """Its files."""
        return [self.folder / name for name in self.files.names]


def ingest(job: Job) -> tuple[dict[str, Any], bytes]:
    """Decode, resize and store one image; an image that cannot be read leaves zeros and a reason.

    Returns:
        The image's record for the catalogue and, as 'top', the largest value of 16-bit files (None of others); and its
        thumbnail's bytes ('' if it failed).

    Raises:
        DataError: the store cannot be written.
    """
    cv2.setNumThreads(1)  # the images are spread over processes already
    shards = job.shards
    try:
        if job.files.reason:
            raise DataError(job.files.reason)  # a full sentence, made by the check of headers
        header, planes = read_planes(job.paths, shards.channels, job.files.channels, job.choice)
        pixels, depth = to_uint8(planes, job.files.names, declared_bits(header) or job.bits)
    except (DataError, FileNotFoundError) as error:
        shards.write(job.k, np.zeros((shards.channels, shards.size, shards.size), np.uint8))
        return _record("failed", str(error)), b""
    geometry = Geometry(pixels.shape[1], pixels.shape[2], shards.size)
    stored = geometry.image_to_store(pixels)
    crc = shards.write(job.k, stored)
    record = _record("ok", "", ImageHeight=geometry.height, ImageWidth=geometry.width, depth=depth, crc32=crc)
    record |= {"inverted": header.inverted, "pixel_um": header.pixel_um, "stack": header.stack, "pages": header.pages}
    record["colours"] = len(planes) > 1 == len(job.paths) and in_order_of_colours(header, job.files.channels)
    record["peak"] = int(stored.max()) if depth == "float" else None
    record["top"] = max(int(plane.max()) for plane in planes) if planes[0].dtype == np.uint16 else None
    return record, thumbnail(stored, geometry).tobytes()


def precheck(job: Job) -> tuple[str, bool]:
    """Return why names and headers of the files rule an image out ('' if they do not), and whether it has 16 bits."""
    if job.files.reason:
        return f"{job.files.ID}: {job.files.reason}.", False
    try:
        header = check_headers(job.paths, job.shards.channels, job.files.channels, job.choice)
    except (DataError, OSError) as error:
        return str(error), False
    return "", header.dtype == "uint16" and header.bits == 16


def largest(job: Job) -> int:
    """Return the largest value of an image of 16-bit files; -1 of any other, and of one that cannot be read."""
    reason, deep = precheck(job)
    if reason or not deep:
        return -1
    try:
        _, planes = read_planes(job.paths, job.shards.channels, job.files.channels, job.choice)
    except (DataError, FileNotFoundError):
        return -1
    return max(int(plane.max()) for plane in planes)


def _record(status: str, reason: str, **values: Any) -> dict[str, Any]:
    return {
        "status": status,
        "reason": reason,
        "ImageHeight": 0,
        "ImageWidth": 0,
        "depth": "",
        "crc32": 0,
        **values,
    }


CHUNK = 64
LEAST_PEAK = 64
"""Of 255, the largest value of a set of float images from which on nothing is said."""
COLOURS = ("red", "green", "blue")
BITS_KEY = ""
"""Journal key of the bits of the source; no image has this ID."""


@dataclass(frozen=True)
class Source:
    """The images of one source, matched with their labels, and where they go."""

    name: str
    images: Path
    bits: str
    """Bits that 16-bit files use; auto: the fewest that hold the largest value of all."""
    matched: Matched
    shards: Shards
    choice: PlaneChoice = NO_CHOICE
    """What is taken of stacks."""
    channels: tuple[str, ...] = ()
    """What the files call their channels."""

    @property
    def ids(self) -> list[str]:
        """The IDs, sorted."""
        return [files.ID for files in self.matched.files]

    @property
    def fingerprint(self) -> str:
        """Digest of what decides where each image lies and how it is stored."""
        parts = [self.ids, self.bits, self.shards.size, self.name]
        return digest_json([*parts, asdict(self.choice)] if self.choice else parts)

    @property
    def inputs(self) -> dict[str, Any]:
        """The same by option, for messages."""
        inputs = {"--source": self.name, "--size": self.shards.size, "--bits": self.bits, "IDs": digest_json(self.ids)}
        return inputs | {f"--{name}": value for name, value in asdict(self.choice).items()}

    def jobs(self) -> list[Job]:
        """Return one job per image, in the order of IDs."""
        files = enumerate(self.matched.files)
        return [Job(k, image_files, self.images, self.shards, choice=self.choice) for k, image_files in files]


def stamps(source: Source) -> dict[str, int]:
    """Return for each ID a number that changes with its files, by inode, size and times, and with their channels."""
    out = {}
    described = [mark_of(path) for path in sorted(source.images.glob("*.companion.ome")) if path.is_file()]
    for files in source.matched.files:
        marks = [files.reason, *files.channels, *described]
        for name in (*files.names, *files.companions):
            try:
                marks += [f"{name} {mark_of(path)}" for path in _parts(source.images / name)]
            except OSError as error:
                marks.append(f"{name} {error.strerror}")
        out[files.ID] = zlib.crc32("\n".join(marks).encode())
    return out


def _parts(path: Path) -> list[Path]:
    """Return the files that an image is made of: itself, or all below a folder (OME-Zarr)."""
    return sorted(part for part in path.rglob("*") if part.is_file()) if path.is_dir() else [path]


def recall(journal: Journal, source: Source, stamp: dict[str, int]) -> Known:
    """Return the images that an interrupted run finished, files unchanged and stored bytes intact; none that failed."""
    number = {ID: k for k, ID in enumerate(source.ids)}
    known: Known = {}
    for ID, record, small in journal.items():
        if ID == BITS_KEY:
            continue
        intact = record["status"] == "ok" and source.shards.crc32(number[ID]) == record["crc32"]
        if record.pop("stamp") == stamp[ID] and intact:
            known[ID] = (record, small)
    return known


def check(jobs: list[Job], workers: Workers, *, others: bool = False) -> tuple[list[Job], list[Job]]:
    """Read all headers; return the jobs, the hopeless ones with their reason, and those of 16-bit files.

    Args:
        others: whether the source has further images that are stored already.

    Raises:
        DataError: no image can be used.
    """
    reasons: dict[int, str] = {}
    deep: list[Job] = []
    chunks = (tuple(jobs[first : first + CHUNK]) for first in range(0, len(jobs), CHUNK))
    with progress(None, "check", len(jobs)) as bar:
        for chunk, result in parallel(_precheck, chunks, workers if len(jobs) > CHUNK else 0):
            if isinstance(result, Exception):
                raise result
            reasons.update({job.k: reason for job, (reason, _) in zip(chunk, result, strict=True) if reason})
            deep += [job for job, (_, is_deep) in zip(chunk, result, strict=True) if is_deep]
            bar.update(len(chunk))
    if len(reasons) == len(jobs) and not others:
        raise DataError(f"none of the {len(jobs)} images can be used: {in_brief(reasons.values())}")
    checked = [
        replace(job, files=replace(job.files, reason=reasons[job.k])) if job.k in reasons else job for job in jobs
    ]
    return checked, sorted(deep, key=lambda job: job.k)


def in_brief(reasons: Iterable[str]) -> str:
    """Return the first two of some sentences, and how many more there are."""
    said = [reason.rstrip(".") + "." for reason in reasons]
    return " ".join(said[:2]) + (f" And {len(said) - 2} more." if len(said) > 2 else "")


def decide_bits(
    source: Source, deep: list[Job], before: int | None, journal: Journal, stamp: dict[str, int], workers: Workers
) -> int | None:
    """Return the bits that the 16-bit files of a source use, the same for all of them; None if there are none.

    Without `--bits` every such file is read until one needs all 16, since images must not be scaled one by one. The
    answer is journalled: a run that is started again reads them again only if a file has changed.

    Args:
        deep: its jobs of 16-bit files, or, without `--bits`, jobs among which they are.
        before: the bits of the images that are stored already.
    """
    held = digest_json(sorted(stamp.items()))
    entry = journal.get(BITS_KEY)
    if entry is not None and entry[0]["files"] == held:
        return entry[0]["bits"]
    if source.bits != "auto":
        bits = int(source.bits) if deep else before
    else:
        bits = _fewest_bits(deep, workers)
    journal.add(BITS_KEY, {"bits": bits, "files": held})
    return bits


def _fewest_bits(deep: list[Job], workers: Workers) -> int | None:
    """Return the fewest bits that hold every value of these images; None if none of them is of 16-bit files."""
    most = -1
    with progress(None, "bits", len(deep)) as bar:
        for _, value in parallel(largest, deep, workers if len(deep) > CHUNK else 0):
            if isinstance(value, Exception):
                raise value
            most = max(most, value)
            bar.update()
            if most >= 2 ** BITS[-2]:
                break
    return bits_for(most) if most >= 0 else None


def bits_before(source: Source, existing: ExistingSet, journal: Journal) -> int | None:
    """Return the bits of the images that are in the store already, by an interrupted run or a finished one."""
    entry = journal.get(BITS_KEY)
    if entry is not None:
        return entry[0]["bits"]
    return (existing.source(source.name) or {}).get("bits")


def _precheck(jobs: tuple[Job, ...]) -> list[tuple[str, bool]]:
    return [precheck(job) for job in jobs]


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


def pixel_notes(
    known: Known, bits: int | None, choice: PlaneChoice = NO_CHOICE, channels: Sequence[str] = ()
) -> list[str]:
    """Return notes, a line each, on how the pixels of images were read where that may be a surprise."""
    notes = []
    ok = {ID: record for ID, (record, _) in known.items() if record["status"] == "ok"}
    if choice and not any(record.get("stack", True) for record in ok.values()):
        notes.append("--plane and --project change nothing: no image is a stack.")
    if inverted := sorted(ID for ID, record in ok.items() if record.get("inverted")):
        notes.append(
            f"{len(inverted)} images are saved with 0 as white and stored as viewers show them, inverted: "
            f"{some(inverted)}. If a large number is a strong signal (Invert LUT of ImageJ), save them with 0 as black."
        )
    if coloured := sorted(ID for ID, record in ok.items() if record.get("colours")):
        order = ", ".join(f"{name} is {colour}" for name, colour in zip(channels, COLOURS, strict=False))
        notes.append(
            f"{len(coloured)} images are RGB pictures, read in the order of their colours ({order}): {some(coloured)}. "
            f"If it is another, say which colour each channel has: --channels {channels[0]}=blue,..."
        )
    if paged := sorted(ID for ID, record in ok.items() if record.get("pages")):
        order = ", ".join(f"page {k} is {name}" for k, name in enumerate(channels, 1))
        notes.append(
            f"{len(paged)} images have pages without a description, read as channels in their order ({order}): "
            f"{some(paged)}. If they are planes of a stack, see --plane and --project."
        )
    peaks = [record["peak"] for record in ok.values() if record.get("peak") is not None]
    if peaks and max(peaks) < LEAST_PEAK:
        notes.append(
            f"the largest value of all float images is {max(peaks) / 255:.3f}, so that of 255 levels {max(peaks)} are "
            "used: divide them all by their largest value, or save them as 16 bit."
        )
    kinds: dict[str, list[str]] = {}
    for ID, record in sorted(ok.items()):
        kind = "float" if record["depth"] == "float" else "16-bit" if record.get("top") is not None else "8-bit"
        kinds.setdefault(kind, []).append(ID)
    if len(kinds) > 1 and all("top" in record for record in ok.values()):
        most, *rest = sorted(kinds, key=lambda kind: -len(kinds[kind]))
        others = "; ".join(f"{len(kinds[kind])} of {kind} files: {some(kinds[kind])}" for kind in rest)
        notes.append(f"most images are of {most} files, {others}: check that they are as bright.")
    tops = {ID: record["top"] for ID, record in sorted(ok.items()) if record.get("top") is not None}
    few = {ID: top for ID, top in tops.items() if bits is not None and bits_for(top) < bits}
    if few:
        dim = some(f"{ID} (largest value {top})" for ID, top in few.items())
        notes.append(
            f"{len(few)} of {len(tops)} images of 16-bit files use fewer than the {bits} bits of the set and stay as "
            f"dim as they are: {dim}. Saved with fewer bits, they belong in a separate --source with --bits."
        )
    return notes


def rows(source: Source, known: Known) -> pd.DataFrame:
    """Return the catalogue rows of a source that is in the store."""
    records: list[dict[str, Any]] = []
    for k, (ID, label) in enumerate(zip(source.ids, source.matched.labels, strict=True)):
        shard, slot = source.shards.place(k)
        place = {"ID": ID, "source": source.name, "shard": shard, "slot": slot, "Label": label}
        records.append({**place, **known[ID][0]})
    empty = {"duplicate_of": None, "fold": -1}
    plain = pd.DataFrame(records).assign(**empty).astype(COLUMNS)[list(COLUMNS)]
    carried, edges = source.matched.carried, [_pixel_um(known, ID) for ID in source.ids]
    if any(edges) and PIXEL_SIZE not in carried:
        carried = carried.assign(**{PIXEL_SIZE: [f"{edge:.6g}" if edge else "" for edge in edges]})
    return pd.concat([plain, carried], axis=1) if len(carried.columns) else plain


def _pixel_um(known: Known, ID: str) -> float:
    """Return the edge of an image's pixels in µm; 0 where its files do not say, and for images of older data sets."""
    return float(known[ID][0].get("pixel_um", 0))


def write_extras(folder: Path, source: Source, known: Known, stamp: dict[str, int]) -> None:
    """Write the thumbnails and file stamps of a source that is in the store."""
    shape = (source.shards.channels, EDGE, EDGE)
    thumbnails = np.zeros((len(source.ids), *shape), np.int8)
    for k, ID in enumerate(source.ids):
        if known[ID][1]:
            thumbnails[k] = np.frombuffer(known[ID][1], np.int8).reshape(shape)
    numbers = np.array([stamp[ID] for ID in source.ids], np.int64)
    edges = np.array([_pixel_um(known, ID) for ID in source.ids])
    write_extra(folder, source.name, thumbnails=thumbnails, stamps=numbers, pixels=edges)
