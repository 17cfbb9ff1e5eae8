"""Digests of files, of which an unchanged one is not read twice, and what differs between two records of them."""

import hashlib
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from wsss.core.checks import some
from wsss.core.files import digest_file

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
        """Return the digest of a file, or of all files below a folder; None if there is neither."""
        try:
            if path.is_dir():
                names = sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())
                digests = [digest or "" for digest in self.of_files([path / name for name in names])]
                return hashlib.sha256("\n".join([*names, *digests]).encode()).hexdigest()[:16]
            if not path.is_file():
                return None
            mark = mark_of(path)
            known = self._known.get(str(path.absolute()))
            digest = known[1] if known is not None and known[0] == mark else digest_file(path)
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
            return list(pool.map(self._of_file_or_folder, wanted))

    def _of_file_or_folder(self, path: Path) -> str | None:
        return self.of(path)


def mark_of(path: Path) -> str:
    """Return device, inode, size and times of a file in one text."""
    stat = path.stat()
    return f"{stat.st_dev}.{stat.st_ino}.{stat.st_size}.{stat.st_mtime_ns}.{stat.st_ctime_ns}"


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
