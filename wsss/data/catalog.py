"""A prepared data set on disk, opened: images by number, labels, sizes, folds."""

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wsss.core.channels import Stains, default_roles, stains_of, tint_names
from wsss.core.checks import ConfigError, DataError, some
from wsss.core.csv_text import read_text, unguard_text
from wsss.core.files import digest_file, read_record
from wsss.core.geometry import Geometry
from wsss.core.labels import HPA_CHANNELS, ClassList, parse_label
from wsss.core.parquet import read_parquet
from wsss.data.build import COLUMNS, FOLDS, MANIFEST, SHARDS, TABLE, folds_digest, read_manifest
from wsss.data.ids import check_names
from wsss.data.store import ShardReader
from wsss.runs.output import settle


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
        if not (folder / MANIFEST).exists():
            begun = ": its prepare is unfinished, start the same command again." if folder.exists() else "."
            raise DataError(f"{folder} holds no prepared data set{begun} Run python -m wsss.prepare.")
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
        in_files = [name for source in self.manifest["sources"] for name in source.get("channels", [])]
        return tuple(dict.fromkeys([*in_files, *self.channels, *HPA_CHANNELS]))

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

    def damaged(self, indices: Sequence[int] | None = None) -> list[str]:
        """Read images (all by default) and return the IDs whose stored bytes differ from what was prepared."""
        wanted = range(len(self)) if indices is None else indices
        stored = ((i, self.shards.image(*self._places[i])) for i in wanted if self.ok[i])
        return [self.ids[i] for i, pixels in stored if zlib.crc32(pixels.data) != self._crc[i]]


def _read_table(folder: Path, manifest: dict[str, Any]) -> pd.DataFrame:
    path = folder / TABLE
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


def default_dataset(data: Path | None, home: Path = Path("data")) -> Path:
    """Return `data`, or the only data set prepared under `home`.

    Raises:
        ConfigError: none is prepared, or there are several to choose from.
    """
    if data is not None:
        return data
    prepared = sorted(path.parent for path in home.glob("*/dataset.json"))
    if len(prepared) == 1:
        return prepared[0]
    if not prepared:
        raise ConfigError(f"no data set is prepared under {home}/: run python -m wsss.prepare first, or pass --data.")
    raise ConfigError(
        f"several data sets are prepared under {home}/: choose one with --data {prepared[0]} (or another)."
    )


def data_folder_of(preds: Path, chosen: Path | None) -> Path:
    """Return the data set: the chosen one, or the one that the predictions say they were made from.

    Raises:
        DataError: there are no predictions.
    """
    check_predictions(preds)
    return (recorded_data(preds) if chosen is None else None) or default_dataset(chosen)


def check_predictions(preds: Path) -> None:
    """Refuse a path that is no folder.

    Raises:
        DataError: it is none.
    """
    if not preds.is_dir():
        raise DataError(f"{preds} is no folder, expected one of predictions (wsss infer): check --preds.")


FROM_HERE = "data_from_here"
"""What provenance.json calls the path of the data set that starts from the folder of the predictions."""


def from_here(data: Path, preds: Path) -> dict[str, str]:
    """Return what provenance.json says so that the data set is found from any working directory."""
    return {FROM_HERE: os.path.relpath(data.resolve(), preds.resolve())}


def recorded_data(preds: Path) -> Path | None:
    """Return the data set that predictions were made from, wherever the working directory is; None if it is not there.

    Where the folder of predictions and that of data were moved together, that is the data set that moved along.
    """
    path = preds / "provenance.json"
    record = read_record(path) if path.exists() else {}
    given = Path(str(record.get("data", "")))
    if FROM_HERE in record:
        there = Path(os.path.normpath(preds.resolve() / str(record[FROM_HERE])))
        if (there / MANIFEST).is_file():
            return given if given.exists() and given.samefile(there) else there
    return given if "data" in record and (given / MANIFEST).is_file() else None
