"""What a result is made from: options, versions and digests of files, and how two records of these differ.

A file that has not changed is not read twice for its digest.
"""

import hashlib
import os
import re
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from wsss.core import __version__
from wsss.core.checks import DataError, some
from wsss.core.files import as_read, digest_file, read_json
from wsss.core.reading import check_ends

DIGEST = re.compile("[0-9a-f]{16}")
"""What a digest looks like in a record."""

TICK_NS = 1_000_000_000
"""A file changed less than this long ago may change again without a new time stamp; it is read again next time."""

Seen = dict[str, list[str]]
"""Absolute path -> [mark, digest] of files that were read."""


class Digests:
    """Digests of files by content, remembered by device, inode, size and times (ctime included, which nobody can set).

    Args:
        seen: what an earlier run remembered.
    """

    def __init__(self, seen: Mapping[str, Sequence[str]] | None = None) -> None:
        self._known = dict(seen or {})
        self.seen: Seen = {}
        """The files that this instance has read, for a later run."""

    def know(self, seen: Mapping[str, Sequence[str]]) -> None:
        """Add the digests that another result remembers."""
        self._known = dict(seen) | self._known

    def of(self, path: Path) -> str | None:
        """Return the digest of a file, or of a folder's `inputs_below`; None if there is neither."""
        try:
            if path.is_dir():
                names = sorted(str(file.relative_to(path)) for file in inputs_below(path))
                digests = [digest or "" for digest in self.of_files([path / name for name in names])]
                return hashlib.sha256("\n".join([*names, *digests]).encode()).hexdigest()[:16]
            if not path.is_file():
                return None
            mark = mark_of(path)
            known = self._known.get(str(path.absolute()))
            if known is not None and known[0] == mark:
                digest = known[1]
            else:
                check_ends(path)
                digest = digest_file(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if time.time_ns() - path.stat().st_ctime_ns > TICK_NS:
            self.seen[str(path.absolute())] = [mark, digest]
        return digest

    def of_files(self, paths: Iterable[Path]) -> list[str | None]:
        """Return the digests of several files or folders, read in parallel."""
        wanted = list(paths)
        if len(wanted) < 2:
            return [self.of(path) for path in wanted]
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            return list(pool.map(self.of, wanted))


STATE = ".wsss"
"""Hidden folder beside a result, with the record of it."""
FOLDER = "result"
"""NAME of the result that is a whole folder."""
OUTPUTS = ("best.safetensors", "last.safetensors", "train_ids.txt", "review.sqlite")
"""Files by which a folder that wsss writes is known, if it has no record of a result."""
LINKED = 2
"""Levels of folders on which links to other folders are followed: images/, or <id>/images/."""


def inputs_below(folder: Path, level: int = 1) -> Iterator[Path]:
    """Yield the files below a folder, except hidden ones (those of OME-Zarr count) and what wsss wrote beside others.

    What `export` wrote counts: it is made to be read by others.
    """
    written = set()
    for path in (folder / STATE).glob("*.json"):
        record = read_quietly(path)
        if record.get("command") != "export" and isinstance(record.get("files"), dict):
            if path.stem == FOLDER and level > 1:
                return
            written |= {folder / name for name in record["files"] if path.stem != FOLDER}
    if level > 1 and any((folder / name).exists() for name in OUTPUTS):
        return
    with os.scandir(folder) as entries:
        paths = [folder / entry.name for entry in entries if not entry.name.startswith(".") or entry.name[:2] == ".z"]
    for path in paths:
        if path.is_dir():
            if not path.is_symlink() or (level <= LINKED and not is_system(path)):
                yield from (file for file in inputs_below(path, level + 1) if file not in written)
        elif path.is_file() and path not in written:
            yield path


SYSTEM = ("/proc", "/sys")
"""Folders of files without an end, in which no result was made from anything."""


def is_system(path: Path) -> bool:
    """Whether a path leads to the whole disk, or to files without an end."""
    real = path.resolve()
    return real == real.parent or any(map(real.is_relative_to, SYSTEM))


def read_quietly(path: Path) -> dict[str, Any]:
    """Read a JSON record that may be missing or damaged, and is empty then.

    Raises:
        PermissionError: it may not be read.
    """
    if path.is_file():
        path.open("rb").close()
    try:
        record = read_json(path)
    except (DataError, OSError):
        return {}
    return record if isinstance(record, dict) else {}


def mark_of(path: Path) -> str:
    """Return device, inode, size and times of a file in one text."""
    stat = path.stat()
    return f"{stat.st_dev}.{stat.st_ino}.{stat.st_size}.{stat.st_mtime_ns}.{stat.st_ctime_ns}"


def what_is_read(
    options: Any, digests: Digests, files: Iterable[Path | None] = (), leave: Collection[str] = ()
) -> dict[str, Any]:
    """Return what a result is made from: the options of its stage, contents of files and folders, and the version.

    Args:
        options: a dataclass; `out` and `overwrite` do not count.
        files: files and folders that are read; None and what does not exist count as absent.
        leave: further options that shape nothing.
    """
    plain = {name: _plain(value) for name, value in asdict(options).items() if name not in ("out", "overwrite", *leave)}
    once = {os.path.realpath(path): path for path in files if path is not None}  # whatever ways lead there
    wanted = list(once.values())
    contents = dict(zip(map(os.path.normpath, wanted), digests.of_files(wanted), strict=True))
    inputs = {"options": plain, "files": {name: digest for name, digest in contents.items() if digest is not None}}
    return as_read(inputs) | {"version": __version__}


def _plain(value: Any) -> Any:
    """Return an option with every path in it as text."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return os.path.normpath(value) if isinstance(value, Path) else value


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Return a nested record as 'a.b.c' -> value; lists of records count as records, other lists as values."""
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        parts = {str(k): item for k, item in enumerate(value)}.items()
    else:
        return {name: value}
    leaves: dict[str, Any] = {}
    for key, item in parts:
        leaves |= flat(item, f"{name}.{key}" if name else str(key))
    return leaves


def place_of(folder: Path) -> dict[str, str]:
    """Return from where the paths in a record are written, that of the folder in which it lies included."""
    return {"cwd": str(Path.cwd()), "folder": os.path.normpath(folder.absolute())}


def seen_from(path: str, place: Any, folder: Path) -> list[Path]:
    """Return where a recorded path may lie now: moved together with the folder of the record, or where it was.

    Args:
        path: as it is recorded.
        place: what `place_of` gave when it was; where it is nothing of the kind, the path is returned as it is.
        folder: of the record, now.

    Returns:
        Places, the likeliest first; none where it is no path.
    """
    if "\0" in path:
        return []
    texts = [place.get(name) for name in ("cwd", "folder")] if isinstance(place, dict) else [None]
    if not all(isinstance(text, str) and text.startswith("/") and "\0" not in text for text in texts):
        return [Path(path)]
    then = Path(place["cwd"]) / path
    along = folder.absolute() / os.path.relpath(then, place["folder"])
    return [Path(os.path.normpath(along)), Path(os.path.normpath(then))]


def from_here(before: Any, now: Any, place: Any, folder: Path) -> Any:
    """Return a record of what was read with every path as `now` writes it that means the same file or folder.

    A command is the same from another working directory, with `..` or a link on the way, and where its inputs and its
    result were moved together.

    Args:
        before: what is recorded.
        now: what is read now.
        place: what `place_of` gave when it was recorded.
        folder: of the record, now.
    """
    if before == now:
        return before
    names, values = _meant(_texts(now, names=True)), _meant(_texts(now, names=False))

    def written(text: str, known: Mapping[str, str]) -> str:
        if text in known.values() or "\0" in text:
            return text
        places = map(os.path.realpath, seen_from(text, place, folder))
        return next((known[there] for there in places if there in known), text)

    def rewritten(value: Any) -> Any:
        if isinstance(value, dict):
            return {written(name, names): rewritten(item) for name, item in value.items()}
        if isinstance(value, list):
            return [rewritten(item) for item in value]
        return written(value, values) if isinstance(value, str) else value

    return rewritten(before)


def _meant(texts: Iterable[str]) -> dict[str, str]:
    """Return the path that each text means -> the text."""
    return {os.path.realpath(text): text for text in texts if "\0" not in text}


def _texts(value: Any, *, names: bool) -> Iterator[str]:
    """Yield all names in a record, or all texts among its values."""
    if isinstance(value, dict):
        yield from value if names else ()
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _texts(item, names=names)
    elif isinstance(value, str) and not names:
        yield value


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """Return what differs between two records of what was read: name -> the difference in words.

    Digests (16 hex digits) are never shown; the text says that the file has changed, is new or is gone. The prefixes
    `options` and `files` are left out of the text.
    """
    old, new = flat(dict(before)), flat(dict(now))
    texts = {}
    for name in dict.fromkeys([*new, *old]):
        a, b = old.get(name), new.get(name)
        if a != b:
            texts[name] = _in_words(name.removeprefix("options.").removeprefix("files."), a, b)
    return texts


def _in_words(name: str, a: object, b: object) -> str:
    if any(isinstance(value, str) and DIGEST.fullmatch(value) for value in (a, b)):
        return f"{name} {'is new' if a is None else 'is gone' if b is None else 'has changed'}"
    return f"{name} was {_shown(a)}, now {_shown(b)}"


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def in_short(differing: Mapping[str, str]) -> str:
    """Return differences as one text: the first three, and the number of others."""
    return some(differing.values(), 3)
