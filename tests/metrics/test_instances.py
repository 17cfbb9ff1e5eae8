import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.metrics import average_precision_score

from wsss.core.checks import ConfigError
from wsss.core.labels import ClassList
from wsss.metrics.instances import InstanceScorer, average_precision, instance_table, match_pairs, overlap

MAPS = arrays.arrays(np.int32, (9, 11), elements=st.sampled_from([0, 1, 2, 5, 70000]))


@settings(max_examples=60, deadline=None)
@given(MAPS, MAPS)
def test_overlap_is_that_of_single_masks(a: np.ndarray, b: np.ndarray) -> None:
    found = overlap(a, b)
    assert found.ids_a.tolist() == [k for k in np.unique(a) if k]
    assert found.ids_b.tolist() == [k for k in np.unique(b) if k]
    for i, p in enumerate(found.ids_a):
        for j, q in enumerate(found.ids_b):
            assert found.iou[i, j] == pytest.approx(((a == p) & (b == q)).sum() / ((a == p) | (b == q)).sum())


def test_maps_of_other_size_or_with_negative_ids_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        overlap(np.zeros((2, 3), int), np.zeros((3, 2), int))
    with pytest.raises(ValueError, match="id -1"):
        overlap(np.full((2, 2), -1), np.zeros((2, 2), int))


def test_the_best_overlap_is_paired_first_and_no_cell_twice() -> None:
    iou = np.array([[0.7, 0.8], [0.6, 0.75], [0.1, 0.4]])
    assert match_pairs(iou, 0.5).tolist() == [1, 0]
    assert match_pairs(iou, 0.7).tolist() == [-1, 0]
    assert match_pairs(np.zeros((0, 2)), 0.5).tolist() == [-1, -1]


def scored(iou: float, scores: tuple[float, ...]) -> InstanceScorer:
    """One true cell of class 0, and predictions of one mask that has this IoU with it."""
    scorer = InstanceScorer(2)
    count = len(scores)
    zeros = np.zeros(count, int)
    scorer.add(np.array([[iou]]), zeros, zeros, np.array(scores), np.array([[1, 0]]))
    return scorer


def test_a_mask_below_the_threshold_finds_nothing() -> None:
    assert scored(0.59, (0.9,)).average_precision()[0] == 0
    assert scored(0.6, (0.9,)).average_precision()[0] == 1


def test_a_second_prediction_of_a_found_cell_is_wrong() -> None:
    scores, right = scored(0.9, (0.3, 0.8)).predictions(0)
    assert sorted(zip(scores.tolist(), right.tolist(), strict=True)) == [(0.3, False), (0.8, True)]


def test_a_class_without_true_cells_is_nan_and_left_out_of_the_mean() -> None:
    scorer = scored(0.9, (0.8,))
    assert np.isnan(scorer.average_precision()).tolist() == [False, True]
    record = instance_table(scorer, ClassList(("one", "two"), None))
    assert (record["mean_ap"], record["classes"]) == (1, 1)


def test_cells_with_unknown_labels_count_neither_way() -> None:
    scorer = InstanceScorer(1)
    iou = np.array([[0.9, 0.0], [0.0, 0.9]])
    both = np.array([0, 1])
    scorer.add(iou, both, np.zeros(2, int), np.array([0.4, 0.9]), np.array([[1], [0]]), np.array([True, False]))
    assert scorer.ignored == 1
    assert scorer.average_precision()[0] == 1


def test_cells_of_an_image_without_predictions_are_missed() -> None:
    scorer = scored(0.9, (0.8,))
    scorer.miss(np.array([[1, 0]]))
    assert scorer.average_precision("envelope")[0] == 0.5


def test_areas_of_a_hand_made_curve() -> None:
    # precision 1, 1/2, 2/3 at recall 1/4, 1/4, 2/4 of four true cells
    scores, right = np.array([0.9, 0.8, 0.7]), np.array([True, False, True])
    assert average_precision(scores, right, 4, "envelope") == pytest.approx(1 / 4 + 2 / 3 / 4)
    assert average_precision(scores, right, 4, "coco") == pytest.approx((26 + 25 * 2 / 3) / 101)
    assert average_precision(scores, right, 4, "step") == pytest.approx(1 / 4 + 2 / 3 / 4)


def test_step_area_is_sklearns_where_every_cell_is_found() -> None:
    rng = np.random.default_rng(0)
    right, scores = rng.random(300) < 0.3, rng.random(300).round(2)
    wanted = average_precision_score(right, scores)
    assert average_precision(scores, right, int(right.sum()), "step") == pytest.approx(wanted, abs=1e-12)


def test_an_unknown_area_is_refused() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'coco'"):
        scored(0.9, (0.8,)).average_precision("cocoo")
