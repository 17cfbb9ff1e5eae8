from collections.abc import Callable

import cv2
import numpy as np
import pytest

from wsss.core.label_maps import Geometry
from wsss.data.build import _first_of_group
from wsss.data.duplicates import ALIKE, PARTNERS, _alike, find_duplicates, thumbnail

SIZE = 128


def field(seed: int) -> np.ndarray:
    """Cells as blurred discs, other places in every field, with some grain."""
    rng = np.random.default_rng(seed)
    canvas = np.zeros((4, SIZE, SIZE), np.float32)
    for y, x in rng.integers(0, SIZE, (14, 2)):
        for channel, radius in zip(canvas, (14, 9, 7, 12), strict=True):
            cv2.circle(channel, (int(x), int(y)), radius, float(rng.uniform(60, 150)), -1)
    blurred = np.stack([cv2.GaussianBlur(channel, (0, 0), 2) for channel in canvas])
    return np.clip(blurred + rng.normal(10, 3, blurred.shape), 0, 255).astype(np.uint8)


def jpeg(image: np.ndarray) -> np.ndarray:
    return np.stack([cv2.imdecode(cv2.imencode(".jpg", c, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], 0) for c in image])


def pairs(images: list[np.ndarray]) -> list[tuple[int, int]]:
    geometry = Geometry(SIZE, SIZE, SIZE)
    thumbnails = np.stack([thumbnail(image, geometry) for image in images])
    return [(a, b) for a, b, _ in find_duplicates(thumbnails, lambda i: images[i])]


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image.copy(),
        jpeg,
        lambda image: (image * 0.5).astype(np.uint8),
        lambda image: np.clip(image * 1.5, 0, 255).astype(np.uint8),
        lambda image: np.pad(image[:, :-4, :-4], ((0, 0), (4, 0), (4, 0)), mode="reflect"),
        lambda image: np.rot90(image, 1, (1, 2)),
        lambda image: jpeg(np.ascontiguousarray(np.rot90(image, 2, (1, 2)))),
        lambda image: (np.rot90(image, 3, (1, 2)) * 0.5).astype(np.uint8),
        lambda image: image[:, ::-1],
        lambda image: image[:, :, ::-1],
        lambda image: image.transpose(0, 2, 1),
    ],
    ids=[
        "copy",
        "jpeg",
        "darker",
        "brighter",
        "shifted",
        "turned",
        "upside down",
        "left",
        "flipped",
        "mirrored",
        "swapped",
    ],
)
def test_a_changed_copy_is_found_among_other_fields(change: Callable[[np.ndarray], np.ndarray]) -> None:
    images = [field(seed) for seed in range(12)]
    assert pairs([*images, change(images[7])]) == [(7, 12)]


def test_different_fields_and_blank_images_are_no_duplicates() -> None:
    blank = [np.full((4, SIZE, SIZE), value, np.uint8) for value in (0, 0, 200, 255)]
    assert pairs([field(seed) for seed in range(40)] + blank) == []


def test_many_copies_are_one_group_and_each_image_is_verified_with_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsss.data.duplicates.BLOCK", 16)
    images = [field(k % 3) for k in range(60)]
    found = pairs(images)
    groups = _first_of_group(60, [(a, b, 1.0) for a, b in found])
    assert groups.tolist() == [k % 3 for k in range(60)]
    assert len(found) <= 60 * PARTNERS


def test_the_most_similar_images_are_found_in_any_block(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = np.triu(vectors @ vectors.T, 1)
    monkeypatch.setattr("wsss.data.duplicates.NEAREST", 50)
    for block in (7, 50, 64):
        monkeypatch.setattr("wsss.data.duplicates.BLOCK", block)
        assert {tuple(pair) for pair in _alike(vectors).tolist()} >= set(zip(*np.nonzero(scores >= ALIKE), strict=True))
        assert len(_alike(vectors)) == (scores >= ALIKE - block * 1e-6).sum()


def test_thumbnails_leave_out_the_padding() -> None:
    stored = field(0)
    before = thumbnail(stored, Geometry(64, SIZE, SIZE))
    stored[:, 64:] = 0
    assert (thumbnail(stored, Geometry(64, SIZE, SIZE)) == before).all()
    assert (thumbnail(stored, Geometry(SIZE, SIZE, SIZE)) != before).any()


def test_chains_of_pairs_become_one_group() -> None:
    assert _first_of_group(6, [(1, 4, 1.0), (4, 5, 1.0), (2, 5, 1.0)]).tolist() == [0, 1, 1, 3, 1, 1]
