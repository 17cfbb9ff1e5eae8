"""One image from its files into its place in the store: what worker processes of prepare do."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from wsss.core.checks import DataError
from wsss.core.geometry import Geometry
from wsss.data.duplicates import thumbnail
from wsss.data.pixels import check_headers, read_image
from wsss.data.planes import ImageFiles
from wsss.data.store import Shards


@dataclass(frozen=True)
class Job:
    """One image to be prepared."""

    k: int
    """Its number in the source."""
    files: ImageFiles
    folder: Path
    depth: str
    shards: Shards


def ingest(job: Job) -> tuple[dict[str, Any], bytes]:
    """Decode, resize and store one image; an image that cannot be read leaves zeros and a reason.

    Returns:
        The image's record for the catalogue, and its thumbnail's bytes ('' if it failed).

    Raises:
        DataError: the store cannot be written.
    """
    cv2.setNumThreads(1)  # the images are spread over processes already
    shards = job.shards
    try:
        if job.files.reason:
            raise DataError(job.files.reason)  # the check of headers has made it a sentence
        pixels, depth = read_image(
            [job.folder / name for name in job.files.names], shards.channels, job.depth, job.files.channels
        )
    except DataError as error:
        shards.write(job.k, np.zeros((shards.channels, shards.size, shards.size), np.uint8))
        return _record("failed", str(error)), b""
    geometry = Geometry(pixels.shape[1], pixels.shape[2], shards.size)
    stored = geometry.image_to_store(pixels)
    crc = shards.write(job.k, stored)
    record = _record("ok", "", ImageHeight=geometry.height, ImageWidth=geometry.width, depth=depth, crc32=crc)
    return record, thumbnail(stored, geometry).tobytes()


def precheck(job: Job) -> str:
    """Return what the names and headers of an image's files say against it, '' if nothing."""
    if job.files.reason:
        return f"{job.files.ID}: {job.files.reason}."
    try:
        check_headers([job.folder / name for name in job.files.names], job.shards.channels, job.files.channels)
    except DataError as error:
        return str(error)
    return ""


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
