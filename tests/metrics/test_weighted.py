"""Figures of a whole set from a weighted sample of it."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from wsss.metrics.weighted import Estimate, sample_figures, share, weighted_precision, wilson


def test_average_precision_with_weights_is_that_of_scikit_learn_ties_included() -> None:
    rng = np.random.default_rng(0)
    truth = (rng.random(60) < 0.4).astype(float)
    scores = np.round(rng.random(60), 1)
    weights = rng.random((5, 60)) + 0.1
    expected = [average_precision_score(truth, scores, sample_weight=row) for row in weights]
    np.testing.assert_allclose(weighted_precision(truth, scores, weights), expected)


def test_wilson_is_the_published_interval() -> None:
    low, high = wilson(0.3, 50)  # Wilson 1927: 15 of 50
    assert (round(low, 3), round(high, 3)) == (0.191, 0.438)
    assert wilson(1.0, 10)[1] == pytest.approx(1)
    assert wilson(1.0, 10)[0] < 0.75, "ten hits of ten do not prove a share of 1"


def test_a_share_follows_the_weights_not_the_count() -> None:
    found = share(np.array([True, False, False]), np.array([2.0, 1.0, 1.0]))
    assert found.value == pytest.approx(0.5)
    assert found.low < 0.5 < found.high


def test_answers_needed_grow_with_the_square_of_the_width() -> None:
    assert Estimate(0.5, 0.4, 0.6, 100).more(100) == 300
    assert Estimate(0.5, 0.46, 0.54, 100).more(100) == 0
    assert Estimate(float("nan"), float("nan"), float("nan"), 0).more(0) is None


def test_intervals_from_an_uneven_sample_cover_the_truth_of_all() -> None:
    rng = np.random.default_rng(3)
    truth = (rng.random((4000, 2)) < [0.3, 0.15]).astype(np.float32)
    scores = 1 / (1 + np.exp(3 - 2 * (rng.standard_normal((4000, 2)) + 2 * truth)))
    chance = np.clip(0.02 + 0.2 * (1 - np.abs(2 * scores - 1)).max(axis=1), 0, 1)  # doubtful cells ten times as often
    found = scores >= 0.5
    precision = (truth * found).sum(axis=0) / found.sum(axis=0)
    ap = [average_precision_score(truth[:, k], scores[:, k]) for k in range(2)]
    inside, plain = [], []
    for _ in range(40):
        rows = np.flatnonzero(rng.random(4000) < chance)
        figures = sample_figures(truth[rows], scores[rows], 1 / chance[rows], ["a", "b"], rounds=60)
        for k, row in enumerate(figures.classes):
            inside += [row.ap.low <= ap[k] <= row.ap.high, row.precision.low <= precision[k] <= row.precision.high]
        without = sample_figures(truth[rows], scores[rows], np.ones(len(rows)), ["a", "b"], rounds=20)
        plain.append(without.classes[1].prevalence.value)
    assert np.mean(inside) > 0.9
    assert np.mean(plain) > 1.1 * truth[:, 1].mean(), "without weights the sample misleads: the test can fail"


def test_a_class_with_few_cells_has_no_average_precision_and_none_at_all_is_no_error() -> None:
    truth = np.eye(2, dtype=np.float32)[[0] * 8 + [1] * 2]
    figures = sample_figures(truth, truth * 0.9, np.ones(10), ["many", "few"])
    assert figures.classes[0].ap.value == 1.0
    assert figures.classes[0].ap.low < 0.8
    assert np.isnan(figures.classes[1].ap.value)
    assert figures.mean_ap.value == 1.0
    empty = sample_figures(truth[:0], truth[:0], np.ones(0), ["many", "few"]).record()
    assert empty["count"] == 0
    assert empty["mean_ap"]["more"] is None
