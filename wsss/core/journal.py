"""What a stage has done so far, item by item, in one file that survives being killed.

A journal is an SQLite file: every `add` is one transaction, so an item is recorded whole or not at all. It belongs
to one fingerprint (of the stage's inputs and options); with another fingerprint it must not be continued.
"""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from wsss.core.checks import DataError, NoSpaceError


class Journal:
    """Append-only record of finished items.

    Args:
        path: the file; made with its folder if missing.
        fingerprint: what the stage works on; compared with the one in an existing file.

    Raises:
        DataError: the file belongs to another fingerprint, is damaged, or cannot be written.
        NoSpaceError: the disk is full.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._db = sqlite3.connect(path, isolation_level=None)
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute("CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT)")
            self._db.execute("CREATE TABLE IF NOT EXISTS done (key TEXT PRIMARY KEY, record TEXT, payload BLOB)")
            self._db.execute("INSERT OR IGNORE INTO meta VALUES ('fingerprint', ?)", (fingerprint,))
            (found,) = self._db.execute("SELECT value FROM meta WHERE name = 'fingerprint'").fetchone()
        except sqlite3.OperationalError as error:
            self._db.close()
            raise _unwritable(path, error) from error
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise DataError(f"{path} is damaged ({error}): delete it and run the stage again.") from error
        if found != fingerprint:
            self._db.close()
            raise DataError(
                f"{path.parent} was begun with other inputs or options ({found}, now {fingerprint}): "
                "choose another output folder, or pass --overwrite."
            )

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; everything added is already safe."""
        self._db.close()

    def __len__(self) -> int:
        return int(self._db.execute("SELECT COUNT(*) FROM done").fetchone()[0])

    def keys(self) -> set[str]:
        """Return the keys of all finished items."""
        return {key for (key,) in self._db.execute("SELECT key FROM done")}

    def add(self, key: str, record: dict[str, Any], payload: bytes = b"") -> None:
        """Record `key` as finished, with a JSON-like record and bytes; a later record replaces an earlier one."""
        text = json.dumps(record, allow_nan=False)
        try:
            self._db.execute("INSERT OR REPLACE INTO done VALUES (?, ?, ?)", (key, text, payload))
        except sqlite3.OperationalError as error:
            raise _unwritable(self.path, error) from error

    def get(self, key: str) -> tuple[dict[str, Any], bytes] | None:
        """Return (record, payload) of `key`, or None if it is not finished."""
        row = self._db.execute("SELECT record, payload FROM done WHERE key = ?", (key,)).fetchone()
        return None if row is None else (json.loads(row[0]), row[1])

    def items(self) -> Iterator[tuple[str, dict[str, Any], bytes]]:
        """Yield (key, record, payload) sorted by key."""
        for key, text, payload in self._db.execute("SELECT key, record, payload FROM done ORDER BY key"):
            yield key, json.loads(text), payload


def _unwritable(path: Path, error: sqlite3.OperationalError) -> DataError | NoSpaceError:
    kind = NoSpaceError if error.sqlite_errorcode == sqlite3.SQLITE_FULL else DataError
    return kind(
        f"{path} cannot be written ({error}): make room or mend the disk, then start the same command again; "
        "what was done is kept."
    )
