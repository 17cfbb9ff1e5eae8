import numpy as np

from wsss.segmenters.cell_unet import stretch


def planes(gain: float, offset: float = 0) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.rint(np.sort(rng.uniform(0, 100, (3, 40, 50)), axis=2) * gain + offset).astype(np.uint8)


def test_bright_and_dim_images_become_alike() -> None:
    bright, dim = stretch(planes(2.5)).astype(int), stretch(planes(0.8, 30)).astype(int)
    assert np.abs(bright - dim).mean() < 4
    assert bright.max() == 255
    assert bright.min() == 0


def test_a_plane_without_contrast_stays_dark() -> None:
    flat = np.random.default_rng(1).integers(10, 13, (1, 40, 40)).astype(np.uint8)
    assert stretch(flat).max() < 100
    assert stretch(np.zeros((1, 3, 3), np.uint8)).max() == 0
    assert stretch(np.full((2, 1, 1), 255, np.uint8)).shape == (2, 1, 1)
