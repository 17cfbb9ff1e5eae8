"""Tiles: every pixel once, no seams, memory of a band."""

import itertools
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from bench_large import seam_ratio

from wsss.inference.semantic import fall_off, predict_tiles, tile_starts


def whole(image: np.ndarray, predict: object, **options: object) -> np.ndarray:
    read = lambda y0, y1, x0, x1: image[:, y0:y1, x0:x1]  # noqa: E731
    parts = list(predict_tiles(read, predict, image.shape[1:], **options))  # type: ignore[arg-type]
    assert [y for y, _ in parts] == np.cumsum([0, *(part.shape[1] for _, part in parts[:-1])]).tolist()
    return np.concatenate([part for _, part in parts], axis=1)


@pytest.mark.parametrize(("length", "tile", "overlap"), [(100, 32, 0.5), (33, 32, 0.0), (20, 32, 0.5), (97, 13, 0.25)])
def test_tiles_cover_the_axis_with_the_overlap_asked_for(length: int, tile: int, overlap: float) -> None:
    starts = tile_starts(length, tile, overlap)
    assert starts[0] == 0
    assert starts[-1] == max(0, length - tile)
    assert all(b - a <= tile * (1 - overlap) for a, b in itertools.pairwise(starts))


@pytest.mark.parametrize("size", [(40, 70), (16, 90), (33, 33), (9, 9)])
@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.75])
def test_a_pixelwise_network_gives_the_whole_image_back(size: tuple[int, int], overlap: float) -> None:
    image = np.random.default_rng(0).random((2, *size)).astype(np.float32)
    found = whole(image, lambda tile: tile * 2, tile=16, overlap=overlap)
    assert np.allclose(found, image * 2, rtol=1e-5)


def test_weights_fall_off_to_the_border_and_are_never_zero() -> None:
    weights = fall_off(64)
    assert (np.diff(weights[:32]) > 0).all()
    assert weights[0] > 0
    assert weights[0] < 0.01 < weights[31]


def test_seams_of_tiles_that_disagree_vanish_with_overlap() -> None:
    image = np.random.default_rng(0).random((1, 64, 256)).astype(np.float32) * 0.05

    def moody() -> Callable[[np.ndarray], np.ndarray]:
        levels = itertools.cycle([0.3, 0.7])  # every tile is a little surer, or less so, than its neighbour
        return lambda tile: tile + np.float32(next(levels))

    plain, blended = (whole(image, moody(), tile=64, overlap=overlap) for overlap in (0.0, 0.5))
    borders = [64, 128, 192]
    assert seam_ratio(plain, borders) > 3
    assert seam_ratio(blended, borders) < 1.3


def test_memory_does_not_grow_with_the_height() -> None:
    def peak(height: int) -> int:
        read = lambda y0, y1, x0, x1: np.zeros((1, y1 - y0, x1 - x0), np.uint8)  # noqa: E731
        tracemalloc.start()
        for _ in predict_tiles(read, lambda tile: tile.astype(np.float32), (height, 256), tile=64):
            pass
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(4096) < 1.2 * peak(256)
