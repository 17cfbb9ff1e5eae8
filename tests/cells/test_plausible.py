"""Signs that given label maps are none."""

import numpy as np
import pytest

from wsss.cells.instances import doubt_notes, doubts_of, split_pieces, with_background

CELLS = np.zeros((60, 80), np.int32)
for k, (y, x) in enumerate([(3, 3), (3, 30), (3, 60), (35, 10), (35, 50)], 1):
    CELLS[y : y + 16, x : x + 18] = k


def test_plain_label_maps_raise_no_doubt() -> None:
    assert doubts_of(CELLS) == []
    assert doubts_of(np.zeros((5, 5), np.int32)) == []
    torn = CELLS.copy()
    torn[40] = 0  # two cells of two pieces
    assert doubts_of(torn) == []
    one = np.where(CELLS == 1, 7, 0)
    one[50, 50] = 7  # a speck
    assert doubts_of(one) == []


@pytest.mark.parametrize(
    ("label_map", "doubt"),
    [
        ((CELLS > 0) * 255, "pieces"),
        (np.where(CELLS > 2, 2, (CELLS > 0) * 1), "pieces"),
        ((CELLS == 1) * 255, "binary=255"),
        ((CELLS == 1) * 65535, "binary=65535"),
        (CELLS + 1, "border=1"),
        (np.where(CELLS > 0, CELLS, 9), "border=9"),
        (np.where(np.arange(80) == 54, 0, CELLS + 1), "border=1"),
        (np.kron(np.arange(1, 5).reshape(2, 2), np.ones((9, 9), int)), "full"),
    ],
)
def test_what_is_no_label_map_is_told(label_map: np.ndarray, doubt: str) -> None:
    assert doubts_of(label_map.astype(np.int32)) == [doubt]


def test_cells_without_any_background_are_told_to_be_right_where_they_fill_the_image() -> None:
    for segmenting in (True, False):
        note = doubt_notes({"a": ["full"]}, segmenting=segmenting)[0]
        assert "no pixel is 0, which is right where cells fill the whole image" in note
        assert "if one of the labels is background" in note


def test_a_binary_mask_is_parted_into_its_pieces() -> None:
    np.testing.assert_array_equal(split_pieces((CELLS > 0) * 255), CELLS)


def test_one_note_for_each_kind_names_images() -> None:
    doubts = {"a": ["pieces"], "b": [], "c": ["pieces", "border=7"]}
    notes = doubt_notes(doubts)
    assert len(notes) == 2
    assert "2 images (a, c)" in notes[0]
    assert "--split" in notes[0]
    assert "1 images (c)" in notes[1]
    assert "--background 7" in notes[1]
    assert "--" not in "".join(doubt_notes(doubts, segmenting=False)), "other commands have no such options"


def test_a_single_cell_of_number_1_is_a_mask_only_where_all_images_have_no_other() -> None:
    one = doubts_of((CELLS == 1).astype(np.int32))
    assert doubt_notes({"a": one, "b": one}) == []
    assert doubt_notes(dict.fromkeys("abc", one) | {"d": []}) == []
    assert "as in a binary mask" in doubt_notes(dict.fromkeys("abc", one))[0]


def test_background_of_another_number_changes_places_with_0() -> None:
    np.testing.assert_array_equal(with_background(np.where(CELLS == 0, 9, CELLS), 9), CELLS)
    inverted = np.where(CELLS > 0, 0, 255)
    np.testing.assert_array_equal(split_pieces(with_background(inverted, 255)), CELLS)
