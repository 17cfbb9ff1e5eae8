"""A running review: its answers in an SQLite file, which cell comes next, and the quality of the labels so far."""

import re
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wsss.core.checks import ConfigError, DataError, NoSpaceError, check_choice, some
from wsss.core.files import check_format, digest_bytes, disk_errors, without_nan, write_csv, write_json
from wsss.core.labels import ClassList, format_label, parse_label
from wsss.core.reading import check_no_link, check_regular
from wsss.metrics.weighted import SampleFigures, sample_figures
from wsss.reviewing.population import (
    STRATEGIES,
    Cell,
    Population,
    Queue,
    Strategy,
    differences,
    exponentials,
    inclusion,
    rates_of,
)

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
            with self._named():
                self._db.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (name, value))
                (stored,) = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
            if stored != value:
                self._db.close()
                raise DataError(
                    f"{path} holds answers of another {name} ({' '.join(stored.split())[:80]}): choose another --out."
                )
        self._check_values(len(classes))
        with self._named():
            self._db.execute("INSERT OR IGNORE INTO meta VALUES ('seed', ?)", (str(seed),))
            (stored,) = self._db.execute("SELECT value FROM meta WHERE name = 'seed'").fetchone()
        self.seed = str(stored)

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
        """Refuse what no review writes: a file that somebody else made may have the right digest.

        Raises:
            DataError: it holds such a value.
        """
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
            answer: the answer.
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
UNKNOWN_RATE = 0.0
"""Rate of a cell under a strategy whose score sources are no longer available."""


@dataclass(frozen=True)
class Judged:
    """The predictions that are judged by the answers."""

    folder: Path
    digest: str
    """Of their table of cells."""
    sources: Sequence[Path]
    """Predictions of the same cells by other sources, for the strategy 'disagreement'."""
    threshold: float
    """Scores from here on count as found."""


class Session:
    """Everything behind the page; its methods may be called by several threads.

    Args:
        population: the cells.
        answers: the file of answers.
        classes: of the scores.
        judged: the predictions.
        mark: returns the digest of an image's pixels and label map.
        marks: these digests, of images with answers in the data set; answers given when they were others do not count.
    """

    def __init__(
        self,
        population: Population,
        answers: Answers,
        classes: ClassList,
        judged: Judged,
        mark: Callable[[str], str],
        marks: Mapping[str, str],
    ) -> None:
        self.population, self.answers, self.classes, self.judged = population, answers, classes, judged
        self.mark = mark
        self._lock = threading.RLock()
        self._queues: dict[str, Queue] = {}
        live = answers.live()
        rows = population.rows([answer.cell for answer in live])
        self._marks = dict(marks)
        self._answered = {int(row): own for row, own in zip(rows, live, strict=True) if row >= 0 and self._current(own)}
        self._figures: tuple[int, SampleFigures] | None = None
        self._changes = 0

    @property
    def elsewhere(self) -> int:
        """Answers about cells that these predictions do not have, or that have changed since."""
        return len(self.answers.live()) - len(self._answered)

    def _current(self, answer: Answer) -> bool:
        return self._marks.get(answer.cell[0], answer.mark) == answer.mark

    @property
    def strategies(self) -> Mapping[str, Strategy]:
        """The strategies that can be chosen here."""
        usable = {
            name: strategy for name, strategy in STRATEGIES.items() if not strategy.by_source or self.judged.sources
        }
        return {name: one for name, one in usable.items() if len(self.classes) > 1 or not one.by_class}

    def check(self, strategy: str, class_id: int | None) -> str:
        """Return the name of the queue of a strategy.

        Raises:
            ConfigError: there is no such strategy, or it lacks its class.
        """
        check_choice("strategy", strategy, self.strategies)
        if not STRATEGIES[strategy].by_class:
            return strategy
        if class_id is None or not 0 <= class_id < len(self.classes):
            raise ConfigError(f"strategy {strategy} needs one of the {len(self.classes)} classes, got {class_id}.")
        return f"{strategy}:{class_id}"

    def next_cells(self, queue: str, count: int = 3) -> list[int]:
        """Return the rows of the cells to ask about next, `count` at most."""
        with self._lock:
            return self._queue(queue).next_rows(self._answered, count)

    def answer(self, row: int, queue: str, labels: Sequence[int], seconds: float, hints: bool) -> None:
        """Record an answer; when this returns, it is on the disk.

        Args:
            row: of the cell.
            queue: that asked for it, see `check`.
            labels: class ids; none for 'cannot tell'.
            seconds: from showing the cell to the answer.
            hints: whether scores and image labels were shown.

        Raises:
            ConfigError: there is no such cell or class.
            DataError: it cannot be written.
        """
        if not 0 <= row < len(self.population) or not set(labels) <= set(range(len(self.classes))):
            raise ConfigError(f"there is no cell {row}, or no class of {list(labels)}.")
        cell = self.population.cell(row)
        chosen = tuple(sorted(set(labels)))
        with self._lock:
            design = self._design(queue)
            known = self.answers.designs()
            if design not in known and self._answered:
                before = list(self._answered)
                rates = self._rates(queue)[before]
                self.answers.begin_design(
                    design, {self.population.cell(k): float(r) for k, r in zip(before, rates, strict=True)}
                )
            answer = Answer(cell, chosen, design, self.mark(cell[0]), seconds, hints)
            self._answered.pop(row, None)
            self._answered[row] = answer
            threshold = self._queue(queue).threshold(self._answered)
            try:
                self.answers.add(answer, {name: self._rate(name, row) for name in {*known, design}}, threshold)
            except BaseException:
                del self._answered[row]
                self._queue(queue).rewind()
                raise
            self._changes += 1

    def undo(self) -> int | None:
        """Take the last answer about these cells back; return the row of its cell, None if there is none."""
        with self._lock:
            if not self._answered:
                return None
            row = next(reversed(self._answered))
            self.answers.undo(self._answered[row].cell)
            del self._answered[row]
            self._changes += 1
            for name, queue in self._queues.items():
                queue.rewind()
                if self._design(name) in self.answers.designs():
                    self.answers.set_threshold(self._design(name), queue.threshold(self._answered))
            return row

    def counts(self) -> dict[str, Any]:
        """Return how many cells were answered, and how."""
        with self._lock:
            labels = [answer.labels for answer in self._answered.values()]
            designs = Counter(answer.design.partition("@")[0] for answer in self._answered.values())
        return {
            "answered": len(labels),
            "unclear": sum(not ids for ids in labels),
            "several": sum(len(ids) > 1 for ids in labels),
            "cells": len(self.population),
            "per_class": np.bincount([k for ids in labels for k in ids], minlength=len(self.classes)).tolist(),
            "per_strategy": dict(sorted(designs.items())),
            "elsewhere": self.elsewhere,
        }

    def figures(self) -> SampleFigures:
        """Return the quality of the scores by the answers so far; cells answered 'cannot tell' are left out."""
        with self._lock:
            if self._figures is None or self._figures[0] != self._changes:
                self._figures = (self._changes, self._compute())
            return self._figures[1]

    def _compute(self) -> SampleFigures:
        rows = [row for row, answer in self._answered.items() if answer.labels]
        truth = np.zeros((len(rows), len(self.classes)), np.float32)
        for place, row in enumerate(rows):
            truth[place, list(self._answered[row].labels)] = 1
        weights = self.answers.weights([self.population.cell(row) for row in rows])
        scores = self.population.scores[rows]
        return sample_figures(truth, scores, weights, self.classes.names, self.judged.threshold)

    def write(self, folder: Path) -> None:
        """Write the answers as a table that other stages take as --truth, and the figures."""
        figures = self.figures()
        live = [answer for answer in self.answers.live() if answer.labels and self._current(answer)]
        weights = self.answers.weights([answer.cell for answer in live])
        table = pd.DataFrame(
            {
                "ID": pd.Series([answer.cell[0] for answer in live], dtype="str"),
                "cell_id": np.array([answer.cell[1] for answer in live], np.int64),
                "Cell_Label": pd.Series([format_label(answer.labels) for answer in live], dtype="str"),
                "weight": weights,
                "strategy": pd.Series([answer.design.partition("@")[0] for answer in live], dtype="str"),
                "image_mark": pd.Series([answer.mark for answer in live], dtype="str"),
            }
        )
        write_csv(folder / TRUTH, table)
        write_json(folder / FIGURES, self.record(figures))

    def record(self, figures: SampleFigures) -> dict[str, Any]:
        """Return counts and figures as a JSON record."""
        about = {"preds": str(self.judged.folder), "table": self.judged.digest, "threshold": self.judged.threshold}
        plain: dict[str, Any] = without_nan(about | self.counts() | {"figures": figures.record()})
        return plain

    def _design(self, queue: str) -> str:
        """Return the name of a queue's sampling design: without scores it is the same on all predictions."""
        return queue if queue == "random" else f"{queue}@{self.judged.digest[:12]}"

    def _queue(self, name: str) -> Queue:
        if name not in self._queues:
            rates = self._rates(name)
            population = self.population
            variates = exponentials(population.seeds, population.cell_ids, f"{self.answers.seed} {self._design(name)}")
            self._queues[name] = Queue(variates / rates, rates)
        return self._queues[name]

    def _rates(self, name: str) -> np.ndarray:
        """Return the (N,) rates of a queue."""
        if name in self._queues:
            return self._queues[name].rates
        kind, _, class_id = name.partition(":")
        strategy = STRATEGIES[kind]
        if strategy.by_source:
            return rates_of(strategy, self._differences)
        scores = self.population.scores
        return rates_of(strategy, scores[:, [int(class_id)]] if strategy.by_class else scores)

    def _rate(self, design: str, row: int) -> float:
        """Return the rate of a cell under a design; one of earlier predictions counts as it would be on these."""
        name = design.partition("@")[0]
        kind, _, class_id = name.partition(":")
        strategy = STRATEGIES[kind]
        if name in self._queues:
            return float(self._queues[name].rates[row])
        if strategy.by_source and not self.judged.sources:
            return UNKNOWN_RATE
        scores = self._differences[[row]] if strategy.by_source else self.population.scores[[row]]
        return float(rates_of(strategy, scores[:, [int(class_id)]] if strategy.by_class else scores)[0])

    @cached_property
    def _differences(self) -> np.ndarray:
        return differences(self.population, self.judged.sources)
