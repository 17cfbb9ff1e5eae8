"""The pixels of a data set: plain .npy shards, written in place and read through memory maps.

The place of an image follows from its rank among the IDs of its source alone, so runs that were killed and started
again, or that used another number of workers, leave the same bytes.
"""

import io
import os
import shutil
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsss.core.checks import DataError
from wsss.core.files import disk_errors, sync
from wsss.core.reading import check_no_link, read_npy

_AGAIN = "Run prepare with --overwrite."

SHARD_IMAGES = 256
OPEN_SHARDS = 512
"""Memory maps kept open by one reader; each holds a file handle, and 1024 handles is a common limit."""


@dataclass(frozen=True)
class Shards:
    """The shards of one source: image k is in slot k % 256 of shard k // 256."""

    folder: Path
    source: str
    images: int
    channels: int
    size: int

    def place(self, k: int) -> tuple[str, int]:
        """Return the shard's file name and the slot of image k."""
        return f"{self.source}-{k // SHARD_IMAGES:05d}.npy", k % SHARD_IMAGES

    def files(self) -> Iterator[tuple[Path, int]]:
        """Yield the path and the number of images of every shard."""
        for first in range(0, self.images, SHARD_IMAGES):
            yield self.folder / self.place(first)[0], min(SHARD_IMAGES, self.images - first)

    def allocate(self) -> None:
        """Make every shard that is missing or misshapen, filled with zeros; leave the others as they are.

        Raises:
            DataError: the disk has too little room for the whole source.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        image_bytes = self.channels * self.size**2
        files = list(self.files())
        held = sum(path.stat().st_blocks * 512 for path, _ in files if path.exists())
        needed = self.images * image_bytes - held
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise DataError(
                f"{self.folder} needs {needed / 1e9:.1f} GB for {self.images} images of {self.size} x {self.size}, "
                f"the disk has {free / 1e9:.1f} GB free: make room, or choose another --out or a smaller --size."
            )
        for path, count in files:
            check_no_link(path)
            if not is_whole(path, count, self.channels, self.size):
                header = _header(count, self.channels, self.size)
                with disk_errors(path), path.open("wb") as stream:
                    stream.write(header)
                    stream.truncate(len(header) + count * image_bytes)

    def write(self, k: int, image: np.ndarray) -> int:
        """Write image k, (channels, size, size) uint8, into its slot; return the CRC-32 of its bytes.

        Raises:
            DataError: the disk is full or cannot be written.
        """
        content = np.ascontiguousarray(image).tobytes()
        name, slot = self.place(k)
        # Written with pwrite, not through a memory map: there a full disk would kill the process (SIGBUS).
        try:
            handle = os.open(self.folder / name, os.O_WRONLY | os.O_NOFOLLOW)
            try:
                _write_all(handle, content, self._offset(slot))
            finally:
                os.close(handle)
        except OSError as error:
            raise DataError(
                f"{self.folder / name} cannot be written ({error.strerror}): "
                "make room or fix the disk, then start the same command again."
            ) from error
        return zlib.crc32(content)

    def crc32(self, k: int) -> int:
        """Return the CRC-32 of what is stored in the slot of image k."""
        name, slot = self.place(k)
        with (self.folder / name).open("rb") as stream:
            stream.seek(self._offset(slot))
            return zlib.crc32(stream.read(self.channels * self.size**2))

    def sync(self) -> None:
        """Wait until everything written is on the disk."""
        for path, _ in self.files():
            sync(path)

    def _offset(self, slot: int) -> int:
        return len(_header(SHARD_IMAGES, self.channels, self.size)) + slot * self.channels * self.size**2


class ShardReader:
    """Reads single images from shards; cheap to pickle, every process opens its own maps."""

    def __init__(self, folder: Path, channels: int, size: int) -> None:
        self.folder = folder
        self.shape = (channels, size, size)
        self._maps: OrderedDict[str, np.ndarray] = OrderedDict()

    def __getstate__(self) -> dict[str, object]:
        return {"folder": self.folder, "shape": self.shape, "_maps": OrderedDict()}

    def image(self, name: str, slot: int) -> np.ndarray:
        """Return one image, (channels, size, size) uint8, as a read-only view of the shard's pages."""
        maps = self._maps.get(name)
        if maps is None:
            maps = self._open(name)
        else:
            self._maps.move_to_end(name)
        if not 0 <= slot < len(maps):
            raise DataError(f"{self.folder / name} holds {len(maps)} images, expected more: it is damaged. {_AGAIN}")
        return maps[slot]

    def _open(self, name: str) -> np.ndarray:
        path = self.folder / name
        if path.name != name:
            raise DataError(f"{self.folder} has no shard {name[:80]!r}, which is a path. {_AGAIN}")
        shard = read_npy(path, _AGAIN, mapped=True)
        if shard.dtype != np.uint8 or shard.shape[1:] != self.shape:
            raise DataError(f"{path} holds {shard.dtype} {shard.shape}, expected uint8 (n, {self.shape}). {_AGAIN}")
        self._maps[name] = shard.view(np.ndarray)
        if len(self._maps) > OPEN_SHARDS:
            self._maps.popitem(last=False)
        return self._maps[name]


def is_whole(path: Path, images: int, channels: int, size: int) -> bool:
    """Return whether a shard file has the header and the length of a shard of `images` images."""
    header = _header(images, channels, size)
    if not path.is_file() or path.stat().st_size != len(header) + images * channels * size**2:
        return False
    with path.open("rb") as stream:
        return stream.read(len(header)) == header


def _header(images: int, channels: int, size: int) -> bytes:
    """Return the .npy header of a shard; its length (128) does not depend on the number of images."""
    stream = io.BytesIO()
    shape = (images, channels, size, size)
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return stream.getvalue()


def _write_all(handle: int, content: bytes, offset: int) -> None:
    view = memoryview(content)
    while len(view):
        written = os.pwrite(handle, view, offset)
        view, offset = view[written:], offset + written
