"""A prepared data set on disk: plain .npy shards of pixels, read through memory maps, and the catalogue of its images.

The place of an image follows from its rank among the IDs of its source alone, so runs that were killed and started
again, or that used another number of workers, leave the same bytes.
"""

import io
import os
import shutil
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wsss.core.channels import Stains, default_roles, stains_of, tint_names
from wsss.core.checks import ConfigError, DataError, pasted, some
from wsss.core.csv_text import read_text, unguard_text
from wsss.core.files import DATA_SET, digest_file, digest_json, disk_errors, not_that, read_record, sync
from wsss.core.label_maps import Geometry, find_label_map, read_label_map
from wsss.core.labels import HPA_CHANNELS, ClassList, parse_label
from wsss.core.parquet import check_table_length, read_parquet
from wsss.core.reading import check_no_link, read_npy
from wsss.data.ids import check_names
from wsss.runs.output import settle

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
                f"{self.folder} needs {needed / 1e9:.3g} GB for {self.images} images of {self.size} x {self.size}, "
                f"the disk has {free / 1e9:.3g} GB free: make room, or choose another --out or a smaller --size."
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
            with suppress(KeyError):  # another thread has just let it go
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
        self._maps[name] = maps = shard.view(np.ndarray)
        with suppress(KeyError):
            if len(self._maps) > OPEN_SHARDS:
                self._maps.popitem(last=False)
        return maps


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


FORMAT = 1
MANIFEST = "dataset.json"
TABLE = "images.parquet"
FOLDS = "folds.csv"
SHARDS = "shards"
COLUMNS = {
    "ID": "str",
    "source": "str",
    "status": "str",
    "reason": "str",
    "shard": "str",
    "slot": "int32",
    "ImageHeight": "int32",
    "ImageWidth": "int32",
    "depth": "str",
    "Label": "str",
    "crc32": "int64",
    "duplicate_of": "str",
    "fold": "int8",
}
"""Columns of images.parquet. status: ok or failed (then reason says why); depth: 8, 12, 16 or float, what the files
held; Label: null without labels; duplicate_of: the first image of the same near-duplicates; fold: -1 without."""
PIXEL_SIZE = "pixel_size_um"
"""Carried column with the edge of an image's pixels in µm: from the label table, else from the files (OME, ImageJ)."""


@dataclass(frozen=True, eq=False)
class DataSet:
    """One prepared data set. Cheap to open and to hand to worker processes: pixels stay on the disk.

    Image i is row i of `table`, its ID `ids[i]`. Images that could not be prepared keep their row, with status
    'failed' and a reason; `ok` says which images have pixels.
    """

    folder: Path
    manifest: dict[str, Any]
    """The content of dataset.json."""
    table: pd.DataFrame
    """The content of images.parquet, one row per image."""
    shards: ShardReader

    @classmethod
    def open(cls, folder: Path | str) -> "DataSet":
        """Open the data set in `folder`.

        Raises:
            DataError: there is none, or it is unfinished, damaged or of another format.
        """
        folder = Path(folder)
        settle(folder)
        manifest = read_manifest(folder)
        if manifest["unfinished"]:
            raise DataError(f"{folder} is being prepared again: start the same prepare command to finish it.")
        table = _read_table(folder, manifest)
        reader = ShardReader(folder / SHARDS, len(manifest["channels"]), manifest["size"])
        return cls(folder, manifest, table, reader)

    def __len__(self) -> int:
        return len(self.table)

    @property
    def size(self) -> int:
        """Edge of a stored image, in pixels."""
        return int(self.manifest["size"])

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels, in stored order."""
        return tuple(self.manifest["channels"])

    @property
    def roles(self) -> tuple[str, ...]:
        """What each channel shows: nucleus, signal, cell, outline, or '' where nothing is known."""
        return tuple(self.manifest.get("roles") or default_roles(self.channels))

    @property
    def stains(self) -> tuple[Stains, ...]:
        """What the channels show, as features of cells need it."""
        return stains_of(self.channels, self.roles)

    @property
    def file_channels(self) -> tuple[str, ...]:
        """Names that files of single channels may bear: those of the data set, of its files, and of the Atlas."""
        return file_channels(self.manifest)

    @property
    def tints(self) -> tuple[str, ...]:
        """The colour that each channel is drawn in, see `wsss.reports.overlay`."""
        return tint_names(self.channels, self.roles)

    @property
    def bits(self) -> int | None:
        """Bits that its 16-bit files use; None without such files, and where sources differ."""
        depths = {source.get("bits") for source in self.manifest["sources"]} - {None}
        return depths.pop() if len(depths) == 1 else None

    @cached_property
    def classes(self) -> ClassList:
        """The classes that labels refer to."""
        return ClassList(tuple(self.manifest["classes"]), self.manifest["negative"])

    @cached_property
    def ids(self) -> list[str]:
        """The ID of every image."""
        return self.table["ID"].tolist()

    @cached_property
    def ok(self) -> np.ndarray:
        """(N,) bool: the image has pixels."""
        return (self.table["status"] == "ok").to_numpy(bool)

    @cached_property
    def has_labels(self) -> np.ndarray:
        """(N,) bool: the image has labels (which may be none of the classes)."""
        return self.table["Label"].notna().to_numpy(bool)

    @cached_property
    def labels(self) -> np.ndarray:
        """(N, K) float32 of 0/1; zeros where an image has no labels."""
        out = np.zeros((len(self), len(self.classes)), np.float32)
        for row, text in enumerate(self.table["Label"].fillna("")):
            out[row, parse_label(text)] = 1
        return out

    @cached_property
    def twins(self) -> dict[str, str]:
        """The images that have near-duplicates: ID -> ID of the first image of the same field."""
        first = self.table["duplicate_of"].fillna(self.table["ID"])
        several = first[first.duplicated(keep=False)]
        return dict(zip(self.table["ID"][several.index], several, strict=True))

    @cached_property
    def carried(self) -> pd.DataFrame:
        """The columns that the label tables brought along, as text, one row per image; '' where there is nothing."""
        return self.table[[name for name in self.table if name not in COLUMNS]]

    @cached_property
    def _places(self) -> list[tuple[str, int]]:
        return list(zip(self.table["shard"].tolist(), self.table["slot"].tolist(), strict=True))

    @cached_property
    def _crc(self) -> list[int]:
        return self.table["crc32"].tolist()

    @cached_property
    def _intact(self) -> set[int]:
        """Images whose checksum has been compared in this process."""
        return set()

    @cached_property
    def _sizes(self) -> np.ndarray:
        return self.table[["ImageHeight", "ImageWidth"]].to_numpy(np.int64)

    def image(self, i: int) -> np.ndarray:
        """Return image i, (channels, size, size) uint8, read-only; its checksum is compared when it is first read.

        Raises:
            DataError: the image could not be prepared, or its stored pixels are damaged.
        """
        if not self.ok[i]:
            raise DataError(f"{self.ids[i]} has no pixels: {self.table['reason'].iloc[i]}")
        pixels = self.shards.image(*self._places[i])
        if i not in self._intact:
            if zlib.crc32(pixels.data) != self._crc[i]:
                raise DataError(
                    f"{self.ids[i]} is damaged in {self.shards.folder / self._places[i][0]}: its stored pixels do not "
                    "match their checksum. Run prepare with --overwrite."
                )
            self._intact.add(i)
        return pixels

    def geometry(self, i: int) -> Geometry:
        """Return how image i sits in its stored square."""
        height, width = self._sizes[i]
        return Geometry(int(height), int(width), self.size)

    def cells(self, i: int) -> np.ndarray:
        """Return the cells of image i as kept on disk, (H, W) int32 at native or stored size.

        Raises:
            DataError: there is no label map, or it has another size.
        """
        return self._label_map(i, find_label_map(self.folder / "cells", self.ids[i]))

    def nuclei(self, i: int) -> np.ndarray | None:
        """Return the nuclei of image i, (size, size) int32 at stored size; None where the cells came without them.

        Raises:
            DataError: their map is broken, or has another size.
        """
        try:
            path = find_label_map(self.folder / "nuclei", self.ids[i])
        except DataError:  # given label maps come without nuclei
            return None
        return self.geometry(i).labels_to_store(self._label_map(i, path))

    def _label_map(self, i: int, path: Path) -> np.ndarray:
        sizes = self.geometry(i).sizes
        label_map = read_label_map(path, *sizes)
        if label_map.shape not in sizes:
            raise DataError(f"{path} is {label_map.shape}, expected {sizes[0]} or {sizes[1]}")
        return label_map

    def pixel_um(self, i: int) -> float | None:
        """Return the micrometres per original pixel of image i, as its file declares; None where it does not."""
        declared = self.table[PIXEL_SIZE].iloc[i] if PIXEL_SIZE in self.table else ""
        um = pd.to_numeric(declared, errors="coerce")
        return float(um) if 0 < um < np.inf else None

    def folds(self) -> np.ndarray:
        """Return (N,) int: the fold that holds each image out, -1 where it has none.

        Raises:
            DataError: there are no folds, or folds.csv or the labels were changed after the folds were made.
        """
        return _checked_folds(self.folder, self.manifest, self.table)

    @property
    def folds_digest(self) -> str:
        """Digest of IDs, labels and folds: what a run records to know its folds again ('' without folds)."""
        return self.manifest["folds"]["digest"] if self.manifest["folds"] else ""


def folds_digest(table: pd.DataFrame, n: int, seed: int) -> str:
    """Return the digest of who is in which fold with which labels; rows without a fold do not count."""
    held = table.loc[table["fold"] >= 0]
    rows = [held[name].astype(str).tolist() for name in ("ID", "Label", "fold")]
    return digest_json({"n": n, "seed": seed, "rows": rows})


def file_channels(manifest: dict[str, Any]) -> tuple[str, ...]:
    """Return the names that files of single channels of a data set may bear, see `DataSet.file_channels`."""
    in_files = [name for source in manifest["sources"] for name in source.get("channels", [])]
    return tuple(dict.fromkeys([*in_files, *manifest["channels"], *HPA_CHANNELS]))


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read dataset.json.

    Raises:
        DataError: it is missing, damaged or of another format.
    """
    path = folder / MANIFEST
    if not path.exists():
        if (folder / SHARDS).is_dir() or any(folder.glob("prepare-*.journal")):
            raise DataError(f"the prepare of {folder} is unfinished: start the same command again.")
        raise DataError(f"{not_that(folder, DATA_SET)}: check --data.")
    again = "prepare the data set again"
    manifest = read_record(path, "format", newest=FORMAT, what="manifest of a data set", again=again)
    rest = {name: value for name, value in manifest.items() if name != "digest"}
    if manifest.get("digest", digest_json(rest)) != digest_json(rest):  # of older versions
        raise DataError(f"{path} is damaged: its content does not match its digest. Run prepare with --overwrite.")
    return manifest


def _read_table(folder: Path, manifest: dict[str, Any]) -> pd.DataFrame:
    path = folder / TABLE
    if path.exists():
        check_table_length(path, "Run prepare with another --out.")
    if not path.exists() or digest_file(path) != manifest["table"]:
        raise DataError(
            f"{path} is not the one {MANIFEST} describes: prepare was interrupted or the file changed. "
            "Start the same prepare command again."
        )
    table = read_parquet(path, again="Run prepare with another --out.")
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise DataError(f"{path} has no column {some(missing)}: prepare the data set again.")
    check_names(table["ID"], path)
    return table


def _checked_folds(folder: Path, manifest: dict[str, Any], table: pd.DataFrame) -> np.ndarray:
    """Read folds.csv and refuse it unless it is the one made with these labels."""
    recorded, path = manifest["folds"], folder / FOLDS
    if not recorded:
        raise DataError(f"{folder} has no folds: it was prepared without --labels.")
    again = "Restore it, or run prepare again to make new folds (runs trained on the old ones are then refused)."
    if not path.exists():
        raise DataError(f"{path} is missing. {again}")
    text = unguard_text(read_text(path, ["ID", "fold", "Label"]))
    if len(text) != int(table["fold"].ge(0).sum()):
        raise DataError(f"{path} does not hold the folds of {int(table['fold'].ge(0).sum())} images. {again}")
    held = table[table["fold"] >= 0]
    for name, now in (("ID", held["ID"]), ("fold", held["fold"].astype(str)), ("Label", held["Label"])):
        differs = np.flatnonzero(text[name].to_numpy(str) != now.to_numpy(str))
        if len(differs):
            row = differs[0]
            raise DataError(
                f"{path} was changed after the folds were made: {held['ID'].iloc[row]} has {name} "
                f"'{text[name].iloc[row]}', expected '{now.iloc[row]}'. {again}"
            )
    if folds_digest(table, recorded["n"], recorded["seed"]) != recorded["digest"]:
        raise DataError(f"{path} and {TABLE} differ from the folds recorded in {MANIFEST}. {again}")
    return table["fold"].to_numpy(np.int64)


def default_dataset(data: Path | None) -> Path:
    """Return `data`, or the only data set prepared under data/.

    Raises:
        ConfigError: none is prepared, or there are several to choose from.
    """
    if data is not None:
        return data
    prepared = sorted(path.parent for path in Path("data").glob(f"*/{MANIFEST}"))
    if len(prepared) == 1:
        return prepared[0]
    if not prepared:
        raise ConfigError("no data set is prepared under data/: run python -m wsss.prepare first, or pass --data.")
    raise ConfigError(
        f"several data sets are prepared under data/: choose one with --data {pasted(prepared[0])} (or another)."
    )
