"""Mask metrics: hand-made masks, empty images, order of the search."""

import numpy as np
import pytest

from wsss.metrics.instances import (
    MaskScore,
    ap_of,
    compare_objects,
    hits,
    instance_ap,
    mean_score,
    overlap,
    score_mask,
    search,
)

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
        from wsss.cells.instances import without_small

        found = (own >= threshold).astype(np.int32)
        found[0, 9] *= 2
        return without_small(found, size)

    options = {"thresholds": [0.3, 0.5], "min_sizes": [0, 2], "metric": "iou"}
    best, *rest = search([(probs, WHOLE, None)], decode, **options)
    assert (best.threshold, best.min_size, best.score) == (0.3, 2, 1.0)
    assert len(rest) == 3
    assert rest == sorted(rest, key=lambda choice: -choice.score)
    best = search([(probs, WHOLE, probs == np.float64(0.9))], decode, **options)[0]
    assert (best.threshold, best.min_size, best.score) == (0.3, 0, 1.0), "what is ignored counts for no choice"


def strip(*lengths: tuple[int, int]) -> np.ndarray:
    """Return a (1, 60) label map of (number, length) runs."""
    row = [number for number, length in lengths for _ in range(length)]
    return np.array([row + [0] * (60 - len(row))], np.int32)


def test_objects_are_hit_missed_invented_merged_or_split() -> None:
    truth = strip((1, 10), (2, 8), (3, 8), (0, 2), (4, 12), (0, 2), (5, 4), (0, 14))
    predicted = strip((7, 10), (8, 16), (0, 2), (9, 6), (10, 6), (0, 10), (11, 3))
    compared = compare_objects(overlap(predicted, truth))
    assert compared.true.tolist() == ["hit", "merged", "merged", "split", "missed"]
    assert compared.predicted.tolist() == ["hit", "merged", "split", "split", "invented"]
    assert (compared.mergers, compared.splits) == (1, 1)


def test_a_hit_that_takes_in_a_small_neighbour_is_a_merger_too() -> None:
    compared = compare_objects(overlap(strip((1, 12)), strip((1, 10), (2, 2))))
    assert compared.true.tolist() == ["hit", "merged"]
    assert compared.predicted.tolist() == ["hit"]
    assert (compared.mergers, compared.splits) == (1, 0)


def test_a_part_of_exactly_half_is_in_nothing() -> None:
    compared = compare_objects(overlap(strip((1, 10)), strip((0, 5), (1, 10))))
    assert (compared.predicted.tolist(), compared.true.tolist()) == (["invented"], ["missed"])


def test_hits_by_threshold_are_those_of_the_average_precision() -> None:
    truth, predicted = strip((1, 10), (2, 10)), strip((1, 10), (2, 8), (0, 2), (3, 5))
    counted = hits(overlap(predicted, truth))
    assert counted.matched.tolist() == [2] * 6 + [1] * 4  # IoU .8 is not above .8
    assert (counted.found, counted.true) == (3, 2)
    assert ap_of(counted).mean() == instance_ap(predicted, truth)
    assert (ap_of(hits(overlap(EMPTY, EMPTY))) == 1).all()
