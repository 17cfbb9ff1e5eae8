"""Objects of images larger than memory: those of the same image in one piece."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.special import softmax

from wsss.cells.instances import objects_of
from wsss.inference.semantic import GATHERED_ROWS, Settled, stream_objects
from wsss.metrics.instances import overlap

SIZE = (3 * GATHERED_ROWS + 40, 120)


def probs_of(kind: str, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    smooth = [gaussian_filter(rng.normal(size=SIZE), 5) for _ in range({"border": 2, "softmax": 3}.get(kind, 1))]
    if kind == "distance":
        mask = 1 / (1 + np.exp(-100 * smooth[0]))
        return np.stack([mask, mask * gaussian_filter(rng.random(SIZE), 3)])
    if kind == "softmax":
        return softmax(100 * np.stack(smooth), axis=0)
    return np.stack([1 / (1 + np.exp(-100 * own)) for own in smooth])


def settle(probs: np.ndarray, kind: str, rows: int, min_size: int = 0) -> tuple[np.ndarray, np.ndarray, list[Settled]]:
    """Return the label map, and where objects are, of an image that comes in bands of so many rows."""
    bands = (probs[:, y : y + rows] for y in range(0, probs.shape[1], rows))
    label_map = np.zeros(probs.shape[1:], np.int32)
    settled = list(stream_objects(bands, kind, threshold=0.5, min_size=min_size))
    for own in (one for part in settled for one in part.objects):
        height, width = own.mask.shape
        label_map[own.y0 : own.y0 + height, own.x0 : own.x0 + width][own.mask] = own.number
    return label_map, np.concatenate([part.inside for part in settled]), settled


@pytest.mark.parametrize("kind", ["binary", "border", "softmax", "distance"])
@pytest.mark.parametrize("min_size", [0, 60])
def test_the_objects_are_those_of_the_image_in_one_piece(kind: str, min_size: int) -> None:
    probs = probs_of(kind)
    whole = objects_of(probs, kind, min_size=min_size)
    assert whole.max() > 8
    label_map, inside, settled = settle(probs, kind, 37, min_size)
    assert sum(part.small for part in settled) == objects_of(probs, kind).max() - whole.max()
    assert np.array_equal(np.unique(label_map), np.arange(whole.max() + 1))
    assert (overlap(label_map, whole).iou.max(axis=0) == 1).all()
    assert np.array_equal(inside, whole > 0)


def test_an_object_as_high_as_the_image_is_one() -> None:
    probs = np.zeros((1, *SIZE), np.float32)
    probs[0, 3:-3, 50:70] = 1
    label_map, inside, settled = settle(probs, "binary", 64)
    assert label_map.max() == 1
    assert np.array_equal(inside, probs[0] > 0)
    assert sum(len(part.objects) for part in settled) == 1


def test_rows_are_let_go_as_soon_as_their_objects_are_known() -> None:
    _, _, settled = settle(probs_of("binary"), "binary", 64)
    assert len(settled) > 2
    assert all(len(part.inside) > 0 for part in settled)


def test_no_object_and_no_row() -> None:
    label_map, inside, _ = settle(np.zeros((1, 30, 20), np.float32), "binary", 7)
    assert not label_map.any()
    assert inside.shape == (30, 20)
