"""Odd images and odd cell maps from end to end: finite scores, or a refusal that names the image."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from squares import make_squares, words

from wsss import infer, prepare, segment, train
from wsss.core.label_maps import write_label_map
from wsss.core.labels import HPA_CHANNELS
from wsss.data.build import Spec, create_dataset

SIZE = 64
SCORES = [str(k) for k in range(19)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network trained for an epoch."""
    home = tmp_path_factory.mktemp("run")
    train.main(words(make_squares(home / "squares"), home / "run", "--epochs", "1", "--crops.size", "32"))
    return home / "run"


def score(data: Path, run: Path, out: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score the cells of a data set; return cells and images."""
    assert infer.main(["--data", str(data), "--run", str(run), "--out", str(out), "--device", "cpu"]) == 0
    return pd.read_parquet(out / "cells.parquet"), pd.read_csv(out / "images.csv", index_col="ID")


def test_odd_images_go_through_all_stages(run: Path, tmp_path: Path) -> None:
    odd = {
        "black": np.zeros((80, 80), np.uint8),
        "constant": np.full((80, 80), 7, np.uint8),
        "dot": np.full((1, 1), 9, np.uint8),
        "flat": np.full((3, 5000), 20, np.uint8),
        "odd": np.tile(np.arange(77, dtype=np.uint8), (63, 1)),
        "saturated": np.full((80, 80), 255, np.uint8),
    }
    (tmp_path / "images").mkdir()
    for name, plane in odd.items():
        for channel in HPA_CHANNELS:
            Image.fromarray(plane).save(tmp_path / "images" / f"{name}_{channel}.png")
    data = tmp_path / "data"
    place = ["--images", str(tmp_path / "images"), "--out", str(data), "--size", str(SIZE), "--workers", "0"]
    assert prepare.main(place) == 0
    assert segment.main(["--data", str(data), "--workers", "0"]) == 0
    cells, images = score(data, run, tmp_path / "preds")
    assert sorted(images.index) == sorted(odd)
    assert (images.status == "ok").all()
    assert np.isfinite(images[SCORES]).all(axis=None)
    assert np.isfinite(cells[SCORES]).all(axis=None)


def grid(side: int, edge: int) -> np.ndarray:
    """Return side x side cells of edge x edge px, numbered from 1."""
    return np.kron(np.arange(1, side * side + 1).reshape(side, side), np.ones((edge, edge), np.int64)).astype(np.int32)


def test_odd_cell_maps_are_scored_cell_by_cell(run: Path, tmp_path: Path) -> None:
    pieces = np.zeros((SIZE, SIZE), np.int32)
    pieces[2:20, 2:20] = pieces[40:60, 40:60] = 4
    dots = np.zeros((SIZE, SIZE), np.int32)
    dots[::16, ::16] = np.arange(1, 17).reshape(4, 4)
    maps = {
        "dots": dots,
        "empty": np.zeros((SIZE, SIZE), np.int32),
        "gaps": np.where(grid(4, 16) % 3 == 0, grid(4, 16) * 7, 0),
        "large": np.where(grid(2, 32) > 0, grid(2, 32) + 70_000, 0),
        "one": np.ones((SIZE, SIZE), np.int32),
        "pieces": pieces,
    }
    rng = np.random.default_rng(0)
    data = create_dataset(
        tmp_path / "data",
        {name: rng.integers(0, 200, (4, SIZE, SIZE), np.uint8) for name in maps},
        spec=Spec(size=SIZE),
    )
    for name, label_map in maps.items():
        write_label_map(data / "cells" / name, label_map)
    assert (data / "cells" / "large.tif").exists()
    cells, images = score(data, run, tmp_path / "preds")
    for name, label_map in maps.items():
        ids = np.unique(label_map[label_map > 0])
        own = cells[cells["ID"] == name]
        assert own.cell_id.tolist() == ids.tolist()
        assert own.area_px.tolist() == [int((label_map == k).sum()) for k in ids]
        assert images.n_cells[name] == len(ids)
    assert np.isfinite(cells[SCORES]).all(axis=None)
    assert ((cells[SCORES] >= 0) & (cells[SCORES] <= 1)).all(axis=None)


def test_five_thousand_cells_in_an_image_have_a_row_each(run: Path, tmp_path: Path) -> None:
    label_map = grid(71, 3)
    image = np.random.default_rng(0).integers(0, 200, (4, 213, 213), np.uint8)
    data = create_dataset(tmp_path / "data", {"full": image}, spec=Spec(size=256))
    write_label_map(data / "cells" / "full", label_map)
    cells, images = score(data, run, tmp_path / "preds")
    assert len(cells) == images.n_cells["full"] == 5041
    assert cells.cell_id.tolist() == list(range(1, 5042))
    assert np.isfinite(cells[SCORES]).all(axis=None)
