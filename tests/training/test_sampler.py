import numpy as np
import pytest

from wsss.core.checks import ConfigError, DataError
from wsss.training import loading as samples
from wsss.training.state import World

# 8 images: class 0 in four, class 1 in two, class 2 in one, class 3 in none; the last has no label.
LABELS = np.array(
    [[1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
)


def test_a_class_weighs_one_over_its_images_and_nothing_without_images() -> None:
    assert samples.class_weights(LABELS).tolist() == [1 / 4, 1 / 2, 1 / 2, 0]


def test_an_image_weighs_the_mean_of_its_classes() -> None:
    weights = samples.image_weights(LABELS, "none")
    assert weights.tolist() == [1 / 4, 1 / 4, 1 / 4, 3 / 8, 1 / 2, 1 / 2, 1 / 2, 1]


def test_no_image_weighs_more_than_the_clip_class() -> None:
    assert samples.image_weights(LABELS, "class:0").max() == 1 / 4
    assert samples.image_weights(LABELS, "class:1").tolist() == [1 / 4, 1 / 4, 1 / 4, 3 / 8] + [1 / 2] * 4


@pytest.mark.parametrize(
    ("clip", "expected"),
    [("rank:1", 1), ("rank:2", 2), ("rank:3", 0), ("rank:9", 0), ("class:2", 2), ("none", None)],
)
def test_the_clip_class_is_found_by_rank_among_classes_with_images(clip: str, expected: int | None) -> None:
    assert samples.find_clip_class(LABELS, clip) == expected


@pytest.mark.parametrize("clip", ["rank:0", "rank", "8", "class:4", "third"])
def test_a_wrong_clip_is_named(clip: str) -> None:
    with pytest.raises(ConfigError, match=clip):
        samples.find_clip_class(LABELS, clip)


def test_a_clip_class_without_images_is_named() -> None:
    with pytest.raises(DataError, match="class 3 has no images"):
        samples.find_clip_class(LABELS, "class:3")
    with pytest.raises(DataError, match="no image has a label"):
        samples.image_weights(np.zeros((3, 2)))


def test_an_epoch_is_a_pure_function_of_seed_and_epoch() -> None:
    weights = samples.image_weights(LABELS)
    for given in (weights, None):
        first = samples.draw_epoch(given, 1000, seed=1, epoch=2)
        assert np.array_equal(first, samples.draw_epoch(given, 1000, seed=1, epoch=2))
        assert not np.array_equal(first, samples.draw_epoch(given, 1000, seed=1, epoch=3))
        assert not np.array_equal(first, samples.draw_epoch(given, 1000, seed=2, epoch=2))


def test_without_weights_every_image_comes_once() -> None:
    assert sorted(samples.draw_epoch(None, 50, seed=0, epoch=0)) == list(range(50))


def test_drawn_shares_are_the_expected_ones() -> None:
    weights = samples.image_weights(LABELS)
    drawn = LABELS[samples.draw_epoch(weights, 40_000, seed=0, epoch=0)].mean(axis=0)
    np.testing.assert_allclose(drawn, (weights / weights.sum()) @ LABELS, atol=0.01)


@pytest.mark.parametrize(("n", "world"), [(12, 3), (13, 3), (2, 5), (7, 1)])
def test_shards_hold_every_index_once(n: int, world: int) -> None:
    indices = np.arange(n) * 10
    parts = [World(rank, world).share(indices) for rank in range(world)]
    assert sorted(np.concatenate(parts)) == indices.tolist()
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
