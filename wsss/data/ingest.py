"""One image from its files into its place in the store: what worker processes of prepare do."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from wsss.core.checks import DataError
from wsss.core.geometry import Geometry
from wsss.core.stacks import NO_CHOICE, PlaneChoice
from wsss.data.duplicates import thumbnail
from wsss.data.pixels import check_headers, declared_bits, read_planes, to_uint8
from wsss.data.planes import ImageFiles
from wsss.data.store import Shards


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
            raise DataError(job.files.reason)  # the check of headers has made it a sentence
        header, planes = read_planes(job.paths, shards.channels, job.files.channels, job.choice)
        pixels, depth = to_uint8(planes, job.files.names, declared_bits(header) or job.bits)
    except (DataError, FileNotFoundError) as error:
        shards.write(job.k, np.zeros((shards.channels, shards.size, shards.size), np.uint8))
        return _record("failed", str(error)), b""
    geometry = Geometry(pixels.shape[1], pixels.shape[2], shards.size)
    stored = geometry.image_to_store(pixels)
    crc = shards.write(job.k, stored)
    record = _record("ok", "", ImageHeight=geometry.height, ImageWidth=geometry.width, depth=depth, crc32=crc)
    record["top"] = max(int(plane.max()) for plane in planes) if planes[0].dtype == np.uint16 else None
    return record, thumbnail(stored, geometry).tobytes()


def precheck(job: Job) -> tuple[str, bool]:
    """Return what names and headers of an image's files say against it, '' if nothing, and whether it has 16 bits."""
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


def _record(status: str, reason: str, **found: Any) -> dict[str, Any]:
    return {
        "status": status,
        "reason": reason,
        "ImageHeight": 0,
        "ImageWidth": 0,
        "depth": "",
        "crc32": 0,
        **found,
    }
