"""The record of a result: what it was made from, and which files it has with what content."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wsss.core.checks import DataError
from wsss.core.files import check_format, digest_file
from wsss.runs.inputs import (
    FOLDER,
    STATE,
    Digests,
    Seen,
    differences,
    is_system,
    mark_of,
    read_quietly,
    seen_from,
)

SEGMENT = "segment"
"""NAME of the tables of label maps in a data set."""
FORMAT = 1


def record_of(folder: Path, name: str = FOLDER) -> dict[str, Any] | None:
    """Return what is recorded of a result; None where there is no record, or a damaged one.

    Raises:
        DataError: it is of a newer version.
    """
    path = folder / STATE / f"{name}.json"
    record = read_quietly(path)
    if not record:
        return None
    _check_names(_files_of(record, path), path)
    return record


def _files_of(record: Any, path: Path) -> list[str]:
    """Return the names of the files of a result, after checking that its record has the form of one."""
    again = f"remove {path.parent}, and make the result again"
    check_format(path, record.get("format") if isinstance(record, dict) else None, FORMAT, "record of a result", again)
    kinds = {"command": str, "version": str, "read": dict, "items": dict, "failed": list, "seen": dict, "files": dict}
    plain = all(isinstance(record.get(name), kind) for name, kind in kinds.items())
    if not plain or not _are_pairs(record["files"]) or not _are_pairs(record["seen"]):
        raise DataError(f"{path} is no record of a result: {again}.")
    _texts(record["failed"], path)
    return list(record["files"])


def _are_pairs(values: Any) -> bool:
    """Whether values are name -> [mark, digest]."""
    pairs = values.values() if isinstance(values, dict) else [None]
    return all(isinstance(pair, list) and len(pair) == 2 and all(isinstance(x, str) for x in pair) for pair in pairs)


def _texts(values: Any, path: Path) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise DataError(f"{path} is no record of a result: remove {path.parent}, and make the result again.")
    return values


def _check_names(names: Iterable[str], path: Path) -> None:
    """Refuse a record that names files outside its folder: they would be moved or removed."""
    for name in names:
        parts = Path(name).parts
        if not parts or Path(name).is_absolute() or ".." in parts or STATE in parts or "\0" in name:
            raise DataError(
                f"{path} names the file {name[:80]!r} outside its folder, which no result has: remove {path.parent}."
            )


def check_commit(commit: Mapping[str, Any], path: Path) -> None:
    """Refuse the commit of a result whose record is none, or that moves or removes files outside its folder.

    Raises:
        DataError: it is one.
    """
    _check_names([*_files_of(commit["record"], path), *_texts(commit["remove"], path)], path)


def remembered(path: Path) -> Seen:
    """Return the digests that an unfinished run has written down; none where the file is missing or damaged."""
    seen: Any = read_quietly(path).get("seen")
    return seen if _are_pairs(seen) else {}


def check_recorded(path: Path) -> None:
    """Compare a file with the record of the result that it is of: a table without a digest, or one put in its place.

    Raises:
        DataError: it is damaged, or was changed since it was written.
    """
    for folder in (path.parent, path.parent.parent):
        for name in (FOLDER, SEGMENT):
            check_entry(path, folder, files_of_record(folder, name))


def files_of_record(folder: Path, name: str = FOLDER) -> dict[str, list[str]]:
    """Return name -> [mark, digest] of the files of a result; none where there is no record."""
    files: dict[str, list[str]] = (record_of(folder, name) or {"files": {}})["files"]
    return files


def check_entry(path: Path, folder: Path, files: Mapping[str, Sequence[str]]) -> None:
    """Compare a file with what the record of the result in `folder` says of it; see `check_recorded`."""
    mark, digest = files.get(str(path.relative_to(folder)), ("", ""))
    if digest and not path.is_file():
        raise DataError(f"{path} is missing, a file of the result in {folder}: make it again with --overwrite true.")
    if digest and is_changed(path, mark, digest):
        raise _changed(path, folder)


def is_changed(path: Path, mark: str, digest: str) -> bool:
    """Whether a file is another than was recorded; one of another size is, and need not be read for that."""
    return mark_of(path) != mark and (_is_of_other_size(path, mark) or digest_file(path) != digest)


def _is_of_other_size(path: Path, mark: str) -> bool:
    """Whether a file has another size than its mark says; marks of older versions say none."""
    parts = mark.split(".")
    return len(parts) == 5 and path.is_file() and str(path.stat().st_size) != parts[2]


def check_sizes(folder: Path) -> None:
    """Compare the sizes of a result's files with its record, before they are read for their digests.

    Raises:
        DataError: one has another size.
    """
    for name, (mark, _) in files_of_record(folder).items():
        if _is_of_other_size(folder / name, mark):
            raise _changed(folder / name, folder)


def _changed(path: Path, folder: Path) -> DataError:
    return DataError(
        f"{path} is damaged, or was changed since it was written: make it again with --overwrite true, or, if "
        f"it was changed on purpose, remove {folder / STATE}."
    )


def record_over(folder: Path) -> dict[str, Any] | None:
    """Return the record of the result in a folder, or of the one that the folder is a part of."""
    record = record_of(folder)
    if record is None and (above := record_of(folder.parent)) is not None:
        record = above if any(name.startswith(f"{folder.name}/") for name in above["files"]) else None
    return record


def outdated(folder: Path, name: str = FOLDER) -> dict[str, str]:
    """Return in words which files that a result was made from have changed since; files that are gone do not count."""
    record = record_of(folder, name)
    before = record["read"].get("files", {}) if record else {}
    digests = Digests()
    there = {path: place for path in before if (place := there_now(path, folder, record)) is not None}
    now = {path: digest for path, place in there.items() if (digest := digests.of(place)) is not None}
    return differences({path: before[path] for path in now}, now)


def there_now(path: str, folder: Path, record: Mapping[str, Any] | None) -> Path | None:
    """Return where something that a result was made from is, as its record writes it: there, or moved along with it.

    None where it is gone, or where no input is, which a record from a stranger may name: a device, a system folder, or
    the whole disk.
    """
    for place in seen_from(path, (record or {}).get("place"), folder):
        if not is_system(place) and (place.is_file() or place.is_dir()):
            return place
    return None
