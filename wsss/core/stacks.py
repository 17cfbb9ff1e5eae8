"""Which planes of a stack make an image: along Z, time and other axes without channels, the user chooses.

For files whose decoder leaves it to us, the planes of OME-XML.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from wsss.core.checks import ConfigError, DataError
from wsss.core.reading import check_regular, read_text_file

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
            where: the file, for messages.

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
        """Return (H, W, samples).

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
        return whole.reshape(*self.size, samples)

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


MOST_XML = 2**26
"""Characters of OME-XML; more is refused."""
MOST_PLANES = 2**16
"""Of all images that an OME-XML describes."""
MOST_TAGS = 5 * MOST_PLANES
"""Of an OME-XML; a plane in a file of its own has five."""
AXES = "CZT"

_UM = {"nm": 1e-3, "nanometer": 1e-3, "mm": 1e3, "millimeter": 1e3, "cm": 1e4, "centimeter": 1e4, "inch": 25400.0}
_UM |= dict.fromkeys(("µm", "μm", "um", "\\u00b5m", "micron", "microns", "micrometer", "micrometre"), 1.0)
MOST_UM = 1e3
"""Edge of a pixel; a larger one is no microscope's."""


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


def metadata_file(root: ElementTree.Element) -> str:
    """Return the file that holds the metadata of a set, where the XML says no more than that; '' elsewhere."""
    first = next(iter(root), root)
    return (first.get("MetadataFile") or "") if _tag(first) == "BinaryOnly" else ""


def uuid_of(root: ElementTree.Element) -> str:
    """Return the UUID by which other files know the file that an OME-XML is in, '' without one."""
    first = next(iter(root), root)
    return root.get("UUID") or (first.get("UUID") if _tag(first) == "BinaryOnly" else None) or ""


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
    other, uuid = metadata_file(root), uuid_of(root)
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
    names = tuple(node.get("Name") or "" for node in channels)
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
