"""Large images through the commands: learnt in tiles, predicted whole, scored."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from wsss import evaluate, infer, report, train
from wsss.core.checks import ConfigError
from wsss.core.files import read_json
from wsss.core.outlines import read_outlines
from wsss.core.rle import decode_pairs, encode_pairs
from wsss.segmenters.annotations import paint_outlines
from wsss.stages.mask_predictions import shrunk

SIZE = (100, 150)


@pytest.fixture(scope="module")
def kidneys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four colour images of 100 x 150, each with a bright disc."""
    rng, folder, rows = np.random.default_rng(0), tmp_path_factory.mktemp("data"), ["id,encoding"]
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    for k in range(4):
        mask = (y - 50) ** 2 + (x - 40 - 20 * k) ** 2 < 25**2
        pixels = rng.integers(0, 60, (*SIZE, 3)) + 150 * mask[..., None]
        tifffile.imwrite(folder / f"k{k}.tif", pixels.astype(np.uint8), photometric="rgb", tile=(64, 64))
        rows.append(f"k{k},{encode_pairs(mask)}")
    (folder / "train.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def run(kidneys: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "kidneys"
    words = ["--task", "masks", "--data", str(kidneys), "--run", str(path), "--fold", "all", "--device", "cpu"]
    words += ["--backbone", "test_resnet", "--weights", "none", "--unet.channels", "[8,8,8,4,4]", "--augment", "none"]
    words += ["--masks.folds", "2", "--masks.tile", "64", "--crop", "64", "--batch", "4", "--epochs", "8"]
    assert train.main([*words, "--optim.lr", "1e-2", "--workers", "0"]) == 0
    return path


@pytest.fixture(scope="module")
def preds(kidneys: Path, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("preds") / "oof"
    words = ["--run", str(run), "--data", str(kidneys), "--out", str(out), "--device", "cpu", "--oof"]
    assert infer.main([*words, "--segmentation.tile", "64"]) == 0
    return out


def test_images_are_predicted_whole_by_the_network_that_never_saw_them(run: Path, preds: Path) -> None:
    table = pd.read_csv(preds / "images.csv")
    assert table["ID"].tolist() == ["k0", "k1", "k2", "k3"]
    for name, fold in table[["ID", "fold"]].itertuples(index=False):
        seen = {line.split("_")[0] for line in (run / f"fold{fold}" / "train_ids.txt").read_text().split()}
        assert name not in seen
        assert len(seen) == 2


def test_the_submission_is_the_mask(preds: Path) -> None:
    table = pd.read_csv(preds / "submission.csv", keep_default_na=False)
    areas = pd.read_csv(preds / "images.csv")["area_px"]
    for name, text, area in zip(table["id"], table["rle_mask"], areas, strict=True):
        mask = tifffile.imread(preds / "masks" / f"{name}.tif")
        assert mask.shape == SIZE
        assert np.array_equal(decode_pairs(text, SIZE), mask == 255)
        assert (mask == 255).sum() == area


def test_the_objects_are_outlined_and_numbered(preds: Path) -> None:
    table = pd.read_csv(preds / "images.csv").set_index("ID")
    for name in table.index:
        outlines = read_outlines(preds / "objects" / f"{name}.geojson")
        assert outlines.ids == list(range(1, table.n_objects[name] + 1))
        painted = paint_outlines(outlines.ids, outlines.cells, SIZE, name)
        assert np.array_equal(painted > 0, tifffile.imread(preds / "masks" / f"{name}.tif") == 255)


def test_the_masks_are_scored_part_by_part(kidneys: Path, preds: Path) -> None:
    assert evaluate.main(["--preds", str(preds), "--truth", str(kidneys)]) == 0
    scores = read_json(preds / "scores.json")
    assert scores["oof"] is True
    assert scores["dice"] > 0.8
    with pytest.raises(ConfigError, match="no threshold can be chosen"):
        evaluate.main(["--preds", str(preds), "--truth", str(kidneys), "--search"])


def test_single_files_are_predicted_too_and_a_broken_one_is_named(
    kidneys: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.tif").write_bytes(b"nothing")
    np.save(tmp_path / "own.npy", tifffile.imread(kidneys / "k0.tif"))
    files = [str(tmp_path / "broken.tif"), str(tmp_path / "own.npy")]
    words = ["--run", str(run / "fold0"), "--out", str(tmp_path / "out"), "--device", "cpu", "--large", *files]
    assert infer.main(words) == 1
    assert "broken: failed" in capsys.readouterr().out
    assert tifffile.imread(tmp_path / "out" / "masks" / "own.tif").shape == SIZE
    with pytest.raises(ConfigError, match="one of them"):
        infer.main([*words, "--data", str(kidneys)])
    with pytest.raises(ConfigError, match="several files of one ID"):
        infer.main([*words, str(kidneys / "own.tif")])


def test_a_least_size_without_objects_is_refused_as_it_would_change_nothing(
    kidneys: Path, run: Path, tmp_path: Path
) -> None:
    flags = ["--segmentation.objects", "false", "--segmentation.min_size", "9"]
    with pytest.raises(ConfigError, match=r"--segmentation\.min_size changes nothing in large images without objects"):
        infer.main(["--data", str(kidneys), "--run", str(run), "--oof", "--out", str(tmp_path / "out"), *flags])


def test_polygons_score_as_runs_do(kidneys: Path, preds: Path, tmp_path: Path) -> None:
    truth = tmp_path / "truth"
    truth.mkdir()
    for k in range(4):
        (truth / f"k{k}.tif").symlink_to(kidneys / f"k{k}.tif")
        ring = [[40 + 20 * k + 25 * np.cos(a), 50 + 25 * np.sin(a)] for a in np.linspace(0, 2 * np.pi, 100)]
        shape = {"type": "MultiPolygon", "coordinates": [[ring]]}
        (truth / f"k{k}.json").write_text(json.dumps([{"geometry": shape}]))
    evaluate.main(["--preds", str(preds), "--truth", str(kidneys), "--out", str(tmp_path / "runs/scores.json")])
    evaluate.main(["--preds", str(preds), "--truth", str(truth), "--out", str(tmp_path / "polygons/scores.json")])
    first, second = (read_json(tmp_path / f"{name}/scores.json")["dice"] for name in ("runs", "polygons"))
    assert second == pytest.approx(first, abs=0.02)


def test_the_report_shows_them_shrunk(kidneys: Path, preds: Path, tmp_path: Path) -> None:
    words = ["--preds", str(preds), "--out", str(tmp_path / "page.html"), "--edge", "64"]
    assert report.main(words) == 0
    page = (tmp_path / "page.html").read_text()
    assert "4 masks in 4 images" in page
    assert "IoU expected" not in page
    assert "; 1 objects" in page
    assert report.main([*words, "--truth", str(kidneys)]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "4 hit, 0 missed; 0 invented" in page
    assert 'data-width="64" data-height="43"' in page
    with pytest.raises(ConfigError, match="holds no large images"):
        report.main([*words, "--truth", str(small_images(tmp_path))])


def small_images(tmp_path: Path) -> Path:
    """Return a folder of one small image without a mask."""
    (tmp_path / "bowl" / "x" / "images").mkdir(parents=True)
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(tmp_path / "bowl" / "x" / "images" / "x.png")
    return tmp_path / "bowl"


def test_shrinking_takes_the_mean_of_squares_across_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsss.stages.mask_predictions.PART", 10)
    image = np.random.default_rng(0).random((2, 27, 19))
    found = shrunk(lambda y0, y1, x0, x1: image[:, y0:y1, x0:x1], (27, 19), 4)
    assert found.shape == (2, 7, 5)
    assert np.allclose(found[:, :6, :4], image[:, :24, :16].reshape(2, 6, 4, 4, 4).mean(axis=(2, 4)))
    assert np.allclose(found[:, 6, 4], image[:, 24:, 16:].mean(axis=(1, 2)))
