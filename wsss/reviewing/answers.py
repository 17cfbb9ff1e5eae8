"""The answers of a review in one SQLite file: every click is on the disk before the page hears of it.

Nothing is overwritten: an answer that is taken back stays in the file, marked as such. Beside the answers stand the
sampling designs (a strategy on one table of scores) and the rate of every answered cell under each design, so that
weights can be computed when other predictions of the same cells are judged later.
"""

import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from wsss.core.checks import DataError, NoSpaceError
from wsss.core.labels import format_label, parse_label
from wsss.reviewing.sampling import inclusion

FORMAT = "wsss-review-1"
Cell = tuple[str, int]
"""ID of the image, number of the cell."""

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


@dataclass(frozen=True)
class Answer:
    """What was said of one cell."""

    cell: Cell
    labels: tuple[int, ...]
    """Class ids; empty for 'cannot tell'."""
    design: str
    """Which strategy asked for it."""
    mark: str
    """Digest of the image's pixels and label map when it was answered."""
    seconds: float
    """Time from showing the cell to the answer."""
    hints: bool
    """Whether scores and image labels were shown."""


class Answers:
    """The file of answers; may be used by several threads.

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
        with self._named():
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_TABLES)
            (state,) = self._db.execute("PRAGMA integrity_check(1)").fetchone()
        if state != "ok":
            raise self._damaged(state)
        for name, value in (("format", FORMAT), ("classes", "\n".join(classes))):
            with self._named():
                self._db.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (name, value))
                (found,) = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
            if found != value:
                self._db.close()
                raise DataError(
                    f"{path} holds answers of another {name} ({' '.join(found.split())[:80]}): choose another --out."
                )

        with self._named():
            self._db.execute("INSERT OR IGNORE INTO meta VALUES ('seed', ?)", (str(seed),))
            (found,) = self._db.execute("SELECT value FROM meta WHERE name = 'seed'").fetchone()
        self.seed = str(found)

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
                kind = NoSpaceError if error.sqlite_errorcode == sqlite3.SQLITE_FULL else DataError
                text = f"{self.path} cannot be written ({error}): make room or fix the disk; answers are kept."
                raise kind(text) from error
            except sqlite3.DatabaseError as error:
                raise self._damaged(error) from error

    def _damaged(self, how: object) -> DataError:
        text = " ".join(str(how).split())
        return DataError(f"{self.path} is damaged ({text}): restore it from a copy, or choose another --out.")

    def add(self, answer: Answer, rates: Mapping[str, float], threshold: float) -> None:
        """Record an answer for good; an earlier one of the same cell no longer counts.

        Args:
            answer: what was said.
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

    def undo(self) -> Answer | None:
        """Take the last answer back and return it; None if there is none."""
        found = self.live()
        if not found:
            return None
        with self._named():
            self._db.execute(
                "UPDATE answers SET undone = 1 WHERE number = (SELECT MAX(number) FROM answers WHERE undone = 0)"
            )
        return found[-1]

    def set_threshold(self, design: str, threshold: float) -> None:
        """Note up to which key a design has been asked."""
        with self._named():
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
        return 1 / inclusion(rates.reshape(len(cells), len(designs)), thresholds)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _put_rates(self, rates: Mapping[str, Mapping[Cell, float]]) -> None:
        rows = [(design, *cell, float(rate)) for design, own in rates.items() for cell, rate in own.items()]
        self._db.executemany("INSERT OR REPLACE INTO rates VALUES (?, ?, ?, ?)", rows)

    def _put_threshold(self, design: str, threshold: float) -> None:
        self._db.execute("INSERT OR REPLACE INTO designs VALUES (?, ?)", (design, threshold))
