"""What predictions were made from: their data set, and the pixels and label maps of each image."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from wsss.core.checks import ConfigError, DataError, some
from wsss.core.console import say
from wsss.core.files import digest_bytes, read_record
from wsss.core.label_maps import given_maps, map_files
from wsss.data.catalog import MANIFEST, DataSet, default_dataset
from wsss.runs.journal import Digests
from wsss.runs.output import record_over


def image_marks(data: DataSet, digests: Digests, indices: Iterable[int] | None = None) -> dict[str, str]:
    """Return what the scores of each image are made from: ID -> digest of its pixels, label map and nuclei.

    Args:
        data: the data set.
        digests: of the files of label maps.
        indices: numbers of the images; all that have pixels if left out.
    """
    wanted = [int(i) for i in (np.flatnonzero(data.ok) if indices is None else indices)]
    names = [data.ids[i] for i in wanted]
    map_digests = [digests.of_files(map_files(data.folder / kind, names)) for kind in ("cells", "nuclei")]
    crc = data.table["crc32"].to_numpy()
    return {
        data.ids[i]: digest_bytes(f"{int(crc[i]):x} {cells} {nuclei}".encode())
        for i, cells, nuclei in zip(wanted, *map_digests, strict=True)
    }


def marks_for(preds: Path, data: DataSet, digests: Digests, indices: Iterable[int] | None = None) -> dict[str, str]:
    """Return `image_marks` for a stage that draws a prediction; files unchanged since it are not read again."""
    digests.know((record_over(preds) or {}).get("seen", {}))
    return image_marks(data, digests, indices)


def check_current(preds: Path, data: DataSet, indices: Iterable[int] | None = None) -> None:
    """Refuse predictions of images whose pixels or label maps have changed since; print a note if that is unknown.

    Raises:
        DataError: some have.
    """
    record = record_over(preds)
    items = record.get("items", {}) if record else {}
    if not items:
        say(f"note: {preds} does not say which label maps it was made from: they may have changed since.")
        return
    now = image_marks(data, Digests((record or {})["seen"]), indices)
    changed = [name for name, mark in now.items() if items.get(name, mark) != mark]
    if changed:
        raise DataError(
            f"pixels or label maps of {some(changed, 3)} in {data.folder} have changed since {preds} was predicted: "
            "run python -m wsss.infer again."
        )


def check_cells(data: DataSet, or_else: str = "") -> None:
    """Refuse a data set without any label map; `or_else` ends the message with another way out.

    Raises:
        ConfigError: it has none.
    """
    if data.ok.any() and len(without_cells(data, np.flatnonzero(data.ok))) == int(data.ok.sum()):
        raise ConfigError(
            f"{data.folder} has no cells: run python -m wsss.segment --data {data.folder} first{or_else}."
        )


def without_cells(data: DataSet, indices: np.ndarray) -> list[str]:
    """Return the IDs of those images that have no label map, by the names of the files."""
    given = given_maps(data.folder / "cells")
    return [data.ids[i] for i in indices if data.ids[i] not in given]


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
