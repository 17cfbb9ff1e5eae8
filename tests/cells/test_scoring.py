from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsss.cells.regions import (
    group_pixels,
    region_rule,
    row_quantile,
    row_top_mean,
    visible_share,
)
from wsss.cells.scoring import apply_negative, cell_cam_scores, cell_values, normalise, resize
from wsss.options.scoring import REGION_RULES, ScoreConfig

PLAIN = ScoreConfig(region="mean", blend="mean")
PUBLISHED = ScoreConfig(
    region="quantile", relative=True, min_prob=0.01, min_ratio=0.02, prob_for_negative=True, negative="recipe"
)


def blobs(size: int, count: int, seed: int) -> np.ndarray:
    """Rectangles with gaps in the ids; later ones cover earlier ones."""
    rng = np.random.default_rng(seed)
    label_map = np.zeros((size, size), np.int32)
    for i in range(count):
        y, x = rng.integers(0, size, 2)
        label_map[y : y + rng.integers(1, 12), x : x + rng.integers(1, 12)] = 3 * i + 2
    return label_map


def plain_loop(maps: np.ndarray, label_map: np.ndarray, config: ScoreConfig) -> np.ndarray:
    def region(pixels: np.ndarray) -> float:
        pixels = np.sort(pixels.astype(np.float64))
        most = max(1, int(np.ceil(config.top_share * len(pixels))))
        return {
            "quantile": np.quantile(pixels, config.quantile),
            "mean": pixels.mean(),
            "topk": pixels[-most:].mean(),
            "lse": np.log(np.exp(config.sharpness * pixels).mean()) / config.sharpness,
            "max": pixels[-1],
            "logit": 1 / (1 + np.exp(-pixels.mean())),
        }[config.region]

    rows = []
    for cell in np.unique(label_map[label_map > 0]):
        values = np.array([region(one[label_map == cell]) for one in maps])
        whole = np.array([region(one.ravel()) for one in maps]) if config.relative else np.ones(len(maps))
        rows.append([min(v / w, 1) if w > 0 else 0 for v, w in zip(values, whole, strict=True)])
    return np.array(rows)


def test_logit_is_the_probability_that_the_raw_map_gives_to_the_cell() -> None:
    label_map = np.zeros((4, 4), np.int32)
    label_map[:2], label_map[2:] = 3, 5
    cam = np.array([[[2.0], [-4.0]]], np.float32).repeat(4, axis=2).repeat(2, axis=1)
    config = ScoreConfig(region="logit", prob_power=0)
    found = cell_cam_scores(cam, np.array([0.2]), label_map, config, negative=None)
    np.testing.assert_allclose(found[:, 0], 1 / (1 + np.exp([-2.0, 4.0])), rtol=1e-6)
    cam[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="diverged"):
        cell_cam_scores(cam, np.array([0.2]), label_map, config, negative=None)


@pytest.mark.parametrize("region", REGION_RULES)
@pytest.mark.parametrize("relative", [True, False])
def test_every_region_rule_equals_a_plain_loop_over_cells_and_classes(region: str, relative: bool) -> None:
    cam = np.random.default_rng(1).normal(size=(5, 7, 6)).astype(np.float32)
    cam[3] = -1
    label_map = blobs(64, 20, 2)
    config = ScoreConfig(region=region, relative=relative)
    ours = cell_values(normalise(cam), label_map, config)
    np.testing.assert_allclose(ours, plain_loop(resize(normalise(cam), (64, 64)), label_map, config), atol=1e-5)


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.2, 0.5, 0.9, 0.95, 0.99, 0.999, 1.0]), st.booleans())
@settings(max_examples=60, deadline=None)
def test_quantiles_equal_numpy_for_any_cells_also_with_many_ties(seed: int, quantile: float, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    values = rng.random((40, 40), np.float32)
    if ties:
        values = np.round(values * 3) / np.float32(3)
    label_map = blobs(40, int(rng.integers(1, 12)), seed)
    cells = group_pixels(label_map)
    found = region_rule(cells, ScoreConfig(region="quantile", quantile=quantile))(values.ravel()[cells.order])
    wanted = [np.quantile(values[label_map == cell], quantile) for cell in cells.ids]
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert row_quantile(values.ravel(), quantile) == pytest.approx(np.quantile(values, quantile), abs=1e-6)


def top_mean(values: np.ndarray, share: float) -> float:
    return float(np.sort(values)[-max(1, int(np.ceil(share * len(values) - 1e-9))) :].mean(dtype=np.float64))


@given(st.integers(0, 10_000), st.sampled_from([1e-3, 0.1, 0.5, 0.95, 1.0]), st.sampled_from([1, 3, 1000, 10**6]))
@settings(max_examples=60, deadline=None)
def test_means_of_the_highest_pixels_equal_a_sort_for_any_cells_also_with_many_ties(
    seed: int, share: float, steps: int
) -> None:
    rng = np.random.default_rng(seed)
    values = (np.round(rng.random((60, 60)) ** 3 * steps) / steps).astype(np.float32)
    label_map = blobs(60, int(rng.integers(1, 12)), seed)
    cells = group_pixels(label_map)
    found = region_rule(cells, ScoreConfig(region="topk", top_share=share))(values.ravel()[cells.order])
    wanted = [top_mean(values[label_map == cell], share) for cell in cells.ids]
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert row_top_mean(values.ravel(), share) == pytest.approx(top_mean(values.ravel(), share), abs=1e-6)


@pytest.mark.parametrize("sharpness", [1e-3, 40.0, 41.0, 500.0])
def test_log_sum_exp_lies_between_the_mean_and_the_maximum_at_any_sharpness(sharpness: float) -> None:
    cam01 = np.random.default_rng(0).random((2, 24, 24), np.float32)
    cam01[1] = 0
    label_map = blobs(24, 6, 3)
    lse, mean, top = (
        cell_values(cam01, label_map, ScoreConfig(region=region, sharpness=sharpness, relative=False))
        for region in ("lse", "mean", "max")
    )
    assert (lse >= mean - 1e-4).all()
    assert (lse <= top + 1e-6).all()
    assert (lse[:, 1] == 0).all()
    if sharpness in (1e-3, 500.0):
        np.testing.assert_allclose(lse, mean if sharpness < 1 else top, atol=0.02)


def test_cells_are_grouped_in_the_order_of_their_ids_and_keep_their_pixels() -> None:
    label_map = np.array([[0, 70000, 3], [3, 3, 70000]], np.int32)
    cells = group_pixels(label_map)
    assert cells.ids.tolist() == [3, 70000]
    assert cells.sizes.tolist() == [3, 2]
    assert label_map.ravel()[cells.order].tolist() == [3, 3, 3, 70000, 70000]


@pytest.mark.parametrize("given_size", [(16, 16), (5, 9), (1, 1)])
@pytest.mark.parametrize("wanted", [(64, 64), (7, 33), (1, 1)])
def test_resize_agrees_with_torch(given_size: tuple[int, int], wanted: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    maps = np.random.default_rng(0).normal(size=(3, *given_size)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(maps)[None], size=wanted, mode="bilinear", align_corners=False
    )[0].numpy()
    np.testing.assert_allclose(resize(maps, wanted), expected, atol=1e-5)


def test_normalise_gives_zero_for_a_map_without_positive_values_and_almost_one_at_the_peak() -> None:
    cam = np.array([[[-1.0, -2.0]], [[1.0, 4.0]]], np.float32)
    np.testing.assert_allclose(normalise(cam), [[[0, 0]], [[0.25, 1]]], atol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_maps_that_are_not_finite_are_refused(bad: float) -> None:
    cam = np.zeros((2, 3, 3), np.float32)
    cam[1, 1, 1] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        normalise(cam)


def two_cells() -> tuple[np.ndarray, np.ndarray]:
    """Class 0 shines in cell 5, class 1 in cell 9, class 2 (Negative) nowhere; both cells of 4 pixels."""
    label_map = np.zeros((4, 4), np.int32)
    label_map[:2, :2], label_map[2:, 2:] = 5, 9
    cam = np.zeros((3, 4, 4), np.float32)
    cam[0][label_map == 5] = 2
    cam[1][label_map == 9] = 3
    return cam, label_map


def test_recipe_gives_each_cell_the_image_probability_of_its_class() -> None:
    cam, label_map = two_cells()
    scores = cell_cam_scores(cam, np.array([0.8, 0.6, 0.0]), label_map, PUBLISHED, negative=2)
    np.testing.assert_allclose(scores, [[0.8, 0, 0], [0, 0.6, 0]], atol=1e-6)


def test_recipe_calls_a_cell_without_any_label_negative_and_leaves_the_others() -> None:
    cam, label_map = two_cells()
    scores = cell_cam_scores(cam, np.array([0.8, 0.01, 0.0]), label_map, PUBLISHED, negative=2)
    np.testing.assert_allclose(scores, [[0.8, 0, 0], [0, 0, 1]], atol=1e-6)


def test_probability_power_may_spare_negative() -> None:
    cam, label_map = two_cells()
    cam[2] = 1
    probs = np.array([0.5, 0.5, 0.1])
    config = replace(PLAIN, prob_power=2)
    scores = cell_cam_scores(cam, probs, label_map, config, negative=2)
    np.testing.assert_allclose(scores, [[0.25, 0, 1], [0, 0.25, 1]], atol=1e-4)
    scores = cell_cam_scores(cam, probs, label_map, replace(config, prob_for_negative=True), negative=2)
    np.testing.assert_allclose(scores[:, 2], 0.01, atol=1e-4)


def test_negative_rules_by_hand() -> None:
    kept = np.array([[0.5, 0.5, 0.1], [0.0, 0.0, 0.0]])
    raw = np.array([[0.5, 0.5, 0.1], [0.2, 0.1, 0.0]])
    assert apply_negative(kept, raw, 2, "own") is kept
    assert apply_negative(kept, raw, None, "max") is kept
    np.testing.assert_allclose(apply_negative(kept, raw, 2, "recipe"), [[0.5, 0.5, 0.1], [0, 0, 0.8]])
    np.testing.assert_allclose(apply_negative(kept, raw, 2, "complement"), [[0.5, 0.5, 0.25], [0, 0, 1]])
    np.testing.assert_allclose(apply_negative(kept, raw, 2, "max"), [[0.375, 0.375, 0.25], [0, 0, 1]])


def test_compartment_lifts_nuclear_classes_where_the_nucleus_shines() -> None:
    label_map = np.ones((4, 4), np.int32)
    nuclei = np.zeros((4, 4), np.int32)
    nuclei[:2] = 1
    cam01 = np.zeros((2, 4, 4), np.float32)
    cam01[:, :2] = 1
    config = replace(PLAIN, compartment=1.0, nuclear_classes=(0,))
    np.testing.assert_allclose(cell_values(cam01, label_map, config, nuclei=nuclei), [[1, 0]])
    without = cell_values(cam01, label_map, config, nuclei=np.zeros_like(nuclei))
    np.testing.assert_allclose(without, [[0.5, 0.5]])
    with pytest.raises(ValueError, match="nuclei"):
        cell_values(cam01, label_map, config)


def test_padding_outside_the_content_does_not_dilute_the_image_statistic() -> None:
    cam01 = np.zeros((1, 8, 8), np.float32)
    cam01[:, :4] = 0.5
    label_map = np.zeros((8, 8), np.int32)
    label_map[0, 0] = 1
    config = ScoreConfig(region="mean", relative=True)
    assert cell_values(cam01, label_map, config)[0, 0] == 1
    cam01[0, 0, 0] = 0.25
    inner = cell_values(cam01, label_map, config, content=(4, 8))
    assert inner[0, 0] == pytest.approx(0.25 / cam01[0, :4].mean())


def test_visible_share_is_one_for_whole_cells_and_smaller_for_cut_ones() -> None:
    label_map = np.zeros((12, 12), np.int32)
    label_map[0:2, 3:7] = 4
    label_map[5:9, 5:9] = 8
    np.testing.assert_allclose(visible_share(label_map), [0.5, 1])
    label_map[5:9, 5:9] = 0
    np.testing.assert_allclose(visible_share(label_map), [1])
    assert visible_share(np.zeros((3, 3), np.int32)).shape == (0,)


def test_no_class_may_pass_the_probability_threshold() -> None:
    cam, label_map = two_cells()
    scores = cell_cam_scores(cam, np.zeros(3), label_map, PUBLISHED, negative=2)
    np.testing.assert_allclose(scores, [[0, 0, 1], [0, 0, 1]])


@pytest.mark.parametrize("probs", [[0.5, 0.5], [0.5, 0.5, 1.2], [0.5, np.nan, 0.2]])
def test_probabilities_that_do_not_fit_are_refused(probs: list[float]) -> None:
    cam, label_map = two_cells()
    with pytest.raises(ValueError, match="3 image probabilities"):
        cell_cam_scores(cam, np.array(probs), label_map, PUBLISHED, negative=2)


def test_bad_label_maps_are_refused() -> None:
    with pytest.raises(ValueError, match="the id -1"):
        group_pixels(np.array([[0, -1]], np.int32))
    with pytest.raises(ValueError, match="whole numbers"):
        group_pixels(np.zeros((3, 3), np.float32))


def test_maps_that_are_probabilities_already_keep_their_height() -> None:
    label_map = np.repeat(np.array([[1, 1, 2, 2]], np.int32), 4, axis=0)
    faint = np.where(label_map == 1, 0.02, 0.01)[None].astype(np.float32)
    config = ScoreConfig(region="mean", relative=False, min_ratio=0, negative="own")
    plain, kept = (
        cell_cam_scores(faint, np.ones(1), label_map, config, negative=None, normalised=normalised)[:, 0]
        for normalised in (False, True)
    )
    assert plain == pytest.approx([1, 0.5], abs=1e-3)
    assert kept == pytest.approx([0.02, 0.01])
