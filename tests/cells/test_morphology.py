import numpy as np

from wsss.cells.instances import drop_small, fill_cells, fill_holes, renumber


def test_drop_small_keeps_the_ids_of_the_others() -> None:
    labels = np.array([[5, 5, 0], [5, 9, 0]])
    np.testing.assert_array_equal(drop_small(labels, 2), [[5, 5, 0], [5, 0, 0]])


def test_renumber_closes_gaps_and_clears_what_the_first_map_lacks() -> None:
    cells, nuclei = renumber(np.array([[0, 7, 3]]), np.array([[9, 7, 0]]))
    np.testing.assert_array_equal(cells, [[0, 2, 1]])
    np.testing.assert_array_equal(nuclei, [[0, 2, 0]])


def test_fill_holes_leaves_large_ones_and_bays_of_the_border() -> None:
    mask = np.ones((7, 9), bool)
    mask[2, 2] = mask[0, 4] = False
    mask[3:5, 5:8] = False
    filled = fill_holes(mask, 4)
    assert filled[2, 2]
    assert not filled[0, 4]
    assert not filled[3:5, 5:8].any()


def test_fill_cells_fills_what_one_cell_encloses_only() -> None:
    labels = np.full((5, 8), 1)
    labels[:, 4:] = 2
    labels[2, 2] = labels[2, 3:5] = 0
    labels[2, 6] = 0
    labels[2, 2] = 1
    filled = fill_cells(labels)
    assert filled[2, 6] == 2
    assert (filled[2, 3:5] == 0).all()


def test_renumber_takes_ids_far_beyond_the_pixels_of_the_map() -> None:
    cells, nuclei = renumber(np.array([[0, 2_000_000_000, 3]]), np.array([[2_147_483_647, 2_000_000_000, 2]]))
    np.testing.assert_array_equal(cells, [[0, 2, 1]])
    np.testing.assert_array_equal(nuclei, [[0, 2, 0]])
