import numpy as np
import pytest

from wsss.core.labels import ClassList
from wsss.metrics.cells import CellTruth, copy_to_cells, join_by_number, score_table

CLASSES = ClassList(("one", "two", "none"), 2)


@pytest.fixture
def truth() -> CellTruth:
    labels = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    return CellTruth(np.array(["a", "a", "b"]), np.array([1, 7, 1]), labels, {})


def test_cells_are_joined_by_image_and_number_and_the_rest_is_counted(truth: CellTruth) -> None:
    join = join_by_number(truth, np.array(["b", "a", "a", "c"]), np.array([1, 7, 2, 1]))
    assert join.rows.tolist() == [-1, 1, 0]
    assert (join.missing, join.unknown, join.other_images) == (1, 1, 1)
    scores = np.arange(12).reshape(4, 3) / 12
    np.testing.assert_array_equal(join.scores(scores), [[0, 0, 0], scores[1], scores[0]])


def test_without_predictions_every_cell_scores_zero(truth: CellTruth) -> None:
    join = join_by_number(truth, np.array([], str), np.array([], int))
    assert join.missing == 3
    assert join.scores(np.zeros((0, 3))).tolist() == np.zeros((3, 3)).tolist()


def test_perfect_scores_give_one_and_a_lost_cell_costs(truth: CellTruth) -> None:
    perfect = score_table(truth.labels, truth.labels, CLASSES)
    assert (perfect["mean_ap"], perfect["mean_f1"], perfect["calibration_error"]) == (1, 1, 0)
    lost = truth.labels.copy()
    lost[0] = 0
    found = score_table(truth.labels, lost, CLASSES)
    assert found["mean_ap"] == pytest.approx((1 / 3 + 1 + 1) / 3)
    assert found["mean_ap_without_negative"] == pytest.approx((1 / 3 + 1) / 2)


def test_cells_of_several_classes_are_scored_apart(truth: CellTruth) -> None:
    labels = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    scores = np.array([[0.4, 0.9, 0], [0.9, 0.5, 0], [0.5, 0.8, 0], [0.1, 0.1, 1]])
    found = score_table(labels, scores, CLASSES)
    # of class one, the cell of both classes lies behind one that lacks it; the cell of that class alone does not count
    assert [row["ap_of_several_classes"] for row in found["per_class"][:2]] == [0.5, 1]
    assert np.isnan(found["per_class"][2]["ap_of_several_classes"])
    assert (found["several_class_count"], found["mean_ap_of_several_classes"]) == (1, 0.75)
    assert np.isnan(score_table(truth.labels, truth.labels, CLASSES)["mean_ap_of_several_classes"])


def test_image_values_are_copied_to_their_cells(truth: CellTruth) -> None:
    copied = copy_to_cells(truth, {"a": np.array([1, 1, 0])}, CLASSES)
    assert copied.tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 0]]
