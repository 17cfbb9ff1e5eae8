"""Chunks of an OME-Zarr are unpacked within limits: zarr has none, so that one of 60 kB may take gigabytes.

The codecs of `numcodecs`, by which zarr unpacks, ask here first. They do so in all of this process, but only while an
image is read by `limited`.
"""

import bz2
import functools
import importlib
import lzma
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import pyarrow as pa

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


@functools.cache
def _bound_codecs() -> None:
    for name, kind in (("zlib", "Zlib"), ("gzip", "GZip"), ("bz2", "BZ2"), ("lzma", "LZMA")):
        _bound(name, kind, _streamed[name])
    for name, kind, size in (("zstd", "Zstd", _zstd), ("lz4", "LZ4", _at(0)), ("blosc", "Blosc", _at(4))):
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


def _at(place: int) -> Callable[[bytes, int], int]:
    """Return what reads the size that stands in the head of a chunk."""
    return lambda chunk, most: struct.unpack_from("<I", chunk, place)[0] if len(chunk) >= place + 4 else 0


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


def _stream(make: Callable[[], Any], ratio: float = np.inf) -> Callable[[bytes, int], int]:
    """Return what unpacks a chunk until it is too large, one stream after another, and keeps nothing."""

    def size(chunk: bytes, most: int) -> int:
        found = 0
        if len(chunk) * ratio <= most:
            return found
        while chunk and found <= most:
            unpacker = make()
            found += len(unpacker.decompress(chunk, most + 1))
            chunk = unpacker.unused_data if getattr(unpacker, "eof", False) else b""
        return found

    return size


_streamed = {
    "zlib": _stream(zlib.decompressobj, _DEFLATE),
    "gzip": _stream(lambda: zlib.decompressobj(31), _DEFLATE),
    "bz2": _stream(bz2.BZ2Decompressor),
    "lzma": _stream(lzma.LZMADecompressor),
}
