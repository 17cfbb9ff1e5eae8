"""Shares of cells by condition, intervals over images."""

import tracemalloc

import numpy as np

from wsss.metrics.weighted import difference, group_shares


def screen(
    rng: np.random.Generator, shares: list[float], images: int = 20
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return counted cells, images and groups; images of a group differ."""
    counted, image, group = [], [], []
    for number, share in enumerate(shares):
        for k in range(images):
            own = np.clip(share + rng.normal(0, 0.15), 0, 1)
            hits = rng.random(25) < own
            counted += [[hit, not hit] for hit in hits]
            image += [number * images + k] * 25
            group += [number] * 25
    return np.array(counted, float), np.array(image), np.array(group)


def test_intervals_cover_the_share_of_further_images() -> None:
    inside, narrow = [], []
    for seed in range(60):
        counted, image, group = screen(np.random.default_rng(seed), [0.4])
        (own,) = group_shares(counted, image, group, ["a"], 200)
        inside.append(own.low[0] <= 0.4 <= own.high[0])
        width = 2 * 1.96 * np.sqrt(own.share[0] * (1 - own.share[0]) / own.cells)
        narrow.append(width < own.high[0] - own.low[0])
    assert np.mean(inside) > 0.88
    assert np.mean(narrow) > 0.9, "cells of one image are alike: counting cells alone would be too sure"


def test_a_difference_is_found_and_none_is_not() -> None:
    counted, image, group = screen(np.random.default_rng(1), [0.2, 0.5, 0.2])
    control, drug, again = group_shares(counted, image, group, ["control", "drug", "again"])
    value, low, high = difference(drug, control)
    assert 0 < low[0] < value[0] < high[0]
    assert difference(again, control)[1][0] < 0 < difference(again, control)[2][0]
    np.testing.assert_allclose(drug.share.sum(), 1)


def test_memory_does_not_grow_with_images_times_resamples() -> None:
    images = np.arange(20_000)
    tracemalloc.start()
    group_shares(np.ones((len(images), 1)), images, np.zeros(len(images), int), ["a"], rounds=100)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 20 * images.nbytes


def test_few_images_have_a_share_without_interval() -> None:
    (own,) = group_shares(np.ones((4, 1)), np.array([0, 0, 1, 1]), np.zeros(4, int), ["a"])
    assert own.share[0] == 1.0
    assert np.isnan(own.low[0])
    assert np.isnan(difference(own, own)[1][0])
