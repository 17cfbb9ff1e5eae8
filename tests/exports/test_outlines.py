import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from wsss.exports.annotations import cell_polygons, geometry, signed_area

shapely = pytest.importorskip("shapely")


def covered(label_map: np.ndarray) -> np.ndarray:
    """Draw the polygons of all cells by asking for every pixel's centre, independently of how they were traced."""
    from shapely.geometry import shape

    out = np.zeros_like(label_map)
    y, x = np.indices(label_map.shape) + 0.5
    for cell, polygons in cell_polygons(label_map).items():
        found = shape(geometry(polygons))
        assert found.is_valid, shapely.is_valid_reason(found)
        assert found.area == (label_map == cell).sum()
        out[shapely.contains_xy(found, x, y)] = cell
    return out


def test_a_single_pixel_is_its_square() -> None:
    label_map = np.zeros((3, 4), int)
    label_map[1, 2] = 7
    ((ring,),) = cell_polygons(label_map)[7]
    assert {tuple(p) for p in ring.tolist()} == {(2, 1), (3, 1), (3, 2), (2, 2)}
    assert len(ring) == 5


def test_straight_sides_have_no_corners_between_their_ends() -> None:
    label_map = np.pad(np.ones((10, 30), int), 2)
    ((ring,),) = cell_polygons(label_map)[1]
    assert len(ring) == 5
    assert abs(signed_area(ring)) == 300


def test_holes_and_several_pieces_are_kept() -> None:
    label_map = np.zeros((12, 20), int)
    label_map[1:11, 1:11] = 3
    label_map[4:6, 4:6] = 0
    label_map[7:9, 7:9] = 5
    label_map[2:4, 14:18] = 3
    found = cell_polygons(label_map)
    assert [len(piece) for piece in found[3]] == [3, 1], "an outer ring with two holes, and a second piece"
    assert [len(piece) for piece in found[5]] == [1]
    np.testing.assert_array_equal(covered(label_map), label_map)


@pytest.mark.parametrize(
    "rows",
    [
        ["110", "101", "011"],  # a piece that meets itself at a corner, with a hole there
        ["1111", "1011", "1101", "1111"],  # two holes that meet at a corner
        ["10", "01"],  # two pieces that meet at a corner
        ["111", "101", "110"],  # a hole that opens at a corner only
        ["11111", "10101", "11011", "10101", "11111"],
    ],
)
def test_corners_where_outlines_meet_give_valid_exact_polygons(rows: list[str]) -> None:
    label_map = np.array([[int(c) for c in row] for row in rows])
    np.testing.assert_array_equal(covered(label_map), label_map)


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(np.int32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.sampled_from([0, 1, 9])))
def test_polygons_cover_exactly_the_pixels_of_any_map(label_map: np.ndarray) -> None:
    np.testing.assert_array_equal(covered(label_map), label_map)


def test_an_empty_map_has_no_outlines() -> None:
    assert cell_polygons(np.zeros((5, 5), int)) == {}
