"""Run-length text of Kaggle: both orders, exact both ways, and broken texts refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from wsss.core.checks import DataError
from wsss.core.rle import Order, decode_pairs, encode_pairs

SMALL = np.array([[1, 0, 1], [1, 0, 1]])
orders = pytest.mark.parametrize("order", ["columns", "rows"])


def test_pixels_are_counted_from_one_down_the_columns_or_along_the_rows() -> None:
    assert encode_pairs(SMALL) == "1 2 5 2"
    assert encode_pairs(SMALL, "rows") == "1 1 3 2 6 1"


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=12)), st.sampled_from(["columns", "rows"]))
def test_any_mask_comes_back(mask: np.ndarray, order: Order) -> None:
    assert np.array_equal(decode_pairs(encode_pairs(mask, order), mask.shape, order), mask)


@orders
@pytest.mark.parametrize("kind", ["empty", "full", "checks", "first", "last"])
def test_extreme_masks_come_back(order: Order, kind: str) -> None:
    mask = np.zeros((101, 77), bool)
    if kind == "full":
        mask[:] = True
    elif kind == "checks":
        mask[::2, ::2] = mask[1::2, 1::2] = True
    elif kind in ("first", "last"):
        mask.flat[0 if kind == "first" else -1] = True
    assert np.array_equal(decode_pairs(encode_pairs(mask, order), (101, 77), order), mask)
    assert (encode_pairs(mask, order) == "") == (kind == "empty")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2 3", "im7 has 3 numbers, expected pairs"),
        ("5 3", "im7 runs to pixel 7, but the image of 2 x 3 has 6"),
        ("0 2", "start or length of 0"),
        ("2 0", "start or length of 0"),
        ("1 3 2 1", "overlap"),
        ("4 1 1 1", "overlap"),
        ("1 two", "im7 holds 'two'"),
        ("1 2.0", "im7 holds '2.0'"),
        ("-1 2", "im7 holds '-1'"),
        ("1 99999999999999999999", "im7 holds '9999"),
    ],
)
def test_broken_texts_are_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        decode_pairs(text, (2, 3), where="im7")
    assert "\n" not in str(caught.value)
