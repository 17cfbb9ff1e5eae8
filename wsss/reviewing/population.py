"""All cells that a review may ask about, and the strategies by which it chooses them.

The inclusion probabilities of every strategy are known, so the answers allow conclusions about all cells. Each strategy
gives every cell a rate > 0 and a permanent random number; cells are asked in the order of their keys, an exponential
variate divided by the rate. If a strategy has been asked up to the key t, a cell of rate r was in its sample with
probability 1 - exp(-r t), whatever was answered; the probability that a cell was in no sample is the product of the
complements. (Weighted sampling without replacement by exponential keys: Efraimidis and Spirakis 2006; the threshold
treated as fixed: rank conditioning, Cohen and Kaplan 2008.)
"""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from wsss.core.checks import DataError, some
from wsss.core.parquet import read_parquet

FLOOR = 0.05
"""Rate of the cells that a strategy prefers least, relative to those it prefers most: keeps weights low."""
AHEAD = 50_000
"""Cells of a strategy that are put in order at once."""


@dataclass(frozen=True)
class Strategy:
    """A way of choosing cells."""

    title: str
    about: str
    rate: Callable[[np.ndarray], np.ndarray]
    """Takes (N, K) scores and returns (N,) in [0, 1], what the strategy looks for; FLOOR is added."""
    by_class: bool = False
    """It looks for one class, and is given that class's scores alone, (N, 1)."""
    by_source: bool = False
    """It is given the largest difference between score sources, (N, K), instead of scores."""


def _doubt(scores: np.ndarray) -> np.ndarray:
    return np.asarray((1 - np.abs(2 * scores - 1)).max(axis=1))


STRATEGIES: Mapping[str, Strategy] = {
    "random": Strategy(
        "random",
        "Every cell with the same probability: the plain estimate of how good the labels are.",
        lambda scores: np.ones(len(scores)),
    ),
    "doubtful": Strategy(
        "doubtful",
        "Cells with a score near 0.5: the most informative ones.",
        lambda scores: _doubt(scores) ** 2,
    ),
    "confident": Strategy(
        "confident",
        "Cells with a high score: finds mistakes made with confidence.",
        lambda scores: scores.max(axis=1) ** 4,
    ),
    "class": Strategy(
        "one class",
        "Cells with a high score of one class: measures its precision quickly, and finds examples of a rare class.",
        lambda scores: scores[:, 0],
        by_class=True,
    ),
    "disagreement": Strategy(
        "sources disagree",
        "Cells whose score sources (class maps, crops, features ...) contradict each other.",
        lambda differences: differences.max(axis=1) ** 2,
        by_source=True,
    ),
}


def image_seeds(names: Collection[str]) -> np.ndarray:
    """Return a number for each image name, (M,) uint64, that does not depend on the other names."""
    parts = (hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names)
    return np.frombuffer(b"".join(parts), np.uint64)


def exponentials(image_seed: np.ndarray, cell_ids: np.ndarray, seed: str) -> np.ndarray:
    """Return a permanent exponential variate for each cell, (N,) float64: it depends on the cell and the seed alone.

    Args:
        image_seed: (N,) uint64, that of each cell's image.
        cell_ids: (N,) numbers of the cells.
    """
    start = np.uint64(int.from_bytes(hashlib.blake2b(seed.encode(), digest_size=8).digest(), "little"))
    with np.errstate(over="ignore"):
        mixed = _mix(image_seed ^ _mix(np.asarray(cell_ids).astype(np.uint64) + start))
    uniform = ((mixed >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53
    return -np.log(uniform)


def _mix(values: np.ndarray) -> np.ndarray:
    """Scramble (N,) uint64 (the finaliser of splitmix64)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(values ^ (values >> np.uint64(31)))


@dataclass
class Queue:
    """The cells of a strategy in the order in which it asks for them."""

    keys: np.ndarray
    """(N,) float64."""
    rates: np.ndarray
    """(N,) float32."""

    def __post_init__(self) -> None:
        self._order = np.zeros(0, np.int64)
        self._place = 0
        self._extend()

    def _extend(self) -> None:
        """Put more cells in order."""
        count = min(len(self.keys), len(self._order) + AHEAD)
        first = np.argpartition(self.keys, count - 1)[:count] if count < len(self.keys) else np.arange(count)
        self._order = first[np.argsort(self.keys[first], kind="stable")]

    def rewind(self) -> None:
        """Start from the first cell again, after an answer was taken back."""
        self._place = 0

    def next_rows(self, answered: Collection[int], count: int) -> list[int]:
        """Return the rows of the next cells that were not answered, `count` of them at most."""
        while self._place < len(self.keys) and self._row(self._place) in answered:
            self._place += 1
        place, out = self._place, list[int]()
        while place < len(self.keys) and len(out) < count:
            row = self._row(place)
            if row not in answered:
                out.append(row)
            place += 1
        return out

    def threshold(self, answered: Collection[int]) -> float:
        """Return the key up to which every cell was answered; infinite if all were."""
        upcoming = self.next_rows(answered, 1)
        return float(self.keys[upcoming[0]]) if upcoming else float("inf")

    def _row(self, place: int) -> int:
        if place >= len(self._order):
            self._extend()
        return int(self._order[place])


def rates_of(strategy: Strategy, scores: np.ndarray) -> np.ndarray:
    """Return the (N,) float32 rates of a strategy, in [FLOOR, 1 + FLOOR]."""
    return (np.clip(strategy.rate(scores), 0, 1) + FLOOR).astype(np.float32)


def inclusion(rates: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Return the probability that cells were chosen by any of several strategies.

    Args:
        rates: (n, S) >= 0, 0 for a strategy that cannot reach the cell.
        thresholds: (S,) keys up to which each strategy has been asked, infinite for all cells.

    Returns:
        (n,) float64 in (0, 1].
    """
    asked = np.where(rates > 0, rates * np.minimum(thresholds, np.finfo(np.float64).max / (1 + len(thresholds))), 0)
    return np.asarray(-np.expm1(-asked.sum(axis=1, dtype=np.float64)))


BOX = ("y0", "x0", "y1", "x1")
Cell = tuple[str, int]
"""ID of the image, number of the cell."""
_AGAIN = "Run python -m wsss.infer again to make it."


@dataclass(frozen=True)
class Population:
    """Cells in the order of their table, as compact arrays: a million of them fit on a laptop."""

    names: list[str]
    """M names of images."""
    image: np.ndarray
    """(N,) int32, place of each cell's image in `names`."""
    cell_ids: np.ndarray
    """(N,) int64."""
    boxes: np.ndarray
    """(N, 4) int32, y0 x0 y1 x1 in pixels of the original image, half-open."""
    scores: np.ndarray
    """(N, K) float32 in [0, 1]."""

    def __len__(self) -> int:
        return len(self.cell_ids)

    def cell(self, row: int) -> Cell:
        """Return image and number of a cell."""
        return self.names[self.image[row]], int(self.cell_ids[row])

    def rows(self, cells: Sequence[Cell]) -> np.ndarray:
        """Return the (n,) rows of cells, -1 for those that are not here."""
        places = np.array([self._places.get(name, -1) for name, _ in cells], np.int64)
        numbers = np.array([number for _, number in cells], np.int64)
        order, wanted = self._order, (places << 40) + numbers
        at = np.searchsorted(self._codes, wanted, sorter=order)
        candidates = order[np.minimum(at, len(order) - 1)] if len(order) else np.zeros(len(cells), np.int64)
        fits = (places >= 0) & (self._codes[candidates] == wanted) if len(order) else np.zeros(len(cells), bool)
        return np.where(fits, candidates, -1)

    @cached_property
    def seeds(self) -> np.ndarray:
        """(N,) uint64, the number of each cell's image that its random numbers are drawn from."""
        return image_seeds(self.names)[self.image]

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.names)}

    @cached_property
    def _codes(self) -> np.ndarray:
        return (self.image.astype(np.int64) << 40) + self.cell_ids

    @cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(self._codes, kind="stable")


def read_population(folder: Path, classes: int) -> Population:
    """Read the cells of a prediction from its cells.parquet.

    Raises:
        DataError: the table is missing, damaged or empty, lacks a column, or has other classes, or a cell comes twice.
    """
    path = folder / "cells.parquet"
    columns = [str(k) for k in range(classes)]
    table = read_parquet(path, ["ID", "cell_id", *BOX, *columns], again=_AGAIN)
    if str(classes) in pq.read_schema(path).names:
        raise DataError(f"{path} has scores of more than {classes} classes: --data is not the data set of {folder}.")
    if not len(table):
        raise DataError(f"{path} holds no cells: there is nothing to review.")
    codes, names = table["ID"].factorize()
    scores = np.empty((len(table), classes), np.float32)
    for k, name in enumerate(columns):
        scores[:, k] = table.pop(name).to_numpy(np.float32)
    if not ((scores >= 0) & (scores <= 1)).all():
        raise DataError(f"{path} holds scores outside 0..1. {_AGAIN}")
    out = Population(
        [str(name) for name in names],
        codes.astype(np.int32),
        table["cell_id"].to_numpy(np.int64),
        table[list(BOX)].to_numpy(np.int32),
        scores,
    )
    ordered = out._codes[out._order]
    if twice := np.flatnonzero(ordered[1:] == ordered[:-1]).tolist():
        image, number = out.cell(int(out._order[twice[0]]))
        raise DataError(f"{path}: cell {number} of {image} comes twice. {_AGAIN}")
    return out


def differences(population: Population, folders: Sequence[Path]) -> np.ndarray:
    """Return how far score sources are apart for each cell and class, (N, K) float32 in [0, 1].

    Args:
        folders: predictions of the same cells by other sources.

    Raises:
        DataError: one lacks cells.
    """
    low, high = population.scores.copy(), population.scores.copy()
    for number, folder in enumerate(folders):
        other = read_population(folder, population.scores.shape[1])
        rows = (
            other.rows([population.cell(row) for row in range(len(population))])
            if not _same(population, other)
            else None
        )
        if rows is not None and (missing := np.flatnonzero(rows < 0)).size:
            names = [" of ".join(map(str, population.cell(row)[::-1])) for row in missing[:2]]
            raise DataError(f"{folder} lacks {missing.size} cells, such as {some(names)}: leave it out of --against.")
        scores = other.scores if rows is None else other.scores[rows]
        if number == 0:  # the blend itself lies between its sources
            low, high = scores.copy(), scores.copy()
        np.minimum(low, scores, out=low)
        np.maximum(high, scores, out=high)
    return high - low


def _same(a: Population, b: Population) -> bool:
    same = a.names == b.names and np.array_equal(a.image, b.image)
    return same and np.array_equal(a.cell_ids, b.cell_ids)
