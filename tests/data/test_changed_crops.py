"""Crops of single cells as training shows them."""

import numpy as np

from wsss.data.changed_crops import change_crop


def crop() -> np.ndarray:
    image = np.zeros((4, 48, 48), np.uint8)
    image[:, 8:40, 14:34] = np.array([60, 200, 90, 120])[:, None, None]
    return image


def test_the_cell_keeps_black_around_it() -> None:
    for seed in range(20):
        changed, _ = change_crop(crop(), np.random.default_rng(seed), 1.0, negatives=True)
        assert changed.shape == (4, 48, 48)
        assert changed.dtype == np.uint8
        assert not changed[:, [0, -1]].any()
        assert 0.7 < changed.any(axis=0).sum() / crop().any(axis=0).sum() < 1.4


def test_a_crop_that_is_not_changed_keeps_its_brightness() -> None:
    changed, emptied = change_crop(crop(), np.random.default_rng(0), 0.0, negatives=True)
    assert not emptied
    np.testing.assert_array_equal(changed[:, 24, 24], [60, 200, 90, 120])


def test_a_lost_protein_is_told_and_only_where_negatives_exist() -> None:
    found = [change_crop(crop(), np.random.default_rng(seed), 1.0, negatives=True) for seed in range(60)]
    lost = [changed[1, 16:32, 20:28].mean() for changed, emptied in found if emptied]
    assert 3 <= len(lost) <= 25
    assert np.median(lost) < 60
    assert not any(change_crop(crop(), np.random.default_rng(s), 1.0, negatives=False)[1] for s in range(60))


def test_the_same_draw_gives_the_same_crop() -> None:
    first, again = (change_crop(crop(), np.random.default_rng(5), 0.7, negatives=True)[0] for _ in range(2))
    np.testing.assert_array_equal(first, again)
