"""Images with their cells as samples."""

from pathlib import Path

import numpy as np
import pytest

from wsss.core.checks import DataError
from wsss.core.label_maps import number_cells, write_label_map
from wsss.data.augment import build_augment
from wsss.data.build import Spec, create_dataset
from wsss.data.catalog import DataSet
from wsss.data.cell_maps import without_cells
from wsss.data.cell_samples import CellSamples, shuffle_cells

SIZE = 64


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    """Two images whose green is the cell's id; the second has no label map."""
    label_map = np.zeros((SIZE, SIZE), np.int32)
    label_map[:20, :20], label_map[30:60, 5:25], label_map[40:64, 40:64] = 50, 7, 200
    image = np.stack([np.full_like(label_map, 9), label_map, label_map, label_map]).astype(np.uint8)
    create_dataset(tmp_path / "data", {"a": image, "b": image}, {"a": [0], "b": [1]}, Spec(size=SIZE, folds=2))
    write_label_map(tmp_path / "data" / "cells" / "a", label_map)
    return DataSet.open(tmp_path / "data")


def same_cells(image: np.ndarray, cells: np.ndarray) -> bool:
    """Whether every cell has one value of its own in the image's green, and the background 0."""
    pairs = {(int(g), int(c)) for g, c in zip(image[1].ravel(), cells.ravel(), strict=True)}
    return len({g for g, _ in pairs}) == len(pairs) == len({c for _, c in pairs}) and (0, 0) in pairs


def test_whole_images_bring_all_their_cells(data: DataSet) -> None:
    image, labels, index, cells = CellSamples(data)[0, 5]
    assert same_cells(image.numpy(), cells.numpy())
    assert sorted(cells.unique().tolist()) == [0, 1, 2, 3]
    assert (index, labels[0].item()) == (0, 1)


def test_an_image_without_a_label_map_has_no_cells(data: DataSet) -> None:
    assert not CellSamples(data)[1, 5][3].any()
    assert without_cells(data, np.array([0, 1])) == ["b"]


def test_a_damaged_label_map_is_no_missing_one(data: DataSet) -> None:
    (data.folder / "cells" / "a.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="is no PNG, JPEG, TIFF or BMP file"):
        CellSamples(data)[0, 5]


@pytest.mark.parametrize("seed", range(4))
def test_cells_move_with_their_image_and_are_numbered_without_gaps(data: DataSet, seed: int) -> None:
    samples = CellSamples(data, build_augment("flips", 32, channels=4), min_visible=0.2)
    image, _, _, cells = samples[0, seed]
    assert cells.shape == (32, 32)
    found = cells.unique().tolist()
    assert found == list(range(found[0], found[0] + len(found)))
    inside = cells.numpy() > 0
    assert (image.numpy()[1][inside] > 0).all()
    again = samples[0, seed]
    assert (again[3] == cells).all()
    assert (again[0] == image).all()


def test_the_order_of_cells_changes_with_the_seed(data: DataSet) -> None:
    samples = CellSamples(data, build_augment("none", SIZE, channels=4))
    assert len({samples[0, seed][3].numpy()[10, 10].item() for seed in range(20)}) == 3


def test_cells_of_which_too_little_is_left_become_background() -> None:
    cells = np.array([[1, 1, 2, 0], [3, 3, 3, 3]], np.int32)
    found = shuffle_cells(cells, np.array([1, 2, 4, 4, 9]), 0.3, np.random.default_rng(0))
    assert (found > 0).tolist() == [[True, True, False, False], [True] * 4]
    assert shuffle_cells(cells, np.array([1, 2, 4, 4, 9]), 0, np.random.default_rng(0)).max() == 3


def test_cells_are_numbered_in_the_order_of_their_ids() -> None:
    assert number_cells(np.array([[0, 90000], [7, 0]])).tolist() == [[0, 2], [1, 0]]
    assert number_cells(np.array([[90000, 90000], [7, 90000]])).tolist() == [[2, 2], [1, 2]]
    assert number_cells(np.array([[3, 3], [2, 3]])).tolist() == [[2, 2], [1, 2]]
    assert number_cells(np.array([[0, 3], [1, 0]])).tolist() == [[0, 2], [1, 0]]
