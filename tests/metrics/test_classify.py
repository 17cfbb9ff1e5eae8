import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score

from wsss.metrics.classify import (
    average_precision,
    f1,
    mean_of_classes,
    precision_recall,
    reliability,
)


@pytest.fixture
def samples() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = (rng.random((200, 5)) < 0.2).astype(np.float32)
    truth[:, 3] = 0
    return truth, (truth * 0.3 + rng.random((200, 5)) * 0.7).astype(np.float32).round(2)  # with ties


def test_average_precision_is_that_of_sklearn(samples: tuple[np.ndarray, np.ndarray]) -> None:
    truth, scores = samples
    found = average_precision(truth, scores)
    for k in (0, 1, 2, 4):
        assert found[k] == average_precision_score(truth[:, k], scores[:, k])


def test_a_class_without_positives_is_nan_and_left_out_of_the_mean(
    samples: tuple[np.ndarray, np.ndarray],
) -> None:
    found = average_precision(*samples)
    assert np.isnan(found).tolist() == [False, False, False, True, False]
    assert mean_of_classes(found) == pytest.approx(found[[0, 1, 2, 4]].mean())
    assert mean_of_classes(found, without=4) == pytest.approx(found[:3].mean())
    assert np.isnan(mean_of_classes(found[3:4]))


def test_f1_is_that_of_sklearn(samples: tuple[np.ndarray, np.ndarray]) -> None:
    truth, scores = samples
    wanted = f1_score(truth, scores >= 0.4, average=None, zero_division=0)
    kept = [0, 1, 2, 4]
    np.testing.assert_allclose(f1(truth, scores, 0.4)[kept], wanted[kept])
    assert np.isnan(f1(truth, scores, 0.4)[3])


def test_precision_and_recall_of_hand_made_decisions() -> None:
    truth = np.array([[1, 0], [1, 1], [0, 0]])
    assert precision_recall(truth, np.array([[1, 1], [0, 1], [0, 0]])) == (2 / 3, 2 / 3)
    assert np.isnan(precision_recall(truth, np.zeros((3, 2)))[0])


def test_calibration_error_of_hand_made_scores() -> None:
    scores = np.array([[0.25], [0.25], [0.75], [0.75]])
    right_half = np.array([[0], [0], [1], [1]])
    found = reliability(right_half, scores, bins=2)
    assert found.error == pytest.approx(0.25)
    assert found.count.tolist() == [2, 2]
    assert found.truth.tolist() == [0, 1]


def test_calibrated_scores_have_no_error_and_one_counts_in_the_last_bin() -> None:
    found = reliability(np.array([[1], [0]]), np.array([[1.0], [0.0]]))
    assert found.error == 0
    assert (found.count[0], found.count[-1]) == (1, 1)


def test_scores_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="both must be"):
        average_precision(np.zeros((2, 3)), np.zeros((2, 4)))


def test_no_average_precision_of_scores_that_are_no_numbers() -> None:
    with pytest.raises(ValueError, match="class 1 are NaN"):
        average_precision(np.eye(2), np.array([[0.5, 0.5], [0.5, np.nan]]))
