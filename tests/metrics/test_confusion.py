"""Which class is mistaken for which."""

import numpy as np
import pytest

from wsss.core.labels import ClassList
from wsss.metrics.cells import confusion, confusion_rows

CLASSES = ClassList(("one", "two", "none"), 2)
TRUTH = np.array([[1, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 0], [0, 0, 1]], np.float32)
SCORES = np.array([[0.9, 0.8, 0], [0.1, 0.2, 0], [0.1, 0.3, 0.2], [0, 0, 0.1], [0, 0, 0]])


def test_each_cell_counts_once_under_its_highest_score() -> None:
    table = confusion(TRUTH, SCORES)
    # the third cell is right by its second class, the fourth is wrong in both, the last has no score
    assert table.tolist() == [[1, 1, 0.5, 0], [0, 1, 0.5, 0], [0, 0, 0, 1]]
    assert table.sum() == len(TRUTH)


def test_perfect_scores_lie_on_the_diagonal_and_order_does_not_matter() -> None:
    single = TRUTH[[0, 1, 4]]
    np.testing.assert_array_equal(confusion(single, single)[:, :3], np.diag([2, 0, 1]))
    np.testing.assert_array_equal(confusion(TRUTH[::-1], SCORES[::-1]), confusion(TRUTH, SCORES))


def test_the_records_name_both_classes_and_give_the_share() -> None:
    rows = confusion_rows(TRUTH, SCORES, CLASSES)
    assert [row["cells"] for row in rows] == [1, 1, 1, 1, 0.5, 0.5]
    last = next(row for row in rows if row["true"] == 2)
    assert (last["predicted"], last["predicted_name"], last["share"]) == (-1, "no score", 1)
    two = next(row for row in rows if row["true"] == 1 and row["predicted"] == 2)
    assert two["share"] == pytest.approx(1 / 3)


def test_without_cells_there_is_nothing() -> None:
    assert confusion_rows(np.zeros((0, 3)), np.zeros((0, 3)), CLASSES) == []
    with pytest.raises(ValueError, match="must be"):
        confusion(TRUTH, SCORES[:2])
