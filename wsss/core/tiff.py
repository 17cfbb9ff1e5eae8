"""TIFFs as stacks of pages, opened so that no other file is; an OME set is joined with its files in the same folder.

OME-XML says where the planes of an image lie, in one file or in several beside each other. Which planes of a stack make
an image, along Z, time and other axes without channels, the user chooses.
"""

import functools
import itertools
import logging
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile

from wsss.core.checks import ConfigError, DataError
from wsss.core.png_jpeg import JPEGS, check_scans, xmp_orientation
from wsss.core.reading import check_regular, named, read_text_file

CHANNEL_AXES = "CSIQ"
"""Axes that hold channels: channels, samples of a pixel, and pages that no metadata describes (I, Q)."""
UNNAMED = "IQ"
PROJECTIONS = ("max", "mean")
NAMES = {"Z": "Z (focus)", "T": "T (time)", "P": "P (phase or position)", "R": "R (position)", "A": "A (angle)"}


@dataclass(frozen=True)
class PlaneChoice:
    """Which planes of a stack are used."""

    planes: tuple[tuple[str, int], ...] = ()
    """(axis, number from 1) pairs; axis '' stands for the only one there is."""
    project: str = ""
    """How the other axes are projected: max, mean, or '' for not at all."""

    def __bool__(self) -> bool:
        return bool(self.planes or self.project)


NO_CHOICE = PlaneChoice()


def parse_choice(plane: str, project: str) -> PlaneChoice:
    """Read `--plane` ('3' or 'Z=3,T=1', counted from 1) and `--project` ('max', 'mean' or '').

    Raises:
        ConfigError: it is neither.
    """
    if project and project not in PROJECTIONS:
        raise ConfigError(f"--project is '{project}', expected one of {', '.join(PROJECTIONS)}.")
    planes = []
    for part in filter(None, (part.strip() for part in plane.split(","))):
        axis, equals, number = part.rpartition("=")
        axis = axis.strip().upper()
        if not number.strip().isdecimal() or int(number) < 1 or (equals and len(axis) != 1):
            raise ConfigError(
                f"--plane is '{plane}', expected a number from 1 up such as 3, or Z=3,T=1 where there are several axes."
            )
        planes.append((axis, int(number)))
    if len({axis for axis, _ in planes}) < len(planes) or (len(planes) > 1 and any(not axis for axis, _ in planes)):
        raise ConfigError(f"--plane is '{plane}', expected one number for each axis, such as Z=3,T=1.")
    if project and any(not axis for axis, _ in planes):
        raise ConfigError(
            f"--plane {plane} and --project {project} are two ways to make one plane: leave one out, or name the axis "
            f"of the plane (--plane Z={plane.strip()}) where the other axes are to be projected."
        )
    return PlaneChoice(tuple(planes), project)


@dataclass(frozen=True)
class Stack:
    """Pages of one size along named axes; pixels are still in the file."""

    axes: str
    """One letter for each axis that runs over pages."""
    lengths: tuple[int, ...]
    page_axes: str
    """YX, YXS or SYX."""
    page_shape: tuple[int, ...]
    page: Callable[[tuple[int, ...]], np.ndarray]
    """Index along `axes` -> the page, of `page_shape`."""
    names: tuple[str, ...] = ()
    """What the file calls its channels."""
    binding: bool = False
    """Whether `names` are meant as names of channels; ImageJ's labels may be anything."""
    pixel_um: float = 0.0
    """Edge of a pixel in µm, 0 where the file does not say."""

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) as stored."""
        at = self.page_axes.index("Y"), self.page_axes.index("X")
        return self.page_shape[at[0]], self.page_shape[at[1]]

    def samples(self, choice: PlaneChoice | None, where: str) -> int:
        """Return how many channels there are, those that are declared transparent included.

        Args:
            choice: what is taken of it; None where the command has no options to choose by.

        Raises:
            DataError: an axis longer than 1 holds no channels and nothing is chosen of it, or two axes hold channels.
        """
        can_choose, choice = choice is not None, choice or NO_CHOICE
        apart = self._apart(choice)
        chosen = [f"{NAMES.get(axis, axis)}: {n}" for axis, n in apart]
        for axis, n in apart:
            if not choice.project and self._plane(choice, axis, len(apart)) is None:
                options = f"pass --plane N (1 to {n}{', or Z=3,T=1' if len(apart) > 1 else ''}), --project max, or "
                raise DataError(
                    f"{where} is a stack ({', '.join(chosen)} planes), and Z, time and positions are no channels: "
                    f"{options if can_choose else ''}save one plane."
                )
            number = self._plane(choice, axis, len(apart))
            if number is not None and number > n:
                raise DataError(f"{where} has {n} planes along {axis}, so --plane {number} is none of them.")
        channels = [(axis, n) for axis, n in self._all() if axis in CHANNEL_AXES and n > 1 and (axis, n) not in apart]
        if len(channels) > 1:
            axes = ", ".join(f"{axis} {n}" for axis, n in channels)
            raise DataError(f"{where} has several axes of channels ({axes}), expected one: save one plane per channel.")
        return channels[0][1] if channels else 1

    def chosen(self, choice: PlaneChoice | None) -> bool:
        """Return whether something of it is taken and the rest left."""
        return bool(choice and self._apart(choice))

    def read(self, choice: PlaneChoice | None, where: str) -> np.ndarray:
        """Return (H, W, samples), in this machine's order of bytes.

        Raises:
            DataError: see `samples`.
        """
        samples, choice = self.samples(choice, where), choice or NO_CHOICE
        apart = dict(self._apart(choice))
        one: list[Sequence[int]] = []
        over: list[Sequence[int]] = []
        for axis, n in zip(self.axes, self.lengths, strict=True):
            number = self._plane(choice, axis, len(apart)) if axis in apart else None
            projected = axis in apart and number is None
            one.append([0] if projected else [number - 1] if number is not None else range(n))
            over.append(range(n) if projected else [0])
        pages = [self._projected(index, over, choice.project) for index in itertools.product(*one)]
        pages = [np.moveaxis(page, self.page_axes.index("S"), -1) if "S" in self.page_axes else page for page in pages]
        whole = pages[0] if len(pages) == 1 else np.stack(pages, axis=-1)
        return whole.reshape(*self.size, samples).astype(whole.dtype.newbyteorder("="), copy=False)

    def _projected(self, index: tuple[int, ...], over: list[Sequence[int]], project: str) -> np.ndarray:
        count, out = 0, None
        for step in itertools.product(*over):
            page = self.page(tuple(a + b for a, b in zip(index, step, strict=True)))
            count += 1
            if out is None:
                dtype, out = page.dtype, page.astype(np.float64) if project == "mean" else page
            else:
                out = out + page if project == "mean" else np.maximum(out, page)
        assert out is not None
        if project != "mean" or count == 1:
            return out.astype(dtype, copy=False)
        return (out / count if dtype.kind == "f" else np.rint(out / count)).astype(dtype)

    def _all(self) -> list[tuple[str, int]]:
        in_page = [(axis, n) for axis, n in zip(self.page_axes, self.page_shape, strict=True) if axis not in "YX"]
        return [*zip(self.axes, self.lengths, strict=True), *in_page]

    def _apart(self, choice: PlaneChoice) -> list[tuple[str, int]]:
        """Return the axes longer than 1 that hold no channels; pages without a name count where something is chosen."""
        apart = [(axis, n) for axis, n in self._all() if axis not in CHANNEL_AXES and n > 1]
        if not apart and choice:
            pages = [(axis, n) for axis, n in zip(self.axes, self.lengths, strict=True) if axis in UNNAMED and n > 1]
            return pages
        return apart

    def _plane(self, choice: PlaneChoice, axis: str, apart: int) -> int | None:
        """Return the number that is chosen along an axis, from 1; None without one."""
        chosen = dict(choice.planes)
        return chosen.get(axis, chosen.get("") if apart == 1 else None)


MOST_PLANES = 2**16
"""Planes of a file, at most, over all its images."""


MOST_XML = 2**26
"""Characters of OME-XML; more is refused."""
MOST_TAGS = 5 * MOST_PLANES
"""Of an OME-XML; a plane in a file of its own has five."""
AXES = "CZT"

_UM = {"nm": 1e-3, "nanometer": 1e-3, "mm": 1e3, "millimeter": 1e3, "cm": 1e4, "centimeter": 1e4}
_UM |= dict.fromkeys(("µm", "μm", "um", "\\u00b5m", "micron", "microns", "micrometer", "micrometre"), 1.0)
MOST_UM = 50.0
"""Edge of a pixel; a larger one is no microscope's, but a printer's, as programs write 72 or 300 dots per inch."""


def in_um(length: float | str, unit: str) -> float:
    """Return a pixel's edge in µm, 0 if the length or the unit says nothing.

    Example:
        >>> in_um("80", "nm"), in_um(0.65, "micron"), in_um(1, "pixel")
        (0.08, 0.65, 0.0)
    """
    try:
        edge = float(length) * _UM.get(unit.strip().lower(), 0.0)
    except ValueError:
        return 0.0
    return edge if 0 < edge <= MOST_UM else 0.0


Place = tuple[str, int]
"""Name of a file, '' for the one that the XML is of, and the number of a page in it."""


@dataclass(frozen=True)
class OmeImage:
    """An image of an OME-XML that has a plane in the file that is read."""

    lengths: tuple[int, int, int]
    """Planes along C, Z and T; the samples of a pixel count once."""
    names: tuple[str, ...]
    """Names of the channels, '' where one has none."""
    places: dict[tuple[int, int, int], Place]
    """(c, z, t), from 0 -> where the plane lies."""
    images: int = 1
    """How many images with planes in this file the XML describes."""
    pixel_um: float = 0.0
    """Edge of a pixel in µm, 0 where the XML does not say."""

    @property
    def files(self) -> tuple[str, ...]:
        """Names of all files in the order of their planes, '' for the one that the XML is of."""
        return tuple(dict.fromkeys(self.places[key][0] for key in sorted(self.places)))


def read_ome(root: ElementTree.Element, name: str, uuid: str, *, companion: bool = False) -> OmeImage:
    """Read where the planes of an image lie.

    Args:
        root: of the XML, from `parse_ome`.
        name: of the file that holds pixels.
        uuid: of that file, '' if it has none.
        companion: whether the XML stands in another file.

    Raises:
        ValueError: it is broken, describes no plane of the file, or contradicts itself.
    """
    nodes = [node for image in root if _tag(image) == "Image" for node in image if _tag(node) == "Pixels"]
    if (count := sum(math.prod(_lengths(node).values()) for node in nodes)) > MOST_PLANES:
        raise ValueError(f"its OME-XML describes {count} planes, more than {MOST_PLANES} are not read")
    images = [image for image in (_read(node, name, uuid, companion) for node in nodes) if "" in image.files]
    if not images:
        raise ValueError("its OME-XML describes no plane of this file")
    first = images[0]
    return replace(first, images=len(images))


def parse_ome(text: str) -> ElementTree.Element:
    """Return the root of an OME-XML.

    Raises:
        ValueError: it is broken or too large.
    """
    if len(text) > MOST_XML or text.count("<") > MOST_TAGS:
        raise ValueError(f"its OME-XML has {len(text)} characters in {text.count('<')} tags, more than any image needs")
    try:
        return ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(f"its OME-XML is broken: {error}") from error


def ome_of(text: str, source: Path | None, where: str) -> OmeImage:
    """Read the OME-XML of a file, or of the file that it names in its own folder."""
    root, name = parse_ome(text), source.name if source else where
    first = next(iter(root), root)
    place = first.attrib if _tag(first) == "BinaryOnly" else {}  # says no more than where the metadata are
    other, uuid = place.get("MetadataFile", ""), root.get("UUID") or place.get("UUID", "")
    if not other:
        return read_ome(root, name, uuid)
    if source is None:
        raise DataError(f"{where} is part of an OME set whose metadata is in {other}: give all files in one folder.")
    companion = read_text_file(sibling(source, other), MOST_XML, "OME-XML")
    return read_ome(parse_ome(companion), name, uuid, companion=True)


def sibling(path: Path, name: str) -> Path:
    """Return the file `name` beside `path`.

    Raises:
        DataError: the name leads to another folder, or there is no such ordinary file.
    """
    other = path.parent / name
    if name in ("", ".", "..") or Path(name).name != name or "\\" in name or "\0" in name:
        raise DataError(f"{path.name} names the file {name[:80]!r} outside its own folder, which is never opened.")
    if not other.exists():
        raise DataError(f"{path.name} belongs with {name}, which is not beside it: put the files of a set together.")
    check_regular(other)
    if other.resolve().parent != path.parent.resolve() and other.is_symlink():
        raise DataError(f"{path.name} names {name}, a link to another folder, which is never opened.")
    return other


def _tag(node: ElementTree.Element) -> str:
    return node.tag.rpartition("}")[2]


def _lengths(pixels: ElementTree.Element) -> dict[str, int]:
    """Return the planes along each axis."""
    samples = {max(1, _whole(node, "SamplesPerPixel", 1)) for node in pixels if _tag(node) == "Channel"} or {1}
    if len(samples) > 1:
        raise ValueError(f"its OME channels have {sorted(samples)} samples, expected the same in all")
    lengths = {axis: _whole(pixels, f"Size{axis}", 1) for axis in AXES}
    lengths["C"] //= samples.pop()
    return lengths


def _read(pixels: ElementTree.Element, name: str, uuid: str, companion: bool) -> OmeImage:
    channels, lengths = [node for node in pixels if _tag(node) == "Channel"], _lengths(pixels)
    total = math.prod(lengths.values())
    order = [axis for axis in pixels.get("DimensionOrder") or "XYCZT" if axis in AXES]
    if total <= 0 or sorted(order) != sorted(AXES):
        raise ValueError(f"its OME-XML has {lengths} planes in the order {''.join(order)}")
    places: dict[tuple[int, int, int], Place] = {}
    blocks = [node for node in pixels if _tag(node) == "TiffData"]
    files = [_file(node, name, uuid) for node in blocks]
    if not companion and len(set(files)) == 1:
        files = [""] * len(files)  # all in one file: this one, renamed
    left = 2 * MOST_PLANES  # blocks that name the same planes over and over
    for node, file in zip(blocks, files, strict=True):
        start = {axis: _whole(node, f"First{axis}", 0) for axis in order}
        alone = 1 if node.get("IFD") is not None else total
        count = min(total, _whole(node, "PlaneCount", _whole(node, "NumPlanes", alone)))
        left -= count
        if left < 0:
            raise ValueError(f"its OME-XML places more than {2 * MOST_PLANES} planes")
        _place(places, lengths, order, start, count, (file, _whole(node, "IFD", 0)))
    if not blocks and not companion:  # the pages are the planes in their order
        _place(places, lengths, order, dict.fromkeys(order, 0), total, ("", 0))
    names = tuple(node.get("Name") or node.get("Fluor") or "" for node in channels)
    names += ("",) * (lengths["C"] - len(names)) if names else ()
    pixel = in_um(pixels.get("PhysicalSizeX") or 0, pixels.get("PhysicalSizeXUnit") or "µm")
    return OmeImage((lengths["C"], lengths["Z"], lengths["T"]), names, places, pixel_um=pixel)


def _place(
    places: dict[tuple[int, int, int], Place],
    lengths: dict[str, int],
    order: Sequence[str],
    start: dict[str, int],
    count: int,
    place: Place,
) -> None:
    """Note where `count` planes lie that follow each other from `start`, the first of `order` running fastest."""
    first, step = 0, 1
    for axis in order:
        if start[axis] >= lengths[axis]:
            return  # cropped by a program that left the old numbers
        first, step = first + start[axis] * step, step * lengths[axis]
    for k in range(first, min(first + count, step)):
        rest, at = k, {}
        for axis in order:
            rest, at[axis] = divmod(rest, lengths[axis])
        places.setdefault((at["C"], at["Z"], at["T"]), (place[0], place[1] + k - first))


def _file(block: ElementTree.Element, name: str, uuid: str) -> str:
    """Return the name of the file that a block names, '' if it is the file that is read."""
    node = next((part for part in block if _tag(part) == "UUID"), None)
    file = "" if node is None else node.get("FileName") or ""
    if node is None or file in ("", name) or (uuid and (node.text or "").strip() == uuid):
        return ""
    return file


def _whole(node: ElementTree.Element, name: str, default: int) -> int:
    text = node.get(name)
    if text is None:
        return default
    if len(text) > 9 or not (text.isascii() and text.isdigit()):
        raise ValueError(f"its OME-XML has {name} '{text[:20]}', expected a whole number")
    return int(text)


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


def kind_of(page: Any) -> str:
    """Return what the values of a TIFF page are once decoded: MINISBLACK, MINISWHITE, RGB, PALETTE, ..."""
    kind = str(getattr(page.photometric, "name", page.photometric))
    return "RGB" if kind == "YCBCR" and page.compression == tifffile.COMPRESSION.JPEG else kind


def orientation_of(page: Any) -> int:
    """Return a TIFF page's orientation, 1 to 8: that of its tag, or else of its XMP."""
    tag, xmp = page.tags.get(274), page.tags.get(700)
    if tag is not None and tag.value in range(1, 9):
        return int(tag.value)
    return xmp_orientation(bytes(xmp.value)) if xmp is not None and isinstance(xmp.value, bytes | tuple) else 1


def image_series(tiff: tifffile.TiffFile) -> list[Any]:
    """Return the series of a TIFF, of its own pages alone, that is its image; several of one page each are its planes.

    Programs that write page after page (tifffile with `append` or a writer) leave a series for each of them. Reduced
    copies and masks of transparency, which are declared as such, do not count.

    Raises:
        ValueError: there are several images of the size of the first, or a larger one behind it.
    """
    vars(tiff).update(is_ndtiff=False, is_mmstack=False)  # these would look for other files
    every: list[Any] = [one for one in tiff.series if not one.keyframe.subfiletype & 5] or list(tiff.series)
    first, in_page = every[0], math.prod(every[0].keyframe.shape)
    found = [one for one in every if (one.shape, one.axes, one.dtype) == (first.shape, first.axes, first.dtype)]
    if (count := len(found) * math.prod(first.shape) // max(1, in_page)) > MOST_PLANES:
        raise ValueError(f"it describes {count} planes, more than {MOST_PLANES} are not read")
    if len(found) > 1 and len(first.pages) > 1:
        raise ValueError(f"it holds {len(found)} stacks of one size, expected one image")
    sizes = [one.keyframe.imagelength * one.keyframe.imagewidth for one in every]
    if max(sizes) > sizes[0]:
        raise ValueError("it holds several images, and the first is not the largest: expected one")
    return found


def main_page(tiff: tifffile.TiffFile) -> Any:
    """Return the first page of a TIFF's image, which says what kind of pixels it has."""
    return tiff.pages.first if tiff.ome_metadata else image_series(tiff)[0].keyframe


def stack_of(tiff: tifffile.TiffFile, source: Path | None, opened: ExitStack, where: str) -> Stack:
    """Return the planes of a TIFF.

    Args:
        source: its path, beside which other files of an OME set are opened; None to take its own planes alone.
        opened: closes these files.

    Raises:
        DataError: its pages are no planes of one size, or some are missing.
        Exception: whatever tifffile makes of a broken file.
    """
    if tiff.ome_metadata:
        return _ome_stack(tiff, ome_of(str(tiff.ome_metadata), source, where), source, opened, where)
    series, *others = image_series(tiff)
    page = series.keyframe
    axes, shape, pages = series.get_axes(False), series.get_shape(False), list(series.pages)
    if others:
        pages = [one.pages[0] for one in (series, *others)]
        axes, shape = f"Q{page.axes}", (len(pages), *page.shape)
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
