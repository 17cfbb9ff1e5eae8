"""OME-Zarr images (folders `<ID>.zarr` or `<ID>.ome.zarr`), versions 0.4 and 0.5, at full resolution."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsss.core.checks import DataError
from wsss.core.files import read_json

MOST_NUMBERS = 2**29
"""Numbers of an image, and of a chunk of it, at most."""


@dataclass(frozen=True)
class ZarrImage:
    """An opened image; pixels are still on the disk."""

    array: Any
    axes: tuple[str, ...]
    """Names of the axes, such as t c z y x."""
    names: list[str]
    """Labels of the channels, empty if there are none."""

    @property
    def samples(self) -> int:
        """Number of channels."""
        return int(self.array.shape[self.axes.index("c")]) if "c" in self.axes else 1

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        height, width = self.array.shape[-2:]
        return int(height), int(width)

    def read(self) -> np.ndarray:
        """Return (H, W, channels)."""
        return np.moveaxis(np.asarray(self.array[...]).reshape(self.samples, *self.size), 0, -1)


def open_zarr(path: Path) -> ZarrImage:
    """Open the first image of an OME-Zarr.

    Raises:
        DataError: zarr is not installed, or the folder holds no image of one plane per channel.
    """
    try:
        import zarr
    except ImportError as error:
        raise DataError(f"{path.name} needs the package zarr: pip install 'wsss[zarr]'.") from error
    for name in (".zattrs", ".zgroup", "zarr.json"):
        if (path / name).is_file():
            read_json(path / name)  # within limits, which zarr has none of
    group = zarr.open_group(str(path), mode="r")
    facts: dict[str, Any] = dict(group.attrs)
    facts = facts.get("ome", facts)  # 0.5 keeps them one level down
    if not facts.get("multiscales"):
        raise DataError(f"{path.name} is no OME-Zarr image (no 'multiscales' in its attributes).")
    scales = facts["multiscales"][0]
    array: Any = group[scales["datasets"][0]["path"]]
    axes = tuple(axis["name"] if isinstance(axis, dict) else str(axis) for axis in scales["axes"])
    lengths = dict(zip(axes, array.shape, strict=True))
    if axes[-2:] != ("y", "x") or any(n != 1 for axis, n in lengths.items() if axis not in ("c", "y", "x")):
        raise DataError(f"{path.name} has the axes {lengths}, expected one plane per channel: c, y, x.")
    for what, numbers in (("shape", array.shape), ("chunks", array.chunks)):
        if math.prod(numbers) > MOST_NUMBERS:
            raise DataError(f"{path.name} has the {what} {numbers}, more than {MOST_NUMBERS} numbers are refused.")
    names = [str(channel.get("label", "")) for channel in facts.get("omero", {}).get("channels", [])]
    return ZarrImage(array, axes, names)
