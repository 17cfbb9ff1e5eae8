"""Which cells the report shows first."""

import numpy as np
import pandas as pd

from wsss.reports.page import doubt, notable_by_score, notable_by_shape, spread, surprise

SCORES = np.array([[0.9, 0.0, 0.0], [0.5, 0.5, 0.5], [0.0, 0.2, 0.8], [0.1, 0.7, 0.0]])


def rows(groups: list, key: str) -> list[int]:
    return next(group.rows for group in groups if group.key == key)


def test_one_image_adds_at_most_three_cells_to_a_group() -> None:
    images = np.array(["a"] * 5 + ["b"], object)
    assert spread(np.arange(6), images, 10) == [0, 1, 2, 5]
    assert spread(np.arange(6), images, 2) == [0, 1]


def test_a_coin_toss_is_the_most_doubtful_and_certainty_has_no_doubt() -> None:
    values = doubt(SCORES)
    assert values.argmax() == 1
    np.testing.assert_allclose(doubt(np.array([[0.5, 0.5], [0.0, 1.0]])), [1, 0], atol=1e-6)


def test_surprise_is_high_where_a_sure_score_is_wrong_and_unknown_without_a_truth() -> None:
    truth = np.array([[1, 0, 0], [1, 0, 0], [1, 0, 0], [np.nan] * 3])
    values = surprise(truth, SCORES)
    assert values[2] > values[1] > values[0]
    assert np.isnan(values[3])


def test_groups_take_their_cells_in_order_and_leave_negative_out_of_confident() -> None:
    images = np.array(list("abcd"), object)
    truth = np.array([[1, 0, 0], [np.nan] * 3, [1, 0, 0], [0, 1, 0]])
    groups = notable_by_score(images, SCORES, truth, 2, 3)
    assert rows(groups, "confident") == [0, 3, 1]
    assert rows(groups, "doubtful")[0] == 1
    assert rows(groups, "wrong") == [2, 3, 0], "the cell without a truth is not among them"
    assert rows(groups, "negative") == [2, 1, 0]
    assert {group.key for group in notable_by_score(images, SCORES, None, None, 3)} == {"confident", "doubtful"}


def test_odd_areas_are_those_unlike_their_own_image() -> None:
    areas = [100, 100, 110, 5, 1000, 10_000, 10_000, 10_000, 10_000, 5, 500]
    ids = ["a"] * 5 + ["b"] * 4 + ["few"] * 2
    cells = pd.DataFrame({"ID": ids, "area_px": areas, "touches_border": [False] * 9 + [True, False]})
    groups = notable_by_shape(cells, 10)
    assert rows(groups, "tiny") == [3]
    assert rows(groups, "huge") == [4]
    assert rows(groups, "border") == [9]


def test_no_cells_give_empty_groups() -> None:
    cells = pd.DataFrame({"ID": pd.Series([], dtype="str"), "area_px": [], "touches_border": []})
    groups = notable_by_score(np.array([], object), np.zeros((0, 3)), None, 2, 5) + notable_by_shape(cells, 5)
    assert all(group.rows == [] for group in groups)
