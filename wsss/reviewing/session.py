"""A running review: which cell comes next, and the quality of the labels by the answers so far."""

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wsss.core.checks import ConfigError, check_choice
from wsss.core.csv_text import write_csv
from wsss.core.files import without_nan, write_json
from wsss.core.labels import ClassList, format_label
from wsss.metrics.weighted import SampleFigures, sample_figures
from wsss.reviewing.answers import FIGURES, TRUTH, Answer, Answers
from wsss.reviewing.population import (
    STRATEGIES,
    Population,
    Queue,
    Strategy,
    differences,
    exponentials,
    rates_of,
)

EVERY = slice(None)
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
            earlier = self._answered.pop(row, None)
            self._answered[row] = answer
            threshold = self._queue(queue).threshold(self._answered)
            try:
                self.answers.add(answer, {name: self._rate(name, row) for name in {*known, design}}, threshold)
            except BaseException:
                del self._answered[row]
                if earlier is not None:  # it still stands in the file
                    self._answered[row] = earlier
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
            for queue in self._queues.values():
                queue.rewind()
            for design in self.answers.designs():  # also those of which no cell was asked since the start
                name = design.partition("@")[0]
                if self._design(name) == design and name.partition(":")[0] in self.strategies:
                    self.answers.set_threshold(design, self._queue(name).threshold(self._answered))
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

    def _rates(self, name: str, rows: slice | list[int] = EVERY) -> np.ndarray:
        """Return the rates of a queue, of all cells or of some."""
        if name in self._queues:
            return self._queues[name].rates[rows]
        kind, _, class_id = name.partition(":")
        strategy = STRATEGIES[kind]
        scores = (self._differences if strategy.by_source else self.population.scores)[rows]
        return rates_of(strategy, scores[:, [int(class_id)]] if strategy.by_class else scores)

    def _rate(self, design: str, row: int) -> float:
        """Return the rate of a cell under a design; one of earlier predictions counts as it would be on these."""
        name = design.partition("@")[0]
        if name not in self._queues and STRATEGIES[name.partition(":")[0]].by_source and not self.judged.sources:
            return UNKNOWN_RATE
        return float(self._rates(name, [row])[0])

    @cached_property
    def _differences(self) -> np.ndarray:
        return differences(self.population, self.judged.sources)
