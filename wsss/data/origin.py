"""What predictions were made from: their data set, and the pixels and label maps of each image."""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wsss.core.checks import ConfigError, DataError, pasted, some
from wsss.core.console import say
from wsss.core.files import PREDICTIONS, digest_bytes, not_that, read_record, write_json
from wsss.core.label_maps import given_maps, map_files
from wsss.data.catalog import MANIFEST, DataSet, default_dataset
from wsss.runs.inputs import Digests
from wsss.runs.output import Output, settle
from wsss.runs.result_record import SEGMENT, record_of, record_over

SEGMENT_JOURNAL, SEGMENTS = "segment.journal", "segments.csv"
"""Files of a data set: what segment has done, and its table of images, which is there once all of it is."""
CRC_DIGITS = 10
"""Decimal digits of a checksum of pixels; longer marks are digests, of given masks too."""


def image_marks(data: DataSet, digests: Digests, indices: Iterable[int] | None = None) -> dict[str, str]:
    """Return what the scores of each image are made from: ID -> digest of its pixels, label map and nuclei.

    Args:
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
    """Refuse a data set without any label map, or whose label maps are in doubt.

    Args:
        or_else: ends the message with another way out.

    Raises:
        ConfigError: it has none.
        DataError: see `doubtful_cells`.
    """
    if data.ok.any() and len(without_cells(data, np.flatnonzero(data.ok))) == int(data.ok.sum()):
        raise ConfigError(
            f"{data.folder} has no cells: run python -m wsss.segment --data {pasted(data.folder)} first{or_else}."
        )
    if doubt := doubtful_cells(data):
        raise DataError(f"{doubt}.")


def doubtful_cells(data: DataSet) -> str:
    """Return why the label maps that segment made are not to be relied on; '' where they are.

    They are those of two segmentations, if the later one was cut short, or of pixels that prepare has replaced since.
    """
    again = f"run python -m wsss.segment --data {pasted(data.folder)} as before to bring them up to date"
    if (data.folder / SEGMENT_JOURNAL).exists() and not (data.folder / SEGMENTS).exists():
        return f"the segmentation of {data.folder} is unfinished, and its cells may be of two runs: {again}"
    pixels = {data.ids[i]: int(crc) for i, crc in enumerate(data.table["crc32"].tolist()) if data.ok[i]}
    marks = (record_of(data.folder, SEGMENT) or {}).get("items", {}).items()
    made_of = {name: number for name, mark in marks if (number := str(mark).partition(" ")[0]).isdecimal()}
    changed = [
        name
        for name, number in made_of.items()
        if len(number) <= CRC_DIGITS and pixels.get(name, int(number)) != int(number)
    ]
    if changed:
        return f"the pixels of {some(changed, 3)} in {data.folder} have changed since their cells were found: {again}"
    return ""


def without_cells(data: DataSet, indices: np.ndarray) -> list[str]:
    """Return the IDs of those images that have no label map, by the names of the files."""
    given = given_maps(data.folder / "cells")
    return [data.ids[i] for i in indices if data.ids[i] not in given]


def data_folder_of(preds: Path, chosen: Path | None, option: str = "--preds") -> Path:
    """Return the data set: the chosen one, or the one that the predictions say they were made from.

    Raises:
        DataError: there are no predictions; the message names the option that led here.
    """
    check_predictions(preds, option)
    return (recorded_data(preds) if chosen is None else None) or default_dataset(chosen)


def check_predictions(preds: Path, option: str = "--preds") -> None:
    """Refuse a folder without predictions, of wsss or others.

    Raises:
        DataError: there are none.
    """
    settle(preds)
    if not any((preds / name).exists() for name in (PROVENANCE, "cells.parquet", "cells.csv", "submission.csv")):
        raise DataError(f"{not_that(preds, PREDICTIONS)}: check {option}.")


PROVENANCE = "provenance.json"
FROM_HERE = "from_here"
"""Entry of provenance.json: each folder or file that it names -> its path from the folder of the predictions."""
SEEN = "seen_and_predicted"
"""Entry of provenance.json: images predicted by a network that they, or a near-duplicate of them, had reached."""
PLACES = ("data", "run", "path", "unet_paths", "large")
"""Entries of provenance.json that are paths."""


def write_provenance(output: Output, record: Mapping[str, Any]) -> None:
    """Write provenance.json so that what it names is found from any working directory, moved along or not."""
    here = output.folder.resolve()
    paths = {text: os.path.relpath(Path(text).resolve(), here) for text in _paths(record)}
    write_json(output.path(PROVENANCE), {**record, FROM_HERE: paths})


def read_provenance(preds: Path, *needed: str) -> dict[str, Any]:
    """Return what infer or ensemble recorded of a prediction, with paths that lead to what they led to.

    Where predictions and what they were made from were moved together, that is what moved along.

    Args:
        needed: entries that it must have; without any, the record of tables made by others is empty.
    """
    path = preds / PROVENANCE
    if not needed and not path.exists():
        return {}
    record = read_record(path, *needed)
    if any("\0" in text for text in _paths(record)) or not isinstance(record.get("run", ""), str):
        raise DataError(f"{path} is damaged: it names what is no path. Make it again.")
    if not isinstance(record.get(SEEN, 0), int):
        raise DataError(f"{path} is damaged: its entry {SEEN} is no number. Make it again.")
    paths = record.pop(FROM_HERE, {})
    if not isinstance(paths, dict) or not all(isinstance(text, str) and "\0" not in text for text in paths.values()):
        raise DataError(f"{path} is damaged: its entry {FROM_HERE} holds no paths. Make it again.")
    here: dict[str, str] = {}
    for text, relative in paths.items():
        given, there = Path(text), Path(os.path.normpath(preds.resolve() / relative))
        if there.exists() and not (given.exists() and given.samefile(there)):
            here[text] = str(there)
    found: dict[str, Any] = _with_paths(record, here)
    return found


def _paths(value: Any, *, is_path: bool = False) -> Iterator[str]:
    """Yield the paths in a record."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _paths(item, is_path=is_path or name in PLACES)
    elif isinstance(value, list):
        for item in value:
            yield from _paths(item, is_path=is_path)
    elif is_path and isinstance(value, str):
        yield value


def _with_paths(value: Any, here: Mapping[str, str], *, is_path: bool = False) -> Any:
    """Return a record with other paths in it."""
    if isinstance(value, dict):
        return {name: _with_paths(item, here, is_path=is_path or name in PLACES) for name, item in value.items()}
    if isinstance(value, list):
        return [_with_paths(item, here, is_path=is_path) for item in value]
    return here.get(value, value) if is_path and isinstance(value, str) else value


def seen_note(provenance: Mapping[str, Any]) -> str:
    """Return a note on images that networks predicted after learning from them; '' without any."""
    if not (count := provenance.get(SEEN)):
        return ""
    return (
        f"note: {count} of the predicted images, or near-duplicates of them, are among those that the networks were "
        "trained on: figures measured on these flatter. Only infer --oof true leaves these networks out."
    )


def recorded_data(preds: Path) -> Path | None:
    """Return the data set that predictions were made from; None if it is not there."""
    path = Path(str(read_provenance(preds).get("data", "")))
    return path if (path / MANIFEST).is_file() else None
