"""Samples of mask sets: masks moved with images, pixels beyond the edge ignored, folds spread by coverage."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wsss.core.checks import ConfigError, DataError
from wsss.data.augment import build_augment
from wsss.data.folds import coverage_folds
from wsss.data.masks import MaskSet, folds_digest, open_masks, survey
from wsss.options.masks import MaskConfig, MaskLossConfig
from wsss.options.recipe import MaskRecipe
from wsss.training.tasks.masks import MaskSamples, gap_weights, pack_weights, training_augment, unpack_target


@pytest.fixture
def masks(tmp_path: Path) -> MaskSet:
    for name, height in (("a", 20), ("b", 30)):
        mask = np.zeros((height, 20), np.uint8)
        mask[4:12, 3:9] = 255
        for kind in ("images", "masks"):
            (tmp_path / kind).mkdir(exist_ok=True)
            Image.fromarray(mask).save(tmp_path / kind / f"{name}.png")
    return open_masks(tmp_path, channels=1)


def test_masks_move_with_their_images_and_the_outside_is_ignored(masks: MaskSet) -> None:
    augment = build_augment("flips", 32, channels=1)
    samples = MaskSamples(masks, augment, MaskConfig(), MaskLossConfig())
    for seed in range(8):
        image, target, index = samples[0, seed]
        assert (image.shape, target.shape, index) == ((1, 32, 32), (1, 32, 32), 0)
        known = target[0] != 255
        agree = ((image[0] > 120) == (target[0] == 1))[known]
        assert agree.float().mean() > 0.9
    assert torch.equal(samples[0, 5][0], samples[0, 5][0])


def test_pixels_beyond_the_images_edge_do_not_count(masks: MaskSet) -> None:
    samples = MaskSamples(masks, build_augment("none", 32, channels=1), MaskConfig(), MaskLossConfig())
    target = samples[0, 0][1]
    assert ((target == 255).sum(), (target == 1).sum()) == (32 * 32 - 20 * 20, 48)


def test_weights_of_gaps_travel_with_the_target(masks: MaskSet) -> None:
    loss = MaskLossConfig(terms={"border": 1.0}, border_weight=10.0)
    _, packed, _ = MaskSamples(masks, None, MaskConfig(target="border"), loss)[0, 0]
    target, weights = unpack_target(packed[None], outputs=2, most=10.0)
    assert target.shape == (1, 2, 20, 20)
    assert weights is not None
    assert weights.shape == (1, 1, 20, 20)
    assert unpack_target(target, outputs=2, most=10.0)[1] is None


def test_packed_weights_come_back_to_a_hundredth() -> None:
    row = np.zeros((1, 9), np.int32)
    row[0, :3], row[0, 6:] = 1, 2
    weights = gap_weights(row, 10, 2)
    packed = torch.from_numpy(np.stack([row, pack_weights(weights, 10)]).astype(np.uint8))[None]
    _, found = unpack_target(packed, outputs=1, most=10)
    assert found is not None
    assert np.allclose(found[0, 0].numpy(), weights, atol=0.03)


def test_folds_have_their_share_of_empty_small_and_large_masks() -> None:
    rng = np.random.default_rng(0)
    coverage = np.concatenate([np.zeros(20), rng.uniform(0.01, 0.9, 40), [np.nan] * 3])
    folds = coverage_folds(coverage, 5, seed=1)
    assert (folds[-3:] == -1).all()
    for fold in range(5):
        own = coverage[folds == fold]
        assert len(own) == 12
        assert (own == 0).sum() == 4
        kinds = np.searchsorted(np.quantile(coverage[20:60], [0.2, 0.4, 0.6, 0.8]), own[own > 0])
        assert set(np.bincount(kinds, minlength=5)) <= {1, 2}
    assert np.array_equal(folds, coverage_folds(coverage, 5, seed=1))
    assert folds_digest(["x"] * 1, folds[:1]) != folds_digest(["y"] * 1, folds[:1])


def test_a_survey_tells_coverage_and_finds_every_fault(masks: MaskSet, tmp_path: Path) -> None:
    found = survey(masks)
    assert found.coverage.tolist() == pytest.approx([48 / 400, 48 / 600])
    assert found.sizes.tolist() == [[20, 20], [30, 20]]
    Image.fromarray(np.full((30, 20), 7, np.uint8)).save(tmp_path / "masks" / "b.png")
    with pytest.raises(DataError, match="holds the values 7"):
        survey(open_masks(tmp_path))


def test_the_least_object_is_that_of_the_images_asked_for_but_for_specks(tmp_path: Path) -> None:
    for kind in ("images", "objects"):
        (tmp_path / kind).mkdir()
    for name, edges in (("a", [12, *[20] * 9]), ("b", [1, *[11] * 399]), ("c", [7])):
        label_map = np.zeros((440, 440), np.uint16)
        for k, edge in enumerate(edges):
            y, x = 22 * (k // 20), 22 * (k % 20)
            label_map[y : y + edge, x : x + edge] = k + 1
        Image.fromarray(label_map).save(tmp_path / "objects" / f"{name}.png")
        Image.fromarray(np.zeros(label_map.shape, np.uint8)).save(tmp_path / "images" / f"{name}.png")
    found = survey(open_masks(tmp_path, channels=1))
    assert [len(areas) for areas in found.areas] == [10, 400, 1]
    assert [found.least_object(np.array(own, int)) for own in ([0], [0, 1], [2], [])] == [144, 121, 0, 0]


def test_whole_images_must_have_one_size(masks: MaskSet) -> None:
    recipe = MaskRecipe(crop=0, augment="none")
    with pytest.raises(ConfigError, match="edges of 20 to 30 px"):
        training_augment(recipe, masks, survey(masks))
