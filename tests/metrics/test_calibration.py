"""Curves from scores to how often they are right."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wsss.core.checks import DataError
from wsss.core.files import read_json
from wsss.inference.pipeline import check_origin
from wsss.metrics.calibration import (
    Calibration,
    apply_curves,
    fit_curves,
    isotonic_curve,
    load_calibration,
    platt_curve,
    possible_targets,
    regularised_curve,
    save_calibration,
)
from wsss.metrics.classify import average_precision, reliability
from wsss.options.calibrate import METHODS


def overconfident(count: int = 4000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return scores whose log odds are three times too high, and what is true."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(-1, 1.5, count)
    truth = (rng.random(count) < 1 / (1 + np.exp(-odds))).astype(float)
    return 1 / (1 + np.exp(-3 * odds)), truth


def error(scores: np.ndarray, truth: np.ndarray) -> float:
    return reliability(truth[:, None], scores[:, None]).error


@pytest.mark.parametrize("fit", [isotonic_curve, platt_curve])
def test_overconfident_scores_are_mended_on_unseen_samples(fit: object) -> None:
    curve = fit(*overconfident(seed=0))  # type: ignore[operator]
    scores, truth = overconfident(seed=1)
    assert error(scores, truth) > 0.1
    assert error(curve.apply(scores), truth) < 0.03


@pytest.mark.parametrize("fit", [isotonic_curve, platt_curve])
def test_no_two_scores_are_tied_and_no_order_is_changed(fit: object) -> None:
    scores, truth = overconfident()
    curve = fit(scores, truth)  # type: ignore[operator]
    grid = np.linspace(0, 1, 5001)
    assert (np.diff(curve.apply(grid)) > 0).all()
    before, after = (average_precision(truth[:, None], own[:, None]) for own in (scores, curve.apply(scores)))
    np.testing.assert_allclose(before, after, atol=1e-12)


def test_long_curves_are_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsss.metrics.calibration.MOST_POINTS", 20)
    monkeypatch.setattr("wsss.metrics.calibration.MOST_EVENTS", 1000)
    scores, truth = overconfident()
    curve = isotonic_curve(scores, truth)
    assert len(curve.x) == 20
    assert (curve.x[0], curve.x[-1]) == (0, 1)
    assert error(curve.apply(scores), truth) < 0.05
    assert error(platt_curve(scores, truth).apply(scores), truth) < 0.05


def test_likely_truth_counts_by_its_likelihood() -> None:
    scores = np.repeat([0.2, 0.9], 500)
    curve = isotonic_curve(scores, np.repeat([0.1, 0.6], 500))
    np.testing.assert_allclose(curve.apply(np.array([0.2, 0.9])), [0.1, 0.6], atol=1e-2)


def test_rare_classes_fall_back_step_by_step() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random((2000, 4))
    truth = np.zeros((2000, 4))
    for k, count in enumerate((400, 40, 3, 0)):
        truth[np.argsort(-scores[:, k] + rng.normal(0, 0.3, 2000))[:count], k] = 1
    assert [curve.method for curve in fit_curves(scores, truth)] == ["isotonic", "platt", "pooled", "pooled"]
    assert [curve.method for curve in fit_curves(scores, truth, "platt")] == ["platt", "platt", "pooled", "pooled"]
    assert {curve.method for curve in fit_curves(scores[:5], truth[:5])} == {"identity"}


@pytest.mark.parametrize("method", METHODS)
def test_curves_of_a_biased_sample_hold_for_all_by_its_weights(method: str) -> None:
    """Doubtful cells are drawn ten times as often; they are those for which the scores mean something else."""
    rng = np.random.default_rng(0)
    scores, doubtful = rng.random((20_000, 1)), rng.random(20_000) < 0.3
    truth = (rng.random((20_000, 1)) < np.where(doubtful[:, None], 0.8 * scores, 0.2 + 0.8 * scores)).astype(float)
    rates = np.where(doubtful, 0.2, 0.02)
    drawn = rng.random(20_000) < rates
    plain = fit_curves(scores[drawn], truth[drawn], method)
    weighted = fit_curves(scores[drawn], truth[drawn], method, 1 / rates[drawn])
    errors = [reliability(truth, apply_curves(curves, scores)).error for curves in (plain, weighted)]
    assert errors[0] > 0.08
    assert errors[1] < 0.04
    found = reliability(truth[drawn], scores[drawn], weights=1 / rates[drawn]).error
    assert abs(found - reliability(truth, scores).error) < 0.03


@pytest.mark.parametrize("method", METHODS)
def test_equal_weights_of_any_size_change_nothing(method: str) -> None:
    scores, truth = (own[:, None] for own in overconfident(400))
    for plain, weighted in zip(
        fit_curves(scores, truth, method), fit_curves(scores, truth, method, np.full(400, 7.0)), strict=True
    ):
        assert plain.method == weighted.method
        np.testing.assert_allclose(weighted.y, plain.y, atol=1e-6)


def test_few_heavy_events_count_as_few() -> None:
    """Of 400 events, 200 of them true, two weigh as much as all the others together."""
    scores, truth = np.linspace(0, 1, 400)[:, None], np.repeat([0.0, 1.0], 200)[:, None]
    weights = np.ones(400)
    assert fit_curves(scores, truth, weights=weights)[0].method == "isotonic"
    weights[[199, 200]] = 200
    assert fit_curves(scores, truth, weights=weights)[0].method == "identity"


def test_scores_that_say_the_opposite_become_the_share_that_is_right() -> None:
    scores, truth = overconfident()
    found = platt_curve(1 - scores, truth).apply(scores)
    np.testing.assert_allclose(found, truth.mean(), atol=1e-2)
    assert (np.diff(found[np.argsort(scores)]) >= 0).all()


def test_scores_of_0_and_1_are_no_trouble() -> None:
    curve = platt_curve(np.repeat([0.0, 1.0], 50), np.tile([0.0, 1.0], 50) * np.repeat([0.2, 1.0], 50))
    assert np.isfinite(curve.apply(np.array([0.0, 0.5, 1.0]))).all()


def test_a_regularised_curve_goes_as_far_as_the_evidence() -> None:
    scores, truth = overconfident()
    grid = np.linspace(0.05, 0.95, 10)
    none, few, many = (regularised_curve(scores, truth, np.full(len(scores), w / len(scores))) for w in (0, 5, 1e6))
    np.testing.assert_allclose(none.apply(grid), grid, atol=1e-3)
    np.testing.assert_allclose(many.apply(grid), platt_curve(scores, truth).apply(grid), atol=0.01)
    between = np.abs(few.apply(grid) - grid)
    assert 0.05 < between.mean() < np.abs(many.apply(grid) - grid).mean() - 0.05
    falling = regularised_curve(1 - scores, truth, np.ones(len(scores))).apply(grid)
    assert (np.diff(falling) > 0).all()


def test_possible_targets_stay_within_the_labels_of_the_image() -> None:
    scores = np.array([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6], [0.0, 0.0, 0.0], [0.5, 0.5, 0.0], [1.0, 0.9, 0.0]])
    labels = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0], [1, 1, 0]], float)
    kept = labels.copy()
    found = possible_targets(scores, labels, 2)
    wanted = [[0.6 / 0.64, 0, 0.1 / 0.64], np.array(scores[1]) / 0.744, [0, 0.5, 0], [0, 0, 0], [1, 0.9, 0]]
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    np.testing.assert_array_equal(labels, kept)
    missed = possible_targets(np.array([[0.02, 0.3, 0.04]]), np.array([[1.0, 0, 0]]), 2)
    assert missed[0, 2] == pytest.approx(0.08), "scores that miss the label do not make the cell Negative"
    assert possible_targets(np.array([[0.02, 0.3, 0.04]]), np.array([[0, 0, 1.0]]), 2)[0, 2] == pytest.approx(1)


def test_image_labels_make_scores_of_cells_of_several_classes_no_worse() -> None:
    """Cells show each of their image's two labels in 60 % of the cases; scores are somewhat too low."""
    rng = np.random.default_rng(0)
    truth = (rng.random((4000, 2)) < 0.6).astype(float)
    truth = np.column_stack([truth, truth.sum(axis=1) == 0]).astype(float)
    sure = np.clip(np.where(truth > 0, 0.85, 0.1) + rng.normal(0, 0.1, truth.shape), 0, 1) * 0.9
    labels = np.tile([1.0, 1.0, 0.0], (4000, 1))
    after = apply_curves(fit_curves(sure, possible_targets(sure, labels, 2)), sure.astype(np.float32))
    assert reliability(truth, after).error < reliability(truth, sure).error


def calibration() -> Calibration:
    scores, truth = overconfident()
    curves = fit_curves(np.stack([scores, scores], axis=1), np.stack([truth, truth * 0], axis=1))
    return Calibration(curves, curves[::-1], {"score": {"blend": "mean"}, "members": ["abc"]})


def test_what_was_saved_is_read(tmp_path: Path) -> None:
    made = calibration()
    save_calibration(tmp_path / "c.json", made, {})
    found = load_calibration(tmp_path / "c.json", 2)
    scores = np.random.default_rng(0).random((50, 2)).astype(np.float32)
    np.testing.assert_allclose(found.of_cells(scores), apply_curves(made.cells, scores), atol=1e-6)
    np.testing.assert_allclose(found.of_image(scores[0]), apply_curves(made.images, scores[:1])[0], atol=1e-6)


@given(
    scores=arrays(np.float32, 60, elements=st.floats(0, 1, width=32) | st.sampled_from([0, 1e-12, 2e-12, 1])),
    truth=arrays(np.float32, 60, elements=st.floats(0, 1, width=32) | st.sampled_from([0, 1])),
    method=st.sampled_from(METHODS),
)
def test_whatever_was_fitted_can_be_saved_and_read(scores: np.ndarray, truth: np.ndarray, method: str) -> None:
    curves = fit_curves(scores[:, None], truth[:, None], method)
    with TemporaryDirectory() as folder:
        save_calibration(Path(folder) / "c.json", Calibration(curves, curves, {}), {})
        assert len(load_calibration(Path(folder) / "c.json", 1).cells) == 1


def test_single_precision_leaves_a_curve_within_0_and_1() -> None:
    truth = np.repeat(np.float32([0, 1]), 5000)
    scores = np.linspace(0, 1, 10000, dtype=np.float32)
    assert isotonic_curve(scores, truth).y.max() <= 1
    assert isotonic_curve(scores, truth * np.float32(0.9999999) + np.float32(1e-7)).y.max() <= 1


def test_curves_of_other_scores_are_refused(tmp_path: Path) -> None:
    facts = {
        "score": {"blend": "mean"},
        "members": [{"weights": "abc", "feature_classifier": None}],
    }
    made = Calibration([], [], {"score": {"blend": "mean"}, "members": ["abc/None/None"]})
    check_origin(made, facts, tmp_path / "c.json")
    with pytest.raises(DataError, match="other score"):
        check_origin(made, facts | {"score": {"blend": "geometric"}}, tmp_path / "c.json")
    with pytest.raises(DataError, match="other members"):
        check_origin(made, facts | {"members": [{"weights": "xyz"}]}, tmp_path / "c.json")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "other"}, "is no calibration"),
        ({"cells": []}, "0 classes"),
        ({"cells": [{"method": "platt", "x": [0, 1], "y": [1, 0]}] * 2}, "does not rise"),
        ({"cells": [{"method": "platt", "x": [0, "b"], "y": [0, 1]}] * 2}, "damaged"),
        ({"images": None}, "damaged"),
    ],
)
def test_a_damaged_file_is_told(change: dict[str, object], said: str, tmp_path: Path) -> None:
    save_calibration(tmp_path / "c.json", calibration(), {})
    record = read_json(tmp_path / "c.json") | change
    (tmp_path / "c.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match=said):
        load_calibration(tmp_path / "c.json", 2)
