"""The label maps that the stage segment left in a data set, image by image."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from wsss.core.checks import ConfigError, DataError, some
from wsss.core.console import say
from wsss.core.digests import Digests
from wsss.core.files import digest_bytes
from wsss.core.label_maps import find_label_map, given_maps, map_files, read_label_map
from wsss.data.catalog import DataSet
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


def read_cells(data: DataSet, index: int) -> np.ndarray:
    """Return the cells of an image as kept on disk, (H, W) int32 at native or stored size.

    Raises:
        DataError: there is no label map, or it has another size.
    """
    label_map = read_label_map(find_label_map(data.folder / "cells", data.ids[index]))
    native = (data.geometry(index).height, data.geometry(index).width)
    if label_map.shape not in (native, (data.size, data.size)):
        raise DataError(f"the label map is {label_map.shape}, expected {native} or {(data.size, data.size)}")
    return label_map


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


def read_nuclei(data: DataSet, index: int) -> np.ndarray | None:
    """Return the nuclei of an image at stored size, (size, size) int32; None where the cells came without them."""
    try:
        path = find_label_map(data.folder / "nuclei", data.ids[index])
    except DataError:  # given label maps come without nuclei
        return None
    return data.geometry(index).labels_to_store(read_label_map(path))
