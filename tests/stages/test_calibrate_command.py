"""Calibration as a command, and infer with its curves; on small tables written by hand and on a tiny run."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import wsss
from wsss import calibrate, infer, train
from wsss.core.checks import ConfigError, DataError
from wsss.core.files import read_json, write_json
from wsss.data.build import Spec, create_dataset
from wsss.data.catalog import DataSet
from wsss.metrics.calibration import load_calibration
from wsss.options.review import ReviewOptions
from wsss.options.scoring import TtaConfig
from wsss.stages.review import open_session

SCORES = [str(k) for k in range(19)]
SIZE = 64
PLAIN = ["--feature_classifier.enabled", "false", "--score.region", "mean"]
"""Of a network of one epoch, the mean of the maps is far from a probability: there is something to calibrate."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two folds and its out-of-fold predictions: images with a bright red or green square, four cells each."""
    home = tmp_path_factory.mktemp("calibrate")
    rng = np.random.default_rng(0)
    images, labels = {}, {}
    label_map = np.kron([[1, 2], [3, 4]], np.ones((SIZE // 2, SIZE // 2))).astype(np.uint16)
    for n in range(24):
        image = rng.integers(0, 40, (4, SIZE, SIZE)).astype(np.uint8)
        image[n % 2, 8:40, 8:40] = 200
        images[f"im{n:02}"], labels[f"im{n:02}"] = image, [7 * (n % 2)]
    create_dataset(home / "data", images, labels, Spec(size=SIZE, folds=2))
    (home / "data/cells").mkdir()
    for name in images:
        Image.fromarray(label_map).save(home / f"data/cells/{name}.png")
    plain = f"--data {home}/data --run {home}/run --backbone test_resnet --weights none --crop 64 --batch 12 --epochs 1"
    train.main(
        [*plain.split(), *["--fold", "all", "--workers", "0", "--device", "cpu", "--crops.mode", "none", *PLAIN]]
    )
    predict(home, "oof", "--oof")
    return home


def predict(home: Path, out: str, *more: str) -> Path:
    infer.main([*f"--data {home}/data --run {home}/run --out {home}/{out} --device cpu".split(), *more])
    return home / out


def curves(home: Path, *more: str, preds: str = "oof") -> Path:
    words = ["--preds", str(home / preds), "--out", str(home / "curves.json"), "--overwrite", "true", *more]
    assert calibrate.main(words) == 0
    return home / "curves.json"


def test_scores_go_through_the_curves_and_keep_their_order(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = curves(home)
    assert "calibration error" in capsys.readouterr().out
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    plain, after = (pd.read_parquet(predict(home, out, *more) / "cells.parquet") for out, more in (
        ("plain", ()), ("calibrated", ("--calibration", str(path)))
    ))  # fmt: skip
    assert (plain[SCORES].to_numpy() != after[SCORES].to_numpy()).any()
    for k in SCORES:
        order = np.argsort(plain[k].to_numpy(), kind="stable")
        assert (np.diff(after[k].to_numpy()[order]) >= 0).all()
    record = read_json(path)["report"]
    assert record["images"]["after"] < record["images"]["before"]
    assert read_json(home / "calibrated/provenance.json")["calibration"]


def test_curves_that_are_worse_than_none_are_named(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    curves(home)
    assert "worse than none" not in capsys.readouterr().out
    monkeypatch.setattr("wsss.stages.calibrate._cross_fitted", lambda events, method: 1 - events.scores)
    curves(home)
    assert "these curves are worse than none, as far as 24 labelled images can tell" in capsys.readouterr().out


def test_a_notebook_gives_the_calibrated_scores_of_infer(home: Path) -> None:
    path = curves(home)
    table = pd.read_parquet(predict(home, "of-infer", "--calibration", str(path)) / "cells.parquet")
    model, data = wsss.load(home / "run", device="cpu", calibration=path), DataSet.open(home / "data")
    label_map = np.array(Image.open(home / "data/cells/im05.png")).astype(np.int32)
    found = model.predict(np.array(data.image(5)), label_map, name="im05")
    np.testing.assert_allclose(found[SCORES], table.loc[table.ID == "im05", SCORES], atol=2e-5)
    with pytest.raises(DataError, match="other tta"):
        wsss.load(home / "run", device="cpu", calibration=path, tta=TtaConfig(views="flips"))


def test_true_cells_are_used_where_they_are_known(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = pd.read_csv(home / "oof/cells.csv", dtype={"ID": str})
    truth = cells[["ID", "cell_id"]].assign(Label=7 * (cells.ID.str[-2:].astype(int) % 2))
    truth.to_csv(home / "truth.csv", index=False)
    curves(home, "--truth", str(home / "truth.csv"))
    assert "the true cells of" in capsys.readouterr().out


def test_predictions_of_training_images_are_refused(home: Path) -> None:
    predict(home, "seen")
    with pytest.raises(DataError, match=r"trained on im.*curves fitted to what a network has seen mislead"):
        curves(home, preds="seen")


def test_new_images_may_be_labelled_in_one_table_with_those_of_the_training(home: Path) -> None:
    rng = np.random.default_rng(1)
    labels = {f"new{n:02}": [7 * (n % 2)] for n in range(12)}
    images = {name: rng.integers(0, 200, (4, SIZE, SIZE)).astype(np.uint8) for name in labels}
    create_dataset(home / "new", images, labels, Spec(size=SIZE, folds=2))
    shutil.copytree(home / "data/cells", home / "new/cells")
    for n, name in enumerate(labels):
        (home / f"new/cells/im{n:02}.png").rename(home / f"new/cells/{name}.png")
    infer.main(f"--data {home}/new --run {home}/run --out {home}/of-new --device cpu".split())
    rows = [f"{name},{k}\n" for name, (k,) in labels.items()] + [f"im{n:02},{7 * (n % 2)}\n" for n in range(24)]
    (home / "all.csv").write_text("ID,Label\n" + "".join(rows))
    assert read_json(curves(home, "--labels", str(home / "all.csv"), preds="of-new"))["report"]["images"]["count"] == 12


def test_a_cell_that_scaling_loses_has_the_calibrated_probabilities_of_its_image(home: Path) -> None:
    path = curves(home)
    image = np.full((4, 4 * SIZE, 4 * SIZE), 60, np.uint8)
    label_map = np.zeros(image.shape[1:], np.int32)
    label_map[20:200, 20:200], label_map[213, 213] = 1, 2
    plain, after = (
        wsss.load(home / "run", device="cpu", calibration=c).predict(image, label_map) for c in (None, path)
    )
    wanted = load_calibration(path, 19).of_image(plain[SCORES].to_numpy()[1])
    np.testing.assert_array_equal(after[SCORES].to_numpy()[1], wanted)
    assert (wanted != plain[SCORES].to_numpy()[1]).any()


def test_predictions_that_tell_nothing_are_refused(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train_ids.txt").write_text("of some other run\n")
    monkeypatch.chdir(tmp_path)
    for name in ("cells.csv", "images.csv"):
        (tmp_path / name).write_bytes((home / "oof" / name).read_bytes())
    with pytest.raises(DataError, match="does not record what its networks were trained on"):
        calibrate.main(["--preds", str(tmp_path), "--data", str(home / "data")])


def test_a_table_without_any_predicted_cell_is_refused(home: Path, tmp_path: Path) -> None:
    (tmp_path / "truth.csv").write_text("ID,cell_id,Label\n")
    with pytest.raises(DataError, match="have no cell in common"):
        curves(home, "--truth", str(tmp_path / "truth.csv"), "--out", str(tmp_path / "none.json"))


def test_out_of_fold_predictions_take_no_curves(home: Path) -> None:
    with pytest.raises(ConfigError, match="have seen the labels"):
        predict(home, "both", "--oof", "--calibration", str(curves(home)))


def test_curves_of_other_rules_are_refused(home: Path) -> None:
    with pytest.raises(DataError, match="other score"):
        predict(home, "other", "--calibration", str(curves(home)), "--score.region", "topk")


def test_curves_for_other_classes_are_refused(home: Path) -> None:
    record = read_json(curves(home))
    write_json(home / "few.json", record | {"cells": record["cells"][:5]})
    with pytest.raises(DataError, match="curves for 5 classes, expected 19"):
        predict(home, "few", "--calibration", str(home / "few.json"))


def test_cells_that_a_backend_numbered_are_joined_by_overlap_or_refused(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = pd.read_parquet(home / "oof/cells.parquet")
    truth = cells[["ID", "cell_id"]].assign(cell_id=5 - cells.cell_id)  # the same cells, numbered from the other end
    truth.assign(Label=7 * (cells.cell_id % 2)).to_csv(home / "other.csv", index=False)
    (home / "other").mkdir()
    for path in (home / "data/cells").glob("*.png"):
        Image.fromarray((5 - np.asarray(Image.open(path))).astype(np.uint16)).save(home / "other" / path.name)
    (home / "data/segment.json").write_text('{"options": {"backend": "classical"}}')
    try:
        with pytest.raises(DataError, match="found by --backend classical, so their numbers need not be those"):
            curves(home, "--truth", str(home / "other.csv"))
        curves(home, "--truth", str(home / "other.csv"), "--masks", str(home / "other"))
        assert "joined by iou" in capsys.readouterr().out
    finally:
        (home / "data/segment.json").unlink()


def test_the_answers_of_a_review_make_the_curves_whatever_found_the_cells(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session, _ = open_session(ReviewOptions(home / "oof"), tmp_path)
    for row in session.next_cells("random", 60):
        name, _ = session.population.cell(row)
        session.answer(row, "random", [7 * (int(name[-2:]) % 2)], 1.0, False)
    session.write(tmp_path)
    session.answers.close()
    truth = tmp_path / "cells_truth.csv"
    (home / "data/segment.json").write_text('{"options": {"backend": "classical"}}')
    try:
        report = read_json(curves(home, "--truth", str(truth)))["report"]["cells"]
        assert "joined by number" in capsys.readouterr().out
        assert report["count"] == 60
        assert report["after"] < report["before"]
        table = pd.read_csv(truth, dtype=str)
        is_red = table.Cell_Label == "0"
        assert is_red.any()
        assert not is_red.all()
        table.assign(weight=np.where(is_red, "1", "30")).to_csv(truth, index=False)
        record = read_json(curves(home, "--truth", str(truth)))
        assert record["report"]["cells_compared_with"].endswith("each by how many cells it stands for")
        assert max(record["cells"][0]["y"]) < 0.3  # where nothing tells the cells apart, their share by weight
        table.assign(weight="0").to_csv(truth, index=False)
        with pytest.raises(DataError, match=r"weight is '0', expected"):
            curves(home, "--truth", str(truth))
        table.assign(image_mark="of other pixels").to_csv(truth, index=False)
        with pytest.raises(DataError, match="made on other pixels or label maps"):
            curves(home, "--truth", str(truth))
    finally:
        (home / "data/segment.json").unlink()
