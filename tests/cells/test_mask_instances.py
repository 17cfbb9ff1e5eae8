"""Objects from probability maps: touching ones parted, small ones dropped."""

import numpy as np
import pytest
from scipy.ndimage import find_objects, gaussian_filter, label

from wsss.cells.instances import REACH, mask_channel, objects_of, without_small
from wsss.metrics.instances import overlap
from wsss.training.tasks.masks import make_target

DISCS = np.zeros((40, 70), np.int32)
ROWS, COLUMNS = np.indices(DISCS.shape)
for number, (y, x) in enumerate([(20, 20), (20, 41)], 1):
    DISCS[(np.hypot(ROWS - y, COLUMNS - x) < 11) & (DISCS == 0)] = number
SQUARES = np.zeros((30, 40), np.int32)
SQUARES[5:25, 5:20], SQUARES[5:25, 20:35] = 1, 2


def probs_of(label_map: np.ndarray, kind: str) -> np.ndarray:
    target = make_target(label_map, np.zeros(label_map.shape, bool), kind, 2)
    return 0.05 + 0.9 * target.astype(np.float32)


@pytest.mark.parametrize("kind", ["border", "softmax"])
@pytest.mark.parametrize("truth", [DISCS, SQUARES], ids=["discs", "squares"])
def test_a_border_channel_parts_touching_objects(kind: str, truth: np.ndarray) -> None:
    found = objects_of(probs_of(truth, kind), kind)
    assert found.max() == 2
    assert np.array_equal(found > 0, truth > 0)
    for number in (1, 2):
        own = found == np.bincount(found[truth == number]).argmax()
        assert (own & (truth == number)).sum() / (own | (truth == number)).sum() > 0.9


def test_the_binary_mask_is_parted_at_its_waist() -> None:
    found = objects_of(probs_of(DISCS, "binary"), "binary")
    assert found.max() == 2
    assert found[20, 15] != found[20, 46]


@pytest.mark.parametrize("kind", ["binary", "border", "softmax"])
def test_nothing_gives_nothing(kind: str) -> None:
    empty = np.zeros((9, 9), np.int32)
    assert not objects_of(probs_of(empty, kind), kind).any()


@pytest.mark.parametrize("kind", ["binary", "border", "softmax"])
def test_the_mask_channel_holds_the_borders_too(kind: str) -> None:
    assert np.array_equal(mask_channel(probs_of(SQUARES, kind), kind) > 0.5, SQUARES > 0)


def test_a_mask_between_inside_and_border_has_no_crack() -> None:
    probs = np.zeros((2, 12, 12), np.float32)
    probs[0, 2:10, 2:7], probs[1, 2:10, 7:10] = 0.9, 0.9
    probs[:, 2:10, 6] = 0.45  # of the object for sure, whether inside or border
    found = objects_of(probs, "border")
    assert found.max() == 1
    assert (found[2:10, 2:10] == 1).all()


def test_a_part_of_the_mask_without_a_seed_is_an_object() -> None:
    probs = np.zeros((2, 12, 20), np.float32)
    probs[0, 2:10, 2:8] = 0.9
    probs[1, 4:8, 12:16] = 0.9  # so small that all of it is border
    assert objects_of(probs, "border").max() == 2


def test_objects_depend_on_their_surroundings_alone() -> None:
    rng = np.random.default_rng(0)
    noise = gaussian_filter(rng.normal(size=(120, 160)), 4)
    probs = 1 / (1 + np.exp(-80 * noise[None]))
    whole = objects_of(probs, "binary")
    parts, count = label(probs[0] >= 0.5, np.ones((3, 3)))
    assert count > 5
    for number, box in enumerate(find_objects(parts), 1):
        window = tuple(slice(max(0, own.start - REACH), own.stop + REACH) for own in box)
        inside = parts[window] == number
        pairs = overlap(
            np.where(inside, objects_of(probs[:, *window], "binary"), 0), np.where(inside, whole[window], 0)
        )
        assert (pairs.iou.max(axis=0) == 1).all()


def test_small_objects_are_dropped_and_numbers_have_no_gaps() -> None:
    label_map = np.array([[1, 0, 2, 2], [0, 0, 2, 5], [5, 5, 5, 5]])
    assert without_small(label_map, 3).tolist() == [[0, 0, 1, 1], [0, 0, 1, 2], [2, 2, 2, 2]]
    assert np.unique(without_small(label_map, 0)).tolist() == [0, 1, 2, 3]


def test_noise_divides_no_large_object_and_smoothing_joins_no_small_ones() -> None:
    y, x = np.mgrid[:120, :160]
    places = [(30 + 20 * k, 110 + 9 * i) for k in range(4) for i in range(2)]
    discs = [(60, 45, 40), *((row, column, 6) for row, column in places)]
    depth = np.max([np.clip(1 - np.hypot(y - row, x - column) / edge, 0, 1) for row, column, edge in discs], axis=0)
    noise = gaussian_filter(np.random.default_rng(0).normal(0, 1, y.shape), 2) * (x < 95)
    probs = np.stack([depth > 0, np.clip(depth + noise / noise.std() / 10, 0, 1)]).astype(np.float32)
    found = objects_of(probs, "distance", min_size=20)
    assert len({*(found[place] for place in places), 0}) == 9
    assert np.bincount(found[:, :95].ravel())[1:].max() > 0.95 * (probs[0, :, :95] > 0).sum()
