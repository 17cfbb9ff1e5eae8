import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco

from wsss.core import rle
from wsss.core.checks import DataError


def reference(mask: np.ndarray) -> bytes:
    return coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]


def encode_mask(mask: np.ndarray) -> bytes:
    return rle.encode_label_map(mask, ids=[1])[1]


SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 40))
LABEL_MAPS = SHAPES.flatmap(lambda shape: arrays.arrays(np.int32, shape, elements=st.integers(0, 4)))


@settings(max_examples=200, deadline=None)
@given(LABEL_MAPS)
def test_every_cell_has_the_bytes_of_pycocotools(label_map: np.ndarray) -> None:
    found = rle.encode_label_map(label_map)
    assert list(found) == sorted(set(label_map.ravel().tolist()) - {0})
    for k, counts in found.items():
        assert counts == reference(label_map == k)


@settings(max_examples=100, deadline=None)
@given(LABEL_MAPS)
def test_decode_gives_the_mask_back(label_map: np.ndarray) -> None:
    for k, counts in rle.encode_label_map(label_map, ids=range(1, 5)).items():
        np.testing.assert_array_equal(rle.decode(counts, label_map.shape), label_map == k)


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (700, 1), (33, 257)])
def test_extreme_masks_have_the_bytes_of_pycocotools(shape: tuple[int, int]) -> None:
    corner = np.zeros(shape, bool)
    corner[-1, -1] = True
    rows, columns = np.indices(shape)
    for mask in (np.zeros(shape, bool), np.ones(shape, bool), corner, ~corner, (rows + columns) % 2 == 0):
        assert encode_mask(mask) == reference(mask)


def test_a_large_map_with_long_runs_has_the_bytes_of_pycocotools() -> None:
    label_map = np.zeros((3000, 2000), np.uint16)
    label_map[5:2990, 3:900] = 40000
    label_map[7, 1000:1999] = 7
    for k, counts in rle.encode_label_map(label_map).items():
        assert counts == reference(label_map == k)


def test_one_pixel_off_changes_the_text() -> None:
    mask = np.zeros((6, 5), bool)
    mask[1:4, 1:3] = True
    other = mask.copy()
    other[4, 2] = True
    assert encode_mask(mask) != encode_mask(other)


def test_an_id_that_is_not_there_gives_an_empty_mask() -> None:
    assert rle.encode_label_map(np.zeros((4, 3), np.int32), ids=[9]) == {9: reference(np.zeros((4, 3)))}


def test_a_map_without_cells_gives_no_texts() -> None:
    assert rle.encode_label_map(np.zeros((4, 3), np.int32)) == {}


def test_a_float_map_is_refused() -> None:
    with pytest.raises(ValueError, match="float64"):
        rle.encode_label_map(np.zeros((4, 3)))


@settings(max_examples=100, deadline=None)
@given(LABEL_MAPS)
def test_run_lengths_add_up_to_the_area(label_map: np.ndarray) -> None:
    for k, counts in rle.encode_label_map(label_map).items():
        (runs,) = rle.check([counts], label_map.shape)
        assert runs[1::2].sum() == (label_map == k).sum()


@settings(max_examples=100, deadline=None)
@given(LABEL_MAPS)
def test_run_lengths_of_many_masks_are_those_of_each(label_map: np.ndarray) -> None:
    masks = list(rle.encode_label_map(label_map).values())
    together = rle.check(masks, label_map.shape)
    assert [runs.tolist() for runs in together] == [rle.check([m], label_map.shape)[0].tolist() for m in masks]
    for mask, runs in zip(masks, together, strict=True):
        assert rle.decode(mask, label_map.shape).sum() == runs[1::2].sum()


def test_iou_of_hand_made_masks() -> None:
    a, b = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    a[:2], b[1:3] = True, True
    counts = [encode_mask(a), encode_mask(b)]
    np.testing.assert_allclose(rle.iou(counts[:1], counts, (4, 4)), [[1, 4 / 12]])
    assert rle.iou([], counts, (4, 4)).shape == (0, 2)


def test_submission_text_round_trips() -> None:
    counts = encode_mask(np.eye(9, dtype=bool))
    assert rle.from_submission(rle.to_submission(counts)) == counts


@pytest.mark.parametrize("text", ["", "é", "!!!", "AAAA", rle.to_submission(b"03=")[:-8]])
def test_a_broken_submission_text_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="a mask is"):
        rle.from_submission(text)


@pytest.mark.parametrize("counts", [b"", b" ", b"\xff", b"03P", b"P" * 20 + b"0"])
def test_broken_counts_are_refused(counts: bytes) -> None:
    with pytest.raises(DataError, match="a mask"):
        rle.run_lengths([encode_mask(np.eye(3, dtype=bool)), counts])


def test_a_mask_of_another_size_is_refused() -> None:
    counts = encode_mask(np.ones((4, 4), bool))
    with pytest.raises(DataError, match="16 pixels, expected 4 x 5 = 20"):
        rle.decode(counts, (4, 5))
