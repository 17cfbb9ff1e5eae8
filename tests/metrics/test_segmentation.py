"""Mask metrics: hand-made masks, empty images, order of the search."""

import numpy as np
import pytest

from wsss.metrics.instances import MaskScore, instance_ap, mean_score, score_mask, search

EMPTY = np.zeros((4, 10), np.int32)
WHOLE = EMPTY.copy()
WHOLE[:, :5] = 1


def test_equal_masks_score_1_and_disjoint_ones_0() -> None:
    assert score_mask(WHOLE, WHOLE) == MaskScore(1, 1, 1, 1)
    assert score_mask(np.roll(WHOLE, 5, axis=1), WHOLE) == MaskScore(0, 0, 0, 0)


def test_empty_on_empty_is_right_and_anything_else_with_empty_is_wrong() -> None:
    assert score_mask(EMPTY, EMPTY) == MaskScore(1, 1, 1, 1)
    assert score_mask(WHOLE, EMPTY) == score_mask(EMPTY, WHOLE) == MaskScore(0, 0, 0, 0)


def test_known_values_of_a_partly_right_mask() -> None:
    predicted = EMPTY.copy()
    predicted[:, :8] = 1  # IoU 20 / 32 = .625: above .5, .55, .6
    found = score_mask(predicted, WHOLE)
    assert found.iou == pytest.approx(0.625)
    assert found.dice == pytest.approx(40 / 52)
    assert found.threshold_mean == found.instance_ap == pytest.approx(0.3)


def test_an_iou_of_exactly_a_threshold_is_not_above_it() -> None:
    predicted = EMPTY.copy()
    predicted[:, :10] = 1  # IoU .5
    assert score_mask(predicted, WHOLE).threshold_mean == 0


def test_merged_objects_cost_instances_but_not_the_mask() -> None:
    truth = WHOLE.copy()
    truth[:, 2:5] = 2
    merged = score_mask(WHOLE, truth)
    assert merged.iou == 1
    # IoU with the larger object .6: at .5 and .55 one hit, one missed
    assert merged.instance_ap == pytest.approx((2 * 1 / 2) / 10)


def test_instance_ap_counts_misses_and_extras() -> None:
    truth = np.array([[1, 1, 0, 2, 2, 0]])
    assert instance_ap(np.array([[7, 7, 0, 0, 0, 0]]), truth) == pytest.approx(1 / 2)
    assert instance_ap(np.array([[7, 7, 0, 9, 9, 3]]), truth) == pytest.approx(2 / 3)


def test_ignored_pixels_count_neither_way() -> None:
    ignored = EMPTY.astype(bool)
    ignored[:, 5:] = True
    predicted = np.ones_like(WHOLE)
    assert score_mask(predicted, WHOLE, ignored).iou == 1


def test_sizes_must_match_and_means_need_an_image() -> None:
    with pytest.raises(ValueError, match="must match"):
        score_mask(EMPTY, EMPTY.T)
    with pytest.raises(ValueError, match="no image"):
        mean_score([])


def test_means_are_over_images() -> None:
    assert mean_score([MaskScore(1, 1, 1, 1), MaskScore(0, 0.5, 0, 0)])["dice"] == 0.75


def test_the_search_finds_threshold_and_size_that_are_best_on_the_images_given() -> None:
    probs = np.where(WHOLE, 0.4, 0.1)
    probs[0, 9] = 0.9  # a false pixel that only the size can drop

    def decode(own: np.ndarray, threshold: float, size: int) -> np.ndarray:
        from wsss.cells.instances import drop_small

        found = (own >= threshold).astype(np.int32)
        found[0, 9] *= 2
        return drop_small(found, size)

    best, *rest = search([(probs, WHOLE)], decode, thresholds=[0.3, 0.5], min_sizes=[0, 2], metric="iou")
    assert (best.threshold, best.min_size, best.score) == (0.3, 2, 1.0)
    assert len(rest) == 3
    assert rest == sorted(rest, key=lambda choice: -choice.score)
