"""OME-Zarr images (folders `<ID>.zarr` or `<ID>.ome.zarr`), versions 0.4 and 0.5, at full resolution."""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsss.core.checks import DataError, some
from wsss.core.files import read_json
from wsss.core.formats import in_um
from wsss.core.rasters import Header, named
from wsss.core.reading import check_regular
from wsss.core.stacks import PlaneChoice, Stack

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
    axes: tuple[str, ...]
    """Names of the axes, such as t c z y x."""
    names: list[str]
    """Labels of the channels, empty if there are none."""
    pixel_um: float = 0.0
    """Edge of a pixel in µm, 0 where the metadata does not say."""

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        height, width = self.array.shape[-2:]
        return int(height), int(width)

    def header(self, choice: PlaneChoice) -> Header:
        """Return the image's header.

        Raises:
            DataError: it is a stack and no plane is chosen.
        """
        return Header(
            "OME-Zarr",
            *self.size,
            self._stack.samples(choice, self.name),
            str(self.array.dtype),
            names=tuple(self.names),
            binding=True,
            pixel_um=self.pixel_um,
        )

    def read(self, choice: PlaneChoice) -> np.ndarray:
        """Return (H, W, channels)."""
        return self._stack.read(choice, self.name)

    @property
    def _stack(self) -> Stack:
        lead = "".join(axis[:1].upper() for axis in self.axes[:-2])
        return Stack(lead, self.array.shape[:-2], "YX", self.array.shape[-2:], lambda at: np.asarray(self.array[at]))


def open_zarr(path: Path) -> ZarrImage:
    """Open the first image of an OME-Zarr.

    Raises:
        DataError: zarr is not installed, or the folder holds no image that can be read.
    """
    try:
        import zarr  # an extra
    except ImportError as error:
        raise DataError(f"{path.name} needs the package zarr: pip install 'wsss[zarr]'.") from error
    with named(path.name):
        _check_content(path)
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
        for what, numbers in (("shape", array.shape), ("chunks", array.chunks)):
            if math.prod(numbers) > MOST_NUMBERS:
                raise DataError(f"{path.name} has the {what} {numbers}, more than {MOST_NUMBERS} numbers are refused.")
        chunks = math.prod(-(-length // chunk) for length, chunk in zip(array.shape, array.chunks, strict=True))
        if chunks > MOST_CHUNKS:
            raise DataError(
                f"{path.name} has {chunks} chunks of {array.chunks}, more than {MOST_CHUNKS} are refused: save it in "
                "larger ones."
            )
        names = [str(channel.get("label", "")) for channel in metadata.get("omero", {}).get("channels", [])]
    return ZarrImage(path.name, array, axes, names, _pixel(scales))


def _pixel(scales: dict[str, Any]) -> float:
    """Return the edge of a pixel of the largest scale in µm, 0 where axes and transformations do not say."""
    last = scales["axes"][-1]
    moves = scales["datasets"][0].get("coordinateTransformations")
    for move in moves if isinstance(moves, list) and isinstance(last, dict) else []:
        steps = move.get("scale") if isinstance(move, dict) else None
        if isinstance(steps, list) and steps and isinstance(steps[-1], int | float):
            return in_um(steps[-1], str(last.get("unit", "")))
    return 0.0


def _check_content(folder: Path) -> None:
    """Refuse pipes, links out of the folder, and codecs that are not known to be harmless (one of them unpickles)."""
    home = folder.resolve()
    for place, _, files in os.walk(folder):
        for name in files:
            file = Path(place) / name
            check_regular(file)
            if file.is_symlink() and not file.resolve().is_relative_to(home):
                raise DataError(f"{folder.name} holds {name}, a link to another folder, which is never opened.")
            if name in (".zattrs", ".zgroup", ".zarray", "zarr.json"):
                unknown = sorted(set(_codecs(read_json(file))) - CODECS)  # within limits, which zarr has none of
                if unknown:
                    raise DataError(
                        f"{folder.name} is packed by {some(unknown)}, which is never unpacked: save it again."
                    )


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
