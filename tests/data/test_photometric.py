import numpy as np
import pytest

from wsss.core.checks import ConfigError
from wsss.data import photometric as robust

FLAT = np.full((4, 64, 80), 100, np.uint8)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("name", robust.OPS)
def test_every_op_keeps_form_and_input_and_repeats_itself(name: str) -> None:
    image = rng(1).integers(0, 256, (4, 50, 70), np.uint8)
    before = image.copy()
    out = robust.OPS[name](image, rng(5))
    assert out.shape == image.shape
    assert out.dtype == np.uint8
    assert np.array_equal(image, before)
    assert not np.array_equal(out, before)
    assert np.array_equal(out, robust.OPS[name](image, rng(5)))
    assert not np.array_equal(out, robust.OPS[name](image, rng(6)))


@pytest.mark.parametrize("name", robust.OPS)
def test_every_op_takes_views_and_odd_shapes(name: str) -> None:
    image = rng(1).integers(0, 256, (31, 7, 4), np.uint8).transpose(2, 0, 1)
    out = robust.OPS[name](image, rng())
    assert np.array_equal(out, robust.OPS[name](np.ascontiguousarray(image), rng()))


def test_protein_gain_scales_green_alone_and_saturates() -> None:
    image = np.stack([np.full((4, 4), value, np.uint8) for value in (10, 200, 30, 40)])
    out = robust.protein_gain(image, rng(), gain_range=(0.5, 0.5))
    assert out[:, 0, 0].tolist() == [10, 100, 30, 40]
    assert robust.protein_gain(image, rng(), gain_range=(2, 2))[1].max() == 255


def test_protein_gain_covers_its_range_evenly_on_a_log_scale() -> None:
    gains = np.array([robust.protein_gain(FLAT, rng(s), (0.25, 1.0))[1, 0, 0] / 100 for s in range(400)])
    assert 0.24 <= gains.min() < 0.3
    assert 0.95 < gains.max() <= 1.0
    assert np.mean(gains < 0.5) == pytest.approx(0.5, abs=0.1)


def test_uneven_light_is_one_smooth_field_for_all_channels() -> None:
    out = robust.uneven_light(FLAT, rng(), strength_range=(0.4, 0.4)).astype(int)
    assert np.array_equal(out[0], out[3])
    assert out.min() >= 60
    assert out.max() <= 140
    assert np.ptp(out) > 30
    assert np.abs(np.diff(out[0], axis=1)).max() <= 6


def test_haze_lifts_the_dark_and_dims_the_bright() -> None:
    image = np.zeros((4, 64, 64), np.uint8)
    image[:, 24:40, 24:40] = 200
    out = robust.haze(image, rng(), amount_range=(0.5, 0.5), sigma=8)
    assert out[0, 30, 30] < 200
    assert out[0, 0, 0] >= 20  # half of the veil
    assert out[0, 32, 20] > out[0, 32, 0]


def test_photon_noise_has_the_variance_of_counted_photons() -> None:
    for value in (50, 150):
        image = np.full((4, 128, 128), value, np.uint8)
        noise = robust.photon_noise(image, rng(), photons_range=(60, 60)).astype(float) - value
        assert noise.var() == pytest.approx(value * 255 / 60, rel=0.05)
        assert abs(noise.mean()) < 0.5
        assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.05
    assert not robust.photon_noise(np.zeros((4, 8, 8), np.uint8), rng()).any()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("ProteinGain", {"gain_range": (0, 1)}),
        ("UnevenLight", {"strength_range": (0.5, 0.1)}),
        ("PhotonNoise", {"photons_range": (float("nan"), 9)}),
    ],
)
def test_a_range_without_sense_is_refused(name: str, values: dict[str, tuple[float, float]]) -> None:
    with pytest.raises(ConfigError, match="_range is"):
        robust.OPS[name](FLAT, rng(), **values)
