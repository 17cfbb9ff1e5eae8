"""Tiles: every pixel once, no seams, memory of a band."""

import itertools
import tracemalloc
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from bench_large import seam_ratio

from wsss.inference.semantic import MaskPredictor, fall_off, predict_tiles, tile_starts
from wsss.models.device import choose_device
from wsss.models.unet import build_unet
from wsss.options.masks import MaskInferConfig, UnetConfig
from wsss.options.recipe import MaskRecipe


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
        return lambda tiles: np.stack([tile + np.float32(next(levels)) for tile in tiles])

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


def test_neighbours_are_predicted_together_up_to_a_number_of_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(0).random((1, 40, 100)).astype(np.float32)
    shapes = []

    def predict(tiles: np.ndarray) -> np.ndarray:
        shapes.append(tiles.shape)
        return tiles

    found = []
    for pixels in (1, 3 * 16 * 16):
        monkeypatch.setattr("wsss.inference.semantic.BATCH_PX", pixels)
        found.append(whole(image, predict, tile=16, overlap=0.0))
    assert np.array_equal(*found)
    assert shapes == [(1, 1, 16, 16)] * 21 + [(3, 1, 16, 16), (3, 1, 16, 16), (1, 1, 16, 16)] * 3


def test_a_tile_has_the_same_maps_alone_and_in_a_batch() -> None:
    torch.manual_seed(0)
    recipe = MaskRecipe(backbone="test_resnet", weights="none", unet=UnetConfig([8, 8, 8, 4, 4], empty_head=True))
    net = build_unet(recipe, channels=1, outputs=1).eval()
    tiles = np.random.default_rng(0).integers(0, 256, (5, 1, 64, 64), np.uint8)
    tiles[1] //= 9
    holds = net(torch.from_numpy(tiles)).holds
    assert holds is not None
    second, third = holds.sigmoid().sort().values[1:3].tolist()
    member: Any = SimpleNamespace(net=net, recipe=recipe)
    predictor = MaskPredictor([member], MaskInferConfig(empty_below=(second + third) / 2), choose_device("cpu"))
    alone = np.concatenate([predictor.parts(tile[None]) for tile in tiles])
    assert np.abs(predictor.parts(tiles) - alone).max() < 1e-5
    assert (alone.max(axis=(1, 2, 3)) > 0).sum() == 3
