"""OME-Zarr images (folders `<ID>.zarr` or `<ID>.ome.zarr`), versions 0.4 and 0.5, read at full resolution."""

import bz2
import importlib
import lzma
import math
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from wsss.core.checks import DataError, install, some
from wsss.core.files import read_json
from wsss.core.ome import in_um
from wsss.core.rasters import MOST_BLOWN_UP, MOST_RATIO, Header
from wsss.core.reading import check_regular, named
from wsss.core.stacks import MOST_PLANES, PlaneChoice, Stack

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
            str(self.array.dtype),
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
    """Open the first image of an OME-Zarr.

    Raises:
        DataError: zarr is not installed, or the folder holds no image that can be read.
    """
    try:
        import zarr  # an extra
    except ImportError as error:
        raise DataError(f"{path.name} needs the package zarr: {install('zarr')}.") from error
    with named(path.name):
        stored = _check_content(path)
        group = zarr.open_group(str(path), mode="r")
        metadata: dict[str, Any] = dict(group.attrs)
        metadata = metadata.get("ome", metadata)  # 0.5 keeps them one level down
        if not metadata.get("multiscales"):
            raise DataError(f"{path.name} is no OME-Zarr image (no 'multiscales' in its attributes).")
        scales = metadata["multiscales"][0]
        place = str(scales["datasets"][0]["path"])
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
    lead, shape = "".join(axis[:1].upper() for axis in axes[:-2]), tuple(map(int, array.shape))
    stack = Stack(lead, shape[:-2], "YX", shape[-2:], lambda at: np.asarray(array[at]), names, True, _pixel(scales))
    return ZarrImage(path.name, array, stack)


def _pixel(scales: dict[str, Any]) -> float:
    """Return the edge of a pixel of the largest scale in µm, 0 where axes and transformations do not say."""
    last = scales["axes"][-1]
    moves = scales["datasets"][0].get("coordinateTransformations")
    for move in moves if isinstance(moves, list) and isinstance(last, dict) else []:
        steps = move.get("scale") if isinstance(move, dict) else None
        if isinstance(steps, list) and steps and isinstance(steps[-1], int | float):
            return in_um(steps[-1], str(last.get("unit", "")))
    return 0.0


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
