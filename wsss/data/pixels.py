"""Read the files of an image to uint8: one per channel, or one of all; no silent cast.

OME-Zarr images are folders, `<ID>.zarr` or `<ID>.ome.zarr`, of versions 0.4 and 0.5, read at full resolution.
"""

import bz2
import importlib
import lzma
import math
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from wsss.core.channels import BITS
from wsss.core.checks import DataError, install, pasted, some
from wsss.core.files import read_json
from wsss.core.rasters import MOST_BLOWN_UP, MOST_RATIO, Header, check_size, open_raster
from wsss.core.reading import check_regular, named
from wsss.core.tiff import MOST_PLANES, NO_CHOICE, PlaneChoice, Stack, in_um

_PACKERS = ("blosc", "zlib", "gzip", "zstd", "lz4", "lzma", "bz2", "crc32", "crc32c", "adler32", "delta", "shuffle")
CODECS = {"bytes", "transpose", "sharding_indexed", *_PACKERS, *(f"numcodecs.{name}" for name in _PACKERS)}
"""Codecs that only pack numbers."""
MOST_NUMBERS = 2**29
"""Numbers of an image, and of a chunk of it, at most."""
MOST_CHUNKS = 2**18
"""Chunks of an image, at most: each is looked for on the disk."""


@dataclass(frozen=True)
class ZarrImage:
    """An opened image; pixels are still on the disk."""

    name: str
    """Of the folder."""
    array: Any
    stack: Stack

    def header(self, choice: PlaneChoice) -> Header:
        """Return the image's header.

        Raises:
            DataError: it is a stack and no plane is chosen.
        """
        return Header(
            "OME-Zarr",
            *self.stack.size,
            self.stack.samples(choice, self.name),
            str(self.array.dtype.newbyteorder("=")),
            names=self.stack.names,
            binding=True,
            pixel_um=self.stack.pixel_um,
            stack=self.stack.chosen(choice),
        )

    def read(self, choice: PlaneChoice) -> np.ndarray:
        """Return (H, W, channels).

        Raises:
            DataError: a chunk is damaged, or unpacks to more than it may.
        """
        chunks = getattr(self.array, "shards", None) or self.array.chunks
        with named(self.name), limited(math.prod(chunks) * self.array.dtype.itemsize):
            return self.stack.read(choice, self.name)


def open_zarr(path: Path) -> ZarrImage:
    """Open the image of an OME-Zarr, also where it stands in a group of its own (bioformats2raw).

    Raises:
        DataError: zarr is not installed, or the folder holds no image that can be read, or several.
    """
    try:
        import zarr  # an extra
    except ImportError as error:
        raise DataError(f"{path.name} needs the package zarr: {install('zarr')}.") from error
    with named(path.name):
        stored = _check_content(path)
        try:
            group = zarr.open_group(str(path), mode="r")
        except (FileNotFoundError, zarr.errors.ContainsArrayError):
            raise DataError(f"{path.name} is no OME-Zarr image (an array, or nothing of Zarr's).") from None
        metadata = _metadata(group)
        if "bioformats2raw.layout" in metadata:
            images = [name for name in group.group_keys() if name.isdecimal()]
            if len(images) != 1:
                raise DataError(f"{path.name} holds {len(images)} images (series), expected one: save them one by one.")
            group = zarr.open_group(str(path / images[0]), mode="r")
            metadata = _metadata(group)
        if not metadata.get("multiscales"):
            raise DataError(f"{path.name} is no OME-Zarr image (no 'multiscales' in its attributes).")
        scales = {"axes": list("tczyx"), **metadata["multiscales"][0]}  # 0.1 and 0.2 name no axes
        level = min(scales["datasets"], key=lambda level: _edge(level) or 1.0)
        place = str(level["path"])
        if place.startswith("/") or ".." in place.split("/"):
            raise DataError(f"{path.name} names pixels outside its own folder, which is never opened.")
        array: Any = group[place]
        axes = tuple(axis["name"] if isinstance(axis, dict) else str(axis) for axis in scales["axes"])
        if axes[-2:] != ("y", "x") or len(axes) != len(array.shape):
            raise DataError(f"{path.name} has the axes {', '.join(axes)}, expected planes: the last two y and x.")
        planes = math.prod(array.shape[:-2])
        if planes > MOST_PLANES:
            raise DataError(f"{path.name} has {planes} planes, more than {MOST_PLANES} are refused.")
        for what, numbers in (("shape", array.shape), ("chunks", array.chunks)):
            if math.prod(numbers) > MOST_NUMBERS:
                raise DataError(f"{path.name} has the {what} {numbers}, more than {MOST_NUMBERS} numbers are refused.")
        chunks = math.prod(-(-length // chunk) for length, chunk in zip(array.shape, array.chunks, strict=True))
        if chunks > MOST_CHUNKS:
            raise DataError(
                f"{path.name} has {chunks} chunks of {array.chunks}, more than {MOST_CHUNKS} are refused: save it in "
                "larger ones."
            )
        if (unpacked := max(map(math.prod, (array.shape, array.chunks))) * array.dtype.itemsize) > max(
            MOST_BLOWN_UP, MOST_RATIO * stored
        ):
            raise DataError(f"{path.name} unpacks from {stored} to {unpacked} bytes: most of it is missing or blank.")
        names = tuple(str(channel.get("label", "")) for channel in metadata.get("omero", {}).get("channels", []))
    lead, shape = "".join(_letter(axis) for axis in scales["axes"][:-2]), tuple(map(int, array.shape))
    names += ("",) * (dict(zip(lead, shape, strict=False)).get("C", 1) - len(names)) if names else ()
    edges, last = list(filter(None, (_edge(level), _edge(scales)))), scales["axes"][-1]  # of the level, and of all
    pixel_um = in_um(math.prod(edges), str(last.get("unit", ""))) if edges and isinstance(last, dict) else 0.0
    stack = Stack(lead, shape[:-2], "YX", shape[-2:], lambda at: np.asarray(array[at]), names, True, pixel_um)
    return ZarrImage(path.name, array, stack)


def _metadata(group: Any) -> dict[str, Any]:
    attributes: dict[str, Any] = dict(group.attrs)
    return attributes.get("ome", attributes)  # 0.5 keeps them one level down


_AXES = {"space": "Z", "time": "T", "channel": "C"}


def _letter(axis: Any) -> str:
    """Return the letter of an axis: that of its name, or of its type where the name is of the writer's own."""
    name, kind = (str(axis["name"]), axis.get("type")) if isinstance(axis, dict) else (str(axis), "")
    return name.upper() if name in ("t", "c", "z") else _AXES.get(str(kind), name[:1].upper())


def _edge(entry: dict[str, Any]) -> float:
    """Return the edge of a pixel by the transformations of a level, or of all; 0 where they do not say."""
    moves, edge = entry.get("coordinateTransformations"), 0.0
    for move in moves if isinstance(moves, list) else []:
        steps = move.get("scale") if isinstance(move, dict) else None
        if isinstance(steps, list) and steps and isinstance(steps[-1], int | float):
            edge = (edge or 1.0) * steps[-1]
    return edge


def _check_content(folder: Path) -> int:
    """Refuse pipes, links out of the folder, and codecs that are not known to be harmless (one of them unpickles).

    Returns:
        Bytes of all files.
    """
    home, stored = folder.resolve(), 0
    for place, _, files in os.walk(folder):
        for name in files:
            file = Path(place) / name
            check_regular(file)
            stored += file.stat().st_size
            if file.is_symlink() and not file.resolve().is_relative_to(home):
                raise DataError(f"{folder.name} holds {name}, a link to another folder, which is never opened.")
            if name in (".zattrs", ".zgroup", ".zarray", "zarr.json"):
                unknown = sorted(set(_codecs(read_json(file))) - CODECS)  # within limits, which zarr has none of
                if unknown:
                    raise DataError(
                        f"{folder.name} is packed by {some(unknown)}, which is never unpacked: save it again."
                    )
    return stored


def _codecs(metadata: Any) -> Iterator[str]:
    """Yield the names of all codecs in the metadata of an array."""
    if not isinstance(metadata, dict):
        return
    for key in ("codecs", "index_codecs", "filters", "compressor"):
        entry = metadata.get(key) or []
        for codec in entry if isinstance(entry, list) else [entry]:
            yield str(codec.get("id") or codec.get("name")) if isinstance(codec, dict) else str(codec)
            yield from _codecs(codec.get("configuration") if isinstance(codec, dict) else None)
    consolidated = metadata.get("consolidated_metadata")
    for entry in (consolidated.get("metadata") or {}).values() if isinstance(consolidated, dict) else []:
        yield from _codecs(entry)


# zarr has no limits, so that a chunk of 60 kB may take gigabytes: the codecs of `numcodecs`, by which it unpacks, ask
# here first. They do so in all of this process, but only while an image is read by `limited`.

MARGIN = 2**16
"""Bytes that a chunk may have beyond its values: an index, checksums."""
_DEFLATE = 1032
"""Largest ratio that deflate can pack by."""
_most: ContextVar[int] = ContextVar("most", default=0)
"""Bytes that a chunk may unpack to; 0 while nothing of ours is read."""


@contextmanager
def limited(most: int) -> Iterator[None]:
    """Let no chunk unpack to more than `most` bytes, and a margin; a larger one raises ValueError."""
    _bound_codecs()
    token = _most.set(most + MARGIN)
    try:
        yield
    finally:
        _most.reset(token)


@cache
def _bound_codecs() -> None:
    for name, kind, size in (
        ("zlib", "Zlib", partial(_streamed, zlib.decompressobj, _DEFLATE)),
        ("gzip", "GZip", partial(_streamed, partial(zlib.decompressobj, 31), _DEFLATE)),
        ("bz2", "BZ2", partial(_streamed, bz2.BZ2Decompressor, np.inf)),
        ("lzma", "LZMA", partial(_streamed, lzma.LZMADecompressor, np.inf)),
        ("zstd", "Zstd", _zstd),
        ("lz4", "LZ4", partial(_declared, 0)),
        ("blosc", "Blosc", partial(_declared, 4)),
    ):
        _bound(name, kind, size)


def _bound(module: str, kind: str, size: Callable[[bytes, int], int]) -> None:
    """Make a codec ask for the size of a chunk before it unpacks it."""
    codec: Any = getattr(importlib.import_module(f"numcodecs.{module}"), kind)
    unpack = codec.decode

    def decode(self: Any, buf: Any, out: Any = None) -> Any:
        """Unpack a chunk."""
        if (most := _most.get()) and size(np.ascontiguousarray(buf).tobytes(), most) > most:
            raise ValueError(f"a chunk unpacks to more than the {most} bytes that its array says")
        return unpack(self, buf, out)

    codec.decode = decode


def _declared(place: int, chunk: bytes, most: int) -> int:
    """Return the size that stands in the head of a chunk."""
    return int(struct.unpack_from("<I", chunk, place)[0]) if len(chunk) >= place + 4 else 0


def _zstd(chunk: bytes, most: int) -> int:
    """Return the size that a chunk of zstd declares; where it declares none, what it unpacks to.

    Source: RFC 8878, 3.1.1.1 (frame header).
    """
    if len(chunk) < 6 or chunk[:4] != b"\x28\xb5\x2f\xfd":
        return 0  # no such chunk: refused by the codec
    flag, single, dictionary = chunk[4] >> 6, chunk[4] >> 5 & 1, (0, 1, 2, 4)[chunk[4] & 3]
    width = (1 if single else 0, 2, 4, 8)[flag]
    if width == 0:
        with pa.CompressedInputStream(pa.BufferReader(chunk), "zstd") as stream:
            return len(stream.read(most + 1))
    start = 5 + (not single) + dictionary
    return int.from_bytes(chunk[start : start + width], "little") + (256 if width == 2 else 0)


def _streamed(make: Callable[[], Any], ratio: float, chunk: bytes, most: int) -> int:
    """Unpack a chunk, one stream after another, until it is too large; return its size and keep nothing.

    A chunk that cannot be too large, as its way to pack packs by `ratio` at most, counts as 0.
    """
    found = 0
    if len(chunk) * ratio <= most:
        return found
    while chunk and found <= most:
        unpacker = make()
        found += len(unpacker.decompress(chunk, most + 1))
        chunk = unpacker.unused_data if getattr(unpacker, "eof", False) else b""
    return found


TINTS = {"red": (0,), "green": (1,), "blue": (2,), "yellow": (0, 1)}
"""Channel -> the samples of an RGB picture that carry its signal."""

BLEED, LEAST = 0.1, 2.0
"""Other samples may hold, on average, this share of the signal plus this many of 255 levels: what JPEG leaves there."""


def signal_of(samples: np.ndarray, channel: str, name: str) -> np.ndarray:
    """Return the one plane that an RGB picture of a single channel holds.

    Three equal samples are grey, and any of them is the plane. Else the channel's name says which samples carry the
    signal: red R, green G, blue B, yellow the mean of R and G. The other samples must be dark, and R and G of yellow
    alike: a composite picture is not taken for a channel.

    Args:
        samples: (H, W, 3) of any integer or float type.
        channel: name of the channel, '' if unknown.
        name: of the file, for messages.

    Returns:
        (H, W) of the same type.

    Raises:
        DataError: it is a colour picture.
    """
    if np.array_equal(samples[..., 0], samples[..., 1]) and np.array_equal(samples[..., 0], samples[..., 2]):
        return np.ascontiguousarray(samples[..., 0])
    carriers = TINTS.get(channel.lower())
    if carriers is None:
        raise DataError(f"{name} is a colour image, expected one grey plane: save the channel as grey.")
    planes = [samples[..., k] for k in carriers]
    signal = planes[0] if len(planes) == 1 else np.mean(planes, axis=0, dtype=np.float64)
    top = 1 if samples.dtype.kind == "f" else np.iinfo(samples.dtype).max
    allowed = BLEED * float(signal.mean()) + LEAST / 255 * top
    others = [samples[..., k] for k in range(3) if k not in carriers]
    apart = float(np.abs(planes[0].astype(np.float64) - planes[-1]).mean())
    if max(float(plane.mean()) for plane in others) > allowed or apart > allowed:
        raise DataError(
            f"{name} is a colour image that is not {channel} alone, expected one plane: save the channel as grey."
        )
    if samples.dtype.kind != "f":
        signal = np.rint(signal)
    return np.ascontiguousarray(signal.astype(samples.dtype))


def in_order_of_colours(header: Header, names: Sequence[str]) -> bool:
    """Whether an RGB picture is read as channels of other names: red as the first, green as the second ..."""
    colours = ("red", "green", "blue")
    return header.names[:3] == colours and len(names) > 1 and not {name.casefold() for name in names} & {*colours}


_NUMBERED = re.compile(r"(channel|chan|ch|c)?[\s:_#-]*(\d{1,2}([/:]\d{1,2})*)?", re.IGNORECASE)
"""Names that say no more than a position: '', '2', 'Channel 2', 'C:1/4', 'Channel:0:1'; 488 is a wavelength."""


def order_of(names: Sequence[str], binding: bool, samples: int, wanted: Sequence[str], file: str) -> list[int]:
    """Return which of a file's channels are the wanted ones, in the wanted order.

    Named channels are found by name, in any order and among any number of others. Channels without
    names are taken in the order of the file.

    Args:
        names: what the file calls its channels.
        binding: whether names that fit nothing are an error, or are ignored; one that fits elsewhere is an error.
        samples: how many channels the file has.
        wanted: names of the channels that are needed.

    Raises:
        DataError: there are too few or too many channels, or not exactly one has a wanted name.
    """
    given = [name.strip().casefold() for name in names] if len(names) == samples else []
    words = [re.split(r"[\W_]+", name) for name in given]  # of longer names, such as those of files made a stack of
    places = [_place(name.casefold(), given, words) for name in wanted]
    found = [place for place in places if place >= 0]
    places = places if len({*found}) == len(found) else [-1] * len(wanted)
    if given and min(places, default=-1) >= 0:
        if twice := [name for name in wanted if given.count(name.casefold()) > 1]:
            raise DataError(f"{file} has several channels of the name {some(twice)}: give each a name of its own.")
        return places
    descriptive = [name for name in names if not _NUMBERED.fullmatch(name.strip())]
    elsewhere = any(place not in (-1, k) for k, place in enumerate(places))
    if given and wanted and (elsewhere or (binding and descriptive)):
        own = f"{_as_option(names)}, or " if len(descriptive) == len(names) else ""
        raise DataError(
            f"{file} calls its channels {some(names, 8)}, expected {', '.join(wanted)}: name those that are "
            f"wanted, such as {own}--channels {wanted[0]}=NAME,... in the order of the names expected."
        )
    return list(range(samples))


def _place(name: str, given: Sequence[str], words: Sequence[Sequence[str]]) -> int:
    """Return which channel has a name, or alone has it as a word of its own; -1 for none."""
    having = [k for k, have in enumerate(words) if name in have]
    return given.index(name) if name in given else having[0] if len(having) == 1 else -1


DTYPES = ("uint8", "uint16", "float16", "float32", "float64")
SAVE_AS = "save it as 16 bit (ImageJ: Image, Type, 16-bit; Python: pixels.clip(0, 65535).astype('uint16'))"
"""What to do with values of other types."""


def read_header(path: Path, choice: PlaneChoice = NO_CHOICE, *, join: bool = True) -> Header:
    """Read size, samples per pixel and type of an image file without decoding it.

    Raises:
        DataError: the file is unreadable, no image, or of a kind that is refused.
    """
    if _is_zarr(path):
        header = open_zarr(path).header(choice)
        check_size(header, path.name)
    else:
        with open_raster(path, choice=choice, join=join) as raster:
            header = raster.header
            if (greys := raster.greys) is not None:
                header = replace(header, palette=False, bits=8, dtype="uint8", inverted=bool(greys[0] > greys[-1]))
    if header.photometric:
        raise DataError(
            f"{path.name} is a TIFF of kind {header.photometric}, expected grey values (MINISBLACK, MINISWHITE) or RGB."
        )
    if header.palette or header.bits < 8:
        what = "a palette" if header.palette else f"{header.bits} bit"
        raise DataError(f"{path.name} is a {header.kind} with {what}, expected 8 or 16 bit grey values.")
    if header.dtype not in DTYPES:
        raise DataError(
            f"{path.name} holds {header.dtype} values, expected 8 or 16 bit without sign, or floats in 0..1: {SAVE_AS}."
        )
    return header


def check_headers(
    paths: Sequence[Path], channels: int, names: Sequence[str] = (), choice: PlaneChoice = NO_CHOICE
) -> Header:
    """Check from the headers that files make one image of `channels` channels; return the first header.

    Raises:
        DataError: what does not fit, with the file.
    """
    if len(paths) == 1:
        header = read_header(paths[0], choice)
        if _is_tinted(header, channels, names):
            return header
        order = _order(paths[0], header, names)
        if len(order) != channels:
            hint = _alpha_hint(header, names) or _channels_hint(header)
            raise DataError(f"{paths[0].name} has {_counted(header)}, expected {channels}.{hint}")
        return header
    headers = [read_header(path, choice, join=False) for path in paths]
    for path, header in zip(paths, headers, strict=True):
        if header.samples not in (1, 3):
            raise DataError(f"{path.name} has {_counted(header)}, expected one grey plane.")
        if (header.height, header.width) != (headers[0].height, headers[0].width):
            raise DataError(
                f"{path.name} is {header.height} x {header.width}, {paths[0].name} is {headers[0].height} x "
                f"{headers[0].width}: the planes of an image must match."
            )
    return headers[0]


def _is_tinted(header: Header, channels: int, names: Sequence[str]) -> bool:
    """Whether the only channel wanted is saved as an RGB picture, of greys or tinted in its colour."""
    named = [name.casefold() for name in names]
    return channels == 1 and header.names[:3] == ("red", "green", "blue") and not set(named) & set(header.names)


def _counted(header: Header) -> str:
    text = "1 channel" if header.samples == 1 else f"{header.samples} channels"
    return f"{text} and transparency, which is none" if header.alpha else text


def _alpha_hint(header: Header, names: Sequence[str]) -> str:
    if not header.alpha or header.samples + header.alpha != len(names):
        return ""
    channels = ",".join([*names[:-1], f"{names[-1]}=alpha"])
    return f" If a channel was saved as transparency, pass --channels {channels}."


def _channels_hint(header: Header) -> str:
    """Return what --channels may be for this file: its own names where it has some, else examples."""
    own = header.names[: header.samples]
    if len(own) < header.samples or any(_NUMBERED.fullmatch(name) for name in own):
        own = ("DAPI", "GFP", "Tubulin", "ER", "Phase", *(f"C{n}" for n in range(6, header.samples + 1)))
    return f" Name the channels that it has, such as {_as_option(own[: header.samples])}."


def _as_option(names: Sequence[str]) -> str:
    """Return --channels with these names, which may hold more signs than the option allows."""
    plain = ["".join(sign for sign in name if sign.isalnum() or sign == "-") for name in names]
    listed = [mine if mine == name else f"{mine}={name}" for mine, name in zip(plain, names, strict=True)]
    return f"--channels {pasted(','.join(listed))}"


def _order(path: Path, header: Header, names: Sequence[str]) -> list[int]:
    """Return which samples of the file are the channels wanted; transparency only where it is wanted by name."""
    asked = header.alpha and "alpha" in [name.casefold() for name in names]
    samples = header.samples + (header.alpha if asked else 0)
    return order_of(header.names[:samples], header.binding, samples, names, path.name)


def read_image(
    paths: Sequence[Path],
    channels: int,
    bits: int | None = None,
    names: Sequence[str] = (),
    choice: PlaneChoice = NO_CHOICE,
) -> tuple[np.ndarray, str]:
    """Decode the files of one image.

    Args:
        paths: one file per channel, or a single file of all channels.
        channels: how many there must be.
        bits: that 16-bit files use, one of BITS; None to take the fewest that hold the largest value of the image,
            which is right only for an image that stands by itself. 8-bit files are taken as they are, floats must lie
            in 0..1.
        names: of the channels, in order: which channels of a file that names its own are meant, and which samples of
            a tinted picture carry the signal (see `signal_of`). '' where nothing is known.
        choice: what is taken of a stack.

    Returns:
        (channels, H, W) uint8 and the bits: '8', '10', '12', '14', '16' or 'float'.

    Raises:
        DataError: a file is damaged, or does not fit; the text names it.
    """
    header, planes = read_planes(paths, channels, names, choice)
    return to_uint8(planes, [path.name for path in paths], declared_bits(header) or bits)


def read_planes(
    paths: Sequence[Path], channels: int, names: Sequence[str] = (), choice: PlaneChoice = NO_CHOICE
) -> tuple[Header, list[np.ndarray]]:
    """Decode the files of one image: the header of the first, and the channels, each (H, W) of the file's own type.

    Raises:
        DataError: see `read_image`.
    """
    header = check_headers(paths, channels, names, choice)
    if len(paths) == 1:
        merged = _decode(paths[0], choice, join=True)
        if _is_tinted(header, channels, names):
            return header, [signal_of(merged[..., :3], names[0] if names else "", paths[0].name)]
        return header, [np.ascontiguousarray(merged[..., k]) for k in _order(paths[0], header, names)]
    given = names or [""] * len(paths)
    return header, [_decode_plane(path, name, choice) for path, name in zip(paths, given, strict=True)]


def declared_bits(header: Header) -> int | None:
    """Return the bits per sample that a file of 9 to 15 bits declares; None of any other."""
    return header.bits if 8 < header.bits < 16 else None


def bits_for(most: int) -> int:
    """Return the fewest of BITS that hold a value."""
    return next(bits for bits in BITS if most < 2**bits)


def to_uint8(planes: Sequence[np.ndarray], names: Sequence[str], bits: int | None) -> tuple[np.ndarray, str]:
    """Bring (H, W) planes of one image to (C, H, W) uint8, all on one scale; `names` are for messages."""
    kinds = {plane.dtype.kind for plane in planes}
    if len(kinds) > 1 or len({plane.dtype.itemsize for plane in planes}) > 1:
        kinds_text = ", ".join(str(plane.dtype) for plane in planes)
        raise DataError(f"{names[0]} and the other planes are of different types ({kinds_text}).")
    if kinds == {"f"}:
        return np.stack([_from_float(plane, names[0]) for plane in planes]), "float"
    if planes[0].dtype == np.uint8:
        return np.stack(planes), "8"
    most = max(int(plane.max()) for plane in planes)
    bits = bits or bits_for(most)
    if most >= 2**bits:
        raise DataError(f"{names[0]} or another plane has the value {most}, too large for {bits} bits: see --bits.")
    # The shift is exact both for 8-bit values that were moved up and for those that were stretched.
    return np.stack([(plane >> (bits - 8)).astype(np.uint8) for plane in planes]), str(bits)


def _from_float(plane: np.ndarray, name: str) -> np.ndarray:
    low, high = plane.min(), plane.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise DataError(f"{name} or another plane has values that are not finite (NaN or infinite).")
    if low < 0 or high > 1:
        raise DataError(f"{name} or another plane has floats from {low:g} to {high:g}, expected 0..1: {SAVE_AS}.")
    return np.rint(plane * 255).astype(np.uint8)


def _decode_plane(path: Path, channel: str, choice: PlaneChoice) -> np.ndarray:
    """Return (H, W); three equal samples count as grey, a picture tinted in the channel's colour as its plane."""
    pixels = _decode(path, choice, join=False)
    return signal_of(pixels[..., :3], channel, path.name) if pixels.shape[-1] > 2 else pixels[..., 0]


def _decode(path: Path, choice: PlaneChoice, *, join: bool) -> np.ndarray:
    """Return (H, W, samples + alpha) of the file's own type, as it is shown."""
    header = read_header(path, choice, join=join)
    if _is_zarr(path):
        pixels = open_zarr(path).read(choice)
    else:
        with open_raster(path, choice=choice, join=join) as raster:
            greys = raster.greys
            pixels = raster.shown() if greys is None else greys[np.minimum(raster.numbers(), len(greys) - 1)]
    expected = header.height, header.width, header.samples + header.alpha
    if pixels.shape != expected or str(pixels.dtype) != header.dtype:
        raise DataError(f"{path.name} holds {pixels.dtype} {pixels.shape}, its header says {header.dtype} {expected}.")
    return pixels


def _is_zarr(path: Path) -> bool:
    return path.suffix.lower() == ".zarr"
