import numpy as np
import pytest
from composing import scenes as cell_scenes
from composing.scenes import EDGE, Zoomed, compose_scene, drawn_scene, find_nuclei, photograph_scene


class Round:
    """A bank of round cells with a round nucleus."""

    by_class = {0: ["a"], 16: ["b"]}

    def draw(self, label: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        away = np.hypot(*np.mgrid[-60:60, -60:60])
        body, nucleus = away < 55, away < 22
        return np.stack([120 * body, 90 * body, 200 * nucleus + 5 * body, 100 * body]).astype(np.float32), body


@pytest.mark.parametrize("seed", range(3))
def test_a_scene_is_light_with_its_truth(seed: int) -> None:
    scene = compose_scene(Round(), np.random.default_rng(seed))
    assert scene.light.shape == (3, EDGE, EDGE)
    assert scene.target.shape == (4, EDGE, EDGE)
    nuclei, cells = scene.target[:2].any(axis=0), scene.target[2:].any(axis=0)
    assert nuclei.any()
    assert not (nuclei & ~cells).any()
    assert scene.light[0][cells].mean() > 5 * scene.light[0][~cells].mean()
    assert not (scene.target[0] & scene.target[1]).any()


def test_fields_of_nuclei_alone_take_the_nucleus_for_the_cell() -> None:
    cell, mask = cell_scenes.NucleiOnly(Round()).draw(0, np.random.default_rng(0))
    assert mask.sum() == pytest.approx(np.pi * 22**2, rel=0.1)
    np.testing.assert_array_equal(cell[0], cell[2])


def test_the_nucleus_is_the_largest_bright_part_of_each_cell() -> None:
    cells = np.zeros((60, 120), np.int32)
    cells[5:55, 5:55], cells[5:55, 62:115] = 3, 7
    blue = 10.0 * (cells > 0)
    blue[20:40, 15:35] = blue[15:35, 80:100] = 150
    blue[45:49, 100:104] = 150
    blue[27:31, 22:26] = 10  # a nucleolus is a part of the nucleus
    nuclei = find_nuclei(blue, cells)
    assert set(np.unique(nuclei)) == {0, 3, 7}
    assert (nuclei == 3).sum() == pytest.approx(400, rel=0.15)
    assert nuclei[29, 24] == 3
    assert nuclei[47, 102] == 0
    assert not find_nuclei(np.zeros_like(blue), cells).any()


def test_zoomed_cells_change_their_size_alone() -> None:
    cell, mask = Zoomed(Round(), 0.5).draw(0, np.random.default_rng(0))
    assert mask.shape == (60, 60)
    assert mask.sum() == pytest.approx(np.pi * 27.5**2, rel=0.05)
    assert cell[0][mask].mean() == pytest.approx(120, rel=0.1)


def test_pictures_of_a_scene_differ_and_keep_image_and_target_together() -> None:
    scene = drawn_scene(np.random.default_rng(1))
    pictures = [photograph_scene(scene, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(pictures[0][0], pictures[1][0])
    assert (pictures[0][0] != pictures[2][0]).any()
    for image, target in pictures:
        assert image.dtype == np.uint8
        nuclei = target[:2].any(axis=0)
        assert target.sum() == scene.target.sum()
        assert image[1][nuclei].mean() > 1.2 * image[1][~nuclei].mean()
