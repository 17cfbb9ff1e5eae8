"""Which cells a review asks about, and with which probability."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from wsss.core.checks import DataError
from wsss.core.parquet import write_parquet
from wsss.reviewing.population import (
    BOX,
    STRATEGIES,
    Queue,
    exponentials,
    image_seeds,
    inclusion,
    rates_of,
    read_population,
)

SCORES = np.random.default_rng(0).beta(0.5, 1.5, (300, 3)).astype(np.float32)
IDS = np.arange(1, 301)


def queue(strategy: str, seed: str) -> Queue:
    rates = rates_of(STRATEGIES[strategy], SCORES)
    return Queue(exponentials(np.zeros(300, np.uint64), IDS, seed) / rates, rates)


def test_weights_of_two_strategies_together_give_totals_of_all_cells() -> None:
    totals = []
    for repeat in range(300):
        queues = [queue("random", f"r{repeat}"), queue("doubtful", f"d{repeat}")]
        answered: set[int] = set()
        for turn in range(60):
            answered.add(queues[turn % 2].next_rows(answered, 1)[0])
        rows = sorted(answered)
        rates = np.stack([own.rates[rows] for own in queues], axis=1)
        weights = 1 / inclusion(rates, np.array([own.threshold(answered) for own in queues]))
        totals.append([weights.sum(), (weights * SCORES[rows, 0]).sum()])
    expected = [300, SCORES[:, 0].sum()]
    np.testing.assert_allclose(np.mean(totals, axis=0), expected, rtol=0.03)


def test_strategies_find_what_they_look_for() -> None:
    first = {name: queue(name, "x").next_rows(set(), 40) for name in ("random", "doubtful", "confident")}
    doubt = (1 - np.abs(2 * SCORES - 1)).max(axis=1)
    assert doubt[first["doubtful"]].mean() > doubt[first["random"]].mean()
    assert SCORES.max(axis=1)[first["confident"]].mean() > SCORES.max(axis=1)[first["random"]].mean()


def test_the_order_depends_on_the_cell_and_the_seed_alone() -> None:
    seeds = image_seeds(["a", "b"])
    both = exponentials(seeds[[0, 0, 1]], np.array([1, 2, 1]), "s")
    assert len(set(both)) == 3
    assert exponentials(image_seeds(["b"]), np.array([1]), "s")[0] == both[2]
    assert exponentials(seeds[[0]], np.array([1]), "t")[0] != both[0]
    assert exponentials(np.arange(20_000, dtype=np.uint64), np.full(20_000, 7), "s").mean() == pytest.approx(
        1, abs=0.03
    )


def test_a_queue_that_is_used_up_includes_every_cell_for_sure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsss.reviewing.population.AHEAD", 7)
    own = queue("random", "x")
    answered: set[int] = set()
    while rows := own.next_rows(answered, 2):
        answered.add(rows[0])
    assert answered == set(range(300))
    assert own.threshold(answered) == np.inf
    np.testing.assert_array_equal(inclusion(own.rates[:, None], np.array([np.inf])), 1)


def test_cells_scored_for_more_classes_than_the_data_set_has_are_refused(tmp_path: Path) -> None:
    scores = {str(k): np.float32([0.2]) for k in range(3)}
    cells = pd.DataFrame({"ID": ["a"], "cell_id": np.int32([1]), **dict.fromkeys(BOX, np.int32([0])), **scores})
    write_parquet(tmp_path / "cells.parquet", cells)
    assert len(read_population(tmp_path, 3).cell_ids) == 1
    with pytest.raises(DataError, match="has scores of more than 2 classes"):
        read_population(tmp_path, 2)
