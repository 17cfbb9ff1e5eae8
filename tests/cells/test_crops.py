import numpy as np
import pytest

from wsss.cells.instances import cell_boxes, crop_batches
from wsss.core.checks import ConfigError
from wsss.options.scoring import CropConfig


def field() -> tuple[np.ndarray, np.ndarray]:
    """Cell 2 in the corner (4 x 2), cell 40 of one pixel, cell 7 (64 x 32) larger than the windows; bright around."""
    image = np.full((4, 90, 90), 200, np.uint8)
    image[1] = 100
    label_map = np.zeros((90, 90), np.int32)
    label_map[:4, :2], label_map[89, 89], label_map[10:74, 10:42] = 2, 40, 7
    return image, label_map


def crops_of(config: CropConfig) -> dict[int, np.ndarray]:
    image, label_map = field()
    crops = [crop for batch in crop_batches([(image, label_map)], config) for crop in batch]
    return dict(zip(cell_boxes(label_map)[0].tolist(), crops, strict=True))


def test_boxes_are_half_open_and_in_the_order_of_the_ids() -> None:
    ids, boxes = cell_boxes(field()[1])
    assert ids.tolist() == [2, 7, 40]
    assert boxes.tolist() == [[0, 0, 4, 2], [10, 10, 74, 42], [89, 89, 90, 90]]


def test_fit_fills_the_longer_side_and_centres_the_shorter_one() -> None:
    crop = crops_of(CropConfig(size=32))[2]
    assert crop.shape == (4, 32, 32)
    assert (crop[0, :, 8:24] == 200).all()
    assert (crop[1, :, 8:24] == 100).all()
    assert not crop[:, :, :8].any()
    assert not crop[:, :, 24:].any()


def test_a_cell_of_one_pixel_fills_the_whole_crop() -> None:
    assert (crops_of(CropConfig(size=32))[40][0] == 200).all()


def test_stored_keeps_the_scale_and_shrinks_only_what_is_too_large() -> None:
    crops = crops_of(CropConfig(mode="stored", size=32))
    assert int((crops[2][0] > 0).sum()) == 8
    assert int((crops[40][0] > 0).sum()) == 1
    assert (crops[7][0, :, 8:24] == 200).all()
    assert not crops[7][0, :, :8].any()


def test_the_margin_stays_black_on_every_side() -> None:
    crop = crops_of(CropConfig(size=36, margin=0.25))[2]
    assert (crop[0].any(axis=1).nonzero()[0][[0, -1]] == [6, 29]).all()


def test_other_cells_and_the_background_are_black() -> None:
    image = np.full((4, 32, 32), 9, np.uint8)
    label_map = np.ones((32, 32), np.int32)
    label_map[:16, 16:] = 2
    (crops,) = crop_batches([(image, label_map)], CropConfig(size=32))
    assert (crops[0, 0] == 9 * (label_map == 1)).all()


def test_batches_hold_the_same_crops_as_one_batch() -> None:
    whole, single = crops_of(CropConfig(size=32)), crops_of(CropConfig(size=32, batch=1))
    assert list(whole) == list(single) == [2, 7, 40]
    assert all((whole[cell] == single[cell]).all() for cell in whole)


def test_an_image_without_cells_gives_no_batches() -> None:
    assert list(crop_batches([(np.zeros((4, 5, 5), np.uint8), np.zeros((5, 5), np.int32))], CropConfig())) == []


def test_bad_options_and_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="mode"):
        CropConfig(mode="square")
    with pytest.raises(ValueError, match="label map"):
        next(crop_batches([(np.zeros((4, 5, 5), np.uint8), np.zeros((6, 5), np.int32))], CropConfig()))


def test_batches_over_several_images_hold_the_crops_of_each_image_in_order() -> None:
    first, second = field(), (field()[0] // 2, np.roll(field()[1], 5, axis=1))
    config = CropConfig(size=32, batch=4)
    alone = [crop for image in (first, second) for crops in crop_batches([image], config) for crop in crops]
    batches = list(crop_batches([first, second], config))
    assert [len(batch) for batch in batches] == [4, 2]
    np.testing.assert_array_equal(np.concatenate(batches), alone)
