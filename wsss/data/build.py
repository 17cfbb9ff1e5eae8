"""From prepared images to a finished data set: catalogue, near-duplicates, folds, manifest.

Everything here is written whole or not at all, dataset.json last: a data set without it is unfinished.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from wsss.core.channels import default_roles
from wsss.core.checks import DataError, some
from wsss.core.files import digest_file, write_atomic, write_csv, write_json
from wsss.core.geometry import Geometry
from wsss.core.labels import HPA, HPA_CHANNELS, ClassList, format_label, parse_label
from wsss.core.parquet import write_parquet
from wsss.core.reading import read_npy
from wsss.core.runtime import versions
from wsss.data.catalog import COLUMNS, FOLDS, FORMAT, MANIFEST, SHARDS, TABLE, ShardReader, Shards, folds_digest
from wsss.data.folds import EDGE, find_duplicates, make_folds, thumbnail
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
    labelled = bool((table["fold"] >= 0).any())
    columns = ["ID", "duplicate_of", "correlation"]
    duplicates = pd.DataFrame([(ids[b], ids[a], r) for a, b, r in pairs], columns=columns)
    write_csv(home / DUPLICATES, duplicates.astype({"ID": "str", "duplicate_of": "str"}))
    write_parquet(home / TABLE, table)
    if labelled:
        write_csv(home / FOLDS, table.loc[table["fold"] >= 0, ["ID", "fold", "Label"]])
    else:
        (home / FOLDS).unlink(missing_ok=True)
    recorded = {
        "n": spec.folds,
        "seed": spec.seed,
        "group": spec.group,
        "digest": folds_digest(table, spec.folds, spec.seed),
    }
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "unfinished": False,
        "size": spec.size,
        "channels": list(spec.channels),
        "roles": list(spec.roles or default_roles(spec.channels)),
        "classes": list(spec.classes.names),
        "negative": spec.classes.negative,
        "images": len(table),
        "table": digest_file(home / TABLE),
        "folds": recorded if labelled else None,
        "sources": [dict(source) for source in sources],
        "extras": {path: digest_file(folder / path) for path in _extras(folder, sources)},
        "versions": versions(),
    }
    write_manifest(home, manifest)
    if output is not None:
        output.publish()
    return table


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
        source: name of the source.
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


def _extras(folder: Path, sources: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the files of `write_extra` of all sources, relative to the data set."""
    files = [path for source in sources for path in (folder / SOURCES / source["name"]).glob("*.npy")]
    return sorted(str(path.relative_to(folder)) for path in files)


def check_extras(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Compare the files of `write_extra` with their digests.

    Raises:
        DataError: one is missing or damaged.
    """
    for name, digest in manifest.get("extras", {}).items():
        if not (folder / name).exists() or digest_file(folder / name) != digest:
            raise DataError(f"{folder / name} is missing or damaged: run prepare with --overwrite.")


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
        fold[held] = make_folds(labels, groups[held], spec.folds, spec.seed, previous)
    return fold


def _same_value(table: pd.DataFrame, column: str) -> list[tuple[int, int, float]]:
    """Return pairs of images that have the same text in a carried column; an empty one is nobody's."""
    if not column:
        return []
    if column not in table or column in COLUMNS:
        known = [name for name in table if name not in COLUMNS]
        raise DataError(
            f"--group is '{column}', but the label tables bring along {some(known, 10) or 'no other column'}."
        )
    first: dict[str, int] = {}
    texts = enumerate(table[column].fillna("").astype(str))
    return [(first.setdefault(text, i), i, 1.0) for i, text in texts if text]
