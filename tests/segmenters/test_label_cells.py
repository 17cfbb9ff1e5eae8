import numpy as np
import pytest

from wsss.core.checks import DataError
from wsss.segmenters.packages import label_cells


def grid_maps(
    rows: int, columns: int, pitch: int = 24, gap: int = 4, touching: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a grid of square cells with square nuclei; touching cells have a border map between them."""
    shape = (rows * pitch, columns * pitch, 3)
    nuclei, cells = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    for y in range(0, shape[0], pitch):
        for x in range(0, shape[1], pitch):
            nuclei[y + 8 : y + pitch - 8, x + 8 : x + pitch - 8, 2] = 250
            cells[y + gap // 2 : y + pitch - gap // 2, x + gap // 2 : x + pitch - gap // 2, 2] = 240
    if touching:
        cells[..., 1] = np.where(cells[..., 2] == 0, 200, 0)
    return nuclei, cells


SMALL = {"scale": 0.1}
"""Constants for these small cells: cell area 55, nucleus area 25."""


def test_more_than_255_cells_keep_their_own_numbers() -> None:
    nuclei, cells = label_cells(*grid_maps(18, 20), **SMALL)
    assert cells.max() == nuclei.max() == 360
    assert len(np.unique(cells)) == 361


def test_nuclei_share_the_ids_of_their_cells_and_lie_within() -> None:
    nuclei, cells = label_cells(*grid_maps(3, 5), **SMALL)
    np.testing.assert_array_equal(np.unique(nuclei), np.unique(cells))
    inside = nuclei > 0
    np.testing.assert_array_equal(nuclei[inside], cells[inside])


@pytest.mark.parametrize("shape", [(2, 9), (9, 2)])
def test_non_square_maps_keep_height_and_width(shape: tuple[int, int]) -> None:
    maps = grid_maps(*shape)
    nuclei, cells = label_cells(*maps, **SMALL)
    assert cells.shape == nuclei.shape == maps[0].shape[:2]
    assert cells.max() == 18


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_float_maps_give_the_same_as_uint8(kind: type) -> None:
    nuclei, cells = grid_maps(3, 4)
    as_float = label_cells((nuclei / 255).astype(kind), (cells / 255).astype(kind), **SMALL)
    for one, other in zip(as_float, label_cells(nuclei, cells, **SMALL), strict=True):
        np.testing.assert_array_equal(one, other)


def test_border_and_body_that_sum_above_255_do_not_wrap() -> None:
    nuclei, cells = grid_maps(2, 2)
    cells[..., 1] = np.where(cells[..., 2] > 0, 200, 0)  # 240 + 200 is 184 in uint8
    cells[11:13, :, 1:] = 0
    cells[35:37, :, 1:] = 0
    cells[4:8, 4:20] = [0, 250, 250]
    _, found = label_cells(nuclei, cells, **SMALL)
    assert found.max() == 4
    assert (found[4:8, 4:20] == found[12, 12]).all()


def test_constants_scale_with_the_resolution_of_the_maps() -> None:
    for factor in (1, 2, 3):
        maps = [np.kron(m, np.ones((factor, factor, 1), np.uint8)) for m in grid_maps(3, 3)]
        assert label_cells(*maps, scale=0.1 * factor)[1].max() == 9
    assert label_cells(*grid_maps(3, 3), scale=1.0)[1].max() == 0, "too small for cells at full resolution"


def test_touching_pixels_between_cells_are_shared_out() -> None:
    _, apart = label_cells(*grid_maps(3, 3), **SMALL)
    _, joined = label_cells(*grid_maps(3, 3, touching=True), **SMALL)
    assert joined.max() == 9
    assert (joined > 0).mean() > 0.98 > (apart > 0).mean()


def test_large_maps_are_labelled_like_small_ones_up_to_their_outlines() -> None:
    small = grid_maps(4, 6, touching=True)
    large = [np.kron(m, np.ones((16, 16, 1), np.uint8)) for m in small]
    _, expected = label_cells(*small, **SMALL)
    _, found = label_cells(*large, scale=1.6)
    same = np.kron(expected, np.ones((16, 16), np.int32))
    assert found.max() == 24
    pairs = np.bincount((same * 25 + found).ravel())
    assert sum(sorted(pairs)[-24:]) > 0.98 * found.size


def test_thin_gaps_between_large_nuclei_survive_the_reduction() -> None:
    nuclei = np.zeros((1024, 1024, 3), np.uint8)
    nuclei[300:700, 200:800, 2] = 255
    nuclei[300:700, 499:501, 2] = 0
    cells = np.zeros_like(nuclei)
    cells[200:800, 100:900, 2] = 255
    assert label_cells(nuclei, cells, scale=1.0)[1].max() == 2


def test_borders_between_small_cells_follow_the_valley_to_a_pixel_or_two() -> None:
    edge, pitch = 2048, 128
    rows, columns = np.ogrid[:edge, :edge]
    slanted = columns + rows // 3
    off = np.abs(slanted % pitch - pitch / 2)  # 0 in the middle of a stripe, pitch / 2 on its border
    own = slanted // pitch * (edge // pitch) + rows // pitch
    middle = np.abs(rows % pitch - pitch / 2)
    nuclei, cells = np.zeros((edge, edge, 3), np.uint8), np.zeros((edge, edge, 3), np.uint8)
    nuclei[..., 2] = np.where((off < 20) & (middle < 20), 250, 0)
    cells[..., 2] = np.minimum(np.where(off > 61, 90, 240), np.where(middle > 61, 90, 240))
    _, found = label_cells(nuclei, cells, scale=0.3)
    inner = np.s_[pitch:-pitch, pitch:-pitch]
    owners = np.array([np.bincount(own[found == k]).argmax() for k in range(1, found.max() + 1)])
    wrong = owners[found[inner] - 1] != own[inner]
    assert (found[inner] > 0).all()
    assert wrong.mean() < 0.006, "left at the reduced resolution it would be 0.009"


def test_maps_without_cells_and_of_one_pixel_give_empty_labels() -> None:
    for shape in ((1, 1, 3), (5, 700, 3), (64, 64, 3)):
        nuclei, cells = label_cells(np.zeros(shape, np.uint8), np.zeros(shape, np.uint8))
        assert cells.shape == shape[:2]
        assert not cells.any()
        assert not nuclei.any()


def test_a_cell_without_a_nucleus_is_left_out() -> None:
    nuclei, cells = grid_maps(1, 3)
    nuclei[:, :24] = 0
    assert label_cells(nuclei, cells, **SMALL)[1].max() == 2


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (np.zeros((4, 4), np.uint8), "expected \\(H, W, 3\\)"),
        (np.zeros((4, 4, 3), np.int32), "int32"),
        (np.full((4, 4, 3), 255.0), "from 255 to 255"),
        (np.full((4, 4, 3), np.nan), "nan"),
        (np.zeros((4, 5, 3), np.uint8), "must match"),
    ],
)
def test_maps_that_are_no_probabilities_are_refused(bad: np.ndarray, words: str) -> None:
    with pytest.raises(DataError, match=words):
        label_cells(bad, np.zeros((4, 4, 3), np.uint8))
