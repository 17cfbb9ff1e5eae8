"""A journal of what a command has done: an SQLite file that survives being killed.

Every `add` is one transaction, so an item is recorded whole or not at all. A journal belongs to one fingerprint (of the
stage's inputs and options); with another fingerprint it must not be continued. Every item carries a checksum, because
SQLite has none.
"""

import json
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wsss.core.checks import ConfigError, DataError, NoSpaceError
from wsss.core.files import as_read, check_format, disk_errors
from wsss.core.reading import check_no_link, check_regular, parse_json
from wsss.runs.inputs import differences, from_here, in_short, place_of

FORMAT = 1


class Journal:
    """Append-only record of finished items.

    Args:
        path: the file; made with its folder if missing.
        read: what the stage works on, as a JSON-like record; compared with the one in an existing file. A journal in
            which no item succeeded is reused, whatever it was begun with.
        where: what messages name; the folder of the file if left out.
        way_out: advice about a journal of other inputs, for the message.
        refusal: returns the whole message from what is recorded; '' for the usual one.

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
        refusal: Callable[[Mapping[str, Any]], str] = lambda before: "",
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
            failures = (record.get("failed") or record.get("status") == "failed" for _, record, _ in self.items())
            if recorded != text and all(failures):
                with self._named():
                    self._db.execute("DELETE FROM items")
                    self._db.execute("UPDATE meta SET value = ? WHERE name = 'fingerprint'", (text,))
                recorded = text
        except BaseException:
            self._db.close()
            raise
        if recorded != text:
            self._db.close()
            before = _record_in(recorded, path)
            raise ConfigError(
                refusal(before)
                or f"{where or path.parent} was begun with other inputs or options ({_what_differs(before, read)}): "
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
                kind = NoSpaceError if code == sqlite3.SQLITE_FULL else DataError
                raise kind(
                    f"{self.path} cannot be written ({error}): make room or fix the disk, then start the same command "
                    "again; what was done is kept."
                ) from error
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


def _record_in(text: str, path: Path) -> dict[str, Any]:
    """Return the record in the text; an empty one if it is of an earlier version."""
    try:
        record = parse_json(text, path)
    except DataError:
        return {}
    return record if isinstance(record, dict) else {}


def _what_differs(before: Mapping[str, Any], read: object) -> str:
    """Return in words what differs from a record."""
    if before and isinstance(read, dict):
        return in_short(differences(before, as_read(read)))
    return "they are of an earlier version"


def _checksum(key: str, text: str, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(f"{key}\0{text}\0".encode()))


def remove_journal(path: Path) -> None:
    """Delete a closed journal; SQLite's side files first, so that none is left without it."""
    for old in (*path.parent.glob(f"{path.name}-*"), path):
        old.unlink(missing_ok=True)
