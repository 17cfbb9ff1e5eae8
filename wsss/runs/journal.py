"""What a command holds, has read and has done: the lock of a folder, digests of files, and a journal of its items.

A lock names its holder, and the kernel ends it with its process. A file that has not changed is not read twice for its
digest. A journal is an SQLite file that survives being killed: every `add` is one transaction, so an item is recorded
whole or not at all. It belongs to one fingerprint (of the stage's inputs and options); with another fingerprint it must
not be continued. Every item carries a checksum, because SQLite has none.
"""

import errno
import fcntl
import hashlib
import json
import os
import re
import socket
import sqlite3
import sys
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from wsss.core.checks import ConfigError, DataError, NoSpaceError, some
from wsss.core.console import say
from wsss.core.files import as_read, check_format, digest_file, disk_errors, remove_parts
from wsss.core.reading import check_ends, check_no_link, check_regular, parse_json

FORMAT = 1


class Journal:
    """Append-only record of finished items.

    Args:
        path: the file; made with its folder if missing.
        read: what the stage works on, as a JSON-like record; compared with the one in an existing file. A journal in
            which no item succeeded is reused, whatever it was begun with.
        where: what messages name; the folder of the file if left out.
        way_out: advice about a journal of other inputs, for the message.

    Raises:
        ConfigError: the file belongs to other inputs.
        DataError: it is damaged, or cannot be written.
        NoSpaceError: the disk is full.
    """

    def __init__(
        self,
        path: Path,
        read: object,
        where: Path | None = None,
        way_out: str = "choose another output folder, or pass --overwrite true",
    ) -> None:
        check_no_link(path)
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                path.touch()  # SQLite would leave the umask aside
        check_regular(path)
        self.path = path
        with self._named():
            self._db = sqlite3.connect(path, isolation_level=None)
        text = json.dumps(read, sort_keys=True)
        try:
            recorded = self._open(text)
            if recorded != text and isinstance(read, dict):
                recorded = self._seen_from_here(recorded, as_read(read))
            if recorded != text and all(_failed(record) for _, record, _ in self.items()):
                with self._named():
                    self._db.execute("DELETE FROM items")
                    self._db.execute("UPDATE meta SET value = ? WHERE name = 'fingerprint'", (text,))
                recorded = text
        except BaseException:
            self._db.close()
            raise
        if recorded != text:
            self._db.close()
            raise ConfigError(
                f"{where or path.parent} was begun with other inputs or options "
                f"({_what_differs(recorded, read, path)}): "
                f"go back to them, {way_out}."
            )

    def _open(self, fingerprint: str) -> str:
        """Make the tables if they are missing; return the fingerprint of the file."""
        with self._named():
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version != 0:  # of older versions
                check_format(self.path, version, FORMAT, "journal", "delete it and run the stage again")
            for kind, name, table, sql in self._db.execute("SELECT type, name, tbl_name, sql FROM sqlite_master"):
                plain = kind in ("table", "index") and table in ("meta", "items") and str(sql).count("(") < 2
                if not plain:  # views, triggers and computed columns may run on for ever
                    raise self._damaged(f"it has a {kind} {str(name)[:40]!r}, which no journal has")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            if version != FORMAT:  # a journal that is opened and not added to stays as it is
                self._db.execute(f"PRAGMA user_version={FORMAT}")
            self._db.execute("CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT)")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS items (key TEXT PRIMARY KEY, record TEXT, payload BLOB, crc32 INTEGER)"
            )
            place = json.dumps(place_of(self.path.parent))
            for row in (("fingerprint", fingerprint), ("place", place)):
                self._db.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", row)
            (recorded,) = self._db.execute("SELECT value FROM meta WHERE name = 'fingerprint'").fetchone()
            (state,) = self._db.execute("PRAGMA integrity_check(1)").fetchone()
        if state != "ok":
            raise self._damaged(state)
        return str(recorded)

    def _seen_from_here(self, recorded: str, read: dict[str, Any]) -> str:
        """Return the recorded text with its paths as they are written now; see `from_here`."""
        with self._named():
            (place,) = self._db.execute("SELECT value FROM meta WHERE name = 'place'").fetchone()
        try:
            before, place = parse_json(recorded, self.path), parse_json(place, self.path)
        except DataError:
            return recorded
        return json.dumps(from_here(before, read, place, self.path.parent), sort_keys=True)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Turn the errors of SQLite into ones that name the file and the way out."""
        try:
            yield
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)  # absent where text is no UTF-8
            if isinstance(error, sqlite3.OperationalError) and code != sqlite3.SQLITE_ERROR:
                raise _unwritable(self.path, error) from error
            raise self._damaged(error) from error

    def _damaged(self, how: object) -> DataError:
        text = " ".join(str(how).split())
        return DataError(f"{self.path} is damaged ({text}): delete it and run the stage again.")

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; everything added is already safe."""
        self._db.close()

    def __len__(self) -> int:
        return int(self._db.execute("SELECT COUNT(*) FROM items").fetchone()[0])

    def keys(self) -> set[str]:
        """Return the keys of all finished items."""
        return {key for key, _, _ in self.items()}

    def add(self, key: str, record: dict[str, Any], payload: bytes = b"") -> None:
        """Record `key` as finished, with a JSON-like record and bytes; a later record replaces an earlier one."""
        text = json.dumps(record, allow_nan=False)
        with self._named():
            row = (key, text, payload, _checksum(key, text, payload))
            self._db.execute("INSERT OR REPLACE INTO items VALUES (?, ?, ?, ?)", row)

    def get(self, key: str) -> tuple[dict[str, Any], bytes] | None:
        """Return (record, payload) of `key`, or None if it is not finished.

        Raises:
            DataError: the file is damaged.
        """
        with self._named():
            row = self._db.execute("SELECT * FROM items WHERE key = ?", (key,)).fetchone()
        return None if row is None else self._read(row)[1:]

    def items(self) -> Iterator[tuple[str, dict[str, Any], bytes]]:
        """Yield (key, record, payload) sorted by key.

        Raises:
            DataError: the file is damaged.
        """
        with self._named():
            for row in self._db.execute("SELECT * FROM items ORDER BY key"):
                yield self._read(row)

    def _read(self, row: tuple[Any, ...]) -> tuple[str, dict[str, Any], bytes]:
        key, text, payload, crc = row
        if not (isinstance(key, str) and isinstance(text, str) and isinstance(payload, bytes)):
            raise self._damaged("an item is of another kind")
        if crc != _checksum(key, text, payload):
            raise self._damaged(f"the checksum of {key} is another")
        return key, parse_json(text, self.path), payload


def _failed(record: Mapping[str, Any]) -> bool:
    return bool(record.get("failed")) or record.get("status") == "failed"


def _what_differs(recorded: str, read: object, path: Path) -> str:
    """Return in words what differs from the record in a file."""
    try:
        before = parse_json(recorded, path)
    except DataError:
        before = None
    if isinstance(before, dict) and isinstance(read, dict):
        return in_short(differences(before, as_read(read)))
    return "they are of an earlier version"


def _checksum(key: str, text: str, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(f"{key}\0{text}\0".encode()))


def _unwritable(path: Path, error: sqlite3.OperationalError) -> DataError | NoSpaceError:
    kind = NoSpaceError if error.sqlite_errorcode == sqlite3.SQLITE_FULL else DataError
    return kind(
        f"{path} cannot be written ({error}): make room or fix the disk, then start the same command again; "
        "what was done is kept."
    )


def remove_journal(path: Path) -> None:
    """Delete a closed journal; SQLite's side files first, so that none is left without it."""
    for old in (*path.parent.glob(f"{path.name}-*"), path):
        old.unlink(missing_ok=True)


LOCK = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
_held: set[int] = set()


@contextmanager
def hold(folder: Path, *inside: str, lock: str = LOCK, clean: bool = True) -> Iterator[None]:
    """Keep other runs out of `folder` for the duration of the block, and remove what killed writers left there.

    The lock is an flock of `folder/.lock`: it ends with the process that holds it, however that ends, so none is ever
    stale. The file names its holder for others. On a disk without locks the run continues without
    one and prints a note.

    Args:
        folder: made if missing, and removed again if it is still empty in the end.
        inside: sub-folders that the run writes to.
        lock: name of the lock's file; runs that may work side by side have different ones.
        clean: whether to remove leftovers; False for a user's folder in which only one file is locked.

    Raises:
        ConfigError: another run holds it; the text names its process, host and start.
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    handle = _lock(folder, lock)
    try:
        if handle is not None and clean:
            for place in (folder, *(folder / name for name in inside)):
                remove_parts(place)
        yield
    finally:
        if handle is not None:
            (folder / lock).unlink(missing_ok=True)  # before it is let go: a new lock is then a new file
            _held.discard(handle)
            os.close(handle)
        if made:
            with suppress(OSError):
                folder.rmdir()


def _lock(folder: Path, name: str) -> int | None:
    """Return the handle of the locked file, or None where there are no locks."""
    path = folder / name
    while True:
        check_no_link(path)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)  # less the umask
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _holder(handle)
            os.close(handle)
            if error.errno in _NO_LOCKS:
                say(f"note: {folder} is on a disk without locks: start no second run into it.")
                return None
            if not isinstance(error, BlockingIOError):
                raise
            raise ConfigError(
                f"{folder} is in use by {holder}: wait until it is done, end it, or choose another folder."
            ) from None
        if _is_at(handle, path):
            break
        os.close(handle)  # its holder removed it between our open and our lock
    _held.add(handle)
    entry = {"pid": os.getpid(), "host": socket.gethostname(), "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
    with disk_errors(path):
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(entry | {"command": " ".join(sys.argv)[:500]}).encode(), 0)
    return handle


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _holder(handle: int) -> str:
    """Return who holds a lock, from its file."""
    for _ in range(5):
        try:
            entry = parse_json(os.pread(handle, 4096, 0), LOCK)
            return f"process {entry['pid']} on {entry['host']} since {entry['since']} ({entry['command']})"
        except (ValueError, KeyError, TypeError):
            time.sleep(0.1)  # it has the lock, but has not written its entry yet
    return "another process"


def _let_go() -> None:
    """Close the copies of the handles that a forked child got: they would keep the lock after its holder's death."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_let_go)


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
