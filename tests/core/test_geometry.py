import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsss.core.label_maps import Geometry

EDGES = st.integers(1, 90)


@settings(deadline=None, max_examples=200)
@given(EDGES, EDGES, st.integers(8, 64))
def test_content_touches_the_square_on_its_longer_side_and_fits(height: int, width: int, size: int) -> None:
    geometry = Geometry(height, width, size)
    assert max(geometry.content_height, geometry.content_width) == size
    assert min(geometry.content_height, geometry.content_width) >= 1


@settings(deadline=None, max_examples=200)
@given(EDGES, EDGES, st.integers(8, 64))
def test_labels_come_back_unchanged_through_a_finer_grid(height: int, width: int, size: int) -> None:
    geometry = Geometry(height, width, size)
    label_map = np.arange(height * width, dtype=np.int32).reshape(height, width)
    stored = geometry.labels_to_store(label_map)
    native = geometry.labels_to_native(stored)
    assert native.shape == label_map.shape
    assert set(np.unique(native)) <= set(np.unique(label_map))
    if geometry.scale >= 1:
        assert (native == label_map).all()


@settings(deadline=None, max_examples=100)
@given(EDGES, EDGES, st.integers(8, 64))
def test_a_constant_image_stays_constant_and_padding_is_zero(height: int, width: int, size: int) -> None:
    geometry = Geometry(height, width, size)
    stored = geometry.image_to_store(np.full((4, height, width), 77, np.uint8))
    assert (stored[:, : geometry.content_height, : geometry.content_width] == 77).all()
    assert stored.sum() == 77 * 4 * geometry.content_height * geometry.content_width


def test_shrinking_averages_so_that_fine_stripes_do_not_alias() -> None:
    stripes = np.zeros((4, 64, 64), np.uint8)
    stripes[:, :, ::2] = 200
    assert (Geometry(64, 64, 16).image_to_store(stripes) == 100).all()


def test_an_image_of_the_stored_size_is_stored_as_it_is() -> None:
    image = np.random.default_rng(0).integers(0, 256, (4, 32, 32), dtype=np.uint8)
    assert (Geometry(32, 32, 32).image_to_store(image) == image).all()


@pytest.mark.parametrize("shape", [(1, 1), (3, 5000), (40000, 2)])
def test_extreme_shapes_are_stored_and_mapped_back(shape: tuple[int, int]) -> None:
    geometry = Geometry(*shape, 64)
    assert geometry.image_to_store(np.full((4, *shape), 9, np.uint8)).max() == 9
    assert geometry.labels_to_native(np.ones((64, 64), np.int32)).shape == shape


def test_a_map_at_stored_size_is_taken_as_it_is() -> None:
    stored = np.arange(256, dtype=np.int32).reshape(16, 16)
    assert (Geometry(40, 30, 16).labels_to_store(stored) == stored).all()


def test_image_and_label_map_stay_aligned() -> None:
    mask = np.zeros((200, 120), np.int32)
    mask[40:120, 28:92] = 1
    geometry = Geometry(200, 120, 50)
    pixels = geometry.image_to_store(np.repeat(mask[None].astype(np.uint8) * 200, 4, 0))
    assert ((pixels[0] > 100) == (geometry.labels_to_store(mask) == 1)).all()
