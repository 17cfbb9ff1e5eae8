"""Drawn salt images: repeatable, some empty, body and ground told apart by more than brightness."""

import numpy as np
from composing.salt import draw_salt


def test_the_same_seed_draws_the_same_and_some_masks_are_empty() -> None:
    drawn = [draw_salt(np.random.default_rng([1, k])) for k in range(40)]
    image, mask = draw_salt(np.random.default_rng([1, 3]))
    assert np.array_equal(image, drawn[3][0])
    assert np.array_equal(mask, drawn[3][1])
    assert (image.shape, image.dtype, mask.shape) == ((101, 101), np.uint8, (101, 101))
    empty = np.mean([not own.any() for _, own in drawn])
    assert 0.2 < empty < 0.6
    assert np.std([own.mean() for _, own in drawn if own.any()]) > 0.1
