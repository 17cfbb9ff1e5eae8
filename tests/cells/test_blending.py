import numpy as np
import pytest

from wsss.cells.scoring import (
    EVEN_SHARE,
    EXCLUSION,
    NEGATIVE_POWER,
    Part,
    blend,
    blend_parts,
    cell_cam_scores,
    cell_values,
    image_prior,
    image_prior_of_one_class,
    image_scores,
    normalise,
    take_shares,
)
from wsss.options.scoring import BLENDS, NEGATIVE_RULES, REGION_RULES, ScoreConfig


def finish(
    cam: np.ndarray,
    crop: np.ndarray | None,
    config: ScoreConfig,
    features: np.ndarray | None = None,
    visible: np.ndarray | None = None,
) -> np.ndarray:
    """Blend up to three sources with the shares of `config`."""
    groups = [("maps", cam, 1.0), ("crops", crop, config.crop_share), ("features", features, config.feature_share)]
    there = [(name, scores, taken) for name, scores, taken in groups if scores is not None]
    shares = take_shares([taken for _, _, taken in there])
    parts = [Part(name, name, share, scores) for (name, scores, _), share in zip(there, shares, strict=True)]
    return blend_parts(parts, config, visible=visible)


def test_geometric_blend_of_the_mean_is_the_published_formula() -> None:
    label_map = np.zeros((4, 4), np.int32)
    label_map[:2, :2], label_map[2:, 2:] = 5, 9
    cam = np.random.default_rng(0).random((3, 4, 4), np.float32)
    probs = np.array([0.5, 0.3, 0.2])
    config = ScoreConfig(region="mean", normalise_rows=True, prior_rounds=0)
    crop_scores = np.array([[0.6, 0.2, 0.1], [0.3, 0.7, 0.4]])
    means = cell_values(normalise(cam), label_map, config)
    wanted = np.sqrt(means * crop_scores) * np.sqrt([0.5, 0.3, 1])
    wanted /= wanted.sum(axis=1, keepdims=True)
    cam_scores = cell_cam_scores(cam, probs, label_map, config, negative=2)
    np.testing.assert_allclose(finish(cam_scores, crop_scores, config), wanted, atol=1e-6)


def test_mean_blend_weighs_stage_2_and_mixes_with_the_image() -> None:
    a, b = np.array([[0.2], [0.4]]), np.array([[0.6], [0.8]])
    np.testing.assert_allclose(blend(a, b, "mean", 0.25), [[0.3], [0.5]])
    mixed = finish(a, None, ScoreConfig(image_mix=0.3, prior_rounds=0))
    np.testing.assert_allclose(mixed, [[0.7 * 0.2 + 0.09], [0.7 * 0.4 + 0.09]], atol=1e-6)


def test_border_cells_are_weighted_down_after_the_rows_are_normalised() -> None:
    config = ScoreConfig(region="mean", normalise_rows=True, border_power=2, prior_rounds=0)
    out = finish(np.array([[0.2, 0.2], [0.0, 0.0]]), None, config, visible=np.array([0.5, 1]))
    np.testing.assert_allclose(out, [[0.5 * 0.25] * 2, [0, 0]])


def test_each_share_is_taken_from_those_before_it() -> None:
    np.testing.assert_allclose(take_shares([1.0, 0.5, 0.1]), [0.45, 0.45, 0.1])
    assert take_shares([0.3]) == [1.0]
    assert take_shares([]) == []


def test_sources_of_a_group_are_averaged_by_their_shares_before_groups_are_blended() -> None:
    one, two, crop = np.array([[0.2]]), np.array([[0.6]]), np.array([[0.9]])
    parts = [Part("a", "maps", 0.1, one), Part("b", "maps", 0.3, two), Part("c", "crops", 0.6, crop)]
    parts.append(Part("d", None, 0.0, np.array([[1.0]])))
    np.testing.assert_allclose(blend_parts(parts, ScoreConfig(blend="mean", prior_rounds=0)), [[0.02 + 0.18 + 0.54]])
    wanted = (0.25 * 0.2 + 0.75 * 0.6) ** 0.4 * 0.9**0.6
    np.testing.assert_allclose(
        blend_parts(parts, ScoreConfig(blend="geometric", prior_rounds=0)), [[wanted]], rtol=1e-6
    )


@pytest.mark.parametrize("region", REGION_RULES)
@pytest.mark.parametrize("negative", NEGATIVE_RULES)
@pytest.mark.parametrize("name", BLENDS)
def test_odd_images_give_finite_scores_in_the_unit_interval(region: str, negative: str, name: str) -> None:
    config = ScoreConfig(region=region, negative=negative, blend=name, normalise_rows=True, image_mix=0.3)
    one_pixel, none, full = np.zeros((9, 9), np.int32), np.zeros((9, 9), np.int32), np.ones((9, 9), np.int32)
    one_pixel[4, 4] = 7
    random = np.random.default_rng(0).normal(size=(3, 2, 2)).astype(np.float32)
    for label_map, count in ((one_pixel, 1), (none, 0), (full, 1)):
        for cam in (random, np.zeros_like(random), -np.ones_like(random)):
            cam_scores = cell_cam_scores(cam, np.array([0.9, 0.005, 0.3]), label_map, config, negative=2)
            for crop_scores in (None, np.zeros_like(cam_scores)):
                scores = finish(cam_scores, crop_scores, config)
                assert scores.shape == (count, 3)
                assert scores.dtype == np.float32
                assert ((scores >= 0) & (scores <= 1)).all()


def test_scores_outside_the_unit_interval_are_refused() -> None:
    with pytest.raises(ValueError, match="outside"):
        finish(np.array([[1.5]]), None, ScoreConfig())
    with pytest.raises(ValueError, match="those of crops"):
        finish(np.ones((1, 2)), np.ones((2, 2)), ScoreConfig())


@pytest.mark.parametrize("blend", BLENDS)
def test_scores_of_one_stay_one_although_shares_sum_to_one_but_for_rounding(blend: str) -> None:
    maps, crops, features = take_shares([1.0, 0.1, 0.1])
    shares = [("maps", maps * share) for share in take_shares([1.0, 0.12])] + [("crops", crops), ("features", features)]
    parts = [Part("", group, share, np.ones((2, 3), np.float32)) for group, share in shares]
    assert (blend_parts(parts, ScoreConfig(blend=blend, prior_rounds=0)) == 1).all()


def test_the_feature_classifier_has_its_share_before_border_cells_are_weighted() -> None:
    network, feature_classifier = np.array([[0.2, 0.2], [0.6, 0.2]]), np.array([[0.0, 1.0], [0.4, 0.6]])
    config = ScoreConfig(feature_share=0.25, normalise_rows=True, border_power=1, prior_rounds=0)
    found = finish(network, None, config, feature_classifier, np.array([1.0, 0.5]))
    np.testing.assert_allclose(found, [[0.375, 0.625], [0.33125, 0.16875]], atol=1e-6)
    alone = finish(network, None, ScoreConfig(feature_share=1.0, prior_rounds=0), feature_classifier)
    np.testing.assert_allclose(alone, feature_classifier, atol=1e-6)


def test_cells_of_an_image_settle_a_doubtful_cell() -> None:
    sure, doubtful = [0.8, 0.1, 0.1], [0.4, 0.45, 0.15]
    out = image_prior(np.array([sure, sure, sure, doubtful]), negative=2, rounds=1)
    assert out[3, 0] > 0.5 > out[3, 1]


def test_several_classes_of_an_image_do_not_compete() -> None:
    both = np.array([[0.8, 0.7, 0.1]] * 6)
    out = image_prior(both, negative=None, rounds=3)
    assert (out[:, :2] > both[:, :2]).all()
    assert (out[:, 2] < 0.1).all()


@pytest.mark.parametrize("rounds", [1, 3])
def test_negative_keeps_its_score(rounds: int) -> None:
    scores = np.array([[0.8, 0.1, 0.1]] * 5 + [[0.2, 0.0, 0.8], [0.3, 0.3, 0.4], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    out = image_prior(scores, negative=2, rounds=rounds)
    np.testing.assert_array_equal(out[:, 2], scores[:, 2])
    assert 0.6 > out[6, 0] > 0.25 > out[6, 1]  # at most 1 - Negative
    assert out[7, 0] == out[7, 1] == 0


def test_the_shares_are_those_among_cells_that_are_not_negative() -> None:
    shown, lost = [0.6, 0.4, 0.0], [0.01, 0.01, 1.0]
    few, many = (image_prior(np.array([shown] * 3 + [lost] * n), negative=2, rounds=1) for n in (1, 9))
    np.testing.assert_allclose(few[0], many[0], atol=0.01)


def test_classes_of_a_cell_lower_each_other() -> None:
    alone, together = (image_prior(np.array([[0.8, other, 0.1]] * 4), None, 3) for other in (0.1, 0.7))
    assert (together[:, 0] < alone[:, 0]).all()


def test_one_round_of_the_image_prior_known_value() -> None:
    out = image_prior(np.array([[0.6, 0.4], [0.9, 0.1]]), negative=None, rounds=1)
    odds = 0.6 / 0.4 * np.exp(-EXCLUSION * 0.4) * (0.75 / 0.25) / (EVEN_SHARE / (1 - EVEN_SHARE))
    assert out[0, 0] == pytest.approx(odds / (1 + odds))


@pytest.mark.parametrize("scores", [np.zeros((0, 3)), np.zeros((4, 3)), np.full((1, 3), 1.0)])
def test_the_prior_of_empty_and_single_cells_is_finite(scores: np.ndarray) -> None:
    out = image_prior(scores, negative=1, rounds=3)
    assert out.shape == scores.shape
    assert ((out >= 0) & (out <= 1)).all()


def test_a_class_that_scores_zero_stays_at_zero() -> None:
    out = image_prior(np.array([[0.0, 0.9]]), negative=None, rounds=3)
    assert out[0, 0] == 0


def test_no_rounds_change_nothing() -> None:
    scores = np.array([[0.7, 0.9]])
    assert image_prior(scores, None, 0) is scores


def test_an_image_bears_what_its_cells_show_and_negative_where_all_cells_are() -> None:
    cells, probs = np.array([[0.4, 0.0, 0.5], [0.6, 0.0, 0.5]]), np.array([0.1, 0.2, 0.3], np.float32)
    alone = image_scores(cells, probs, negative=2, share=1.0)
    np.testing.assert_allclose(alone, [1 - 0.5**3, 0, 0.5**3], rtol=1e-6)
    half = image_scores(cells, probs, negative=2, share=0.5)
    np.testing.assert_allclose(half, (alone + probs) / 2, rtol=1e-6)
    np.testing.assert_array_equal(image_scores(cells[:0], probs, negative=2, share=1.0), probs)
    np.testing.assert_array_equal(image_scores(cells, probs, negative=2, share=0.0), probs)


def test_the_classes_of_a_cell_that_shows_one_compete() -> None:
    out = image_prior_of_one_class(np.array([[0.9, 0.8, 0.1]] * 3 + [[0.6, 0.6, 0.1]]), negative=2, rounds=3)
    np.testing.assert_allclose(out[:, :2].sum(axis=1), 0.9**NEGATIVE_POWER)
    assert out[3, 0] > 2 * out[3, 1]
    np.testing.assert_array_equal(out[:, 2], 0.1)


def test_one_round_of_the_prior_of_one_class_known_value() -> None:
    out = image_prior_of_one_class(np.array([[0.5, 0.5], [0.8, 0.5]]), None, 1)
    shares = np.array([0.5 + 0.8, 0.5 + 0.2]) / 2 + 1e-3
    assert out[0, 0] == pytest.approx(shares[0] / shares.sum())


@pytest.mark.parametrize("scores", [np.zeros((0, 3)), np.zeros((4, 3)), np.full((1, 3), 1.0), np.eye(3)])
def test_the_prior_of_one_class_is_finite_and_keeps_zeros(scores: np.ndarray) -> None:
    out = image_prior_of_one_class(scores, negative=1, rounds=3)
    assert ((out >= 0) & (out <= 1) & ((scores > 0) | (out == 0))).all()


@pytest.mark.parametrize("one_class", [True, False])
def test_the_prior_of_a_blend_is_the_one_asked_for(one_class: bool) -> None:
    scores = np.array([[0.8, 0.7, 0.1]] * 4)
    out = blend_parts([Part("a", "maps", 1.0, scores)], ScoreConfig(), negative=2, one_class=one_class)
    wanted = (image_prior_of_one_class if one_class else image_prior)(scores, 2, 3)
    np.testing.assert_allclose(out, wanted, rtol=1e-6)
