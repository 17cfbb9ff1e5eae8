from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp

from wsss.core.checks import ConfigError
from wsss.core.labels import HPA
from wsss.data.folds import fold_table, make_folds
from wsss.data.tables import read_labels

KAGGLE = Path(__file__).parents[3] / "shared" / "data" / "kaggle2021_train.csv"


def draw(count: int, seed: int) -> np.ndarray:
    """Labels with common and rare classes, as in the Atlas."""
    rng = np.random.default_rng(seed)
    labels = rng.random((count, 8)) < [0.4, 0.3, 0.1, 0.1, 0.05, 0.05, 0.03, 0.01]
    labels[~labels.any(1), 0] = True
    return labels


@settings(deadline=None, max_examples=40)
@given(st.integers(20, 300), st.integers(0, 1000), st.integers(2, 6))
@example(21, 243, 3)
def test_folds_differ_by_at_most_one_image_per_class_and_in_size(count: int, seed: int, n: int) -> None:
    labels = draw(count, seed)
    fold = make_folds(labels, np.arange(count), n, seed)
    apart = max(np.ptp(fold_table(labels, fold, n), axis=1).max(), np.ptp(np.bincount(fold, minlength=n)))
    assert apart <= 1 or not can_be_even(labels, n), "folds are uneven where an integer program finds even ones"


def can_be_even(labels: np.ndarray, n: int) -> bool:
    """Whether any folds differ by at most one image, per class and in size: an integer program says so."""
    counted = np.column_stack([labels, np.ones(len(labels), bool)]).T.astype(float)
    of_folds = np.kron(counted, np.eye(n))  # one row a class and fold; one column an image and fold
    of_images = np.kron(np.eye(len(labels)), np.ones(n))
    share = np.repeat(counted.sum(axis=1) / n, n)
    even = [LinearConstraint(of_folds, np.floor(share), np.ceil(share)), LinearConstraint(of_images, 1, 1)]
    found = milp(np.zeros(of_folds.shape[1]), constraints=even, integrality=1, bounds=Bounds(0, 1))
    assert found.status in (0, 2), found.message
    return found.status == 0


def test_the_integer_program_knows_what_can_be_even() -> None:
    assert can_be_even(draw(60, 1), 4)
    assert not can_be_even(draw(21, 243), 3)


def test_groups_stay_together_and_folds_even() -> None:
    labels, groups = draw(400, 1), np.arange(400)
    groups[1::10] = groups[0::10]
    groups[[3, 5, 7, 9]] = 3
    fold = make_folds(labels, groups, 4, 0)
    for group in np.unique(groups):
        assert len(set(fold[groups == group])) == 1
    assert np.ptp(fold_table(labels, fold, 4), axis=1).max() <= 1


def test_the_seed_decides() -> None:
    labels = draw(200, 0)
    first, again, other = (make_folds(labels, np.arange(200), 4, seed) for seed in (5, 5, 6))
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.parametrize("labels", [np.ones((9, 1), bool), np.zeros((9, 3), bool), np.eye(9, 2, dtype=bool)])
def test_odd_label_tables_still_give_even_folds(labels: np.ndarray) -> None:
    assert np.bincount(make_folds(labels, np.arange(9), 3, 0)).tolist() == [3, 3, 3]


def test_fewer_groups_than_folds_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 4 different labelled images, got 2"):
        make_folds(np.ones((6, 2), bool), np.array([0, 0, 0, 1, 1, 1]), 4, 0)


@pytest.mark.skipif(not KAGGLE.exists(), reason="the competition's table is not here")
def test_the_competition_table_is_even_in_every_class() -> None:
    labels = np.stack([HPA.encode(found) for found in read_labels(KAGGLE, HPA).labels.values()]).astype(bool)
    fold = make_folds(labels, np.arange(len(labels)), 4, 0)
    assert np.ptp(fold_table(labels, fold, 4), axis=1).max() <= 1


def test_images_that_have_a_fold_keep_it_and_new_ones_even_out_around_them() -> None:
    old, new = draw(200, 0), draw(60, 1)
    before = make_folds(old, np.arange(200), 4, 0)
    labels, known = np.vstack([old, new]), np.append(before, np.full(60, -1))
    fold = make_folds(labels, np.arange(260), 4, 0, known)
    assert (fold[:200] == before).all()
    counts = np.stack([labels[fold == f].sum(0) for f in range(4)])
    assert (counts.max(0) - counts.min(0)).max() <= 1


def test_a_new_image_joins_its_groups_fold_and_a_torn_group_goes_where_most_of_it_is() -> None:
    labels = draw(40, 0)
    before = make_folds(labels[:38], np.arange(38), 4, 0).astype(int)
    a, b = np.flatnonzero(before == 0)[:2]
    c = int(np.flatnonzero(before == 1)[0])
    groups = np.arange(40)
    groups[[b, c, 38]] = groups[a]
    fold = make_folds(labels, groups, 4, 0, np.append(before, [-1, -1]))
    assert fold[[a, b, c, 38]].tolist() == [0, 0, 0, 0]
    kept = np.setdiff1d(np.arange(38), [c])
    assert (fold[kept] == before[kept]).all()
