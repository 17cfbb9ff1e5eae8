"""TIFFs as stacks of pages, opened so that no other file is; an OME set is joined with its files in the same folder."""

import functools
import logging
import math
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from wsss.core.checks import DataError
from wsss.core.ome import OmeImage, in_um, ome_of, sibling
from wsss.core.png_jpeg import JPEGS, check_scans, xmp_orientation
from wsss.core.reading import check_regular, named
from wsss.core.stacks import MOST_PLANES, Stack

MOST_WORDS = 2**18
"""Characters of a TIFF's description, but for OME-XML."""

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # its faults come back as exceptions, or are checked here


def open_tiff(path: Path) -> tifffile.TiffFile:
    """Open a TIFF that is to be read part by part; it is closed with the last reference to it.

    Raises:
        DataError: it is no ordinary file.
        Exception: whatever tifffile makes of a broken file.
    """
    check_regular(path)
    return tiff_of(path.open("rb"))


def tiff_of(stream: Any) -> tifffile.TiffFile:
    """Open a TIFF from a stream, so that tifffile knows no folder, and keep it from looking for other files."""
    tiff = tifffile.TiffFile(stream, _multifile=False)
    with suppress(IndexError):  # there are fewer; tifffile alone follows pages that run in a circle for ever
        tiff.pages[MOST_PLANES]
        raise ValueError(f"it has more than {MOST_PLANES} pages, or they run in a circle")
    length = len(tiff.pages.first.description)
    if length > MOST_WORDS and not tiff.is_ome:
        raise ValueError(f"its description has {length} characters, more than {MOST_WORDS} are not read")
    return tiff


def alpha_places(page: Any) -> list[int]:
    """Return which samples of a TIFF's pixel are declared to be transparency."""
    extra = [int(kind) for kind in page.extrasamples]
    first = page.samplesperpixel - len(extra)
    return [first + k for k, kind in enumerate(extra) if kind in (1, 2)]


def orientation_of(page: Any) -> int:
    """Return a TIFF page's orientation, 1 to 8: that of its tag, or else of its XMP."""
    tag, xmp = page.tags.get(274), page.tags.get(700)
    if tag is not None and tag.value in range(1, 9):
        return int(tag.value)
    return xmp_orientation(bytes(xmp.value)) if xmp is not None and isinstance(xmp.value, bytes | tuple) else 1


def first_series(tiff: tifffile.TiffFile) -> Any:
    """Return the first series of a TIFF, of its own pages alone."""
    vars(tiff).update(is_ndtiff=False, is_mmstack=False)  # these would look for other files
    series = tiff.series[0]
    in_page: int = math.prod(tiff.pages.first.shape)
    if (count := math.prod(series.shape) // max(1, in_page)) > MOST_PLANES:
        raise ValueError(f"it describes {count} planes, more than {MOST_PLANES} are not read")
    return series


def stack_of(tiff: tifffile.TiffFile, source: Path | None, opened: ExitStack, where: str) -> Stack:
    """Return the planes of a TIFF.

    Args:
        tiff: the file.
        source: its path, beside which other files of an OME set are opened; None to take its own planes alone.
        opened: closes these files.
        where: the file, for messages.

    Raises:
        DataError: its pages are no planes of one size, or some are missing.
        Exception: whatever tifffile makes of a broken file.
    """
    page: Any = tiff.pages.first
    if tiff.is_ome and tiff.ome_metadata:
        return _ome_stack(tiff, ome_of(str(tiff.ome_metadata), source, where), source, opened, where)
    series = first_series(tiff)
    axes, shape, pages = series.get_axes(False), series.get_shape(False), list(series.pages)
    page_ndim = len(page.shape)
    names = tuple(str(label) for label in (tiff.imagej_metadata or {}).get("Labels") or [])
    lead = shape[: len(shape) - page_ndim]
    if axes.endswith("S") and not page.axes.endswith("S"):
        axes, shape = axes[:-1], shape[:-1]  # ImageJ's, of length 1
        lead = shape[: len(shape) - page_ndim]
    page_axes = axes[len(lead) :]
    if shape[len(lead) :] != page.shape or sorted(page_axes) not in (["X", "Y"], ["S", "X", "Y"]):
        raise DataError(f"{where} is a TIFF of shape {shape} (axes {axes}), expected planes of one size.")
    count = int(np.prod(lead, dtype=np.int64))
    read: Callable[[tuple[int, ...]], np.ndarray]
    if len(pages) == count and all(each is not None for each in pages):
        numbers = np.arange(count).reshape(lead)
        read = lambda at: _page(pages[numbers[at]], where)  # noqa: E731
    elif len(pages) > 1 or series.dataoffset is None:
        raise DataError(f"{where} is cut short: it has {len(pages)} of {count} pages.")
    else:  # one page, and the others behind it without a header of their own
        _check_segments(page, where)
        whole = functools.cache(lambda: series.asarray().reshape(shape))
        read = lambda at: whole()[at]  # noqa: E731
    return Stack(axes[: len(lead)], lead, page_axes, page.shape, read, names, pixel_um=_imagej_pixel(tiff))


def _imagej_pixel(tiff: tifffile.TiffFile) -> float:
    """Return the edge of a pixel in µm as ImageJ keeps it: a unit, and pixels per unit; 0 where it is not said."""
    page: Any = tiff.pages.first
    tag = page.tags.get(282)
    if not tiff.imagej_metadata or tag is None or len(np.atleast_1d(tag.value)) != 2:
        return 0.0
    pixels, units = (int(number) for number in tag.value)
    return in_um(units / pixels if pixels else 0.0, str(tiff.imagej_metadata.get("unit", "")))


def ome_files(path: Path) -> tuple[str, ...]:
    """Return the names of all files of the OME set that a TIFF is of, in the order of their planes; () for none.

    Files that cannot be read give (); the error is raised when their pixels are read.
    """
    try:
        with named(path.name), open_tiff(path) as tiff:
            if not (tiff.is_ome and tiff.ome_metadata):
                return ()
            ome = ome_of(str(tiff.ome_metadata), path, path.name)
    except (DataError, FileNotFoundError):
        return ()
    return tuple(name or path.name for name in ome.files) if len(ome.files) > 1 else ()


def _ome_stack(tiff: tifffile.TiffFile, ome: OmeImage, source: Path | None, opened: ExitStack, where: str) -> Stack:
    if ome.images > 1:
        raise DataError(f"{where} holds {ome.images} OME images (positions), expected one: save them one by one.")
    page: Any = tiff.pages.first
    if sorted(page.axes) not in (["X", "Y"], ["S", "X", "Y"]):
        raise DataError(f"{where} has pages with the axes {page.axes}, expected planes.")
    planes = _OmePlanes(ome, source, opened, where, {"": tiff})
    if source is not None:
        return Stack("CZT", ome.lengths, page.axes, page.shape, planes.read, ome.names, True, ome.pixel_um)
    here = [at for at, place in ome.places.items() if not place[0]]  # its own planes alone
    kept = [sorted({at[k] for at in here}) for k in range(3)]
    names = tuple(ome.names[c] for c in kept[0] if c < len(ome.names))
    return Stack(
        "CZT",
        tuple(len(numbers) for numbers in kept),
        page.axes,
        page.shape,
        lambda at: planes.read(tuple(numbers[n] for numbers, n in zip(kept, at, strict=True))),
        names,
        True,
        ome.pixel_um,
    )


@dataclass(frozen=True)
class _OmePlanes:
    """The planes of an OME set, whose files are opened when they are needed."""

    ome: OmeImage
    source: Path | None
    opened: ExitStack
    where: str
    files: dict[str, tifffile.TiffFile]
    """Those that are open; '' is the file that is read, whose pages all others must match."""

    def read(self, at: tuple[int, ...]) -> np.ndarray:
        """Return the plane (c, z, t)."""
        where, place = self.where, self.ome.places.get((at[0], at[1], at[2]))
        if place is None:
            raise DataError(f"{where} is cut short: pixels are missing (plane C {at[0]}, Z {at[1]}, T {at[2]}).")
        pages = self._file(place[0]).pages
        if place[1] >= len(pages):
            raise DataError(f"{where} is cut short: page {place[1]} of {place[0] or 'it'} is missing.")
        page: Any = pages[place[1]]
        first: Any = self.files[""].pages.first
        if page.shape != first.shape or page.dtype != first.dtype:
            raise DataError(f"{where} has planes of {first.shape} {first.dtype} and of {page.shape} {page.dtype}.")
        return _page(page, where)

    def _file(self, name: str) -> tifffile.TiffFile:
        if name not in self.files:
            if self.source is None:
                raise DataError(f"{self.where} has planes in {name}: give the files of the set in one folder.")
            stream = self.opened.enter_context(sibling(self.source, name).open("rb"))
            self.files[name] = self.opened.enter_context(tiff_of(stream))
        return self.files[name]


def _page(page: Any, where: str) -> np.ndarray:
    _check_segments(page, where)
    return np.asarray(page.asarray())


def _check_segments(page: Any, where: str) -> None:
    """Refuse a page with missing segments, which tifffile would fill with zeros, or with a JPEG made to do harm."""
    file = page.parent.filehandle
    places = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    if any(offset <= 0 or count <= 0 or offset + count > file.size for offset, count in places):
        raise DataError(f"{where} is cut short: pixels are missing.")
    if page.compression in JPEGS:
        check_scans((_part(file, *place) for place in places), where)


def _part(file: Any, offset: int, count: int) -> bytes:
    file.seek(offset)
    return bytes(file.read(count))
