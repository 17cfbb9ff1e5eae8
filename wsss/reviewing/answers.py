"""The answers of a review in an SQLite file, with what their weights are computed from."""

import re
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from wsss.core.checks import DataError, NoSpaceError, some
from wsss.core.files import check_format, digest_bytes, disk_errors
from wsss.core.labels import format_label, parse_label
from wsss.core.reading import check_no_link, check_regular
from wsss.reviewing.population import STRATEGIES, Cell, inclusion

FORMAT = "wsss-review-1"
_TABLES = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS answers (
  number INTEGER PRIMARY KEY AUTOINCREMENT, image TEXT NOT NULL, cell INTEGER NOT NULL, labels TEXT NOT NULL,
  design TEXT NOT NULL, mark TEXT NOT NULL, seconds REAL NOT NULL, hints INTEGER NOT NULL, at TEXT NOT NULL,
  undone INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS designs (name TEXT PRIMARY KEY, threshold REAL NOT NULL);
CREATE TABLE IF NOT EXISTS rates (
  design TEXT NOT NULL, image TEXT NOT NULL, cell INTEGER NOT NULL, rate REAL NOT NULL,
  PRIMARY KEY (design, image, cell));
"""
_CONTENT = (
    "SELECT * FROM answers ORDER BY number",
    "SELECT * FROM rates ORDER BY design, image, cell",
    "SELECT * FROM designs ORDER BY name",
    "SELECT * FROM meta WHERE name != 'digest' ORDER BY name",
)


LONGEST = 1e9
"""Seconds that an answer may take."""
_SANE = {
    "answers": "typeof(image) || typeof(labels) || typeof(design) || typeof(mark) = 'texttexttexttext' "
    f"AND typeof(cell) = 'integer' AND typeof(seconds) = 'real' AND seconds BETWEEN 0 AND {LONGEST}",
    "designs": "typeof(name) = 'text' AND typeof(threshold) = 'real' AND threshold > 0",
    "rates": "typeof(image) = 'text' AND typeof(cell) = 'integer' AND typeof(rate) = 'real' AND rate BETWEEN 0 AND 2",
}
"""What holds for every row of a table."""


def _schema(database: sqlite3.Connection) -> set[tuple[str, str, str | None]]:
    """Return kind, name and text of all tables, indices, views and triggers."""
    return set(database.execute("SELECT type, name, sql FROM sqlite_master").fetchall())


def _own_schema() -> set[tuple[str, str, str | None]]:
    with closing(sqlite3.connect(":memory:")) as database:
        database.executescript(_TABLES)
        return _schema(database)


_SCHEMA = _own_schema()


@dataclass(frozen=True)
class Answer:
    """The answer for one cell."""

    cell: Cell
    labels: tuple[int, ...]
    """Class ids; empty for 'cannot tell'."""
    design: str
    """The strategy that chose the cell."""
    mark: str
    """Digest of the image's pixels and label map when it was answered."""
    seconds: float
    """Time from showing the cell to the answer."""
    hints: bool
    """Whether scores and image labels were shown."""


class Answers:
    """The file of answers; several threads may use it.

    Every answer is on the disk before the page is told. Nothing is overwritten: an answer that is taken back stays in
    the file, marked as such. The file also holds the sampling designs (a strategy on one table of scores) and the rate
    of every answered cell under each design, so that weights can be computed when other predictions of the same cells
    are judged later.

    Args:
        path: made with its tables if missing.
        classes: names of the classes; an existing file must have the same.
        seed: of the random numbers that choose cells, for a new file; an existing one keeps its own.

    Raises:
        DataError: the file is damaged, of another format, of other classes, or cannot be written.
    """

    def __init__(self, path: Path, classes: Sequence[str], seed: int = 0) -> None:
        self.path = path
        self._lock = threading.Lock()
        check_no_link(path)
        if (path.parent / FIGURES).exists() and not (path.exists() and path.stat().st_size):
            raise DataError(
                f"{path} is missing or empty, and {FIGURES} beside it was made of it: restore it, or move both."
            )
        with disk_errors(path):
            if not path.exists():
                path.touch()  # SQLite would leave the umask aside
        check_regular(path)
        with self._named():
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            schema = _schema(self._db)
            if any(part in schema for part in _SCHEMA if part[1] == "meta"):  # a newer one may have other tables
                found = self._db.execute("SELECT value FROM meta WHERE name = 'format'").fetchone()
                check_format(path, found[0] if found else FORMAT, FORMAT, "review", "choose another --out")
            if strange := schema - _SCHEMA:
                raise self._damaged(f"it has {some(sorted(strange))[:80]}, which no review has")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_TABLES)
            (state,) = self._db.execute("PRAGMA integrity_check(1)").fetchone()
            if state != "ok":
                raise self._damaged(state)
            recorded = self._db.execute("SELECT value FROM meta WHERE name = 'digest'").fetchone()
            if recorded is not None and recorded[0] != self._digest():
                raise self._damaged("its content does not match its digest")
        for name, value in (("format", FORMAT), ("classes", "\n".join(classes))):
            if (stored := self._kept(name, value)) != value:
                self._db.close()
                raise DataError(
                    f"{path} holds answers of another {name} ({' '.join(stored.split())[:80]}): choose another --out."
                )
        self._check_values(len(classes))
        self.seed = self._kept("seed", str(seed))

    def _kept(self, name: str, value: str) -> str:
        """Return what the file says of itself by this name; a new file is told `value`."""
        with self._named():
            self._db.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (name, value))
            (stored,) = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return str(stored)

    def close(self) -> None:
        """Close the file; everything answered is already safe."""
        self._db.close()

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Hold the lock, and name the file in errors of SQLite."""
        with self._lock:
            try:
                yield
            except sqlite3.OperationalError as error:
                code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)  # absent where text is no UTF-8
                if code == sqlite3.SQLITE_ERROR:
                    raise self._damaged(error) from error
                kind = NoSpaceError if code == sqlite3.SQLITE_FULL else DataError
                text = f"{self.path} cannot be written ({error}): make room or fix the disk; answers are kept."
                raise kind(text) from error
            except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
                raise self._damaged(error) from error

    def _check_values(self, classes: int) -> None:
        """Refuse what no review writes: a file that somebody else made may have the right digest."""
        with self._named():
            for table, sane in _SANE.items():
                if found := self._db.execute(f"SELECT * FROM {table} WHERE ({sane}) IS NOT TRUE LIMIT 1").fetchone():
                    raise self._damaged(f"{table} holds {found}")
            labels = [text for (text,) in self._db.execute("SELECT DISTINCT labels FROM answers")]
            designs = [name.partition("@")[0] for (name,) in self._db.execute("SELECT name FROM designs")]
        for design in designs:
            strategy, _, label = design.partition(":")
            if strategy not in STRATEGIES or STRATEGIES[strategy].by_class != bool(label):
                raise self._damaged(f"there is no strategy '{design}'")
            labels.append(label)
        for text in filter(None, labels):
            if not all(re.fullmatch("[0-9]{1,4}", k) and int(k) < classes for k in text.split("|")):
                raise self._damaged(f"'{text}' is none of the {classes} classes")
        if not np.isfinite(self.weights([answer.cell for answer in self.live()])).all():
            raise self._damaged("an answer was asked by no strategy")

    def _damaged(self, how: object) -> DataError:
        text = " ".join(str(how).split())[:200]
        return DataError(f"{self.path} is damaged ({text}): restore it from a copy, or choose another --out.")

    def add(self, answer: Answer, rates: Mapping[str, float], threshold: float) -> None:
        """Record an answer; it replaces an earlier one for the same cell.

        Args:
            rates: design -> the cell's rate, of every design used so far and of the answer's.
            threshold: key up to which the answer's design has now been asked.
        """
        image, cell = answer.cell
        with self._named(), self._transaction():
            self._db.execute("UPDATE answers SET undone = 1 WHERE image = ? AND cell = ?", (image, cell))
            row = (image, cell, format_label(answer.labels), answer.design, answer.mark, answer.seconds)
            self._db.execute(
                "INSERT INTO answers (image, cell, labels, design, mark, seconds, hints, at) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (*row, int(answer.hints), f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}"),
            )
            self._put_rates({design: {answer.cell: rate} for design, rate in rates.items()})
            self._put_threshold(answer.design, threshold)

    def begin_design(self, design: str, rates: Mapping[Cell, float]) -> None:
        """Note the rates under a new design of all cells that have been answered before."""
        with self._named(), self._transaction():
            self._put_rates({design: rates})

    def undo(self, cell: Cell) -> None:
        """Take the answer for a cell back."""
        with self._named(), self._transaction():
            self._db.execute("UPDATE answers SET undone = 1 WHERE image = ? AND cell = ?", cell)

    def set_threshold(self, design: str, threshold: float) -> None:
        """Note up to which key a design has been asked."""
        with self._named(), self._transaction():
            self._put_threshold(design, threshold)

    def live(self) -> list[Answer]:
        """Return all answers that count, in the order in which they were given."""
        columns = "image, cell, labels, design, mark, seconds, hints"
        with self._named():
            rows = self._db.execute(f"SELECT {columns} FROM answers WHERE undone = 0 ORDER BY number").fetchall()
        return [
            Answer((image, cell), tuple(parse_label(labels)), design, mark, seconds, bool(hints))
            for image, cell, labels, design, mark, seconds, hints in rows
        ]

    def designs(self) -> dict[str, float]:
        """Return the threshold of every design that an answer was asked by."""
        with self._named():
            return dict(self._db.execute("SELECT name, threshold FROM designs ORDER BY name").fetchall())

    def weights(self, cells: Sequence[Cell]) -> np.ndarray:
        """Return the (n,) float64 weights of answered cells: the inverse of their inclusion probabilities."""
        designs = self.designs()
        with self._named():
            rows = self._db.execute("SELECT design, image, cell, rate FROM rates").fetchall()
        known = {(design, image, cell): rate for design, image, cell, rate in rows}
        rates = np.array([[known.get((name, *cell), 0.0) for name in designs] for cell in cells], np.float64)
        thresholds = np.array(list(designs.values()), np.float64)
        with np.errstate(divide="ignore"):  # refused where the file is opened
            return 1 / inclusion(rates.reshape(len(cells), len(designs)), thresholds)

    def _digest(self) -> str:
        """Return the digest of all that the file holds, which SQLite lacks."""
        return digest_bytes(repr([self._db.execute(text).fetchall() for text in _CONTENT]).encode())

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Write together with the new digest, or not at all."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("INSERT OR REPLACE INTO meta VALUES ('digest', ?)", (self._digest(),))
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _put_rates(self, rates: Mapping[str, Mapping[Cell, float]]) -> None:
        rows = [(design, *cell, float(rate)) for design, by_cell in rates.items() for cell, rate in by_cell.items()]
        self._db.executemany("INSERT OR REPLACE INTO rates VALUES (?, ?, ?, ?)", rows)

    def _put_threshold(self, design: str, threshold: float) -> None:
        self._db.execute("INSERT OR REPLACE INTO designs VALUES (?, ?)", (design, threshold))


TRUTH, FIGURES, FILE = "cells_truth.csv", "review.json", "review.sqlite"
"""What the folder of a review holds: the answers as a table, the quality of the scores, and the answers themselves."""
