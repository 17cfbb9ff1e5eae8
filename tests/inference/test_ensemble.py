import numpy as np
import pytest
from scipy.stats import rankdata

from wsss.inference.ensemble import blend, fit_nested, fit_weights, prepare
from wsss.metrics.classify import average_precision, mean_of_classes
from wsss.options.ensemble import HOWS


def members(seed: int = 0, n: int = 400) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """Return truth (N, 2), two members that each know one class, one of noise, and folds."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((n, 2)) < 0.3).astype(np.float32)
    noisy = rng.random((3, n, 2))
    noisy[0, :, 0] = 0.5 * noisy[0, :, 0] + 0.5 * truth[:, 0] * rng.random(n)
    noisy[1, :, 1] = 0.5 * noisy[1, :, 1] + 0.5 * truth[:, 1] * rng.random(n)
    return truth, list(noisy.astype(np.float32)), np.arange(n) % 4


def ap(truth: np.ndarray):
    return lambda scores, rows: mean_of_classes(average_precision(truth[rows], scores[rows]))


@pytest.mark.parametrize("how", HOWS)
def test_a_member_blended_with_itself_keeps_its_order(how: str) -> None:
    _, (one, *_), _ = members()
    found = blend([prepare(one, how)] * 3, np.array([1, 2, 3]), how)
    np.testing.assert_array_equal(rankdata(found, axis=0), rankdata(one, axis=0))
    if how != "rank":
        np.testing.assert_allclose(found, one, atol=2e-6)


def test_the_rules_are_what_they_are_called() -> None:
    a, b = np.array([[0.2], [0.9]], np.float32), np.array([[0.8], [0.1]], np.float32)
    weights = np.array([3.0, 1.0])
    assert blend([a, b], weights, "mean")[:, 0] == pytest.approx([0.35, 0.7])
    logs = [prepare(a, "geometric"), prepare(b, "geometric")]
    assert blend(logs, weights, "geometric")[:, 0] == pytest.approx([0.2**0.75 * 0.8**0.25, 0.9**0.75 * 0.1**0.25])
    ranks = [prepare(a, "rank"), prepare(b, "rank")]
    assert blend(ranks, weights, "rank")[:, 0] == pytest.approx([0.75 * 0.5 + 0.25, 0.75 + 0.25 * 0.5])


def test_what_no_member_scores_stays_zero_in_a_geometric_blend() -> None:
    zero = prepare(np.zeros((2, 1), np.float32), "geometric")
    assert blend([zero, zero], np.ones(2), "geometric").tolist() == [[0], [0]]


def test_fitted_weights_leave_a_worthless_member_out_and_beat_each_alone() -> None:
    truth, scores, _ = members()
    weights = fit_weights(scores, np.arange(len(truth)), "mean", ap(truth))
    assert weights.sum() == pytest.approx(1)
    assert weights[2] < min(weights[:2])
    every = np.arange(len(truth))
    assert ap(truth)(blend(scores, weights, "mean"), every) > max(ap(truth)(own, every) for own in scores)


def test_weights_stay_equal_where_nothing_tells_members_apart() -> None:
    _, scores, _ = members()
    assert fit_weights(scores, np.arange(5), "mean", lambda blended, rows: 0.0).tolist() == [1 / 3] * 3


def test_the_weights_of_a_fold_do_not_depend_on_its_labels() -> None:
    truth, scores, folds = members()
    other = truth.copy()
    other[folds == 2] = 1 - other[folds == 2]
    first, second = (fit_nested(scores, folds, "mean", ap(known)) for known in (truth, other))
    np.testing.assert_array_equal(first.by_fold[2], second.by_fold[2])
    assert any((first.by_fold[k] != second.by_fold[k]).any() for k in (0, 1, 3))
    applied = first.apply(scores, folds, "mean")
    own = [member[folds == 2] for member in scores]
    np.testing.assert_array_equal(applied[folds == 2], blend(own, first.by_fold[2], "mean"))


def test_rank_of_nothing_is_nothing() -> None:
    assert prepare(np.zeros((0, 3), np.float32), "rank").shape == (0, 3)
