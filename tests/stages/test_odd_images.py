"""Odd images and odd cell maps from end to end: finite scores, or a refusal that names the image."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from squares import make_squares, words

from wsss import infer, prepare, segment, train
from wsss.core.label_maps import write_label_map
from wsss.core.labels import HPA_CHANNELS
from wsss.data.build import Spec, create_dataset
from wsss.data.catalog import DataSet
from wsss.inference.tables import read_images
from wsss.segmenters import cell_unet

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


def save(folder: Path, name: str, planes: np.ndarray) -> None:
    """Write (4, H, W) as a grey file per channel, PNG or, where that is no form of PNG, TIFF."""
    for channel, plane in zip(HPA_CHANNELS, planes, strict=True):
        path = folder / f"{name}_{channel}"
        if plane.dtype.kind == "f":
            tifffile.imwrite(f"{path}.tif", plane)
        else:
            Image.fromarray(plane).save(f"{path}.png")


FORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sixteen": lambda planes: planes.astype(np.uint16) * 257,
    "twelve": lambda planes: planes.astype(np.uint16) * 16 + 7,
    "float": lambda planes: planes.astype(np.float32) / 255,
    "grey": lambda planes: np.repeat(planes[..., None], 3, axis=-1),  # RGB of three equal samples
}


def scored_form(home: Path, form: str, images: list[np.ndarray], run: Path) -> pd.DataFrame:
    """Take a set of images of one form through all stages; return its cells."""
    home.mkdir()
    for k, planes in enumerate(images):
        if form == "stack":
            tifffile.imwrite(home / f"i{k}.tif", planes, photometric="minisblack")
        else:
            save(home, f"i{k}", FORMS[form](planes) if form in FORMS else planes)
    data = home / "data"
    assert prepare.main(["--images", str(home), "--out", str(data), "--size", str(SIZE), "--workers", "0"]) == 0
    assert segment.main(["--data", str(data), "--workers", "0"]) == 0
    return score(data, run, home / "preds")[0]


def test_16_and_12_bit_float_rgb_and_stacked_files_give_the_cells_and_scores_of_8_bit(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cell_unet, "EDGE", 2 * SIZE)  # the nuclei have the size that the network knows
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:96, :96]
    images = []
    for _ in range(2):
        planes = rng.integers(0, 12, (4, 96, 96))
        for cy, cx in rng.integers(15, 81, (3, 2)):
            distance = np.hypot(y - cy, x - cx)
            planes += np.array([90, 120, 200, 70])[:, None, None] * (
                distance < np.array([16, 12, 7, 15])[:, None, None]
            )
        images.append(np.clip(planes, 0, 255).astype(np.uint8))
    wanted = scored_form(tmp_path / "eight", "eight", images, run)
    assert len(wanted)
    for form in (*FORMS, "stack"):
        found = scored_form(tmp_path / form, form, images, run)
        columns = ["ID", "cell_id", "y0", "x0", "y1", "x1", "area_px", "rle"]
        assert found[columns].to_numpy().tolist() == wanted[columns].to_numpy().tolist(), form
        np.testing.assert_allclose(found[SCORES], wanted[SCORES], atol=0.01, err_msg=form)


def test_names_that_a_spreadsheet_would_run_are_made_harmless_in_every_table(run: Path, tmp_path: Path) -> None:
    names = ["'quoted", "+1", "-2+3", "=1+1", "@sum(a1)"]
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for name in names:
        save(tmp_path / "images", name, rng.integers(0, 200, (4, SIZE, SIZE), dtype=np.uint8))
    (tmp_path / "train.csv").write_text("\n".join(["ID,Label", *(f"{name},1" for name in names)]) + "\n")
    data, preds = tmp_path / "data", tmp_path / "preds"
    place = ["--images", str(tmp_path / "images"), "--out", str(data), "--size", str(SIZE), "--workers", "0"]
    assert prepare.main([*place, "--labels", str(tmp_path / "train.csv")]) == 0
    assert segment.main(["--data", str(data), "--workers", "0"]) == 0
    for name in names:
        write_label_map(data / "cells" / name, np.ones((SIZE, SIZE), np.int32))
    cells, _ = score(data, run, preds)
    assert cells["ID"].tolist() == names
    assert sorted(read_images(preds)["ID"]) == names
    assert DataSet.open(data).folds().max() >= 0  # folds.csv is read back as it was
    for path in (*data.glob("*.csv"), *preds.glob("*.csv")):
        if path.name != "submission.csv":  # whose IDs are looked up as they are
            for row in csv.reader(path.read_text().splitlines()):
                assert not [cell for cell in row if cell.startswith(("=", "+", "-", "@")) and not is_number(cell)], path


def is_number(text: str) -> bool:
    try:
        return bool(text) and float(text) == float(text)
    except ValueError:
        return False


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
