from dataclasses import replace

import numpy as np
import pytest

from wsss.core.checks import ConfigError
from wsss.data.photometric import Faults, faulty_copy, restain

QUIET = Faults(negatives=0, gain=(1, 1), often=0)


def field() -> tuple[np.ndarray, np.ndarray]:
    """Twenty square cells with gaps in their ids; background 9 everywhere."""
    image, label_map = np.full((4, 60, 60), 9, np.uint8), np.zeros((60, 60), np.int32)
    rng = np.random.default_rng(0)
    for k in range(20):
        part = slice(3 + 11 * (k // 5), 12 + 11 * (k // 5)), slice(3 + 11 * (k % 5), 12 + 11 * (k % 5))
        label_map[part] = 2 * k + 3
        image[(slice(None), *part)] = rng.integers(80, 160, (4, 9, 9))
    return image, label_map


def test_without_faults_the_copy_is_the_image() -> None:
    image, label_map = field()
    copy, emptied = faulty_copy(image, label_map, np.random.default_rng(0), QUIET)
    assert (copy == image).all()
    assert not emptied.any()
    assert emptied.shape == (20,)


def test_emptied_cells_are_dark_in_green_and_only_there() -> None:
    image, label_map = field()
    faults = replace(QUIET, negatives=0.5, glow=(0, 0))
    copy, emptied = restain(image, label_map, np.random.default_rng(0), faults)
    assert 0 < emptied.sum() < 20
    ids = np.unique(label_map)[1:]
    for number, gone in zip(ids, emptied, strict=True):
        inside = label_map == number
        assert (copy[1][inside].max() <= 0.08 * 160 + 1) if gone else (copy[1][inside] == image[1][inside]).all()
    assert (copy[[0, 2, 3]] == image[[0, 2, 3]]).all()
    assert (copy[:, label_map == 0] == 9).all()


def test_autofluorescence_follows_the_other_stains() -> None:
    image, label_map = field()
    image[3][label_map > 0] = 0
    image[0][:, 30:] = np.where(label_map > 0, 200, 9)[:, 30:]
    image[0][:, :30] = np.where(label_map > 0, 20, 9)[:, :30]
    faults = replace(QUIET, negatives=1, left=(0, 0), glow=(0.5, 0.5), level=0)
    copy, _ = restain(image, label_map, np.random.default_rng(0), faults)
    left, right = copy[1][:, :30], copy[1][:, 30:]
    assert right[label_map[:, 30:] > 0].mean() > 5 * left[label_map[:, :30] > 0].mean()


def test_gain_differs_from_cell_to_cell_and_keeps_patterns() -> None:
    image, label_map = field()
    copy, _ = restain(image, label_map, np.random.default_rng(0), replace(QUIET, gain=(0.2, 1)))
    ratios = [copy[1][label_map == k].mean() / image[1][label_map == k].mean() for k in np.unique(label_map)[1:]]
    assert min(ratios) < 0.4
    assert max(ratios) > 0.7
    inside = label_map == 3
    assert np.corrcoef(copy[1][inside], image[1][inside])[0, 1] > 0.98


def test_the_same_seed_gives_the_same_copy() -> None:
    first, second = (faulty_copy(*field(), np.random.default_rng(3))[0] for _ in range(2))
    assert (first == second).all()
    assert (first != faulty_copy(*field(), np.random.default_rng(4))[0]).any()


def test_a_field_without_cells_is_fine() -> None:
    copy, emptied = faulty_copy(field()[0], np.zeros((60, 60), np.int32), np.random.default_rng(0))
    assert copy.shape == (4, 60, 60)
    assert emptied.shape == (0,)


def test_a_range_upside_down_is_refused() -> None:
    with pytest.raises(ConfigError, match="gain"):
        Faults(gain=(1.3, 0.1))
