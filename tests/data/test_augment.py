import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wsss.core.checks import ConfigError
from wsss.data.augment import Augment, alone, build_augment, load_recipe

CROP = 96
RECIPE = load_recipe("hpa")
OPS = dict(alone(RECIPE)[1:])
GEOMETRIC = [
    "HorizontalFlip",
    "RandomRotate90",
    "GridDistortion",
    "Affine",
    "ElasticTransform",
    "OpticalDistortion",
    "Affine 2",
]
IN_PLACE = [name for name in OPS if name not in GEOMETRIC]
CROP_STEP = RECIPE[0]


def build(name: str, crop: int = CROP) -> Augment:
    return build_augment(OPS[name], crop)


def textured(size: int = CROP, seed: int = 0) -> np.ndarray:
    """Four different smooth channels between about 60 and 190."""
    y, x = np.mgrid[:size, :size]
    phase = np.random.default_rng(seed).uniform(0, 6, (4, 2))
    waves = [np.sin(x / (7 + k) + a) + np.sin(y / (9 + k) + b) for k, (a, b) in enumerate(phase)]
    return (125 + 32 * np.stack(waves)).astype(np.uint8)


def flat(value: int = 128, size: int = CROP) -> np.ndarray:
    return np.full((4, size, size), value, np.uint8)


def ramps(size: int = 256) -> np.ndarray:
    """Channels that tell where a pixel came from: x, y, x, y."""
    y, x = np.mgrid[:size, :size].astype(np.uint8)
    return np.stack([x, y, x, y])


@pytest.fixture(scope="module")
def whole() -> Augment:
    return build_augment(RECIPE, CROP)


def test_the_same_seed_gives_the_same_image_whatever_came_before(whole: Augment) -> None:
    image = textured(128)
    first = [whole(image, seed) for seed in range(40)]
    again = {seed: whole(image, seed) for seed in reversed(range(40))}
    fresh = build_augment(RECIPE, CROP)
    for seed in range(40):
        assert np.array_equal(first[seed], again[seed])
        assert np.array_equal(first[seed], fresh(image, seed))
    assert len({out.tobytes() for out in first}) == 40


def test_the_global_random_states_have_no_part_in_it(whole: Augment) -> None:
    import random

    import cv2

    image, outs = textured(128), []
    for state in (1, 2):
        random.seed(state)
        np.random.seed(state)  # noqa: NPY002
        cv2.setRNGSeed(state)
        outs.append([whole(image, seed) for seed in range(20)])
    assert np.array_equal(*outs)


def test_a_pickled_copy_gives_the_same_images(whole: Augment) -> None:
    copy = pickle.loads(pickle.dumps(whole))  # as a spawned worker gets it
    image = textured(128)
    assert all(np.array_equal(copy(image, seed), whole(image, seed)) for seed in range(10))


def test_choices_of_different_steps_are_independent() -> None:
    steps = [CROP_STEP, {"op": "HorizontalFlip", "p": 0.5}, {"op": "VerticalFlip", "p": 0.5}]
    augment = build_augment(steps, 2)
    image = np.array([[[0, 1], [2, 3]]] * 4, np.uint8)
    corner = [int(augment(image, seed)[0, 0, 0]) for seed in range(400)]
    counts = np.bincount(corner, minlength=4)
    assert counts.min() > 70, counts  # with one seed for all transforms only 0 and 3 would occur


def test_masks_do_not_change_what_happens_to_the_image(whole: Augment) -> None:
    image = textured(128)
    for seed in range(20):
        with_masks, _ = whole.with_masks(image, [np.ones((128, 128), bool)], seed)
        assert np.array_equal(with_masks, whole(image, seed))


@pytest.mark.parametrize("shape", [(40, 50), (96, 96), (97, 60), (300, 96)])
def test_any_size_becomes_the_crop(whole: Augment, shape: tuple[int, int]) -> None:
    image = np.full((4, *shape), 200, np.uint8)
    for seed in range(8):
        out, (mask,) = whole.with_masks(image, [np.ones(shape, np.int32)], seed)
        assert out.shape == (4, CROP, CROP)
        assert out.dtype == np.uint8
        assert out.flags.c_contiguous
        assert mask.shape == (CROP, CROP)


def test_a_small_image_is_padded_with_zeros_around_it() -> None:
    out, (mask,) = build_augment([CROP_STEP], 8).with_masks(flat(9, 4), [np.ones((4, 4), np.int32)], 0)
    assert np.array_equal(out[0] == 9, mask == 1)
    assert mask.sum() == 16
    assert (out[0] == 0).sum() == 48


@pytest.mark.parametrize("channels", [1, 2, 3, 6])
def test_any_number_of_channels_is_taken(channels: int) -> None:
    augment = build_augment("hpa", CROP, channels=channels)
    image = np.concatenate([textured(), textured(seed=1)])[:channels]
    for seed in range(30):
        assert augment(image, seed).shape == (channels, CROP, CROP)


@pytest.mark.parametrize(
    ("channels", "signals", "changed"), [(1, (), [0]), (3, (2,), [2]), (5, (1, 4), [1, 4]), (4, (), [1])]
)
def test_ops_on_the_protein_change_the_channels_that_show_it(
    channels: int, signals: tuple[int, ...], changed: list[int]
) -> None:
    steps = [CROP_STEP, {"op": "OneOf", "of": [{"op": "ProteinGain", "gain_range": [0.2, 0.5]}]}]
    image = np.full((channels, 8, 8), 200, np.uint8)
    out = build_augment(steps, 8, channels=channels, signals=signals)(image, 0)
    assert [k for k in range(channels) if (out[k] != 200).any()] == changed
    assert build_augment("hard", 32, channels=channels)(np.zeros((channels, 32, 32), np.uint8), 0).shape[0] == channels


def test_read_only_images_are_taken_and_left_alone(tmp_path: Path, whole: Augment) -> None:
    np.save(tmp_path / "shard.npy", textured(128)[None])
    image = np.load(tmp_path / "shard.npy", mmap_mode="r")[0]
    for seed in range(20):
        whole(image, seed)
    assert np.array_equal(image, textured(128))


def test_what_is_no_uint8_image_is_refused(whole: Augment) -> None:
    with pytest.raises(ValueError, match="uint16"):
        whole(textured().astype(np.uint16), 0)
    with pytest.raises(ValueError, match="expected uint8"):
        whole(textured()[0], 0)


def test_a_recipe_that_does_not_end_at_the_crop_is_refused() -> None:
    augment = build_augment([{"op": "HorizontalFlip"}], 32)
    with pytest.raises(ConfigError, match="gives 96 x 96 pixels, expected 32 x 32: begin it with RandomCrop"):
        augment(textured(), 0)
    with pytest.raises(ConfigError, match="empty"):
        build_augment([], 32)


@pytest.mark.parametrize("name", GEOMETRIC)
def test_image_and_masks_move_together(name: str) -> None:
    label_map = (np.kron(np.arange(16).reshape(4, 4), np.ones((32, 32), int)) * 15).astype(np.int32)
    image = np.stack([label_map] * 4).astype(np.uint8)
    augment, moved = build(name, 112), 0
    for seed in range(12):
        out, (ids, large, body) = augment.with_masks(image, [label_map, label_map * 70_001, label_map > 100], seed)
        assert (ids.dtype, large.dtype, body.dtype) == (np.int32, np.int32, bool)
        assert set(np.unique(ids)) <= set(np.unique(label_map))  # no invented ids
        assert np.array_equal(large, ids * 70_001)
        assert np.array_equal(body, ids > 100)
        away = np.abs(out.astype(int) - ids)  # image is bilinear, masks are nearest: they differ at borders only
        assert np.mean(away > 0) < 0.2
        inner = np.all([np.roll(ids, s, a) == ids for s in (-2, -1, 1, 2) for a in (0, 1)], axis=0)
        assert away[:, inner].max() <= 1
        moved += not np.array_equal(ids, augment.with_masks(image, [label_map], seed + 100)[1][0])
    assert moved > 2


@pytest.mark.parametrize("name", IN_PLACE)
def test_noise_blur_and_colour_leave_the_masks_alone(name: str) -> None:
    label_map = np.arange(CROP * CROP, dtype=np.int32).reshape(CROP, CROP)
    for seed in range(6):
        out, (ids,) = build(name).with_masks(textured(), [label_map], seed)
        assert np.array_equal(ids, label_map)
        assert not np.array_equal(out, textured())


@pytest.mark.parametrize("name", OPS)
def test_channels_keep_their_order_and_are_all_changed(name: str) -> None:
    image = textured(128)
    augment, plain = build(name), build_augment([CROP_STEP], CROP)
    outs = np.stack([augment(image, seed) for seed in range(8)])
    before = np.stack([plain(image, seed) for seed in range(8)])
    assert all(not np.array_equal(outs[:, k], before[:, k]) for k in range(4))
    if name in GEOMETRIC:
        # the same op on one channel four times: each channel of the real image must match its own
        for k in range(4):
            single = np.repeat(image[k : k + 1], 4, axis=0)
            assert np.array_equal(np.stack([augment(single, s)[k] for s in range(8)]), outs[:, k])
    else:
        nearest = [np.abs(before.astype(int) - outs[:, [k]]).mean(axis=(0, 2, 3)).argmin() for k in range(4)]
        assert nearest == [0, 1, 2, 3]


def noise_of(name: str, seeds: int = 60) -> np.ndarray:
    augment = build(name)
    return np.stack([augment(flat(), seed).astype(float) - 128 for seed in range(seeds)])


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("GaussNoise", 5**0.5, 30**0.5), ("AdditiveNoise", 0.02 * 255, 0.05 * 255)],
)
def test_noise_is_gaussian_per_pixel_of_the_spread_asked_for(name: str, low: float, high: float) -> None:
    noise = noise_of(name)
    spread = noise.std(axis=(1, 2, 3))
    assert low * 0.98 < spread.min() < low * 1.15
    assert high * 0.9 < spread.max() < high * 1.02
    assert np.abs(noise.mean(axis=(1, 2, 3))).max() < 0.25  # no offset
    one = noise[0] / noise[0].std()
    assert np.mean(one**4) == pytest.approx(3, abs=0.7)  # kurtosis: 3 Gaussian, 1.8 uniform, 6 Laplace
    assert abs(np.mean(one[:, :, 1:] * one[:, :, :-1])) < 0.03  # neighbours are independent
    between = np.corrcoef(one.reshape(4, -1))
    assert np.abs(between - np.eye(4)).max() < 0.05  # so are channels


def test_dropout_makes_eight_black_holes_of_32_px() -> None:
    augment = build("CoarseDropout", 384)
    black = np.array([(augment(flat(size=384), seed) == 0).all(axis=0).sum() for seed in range(20)])
    assert black.max() <= 8 * 32 * 32
    assert np.mean(black) > 6.5 * 32 * 32  # holes may overlap
    out = augment(flat(size=384), 0)
    assert set(np.unique(out)) == {0, 128}
    runs = np.diff(np.flatnonzero(np.diff(np.pad((out[0] == 0).any(axis=0).astype(int), 1))))[::2]
    assert runs.min() >= 32


def test_flip_mirrors_left_and_right() -> None:
    assert np.array_equal(build("HorizontalFlip")(textured(), 0), textured()[:, :, ::-1])


def test_quarter_turns_are_equally_likely() -> None:
    image = textured()
    turns = [np.rot90(image, k, (1, 2)) for k in range(4)]
    augment = build("RandomRotate90")
    found = []
    for seed in range(200):
        out = augment(image, seed)
        found.append(next(k for k in range(4) if np.array_equal(out, turns[k])))
    assert np.bincount(found, minlength=4).min() > 30


def displacement(name: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (dx, dy) in pixels, each (256, 256): where the pixels of the result came from."""
    out = build(name, 256)(ramps(), seed).astype(float)
    y, x = np.mgrid[:256, :256]
    return out[0] - x, out[1] - y


def affine_matrix(name: str, seed: int) -> np.ndarray:
    """Return the 2 x 3 matrix (result x, y, 1) -> (source x, y), fitted to the middle of the image."""
    dx, dy = displacement(name, seed)
    y, x = np.mgrid[96:160, 96:160]
    middle = (slice(96, 160), slice(96, 160))
    grid = np.stack([x.ravel() - 127.5, y.ravel() - 127.5, np.ones(x.size)], axis=1)
    fits = [np.linalg.lstsq(grid, (d[middle] + g).ravel() - 127.5, rcond=None)[0] for d, g in ((dx, x), (dy, y))]
    return np.stack(fits)


def test_affine_shifts_scales_and_turns_within_its_limits() -> None:
    matrices = np.stack([affine_matrix("Affine", seed) for seed in range(40)])
    turn = np.degrees(np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0]))
    scale = 1 / np.hypot(matrices[:, 0, 0], matrices[:, 1, 0])
    shift = np.abs(matrices[:, :, 2]).max(axis=1) / 256
    assert 22 < np.abs(turn).max() < 31
    assert 0.89 < scale.min() < 0.93
    assert 1.07 < scale.max() < 1.11
    assert 0.03 < shift.max() < 0.08  # .05 on both axes, turned and scaled
    sheared = matrices[:, 0, 0] - matrices[:, 1, 1], matrices[:, 0, 1] + matrices[:, 1, 0]
    assert np.abs(sheared).max() < 0.02  # a similarity: both axes scale alike


def test_shear_slants_up_to_five_degrees_and_does_not_turn() -> None:
    matrices = np.stack([affine_matrix("Affine 2", seed) for seed in range(40)])
    slants = np.degrees(np.arctan(matrices[:, [0, 1], [1, 0]]))
    assert 4 < np.abs(slants).max() < 5.3
    assert np.abs(matrices[:, [0, 1], [0, 1]] - 1).max() < 0.02


def test_elastic_moves_pixels_by_about_three_without_folding() -> None:
    dx, dy = np.stack([displacement("ElasticTransform", seed) for seed in range(6)], axis=1)[..., 20:-20, 20:-20]
    assert 2 < dx.std() < 4
    assert 2 < dy.std() < 4
    assert abs(np.corrcoef(dx.ravel(), dy.ravel())[0, 1]) < 0.3
    apart = dx[..., 8:] - dx[..., :-8]
    assert apart.min() > -8  # pixels 8 apart keep their order


def test_optical_distortion_bends_along_the_radius() -> None:
    # r is in units of the image's edge: x moves by k r^2 x, at the middle of an edge .05 * .25 * 128 = 1.6 px
    edges = []
    for seed in range(20):
        dx, dy = displacement("OpticalDistortion", seed)
        assert np.abs(dx[118:138, 118:138]).max() <= 1
        assert np.abs(dx[:, 5] + dx[:, -6]).max() <= 3  # left and right move against each other
        assert np.abs(dy[:, 128]).max() <= 3
        edges.append(abs(dx[30:226, 6]).max())
    assert max(edges) >= 1


def test_grid_distortion_stretches_in_steps() -> None:
    strongest = 0.0
    for seed in range(10):
        dx, dy = displacement("GridDistortion", seed)
        assert np.abs(np.diff(dx[20:-20, 20:-20], axis=0)).max() <= 1  # columns stay straight
        assert np.abs(np.diff(dy[20:-20, 20:-20], axis=1)).max() <= 1
        strongest = max(strongest, np.abs(dx).max())
    assert 8 < strongest < 0.3 * 256


@pytest.mark.parametrize("name", ["GaussianBlur", "MotionBlur", "MedianBlur"])
def test_blur_lowers_noise_and_keeps_brightness_and_place(name: str) -> None:
    noisy = np.random.default_rng(0).integers(60, 190, (4, CROP, CROP), np.uint8)
    dot = np.zeros((4, CROP, CROP), np.uint8)
    dot[:, 44:53, 44:53] = 240
    augment = build(name)
    for seed in range(12):
        out = augment(noisy, seed)
        assert (out.std(axis=(1, 2)) < 0.85 * noisy.std(axis=(1, 2))).all()
        assert abs(out.mean() - noisy.mean()) < 3
        weights = augment(dot, seed).astype(float)
        middle = (weights * np.arange(CROP)).sum(axis=(1, 2)) / weights.sum(axis=(1, 2))
        np.testing.assert_allclose(middle, 48, atol=0.05)


def test_motion_blur_is_along_one_line() -> None:
    dot = np.zeros((4, CROP, CROP), np.uint8)
    dot[:, 48, 48] = 240
    lengths = [int((build("MotionBlur")(dot, seed)[3] > 0).sum()) for seed in range(20)]
    assert set(lengths) <= {3, 4, 5}
    assert {3, 5} <= set(lengths)


def test_gamma_bends_between_the_limits_on_every_channel() -> None:
    image, exponents = flat(64), []
    for seed in range(40):
        out = build("RandomGamma")(image, seed)
        assert np.ptp(out) == 0
        exponents.append(np.log(out[3, 0, 0] / 255) / np.log(64 / 255))
    assert 0.79 < min(exponents) < 0.86
    assert 1.14 < max(exponents) < 1.21


def test_brightness_follows_the_images_own_mean() -> None:
    augment = build("RandomBrightnessContrast")
    dim = np.array([augment(flat(20), seed).mean() for seed in range(60)])
    assert 12 <= dim.min() < 15
    assert 25 < dim.max() <= 28
    assert all((augment(flat(0), seed) == 0).all() for seed in range(5))  # black stays black


def test_steps_are_used_as_often_as_asked() -> None:
    group: dict[str, Any] = {
        "op": "OneOf",
        "p": 0.5,
        "of": [{"op": "HorizontalFlip"}, {"op": "InvertImg", "weight": 0.5}],
    }
    augment = build_augment([CROP_STEP, group], 2)
    image = np.array([[[0, 1], [0, 1]]] * 4, np.uint8)
    seen = np.array([int(augment(image, seed)[0, 0, 0]) for seed in range(900)])
    assert np.mean(seen == 0) == pytest.approx(1 / 2, abs=0.05)
    assert np.mean(seen == 1) == pytest.approx(1 / 3, abs=0.05)
    assert np.mean(seen == 255) == pytest.approx(1 / 6, abs=0.05)
