import numpy as np
import pandas as pd
import pytest

from wsss.cells.regions import GEOMETRY_COLUMNS, describe_cells, measure_cells
from wsss.core.label_maps import Geometry


def test_ids_with_gaps_boxes_centres_and_areas() -> None:
    label_map = np.zeros((6, 10), np.int32)
    label_map[1:3, 2:6] = 70000
    label_map[4:6, 8] = 3
    table = describe_cells(label_map)
    assert table.cell_id.tolist() == [3, 70000]
    assert table[["y0", "x0", "y1", "x1"]].to_numpy().tolist() == [[4, 8, 6, 9], [1, 2, 3, 6]]
    assert table[["center_y", "center_x"]].to_numpy().tolist() == [[4.5, 8.0], [1.5, 3.5]]
    assert table.area_px.tolist() == [2, 8]
    assert table.touches_border.tolist() == [True, False]


def test_an_empty_map_gives_a_table_without_rows_and_all_columns() -> None:
    table = describe_cells(np.zeros((4, 4), np.int32), np.zeros((4, 4), np.int32))
    assert len(table) == 0
    assert {"cell_id", "pieces", "n_nuclei", *GEOMETRY_COLUMNS} <= set(table)


@pytest.mark.parametrize("shape", [(97, 61), (64, 64), (23, 31), (200, 333)])
def test_stored_maps_are_measured_as_their_native_rendering_would_be(shape: tuple[int, int]) -> None:
    geometry = Geometry(*shape, 64)
    stored = np.zeros((64, 64), np.int32)
    height, width = geometry.content_height, geometry.content_width
    stored[2 : height - 3, 3 : width // 2] = 4
    stored[: height // 2, width // 2 + 2 : width] = 9
    found = describe_cells(stored, geometry=geometry)
    native = describe_cells(geometry.labels_to_native(stored))
    columns = ["cell_id", *GEOMETRY_COLUMNS]
    np.testing.assert_allclose(found[columns].to_numpy(float), native[columns].to_numpy(float))


def test_a_map_of_neither_size_is_refused() -> None:
    with pytest.raises(ValueError, match="expected the original"):
        describe_cells(np.zeros((5, 5), np.int32), geometry=Geometry(10, 20, 8))


def test_pieces_count_parts_that_do_not_touch() -> None:
    label_map = np.array([[1, 0, 1, 2], [0, 1, 0, 0], [2, 0, 0, 0]])
    assert describe_cells(label_map).pieces.tolist() == [1, 2]


def test_nuclei_go_to_the_cell_that_holds_most_of_them() -> None:
    cells = np.zeros((8, 12), np.int32)
    cells[:, 0:4], cells[:, 4:8], cells[:, 8:12] = 2, 5, 6
    nuclei = np.zeros_like(cells)
    nuclei[1:3, 1:3] = 11  # in 2
    nuclei[5:7, 2:5] = 12  # two thirds in 2
    nuclei[1:3, 5:7] = 13  # in 5
    assert describe_cells(cells, nuclei).n_nuclei.tolist() == [2, 1, 0]


def test_the_measures_alone_are_those_of_the_whole_description() -> None:
    label_map = np.zeros((40, 40), np.int32)
    label_map[3:12, 0:9], label_map[20:30, 5:25], label_map[35:37, 35:37] = 4, 9, 2
    for geometry in (None, Geometry(100, 80, 40)):
        whole = describe_cells(label_map, geometry=geometry)
        found = measure_cells(label_map, geometry=geometry)
        pd.testing.assert_frame_equal(found, whole[["cell_id", *GEOMETRY_COLUMNS]])
