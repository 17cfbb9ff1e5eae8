"""OME-XML: where the planes of an image lie, in one file or in a set of files beside each other."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

from wsss.core.checks import DataError
from wsss.core.reading import check_regular, read_text_file
from wsss.core.stacks import MOST_PLANES

MOST_XML = 2**26
"""Characters of OME-XML; more is refused."""
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
