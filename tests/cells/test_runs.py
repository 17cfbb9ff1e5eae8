import numpy as np
import pytest

from wsss.cells.regions import cell_ids, cell_runs, group_pixels


def blobs(seed: int, shape: tuple[int, int] = (40, 56)) -> np.ndarray:
    """Draw blocks of random ids with gaps; a cell may be in several parts."""
    rng = np.random.default_rng(seed)
    coarse = rng.choice([0, 0, 3, 4, 900], (shape[0] // 4, shape[1] // 4))
    return np.kron(coarse, np.ones((4, 4), np.int64)) * (rng.random(shape) < 0.9)


@pytest.mark.parametrize("seed", range(3))
def test_runs_hold_every_pixel_of_every_cell_once(seed: int) -> None:
    label_map = blobs(seed)
    runs = cell_runs(label_map)
    again = np.zeros_like(label_map)
    for owner, row, start, stop in zip(runs.owner, runs.rows, runs.starts, runs.stops, strict=True):
        assert not again[row, start:stop].any()
        again[row, start:stop] = runs.ids[owner]
    np.testing.assert_array_equal(again, label_map)


def test_boxes_and_sums_are_those_of_each_cells_mask() -> None:
    label_map = blobs(5)
    runs = cell_runs(label_map)
    areas = runs.sums(runs.stops - runs.starts)
    assert runs.ids.tolist() == np.unique(label_map)[1:].tolist() == cell_ids(label_map).tolist()
    for cell, area, box in zip(runs.ids, areas, runs.boxes(), strict=True):
        rows, columns = np.nonzero(label_map == cell)
        assert area == len(rows)
        assert box.tolist() == [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]


def test_a_run_ends_with_its_line() -> None:
    runs = cell_runs(np.full((3, 5), 7))
    assert runs.rows.tolist() == [0, 1, 2]
    assert runs.stops.tolist() == [5, 5, 5]


def test_an_empty_map_has_no_runs() -> None:
    runs = cell_runs(np.zeros((4, 4), np.int32))
    assert runs.boxes().shape == (0, 4)
    assert len(runs.ids) == len(runs.rows) == len(runs.sums(runs.rows)) == 0


@pytest.mark.parametrize("bad", [np.zeros((2, 2)), np.zeros(4, int), np.array([[-1, 2]])])
def test_what_is_no_label_map_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="label map"):
        cell_runs(bad)


def test_grouped_pixels_are_the_cells() -> None:
    label_map = np.zeros((64, 64), np.int32)
    label_map[:40, :50], label_map[50:, 60:] = 9, 2
    cells = group_pixels(label_map)
    for cell, start, size in zip(cells.ids, cells.starts, cells.sizes, strict=True):
        np.testing.assert_array_equal(cells.order[start : start + size], np.flatnonzero(label_map == cell))
