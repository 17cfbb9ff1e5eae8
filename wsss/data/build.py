"""From prepared images, and those a data set has already, to a finished one: catalogue, folds, manifest.

Everything here is written whole or not at all, dataset.json last: a data set without it is unfinished.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from wsss.core.channels import default_roles, roles_text
from wsss.core.checks import DataError, some
from wsss.core.csv_text import NO_VALUE, carried_names, write_csv
from wsss.core.files import check_own_length, check_seal, digest_file, write_atomic, write_json
from wsss.core.label_maps import Geometry
from wsss.core.labels import HPA, HPA_CHANNELS, ClassList, format_label, parse_label
from wsss.core.parquet import read_parquet, write_parquet
from wsss.core.reading import read_npy
from wsss.core.runtime import versions
from wsss.data import ids
from wsss.data.catalog import (
    COLUMNS,
    FOLDS,
    FORMAT,
    MANIFEST,
    SHARDS,
    TABLE,
    ShardReader,
    Shards,
    folds_digest,
    read_manifest,
)
from wsss.data.duplicates import EDGE, find_duplicates, thumbnail
from wsss.data.folds import make_folds
from wsss.runs.output import Output

DUPLICATES = "duplicates.csv"
SOURCES = "sources"


@dataclass(frozen=True)
class Spec:
    """What all images of a data set have in common, and how its folds are made."""

    size: int = 512
    channels: tuple[str, ...] = HPA_CHANNELS
    classes: ClassList = field(default_factory=lambda: HPA)
    folds: int = 4
    seed: int = 0
    group: str = ""
    """Carried column whose images of one value go to one fold; '' for none."""
    roles: tuple[str, ...] = ()
    """What each channel shows, see `wsss.core.channels`; () for what their names say."""


def finish(
    folder: Path,
    spec: Spec,
    table: pd.DataFrame,
    sources: Sequence[Mapping[str, Any]],
    *,
    group_duplicates: bool = True,
    output: Output | None = None,
    before: Mapping[str, int] | None = None,
) -> pd.DataFrame:
    """Find near-duplicates, make folds and write the catalogue.

    Args:
        folder: the data set; its shards and thumbnails are written already.
        spec: what the images have in common.
        table: one row per image, source after source, with COLUMNS (duplicate_of and fold are filled in here).
        sources: one record per source for the manifest, with its name.
        group_duplicates: look for near-duplicates and keep them in one fold.
        output: the folder as it is held, which publishes catalogue, folds and manifest together; None to write them
            one by one, for a folder that nobody else knows.
        before: ID -> fold of images that have one already: they stay, unless their group is in several folds.

    Returns:
        The table as written.

    Raises:
        DataError: no label table has the column of `spec.group`.
    """
    home = folder if output is None else output.home
    table = table.reset_index(drop=True)
    carried = [name for name in table if name not in COLUMNS]
    pairs = _duplicates(folder, spec, table, sources) if group_duplicates else []
    first = _first_of_group(len(table), pairs)
    ids = table["ID"].to_numpy(object)
    table["duplicate_of"] = pd.Series([ids[k] if k != i else None for i, k in enumerate(first)], dtype="str")
    table["fold"] = _folds(spec, table, pairs, before or {})
    table = table.astype({**COLUMNS, **dict.fromkeys(carried, "str")}).reindex(columns=[*COLUMNS, *map(str, carried)])
    table = table.fillna(dict.fromkeys(map(str, carried), ""))
    columns = ["ID", "duplicate_of", "correlation"]
    duplicates = pd.DataFrame([(ids[b], ids[a], r) for a, b, r in pairs], columns=columns)
    write_csv(home / DUPLICATES, duplicates.astype({"ID": "str", "duplicate_of": "str"}))
    write_parquet(home / TABLE, table)
    held = table["fold"] >= 0
    if held.any():
        write_csv(home / FOLDS, table.loc[held, ["ID", "fold", "Label"]])
    else:
        (home / FOLDS).unlink(missing_ok=True)
    write_manifest(home, _manifest(folder, home, spec, table, sources))
    if output is not None:
        output.publish()
    return table


def _manifest(
    folder: Path, home: Path, spec: Spec, table: pd.DataFrame, sources: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the manifest of a finished data set, whose table lies in `home`."""
    folds = {
        "n": spec.folds,
        "seed": spec.seed,
        "group": spec.group,
        "digest": folds_digest(table, spec.folds, spec.seed),
    }
    files = [path for source in sources for path in (folder / SOURCES / source["name"]).glob("*.npy")]
    extras = sorted(str(path.relative_to(folder)) for path in files)
    return {
        "format": FORMAT,
        "unfinished": False,
        "size": spec.size,
        "channels": list(spec.channels),
        "roles": list(spec.roles or default_roles(spec.channels)),
        "classes": list(spec.classes.names),
        "negative": spec.classes.negative,
        "images": len(table),
        "table": digest_file(home / TABLE),
        "folds": folds if (table["fold"] >= 0).any() else None,
        "sources": [dict(source) for source in sources],
        "extras": {name: digest_file(folder / name) for name in extras},
        "versions": versions(),
    }


def create_dataset(
    folder: Path,
    images: Mapping[str, np.ndarray],
    labels: Mapping[str, Sequence[int]] | None = None,
    spec: Spec | None = None,
    *,
    source: str = "main",
    group_duplicates: bool = False,
) -> Path:
    """Make a data set from arrays in memory: for tests, demos and images that never were files.

    Args:
        folder: where; made if missing.
        images: ID -> (channels, H, W) uint8 of any size.
        labels: ID -> class ids; an ID that is missing has no labels. None for no labels at all.
        spec: size, channels, classes, folds.
        group_duplicates: look for near-duplicates and keep them in one fold.

    Returns:
        `folder`, to be opened with `catalog.DataSet.open`.
    """
    spec = spec or Spec()
    ids = sorted(images)
    shards = Shards(folder / SHARDS, source, len(ids), len(spec.channels), spec.size)
    shards.allocate()
    rows = []
    thumbnails = np.zeros((len(ids), len(spec.channels), EDGE, EDGE), np.int8)
    for k, ID in enumerate(ids):
        geometry = Geometry(images[ID].shape[1], images[ID].shape[2], spec.size)
        stored = geometry.image_to_store(images[ID])
        thumbnails[k] = thumbnail(stored, geometry)
        rows.append(
            {
                "ID": ID,
                "source": source,
                "status": "ok",
                "reason": "",
                **dict(zip(("shard", "slot"), shards.place(k), strict=True)),
                "ImageHeight": geometry.height,
                "ImageWidth": geometry.width,
                "depth": "8",
                "Label": format_label(labels[ID]) if labels is not None and ID in labels else None,
                "crc32": shards.write(k, stored),
            }
        )
    record = {"name": source, "images": len(ids), "failed": 0}
    write_extra(folder, source, thumbnails=thumbnails)
    finish(folder, spec, pd.DataFrame(rows), [record], group_duplicates=group_duplicates)
    return folder


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write dataset.json."""
    write_json(folder / MANIFEST, {name: value for name, value in manifest.items() if name != "digest"})


def check_extras(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Compare the files of `write_extra` with their digests.

    Raises:
        DataError: one is missing or damaged.
    """
    for name, digest in manifest.get("extras", {}).items():
        path = folder / name
        if path.exists():
            check_own_length(path, "Run prepare with --overwrite.")
        if not path.exists() or digest_file(path) != digest:
            raise DataError(f"{path} is missing or damaged: run prepare with --overwrite.")


def write_extra(folder: Path, source: str, **arrays: np.ndarray) -> None:
    """Write arrays with one row per image of a source, such as its thumbnails."""
    for name, array in arrays.items():
        path = folder / SOURCES / source / f"{name}.npy"
        write_atomic(path, lambda stream, array=array: np.save(stream, array, allow_pickle=False))  # type: ignore[misc]


def read_extra(folder: Path, source: str, name: str) -> np.ndarray:
    """Read an array written by `write_extra`.

    Raises:
        DataError: it is missing or damaged.
    """
    return read_npy(folder / SOURCES / source / f"{name}.npy", "Run prepare with --overwrite.")


def _duplicates(
    folder: Path, spec: Spec, table: pd.DataFrame, sources: Sequence[Mapping[str, Any]]
) -> list[tuple[int, int, float]]:
    reader = ShardReader(folder / SHARDS, len(spec.channels), spec.size)
    places = list(zip(table["shard"].tolist(), table["slot"].tolist(), strict=True))
    sizes = table[["ImageHeight", "ImageWidth"]].to_numpy(int)

    def content(i: int) -> np.ndarray:
        geometry = Geometry(int(sizes[i, 0]), int(sizes[i, 1]), spec.size)
        return reader.image(*places[i])[:, : geometry.content_height, : geometry.content_width]

    thumbnails = [read_extra(folder, source["name"], "thumbnails") for source in sources]
    return find_duplicates(np.concatenate(thumbnails), content)


def _first_of_group(count: int, pairs: Sequence[tuple[int, int, float]]) -> np.ndarray:
    """Return for each image the lowest number of an image it is linked to, directly or not; its own without links."""
    ends = np.array([pair[:2] for pair in pairs], np.intp).reshape(-1, 2).T
    _, group = connected_components(coo_array((np.ones(len(pairs)), ends), (count, count)), directed=False)
    _, first, member_of = np.unique(group, return_index=True, return_inverse=True)
    return first[member_of]


def _folds(
    spec: Spec, table: pd.DataFrame, pairs: Sequence[tuple[int, int, float]], before: Mapping[str, int]
) -> np.ndarray:
    """Return (N,) int8 folds of the images that are ok and have labels, -1 for the others."""
    fold = np.full(len(table), -1, np.int8)
    held = np.flatnonzero((table["status"] == "ok").to_numpy() & table["Label"].notna().to_numpy())
    if len(held):
        labels = np.zeros((len(held), len(spec.classes)), bool)
        for row, text in enumerate(table["Label"].iloc[held]):
            labels[row, parse_label(text)] = True
        groups = _first_of_group(len(table), [*pairs, *_same_value(table, spec.group)])
        previous = np.array([before.get(ID, -1) for ID in table["ID"].iloc[held]], np.int64)
        what = f"groups of labelled images of one {spec.group}" if spec.group else "different labelled images"
        fold[held] = make_folds(labels, groups[held], spec.folds, spec.seed, previous, what)
    return fold


def _same_value(table: pd.DataFrame, column: str) -> list[tuple[int, int, float]]:
    """Return pairs of images that have the same text in a carried column; an empty one is nobody's."""
    if not column:
        return []
    first: dict[str, int] = {}
    return [(first.setdefault(text, i), i, 1.0) for i, text in enumerate(group_of(table, column)) if text]


def group_of(table: pd.DataFrame, column: str) -> list[str]:
    """Return what each image has in a carried column, '' where nothing is known.

    Raises:
        DataError: there is no such column.
    """
    known = [str(name) for name in table if name not in COLUMNS]
    meant = (column, *carried_names([column]).values())
    fitting = [name for wanted in meant for name in known if name.casefold() == wanted.casefold()]
    if not fitting:
        raise DataError(
            f"--group is '{column}', but the label tables bring along {some(known, 10) or 'no other column'}."
        )
    texts = table[fitting[0]].fillna("").astype(str)
    return texts.where(~texts.str.lower().isin(NO_VALUE), "").tolist()


Known = dict[str, tuple[dict[str, Any], bytes]]
"""ID -> the image's record and its thumbnail, for images that are in the store."""


@dataclass(frozen=True)
class ExistingSet:
    """The data set as an earlier run left it; empty for a new one."""

    folder: Path
    manifest: dict[str, Any]
    table: pd.DataFrame

    @classmethod
    def read(cls, folder: Path) -> "ExistingSet":
        """Read the catalogue in `folder`, if there is one.

        Raises:
            DataError: it is damaged or of another format.
        """
        if folder.exists() and not folder.is_dir():
            raise DataError(f"--out {folder} is a file, expected a folder.")
        if not (folder / MANIFEST).exists():
            return cls(folder, {}, pd.DataFrame(columns=list(COLUMNS)))
        manifest = read_manifest(folder)
        if not manifest["unfinished"]:  # else they may be newer than it
            check_extras(folder, manifest)
        again = f"Restore it, or remove {folder} and prepare again."
        table = read_parquet(folder / TABLE, again=again)  # sealed; it may be newer than the manifest
        old = not manifest["unfinished"] and not check_seal(folder / TABLE, again)  # of an older version
        if old and digest_file(folder / TABLE) != manifest["table"]:
            raise DataError(f"{folder / TABLE} is not the one that {MANIFEST} describes. {again}")
        if missing := [name for name in COLUMNS if name not in table]:
            raise DataError(f"{folder / TABLE} has no column {some(missing)}. {again}")
        ids.check_names(table["ID"], folder / TABLE)
        names = [source["name"] for source in manifest["sources"]]
        return cls(folder, manifest, table[table["source"].isin(names)])

    @property
    def sources(self) -> list[dict[str, Any]]:
        """The manifest's records of the sources."""
        return self.manifest.get("sources", [])

    @property
    def group(self) -> str:
        """The column by which the folds are grouped, '' for none."""
        return str((self.manifest.get("folds") or {}).get("group", ""))

    def fold_of(self, spec: Spec) -> dict[str, int]:
        """Return ID -> fold of the images that keep theirs when folds are made by `spec`."""
        if self.folds != (spec.folds, spec.seed):
            return {}
        held = self.table[self.table["fold"] >= 0]
        return dict(zip(held["ID"], held["fold"].astype(int), strict=True))

    @property
    def folds(self) -> tuple[int, int] | None:
        """Number and seed of the folds, if there are any."""
        folds = self.manifest.get("folds")
        return (folds["n"], folds["seed"]) if folds else None

    def source(self, name: str) -> dict[str, Any] | None:
        """Return the record of a source, None if it is new."""
        return next((source for source in self.sources if source["name"] == name), None)

    def others(self, name: str) -> pd.DataFrame:
        """Return the rows of all sources but one."""
        return self.table[self.table["source"] != name]

    def forget(self, name: str) -> "ExistingSet":
        """Remove a source's pixels and rows; on the disk the data set is unfinished from here on."""
        left = replace(
            self,
            manifest={**self.manifest, "sources": [s for s in self.sources if s["name"] != name]},
            table=self.others(name),
        )
        if left.sources:
            left.mark_unfinished()
        else:
            (self.folder / MANIFEST).unlink(missing_ok=True)
            left = replace(left, manifest={})
        for path in (self.folder / SHARDS).glob(f"{name}-?????.npy"):
            path.unlink()
        return left

    def mark_unfinished(self) -> None:
        """Keep other stages from opening the data set until prepare is through."""
        self.manifest["unfinished"] = True
        write_manifest(self.folder, self.manifest)

    def check_fits(self, spec: Spec, name: str, new_ids: list[str]) -> None:
        """Check that a source can be in this data set with the others.

        Raises:
            DataError: size, channels or classes differ, or an ID is in another source.
        """
        if self.manifest:
            wanted = {
                "--size": (spec.size, self.manifest["size"]),
                "--channels": (",".join(spec.channels), ",".join(self.manifest["channels"])),
                "--roles": (
                    roles_text(spec.channels, spec.roles or default_roles(spec.channels)),
                    roles_text(
                        self.manifest["channels"],
                        self.manifest.get("roles") or default_roles(self.manifest["channels"]),
                    ),
                ),
                "--classes": (", ".join(spec.classes.names), ", ".join(self.manifest["classes"])),
                "--classes (negative)": (spec.classes.negative, self.manifest["negative"]),
            }
            again = "choose another --out, or pass --overwrite true to make it again"
            ways = "choose another --out" if len(self.others(name)) else again
            for flag, (now, before) in wanted.items():
                if now != before:
                    raise DataError(
                        f"{self.folder} was prepared with {flag} {before}, now it is {now}: pass the same, {ways}."
                    )
        elsewhere = self.others(name)["ID"].tolist()
        if twice := sorted(set(elsewhere) & set(new_ids)):
            raise DataError(
                f"{len(twice)} IDs of source {name} are in {self.folder} already: {some(twice)}. "
                "Leave them out with --skip, or rename them."
            )
        ids.check_distinct([*elsewhere, *new_ids], f"{self.folder} and source {name}")

    def known(self, name: str) -> tuple[Known, dict[str, int]]:
        """Return what is known of a finished source's images: records, and stamps of their files."""
        if self.source(name) is None:
            return {}, {}
        rows = self.table[self.table["source"] == name]
        thumbnails: np.ndarray = read_extra(self.folder, name, "thumbnails")
        stamps = read_extra(self.folder, name, "stamps").tolist()
        columns = ["status", "reason", "ImageHeight", "ImageWidth", "depth", "crc32"]
        records: list[dict[str, Any]] = [dict(zip(columns, row, strict=True)) for row in rows[columns].to_numpy(object)]
        if (self.folder / SOURCES / name / "pixels.npy").exists():  # older data sets have none
            for record, edge in zip(records, read_extra(self.folder, name, "pixels").tolist(), strict=True):
                record["pixel_um"] = edge
        names = rows["ID"].tolist()
        known: Known = {
            ID: (record, thumbnails[k].tobytes() if record["status"] == "ok" else b"")
            for k, (ID, record) in enumerate(zip(names, records, strict=True))
        }
        return known, dict(zip(names, stamps, strict=True))
