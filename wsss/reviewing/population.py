"""All cells that a review may ask about, as lean arrays: a million of them fit a laptop."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from wsss.core.checks import DataError, some
from wsss.core.parquet import read_parquet
from wsss.reviewing.answers import Cell
from wsss.reviewing.sampling import image_seeds

BOX = ("y0", "x0", "y1", "x1")
_AGAIN = "Run python -m wsss.infer again to make it."


@dataclass(frozen=True)
class Population:
    """Cells in the order of their table."""

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
        found = order[np.minimum(at, len(order) - 1)] if len(order) else np.zeros(len(cells), np.int64)
        fits = (places >= 0) & (self._codes[found] == wanted) if len(order) else np.zeros(len(cells), bool)
        return np.where(fits, found, -1)

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

    Args:
        folder: of the prediction.
        classes: how many there are.

    Raises:
        DataError: the table is missing, damaged or empty, lacks a column, or has other classes, or a cell comes twice.
    """
    path = folder / "cells.parquet"
    columns = [str(k) for k in range(classes)]
    table = read_parquet(path, ["ID", "cell_id", *BOX, *columns], again=_AGAIN)
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
        population: the cells.
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
