"""Which cells to ask about: strategies whose inclusion probabilities are known, so that all cells can be judged.

Each strategy gives every cell a rate > 0 and a permanent random number; cells are asked in the order of their keys, an
exponential variate divided by the rate. If a strategy has been asked up to the key t, a cell of rate r was in its part
with probability 1 - exp(-r t), whatever was answered; a cell that several strategies may reach was in none of their
parts with the product of the complements. (Weighted sampling without replacement by exponential keys: Efraimidis and
Spirakis 2006; the threshold as if it were fixed: rank conditioning, Cohen and Kaplan 2008.)
"""

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np

FLOOR = 0.05
"""Rate of the cells that a strategy looks for least, relative to those that it looks for most: keeps weights low."""
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
        "Cells with a score near 0.5: most is learnt from them.",
        lambda scores: _doubt(scores) ** 2,
    ),
    "confident": Strategy(
        "confident",
        "Cells with a high score: finds mistakes made with confidence.",
        lambda scores: scores.max(axis=1) ** 4,
    ),
    "class": Strategy(
        "one class",
        "Cells with a high score of one class: its precision soon, and examples of a rare class.",
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
        seed: of the strategy.
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
        following = self.next_rows(answered, 1)
        return float(self.keys[following[0]]) if following else float("inf")

    def _row(self, place: int) -> int:
        if place >= len(self._order):
            self._extend()
        return int(self._order[place])


def rates_of(strategy: Strategy, scores: np.ndarray) -> np.ndarray:
    """Return the (N,) float32 rates of a strategy, in [FLOOR, 1 + FLOOR]."""
    return (np.clip(strategy.rate(scores), 0, 1) + FLOOR).astype(np.float32)


def inclusion(rates: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Return the probability that cells were asked for by any of several strategies.

    Args:
        rates: (n, S) >= 0, 0 for a strategy that cannot reach the cell.
        thresholds: (S,) keys up to which each strategy has been asked, infinite for all cells.

    Returns:
        (n,) float64 in (0, 1].
    """
    asked = np.where(rates > 0, rates * np.minimum(thresholds, np.finfo(np.float64).max / (1 + len(thresholds))), 0)
    return np.asarray(-np.expm1(-asked.sum(axis=1, dtype=np.float64)))
