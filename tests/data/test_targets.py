"""Targets of mask networks: channels, borders, ignored pixels, weights of gaps."""

import numpy as np
import pytest

from wsss.training.tasks.masks import gap_weights, inner_distance, make_target, touching_border

TWO = np.zeros((7, 12), np.int32)
TWO[1:6, 1:5] = 1
TWO[1:6, 5:9] = 2
NONE = np.zeros(TWO.shape, bool)


def test_the_border_lies_between_touching_objects_alone() -> None:
    border = touching_border(TWO, 1)
    assert border[3].nonzero()[0].tolist() == [4, 5]
    assert not touching_border(np.where(TWO == 1, 1, 0), 2).any()
    assert not touching_border(np.zeros((4, 4), np.int32), 2).any()


def test_objects_have_a_border_at_a_narrow_gap_and_none_at_a_wide_one() -> None:
    row = np.zeros((3, 20), np.int32)
    row[:, :5], row[:, 7:12], row[:, 17:] = 1, 2, 3
    assert touching_border(row, 2)[1].nonzero()[0].tolist() == [4, 7]
    assert not touching_border(row, 1).any()


def test_targets_have_the_channels_of_their_kind() -> None:
    binary, border, softmax = (make_target(TWO, NONE, kind, 1) for kind in ("binary", "border", "softmax"))
    assert np.array_equal(binary[0], TWO > 0)
    assert np.array_equal(border[0] + border[1] > 0, TWO > 0)
    assert (border.sum(axis=0) <= 1).all()
    assert (softmax.sum(axis=0) == 1).all()
    assert np.array_equal(softmax[1:], border)


def test_ignored_pixels_are_255_in_every_channel() -> None:
    ignored = NONE.copy()
    ignored[0, :3] = True
    target = make_target(TWO, ignored, "softmax", 1)
    assert (target[:, ignored] == 255).all()
    assert (target[:, ~ignored] <= 1).all()


def test_gap_weights_are_those_of_the_formula() -> None:
    row = np.zeros((1, 9), np.int32)
    row[0, :3], row[0, 6:] = 1, 2
    weights = gap_weights(row, weight=10, sigma=2)
    # pixels 3, 4, 5 lie 1 + 3, 2 + 2, 3 + 1 px from the two objects
    assert weights[0, 3:6] == pytest.approx(1 + 10 * np.exp(-16 / 8), rel=1e-5)
    assert (weights[0, [0, 8]] == 1).all()


def test_one_object_or_none_weighs_1_everywhere() -> None:
    for label_map in (np.zeros((5, 5), np.int32), np.eye(5, dtype=np.int32)):
        assert (gap_weights(label_map, 10, 2) == 1).all()


def test_the_distance_is_a_share_of_the_largest_in_each_object_and_the_images_edge_is_none_of_its() -> None:
    label_map = np.zeros((12, 30), np.int32)
    label_map[3:8, 3:8] = 1  # 5 x 5: distances 1, 2, 3
    label_map[0:9, 10:29] = 2  # cut by the upper edge: its largest distance is 9, at the edge
    label_map[11, 0] = 5  # a single pixel; ids have gaps
    distance = inner_distance(label_map)
    assert np.allclose(distance[5, 3:8], [1 / 3, 2 / 3, 1, 2 / 3, 1 / 3])
    assert distance[0, 19] == 1
    assert distance[11, 0] == 1
    assert not distance[label_map == 0].any()
    assert np.array_equal(inner_distance(np.full((3, 3), 4, np.int32)), np.ones((3, 3)))
    target = make_target(label_map, label_map == 2, "distance")
    assert target[0, 5, 3:8].tolist() == [1] * 5
    assert target[1, 5, 3:8].tolist() == [85, 169, 254, 169, 85]
    assert (target[:, label_map == 2] == 255).all()
