"""The choice of cells to learn from."""

import numpy as np

from wsss.cells.confident import choose_cells, class_balance


def test_every_class_weighs_the_same() -> None:
    weights = class_balance(np.eye(3)[[0, 0, 0, 1]])
    np.testing.assert_allclose(weights, [1 / 3, 1 / 3, 1 / 3, 1])


def test_cells_in_doubt_are_left_out() -> None:
    soft = np.array([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]])
    assert choose_cells(soft, 0.8, 10, seed=0).tolist() == [0, 2]
    assert choose_cells(soft, 0.95, 10, seed=0).tolist() == []
    assert choose_cells(soft[:0], 0.5, 10, seed=0).tolist() == []


def test_of_too_many_cells_the_rare_class_is_kept() -> None:
    soft = np.eye(2)[[0] * 900 + [1] * 100]
    rows = choose_cells(soft, 0.5, 200, seed=1)
    assert len(set(rows.tolist())) == 200
    assert 60 <= (rows >= 900).sum() <= 100
    assert (rows == choose_cells(soft, 0.5, 200, seed=1)).all()
