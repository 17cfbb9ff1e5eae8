"""Pseudo-masks from class maps."""

import numpy as np
import pytest

from wsss.core.checks import ConfigError
from wsss.inference.pseudo import adaptive, make_masks, peaks_of, refine, values_of
from wsss.options.pseudo import PseudoConfig

CELLS = np.zeros((16, 16), np.int32)
CELLS[:, :7] = 3
CELLS[:, 9:] = 7


def ramp() -> np.ndarray:
    """One map that rises from left to right."""
    return np.tile(np.arange(16, dtype=np.float32), (1, 16, 1))


def cut(maps: np.ndarray, **options: object) -> np.ndarray:
    config = PseudoConfig(**options)  # type: ignore[arg-type]
    values = values_of(maps, CELLS, config)
    return make_masks(values, peaks_of(values), CELLS, config)


def test_thresholds_make_mask_ignore_band_and_background() -> None:
    found = cut(ramp(), low=0.2, high=0.8, inside_cells=False)[0, 0]
    assert found.tolist() == [0] * 3 + [255] * 9 + [1] * 4


def test_outside_the_cells_nothing_is_of_a_class() -> None:
    found = cut(ramp(), low=0.2, high=0.8)[0, 0]
    assert found.tolist() == [0] * 3 + [255] * 4 + [0] * 2 + [255] * 3 + [1] * 4


def test_cells_are_painted_whole_by_their_mean() -> None:
    found = cut(ramp(), low=0.3, high=0.5, paint="cells")[0]
    assert (found[CELLS == 7] == 1).all()
    assert (found[CELLS != 7] == 0).all()


def test_a_map_that_is_nowhere_positive_says_nothing() -> None:
    found = cut(np.zeros((1, 16, 16), np.float32))[0]
    assert (found[CELLS > 0] == 255).all()
    assert (found[CELLS == 0] == 0).all()


def test_a_peak_of_the_class_makes_weak_images_ignored() -> None:
    config = PseudoConfig()
    values = values_of(ramp(), CELLS, config)
    weak = make_masks(values, np.array([40.0]), CELLS, config)
    assert not (weak == 1).any()
    assert (weak == 255).any()


def test_an_image_without_classes_has_no_masks() -> None:
    assert cut(np.zeros((0, 16, 16), np.float32)).shape == (0, 16, 16)
    assert cut(np.zeros((0, 16, 16), np.float32), paint="cells").shape == (0, 16, 16)


def two_halves(channels: int) -> tuple[np.ndarray, np.ndarray]:
    """A bright right half, and a map that knows only some pixels of it."""
    image = np.zeros((channels, 16, 16), np.float32)
    image[:, :, 8:] = 200
    values = np.zeros((1, 16, 16), np.float32)
    values[0, 6:10, 10:13] = 1
    values[0, 2, 14] = 0.3
    return values, image


@pytest.mark.parametrize("channels", [1, 4, 6])
def test_adaptive_refinement_keeps_to_what_looks_alike(channels: int) -> None:
    values, image = two_halves(channels)
    found = adaptive(values, image)[0]
    assert found[8, 8] > 0.05  # spreads to the edge
    assert found[8, 9:].mean() > 20 * found[8, :8].mean()  # and hardly over it


def test_adaptive_refinement_leaves_an_even_map_alone() -> None:
    _, image = two_halves(2)
    even = np.full((2, 16, 16), 0.4, np.float32)
    assert np.allclose(adaptive(even, image), even, atol=1e-5)


def test_a_walk_decides_the_band_by_the_image() -> None:
    values, image = two_halves(3)
    values[0, 4:12, 5:15] = np.maximum(values[0, 4:12, 5:15], 0.35)  # unsure on both sides of the edge
    found = refine(values, image, PseudoConfig(refine="walk"))[0]
    assert found[8, 8:14].min() > 0.5
    assert found[8, :8].max() < 0.2


def test_a_walk_without_doubt_changes_nothing() -> None:
    values, image = two_halves(1)
    values[values == 0.3] = 0  # type: ignore[comparison-overlap]
    sure = refine(np.round(values), image, PseudoConfig(refine="walk"))
    assert np.array_equal(sure, np.round(values))


def test_odd_options_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"pseudo.low is 0.7, above pseudo.high 0.5"):
        PseudoConfig(low=0.7)
    with pytest.raises(ConfigError, match="needs the cell masks"):
        PseudoConfig(paint="cells", inside_cells=False)
