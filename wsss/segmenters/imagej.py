"""Cells of one image from ImageJ's regions of interest: a set <ID>.zip, as the ROI Manager saves it, or <ID>.roi."""

import logging
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from roifile import ROI_SUBTYPE, ROI_TYPE, ImagejRoi

from wsss.core.checks import DataError
from wsss.core.rasters import check_regular, named
from wsss.segmenters.geojson import Outlines

SUFFIXES = (".zip", ".roi")
MOST_REGIONS = 200_000
MOST_BYTES = 2**28
"""Bytes of a set when unpacked, at most."""
OVAL_POINTS = 129

_AREAS = (ROI_TYPE.POLYGON, ROI_TYPE.FREEHAND, ROI_TYPE.TRACED, ROI_TYPE.RECT, ROI_TYPE.OVAL)
_NO_AREAS = (ROI_SUBTYPE.TEXT, ROI_SUBTYPE.ARROW, ROI_SUBTYPE.IMAGE)

logging.getLogger("roifile").setLevel(logging.CRITICAL)  # what it cannot read has no coordinates, and is left out


def read_regions(path: Path) -> Outlines:
    """Read the regions that have an area, numbered 1..N in the order of the set; points and lines do not count.

    Raises:
        DataError: it is no such file, holds no region with an area, or regions of several slices of a stack.
    """
    check_regular(path)
    with named(str(path)):
        regions = [ImagejRoi.frombytes(content) for content in _contents(path)]
        found = [(region, rings) for region in regions if (rings := _rings(region))]
    if not found:
        raise DataError(f"{path} holds no region with an area (polygon, freehand, oval, rectangle): it shows no cell.")
    slices = {(region.z_position, region.t_position, region.position) for region, _ in found}
    if len(slices) > 1:
        raise DataError(
            f"{path} holds regions of {len(slices)} slices of a stack, expected those of one plane: save these alone, "
            "or take the positions away (ROI Manager: More, Remove Positions)."
        )
    return Outlines(list(range(1, len(found) + 1)), [[rings] for _, rings in found], [[] for _ in found])


def _contents(path: Path) -> list[bytes]:
    """Return the regions of a file as bytes; a set's sizes are checked before it is unpacked."""
    if path.suffix.lower() == ".roi":
        if path.stat().st_size > MOST_BYTES:
            raise DataError(f"{path} is larger than {MOST_BYTES} bytes: it is no region of ImageJ.")
        return [path.read_bytes()]
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if member.filename.lower().endswith(".roi")]
        if len(members) > MOST_REGIONS or sum(member.file_size for member in members) > MOST_BYTES:
            raise DataError(f"{path} holds more than {MOST_REGIONS} regions or {MOST_BYTES} bytes: refused.")
        return [archive.read(member) for member in members]


def _rings(region: ImagejRoi) -> list[np.ndarray]:
    """Return the rings of a region, (n, 2) of x, y; of several, what an odd number of them encloses is inside."""
    if region.roitype not in _AREAS or region.subtype in _NO_AREAS:
        return []
    if region.roitype == ROI_TYPE.OVAL:
        angles = np.linspace(0, 2 * np.pi, OVAL_POINTS)
        half = np.array([region.right - region.left, region.bottom - region.top]) / 2
        rings: Any = [
            np.array([region.left, region.top]) + half * (1 + np.column_stack([np.cos(angles), np.sin(angles)]))
        ]
    else:
        rings = region.coordinates(multi=True)
    whole = [np.asarray(ring, np.float64).reshape(-1, 2) for ring in rings]
    return [ring for ring in whole if len(ring) >= 3 and np.isfinite(ring).all()]
