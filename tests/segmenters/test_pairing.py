import numpy as np
import pytest

from wsss.cells.instances import pair_nuclei


def test_nuclei_get_the_id_of_the_cell_that_holds_most_of_them() -> None:
    cells = np.array([[7, 7, 7, 3, 3, 3, 0, 9]])
    nuclei = np.array([[0, 5, 5, 5, 0, 2, 4, 0]])
    found_cells, found_nuclei = pair_nuclei(cells, nuclei)
    np.testing.assert_array_equal(found_cells, [[2, 2, 2, 1, 1, 1, 0, 3]])
    np.testing.assert_array_equal(found_nuclei, [[0, 2, 2, 0, 0, 1, 0, 0]])


def test_several_nuclei_may_share_a_cell() -> None:
    _, nuclei = pair_nuclei(np.ones((1, 5), int), np.array([[1, 0, 2, 0, 3]]))
    np.testing.assert_array_equal(nuclei, [[1, 0, 1, 0, 1]])


def test_empty_maps_stay_empty_and_sizes_must_match() -> None:
    none = np.zeros((2, 3), int)
    for found in pair_nuclei(none, none) + pair_nuclei(none, none + 1):
        assert not found.any()
    with pytest.raises(ValueError, match="must match"):
        pair_nuclei(none, none[:1])
