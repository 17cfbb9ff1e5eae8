import numpy as np
import pytest

from wsss.segmenters import Field
from wsss.segmenters.classical import segment_field

CENTRES = [(30, 30), (32, 95), (90, 60), (118, 20), (95, 110)]


def draw(edge: int = 128, gain: float = 1.0) -> np.ndarray:
    """Draw five cells of radius 20 with nuclei of radius 8 at edge 128, scaled to `edge`; (4, edge, edge) uint8."""
    rng = np.random.default_rng(0)
    image = rng.poisson(3, (4, edge, edge)).astype(float)
    rows, columns = np.ogrid[:edge, :edge]
    zoom = edge / 128
    for y, x in CENTRES:
        away = np.hypot(rows - y * zoom, columns - x * zoom) / zoom
        image[[0, 3]] += 120 * gain * (away < 20)
        image[2] += 150 * gain * (away < 8)
    return np.clip(image, 0, 255).astype(np.uint8)


def segment(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    maps = segment_field(Field("x", image, *image.shape[1:], max(image.shape)))
    assert maps.nuclei is not None
    return maps.cells, maps.nuclei


@pytest.mark.parametrize("edge", [96, 128, 512, 900])
@pytest.mark.parametrize("gain", [0.3, 1.0])
def test_cells_are_found_at_any_scale_and_brightness(edge: int, gain: float) -> None:
    cells, nuclei = segment(draw(edge, gain))
    assert cells.max() == nuclei.max() == len(CENTRES)
    assert cells.shape == (edge, edge)
    zoom = edge / 128
    ids = [cells[int(y * zoom), int(x * zoom)] for y, x in CENTRES]
    assert sorted(ids) == [1, 2, 3, 4, 5]
    area = np.bincount(cells.ravel())[ids[0]]
    assert area == pytest.approx(np.pi * (20 * zoom) ** 2, rel=0.2)


def test_nuclei_lie_within_the_cells_of_the_same_id() -> None:
    cells, nuclei = segment(draw())
    inside = nuclei > 0
    np.testing.assert_array_equal(cells[inside], nuclei[inside])


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (40, 40)])
@pytest.mark.parametrize("value", [0, 255])
def test_flat_images_have_no_cells(shape: tuple[int, int], value: int) -> None:
    cells, nuclei = segment(np.full((4, *shape), value, np.uint8))
    assert cells.shape == shape
    assert not cells.any()
    assert not nuclei.any()


def test_noise_without_cells_is_not_taken_for_cells() -> None:
    noise = np.random.default_rng(1).poisson(3, (4, 128, 128)).astype(np.uint8)
    assert segment(noise)[0].max() == 0


def test_non_square_images_keep_their_shape() -> None:
    cells, _ = segment(draw()[:, :70])
    assert cells.shape == (70, 128)
    assert cells.max() == 2
