"""The feature classifier through the commands: train fits it beside the network, infer blends it in."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from forest_file import FEATURES
from PIL import Image

import wsss
from wsss import export, infer, train
from wsss.core.checks import ConfigError, DataError
from wsss.core.files import read_json
from wsss.core.label_maps import find_label_map, read_label_map
from wsss.data.build import Spec, create_dataset
from wsss.data.catalog import DataSet
from wsss.data.origin import image_marks
from wsss.feature_classifier.store import load_feature_classifier
from wsss.feature_classifier.train import Lessons, ensure_feature_classifier
from wsss.options.recipe import FeatureClassifierConfig
from wsss.runs.inputs import Digests
from wsss.runs.run_folder import RunFolder

SIZE = 64
SCORES = [str(k) for k in range(19)]
WEAK = {"rounds": "1", "folds": "2", "trees": "8", "leaf": "1"}
QUICK = ["--feature_classifier.enabled", "true", "--feature_classifier.copies", "1"]
QUICK += [word for name, value in WEAK.items() for word in (f"--feature_classifier.weak.{name}", value)]


def field(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Four cells: even images show class 0 (green in the nucleus), odd ones class 16 (green around it)."""
    rng = np.random.default_rng(number)
    image, label_map = rng.integers(0, 20, (4, SIZE, SIZE)).astype(np.uint8), np.zeros((SIZE, SIZE), np.int32)
    for cell, (y, x) in enumerate(((2, 2), (2, 34), (34, 2), (34, 34))):
        body, nucleus = (slice(y, y + 28), slice(x, x + 28)), (slice(y + 9, y + 19), slice(x + 9, x + 19))
        label_map[body] = 3 * cell + 2
        image[0][body] = image[3][body] = 90
        image[2][nucleus] = 200
        image[1][body], image[1][nucleus] = (30, 180) if number % 2 == 0 else (180, 30)
    return image, label_map


def words(home: Path, run: str, *more: str) -> list[str]:
    plain = f"--data {home}/data --run {home}/{run} --backbone test_resnet --weights none --crop 64 --batch 3"
    return [*plain.split(), *["--epochs", "1", "--workers", "0", "--device", "cpu", "--crops.mode", "none"], *more]


def predict(home: Path, run: str, out: str, *more: str) -> Path:
    assert infer.main([*f"--data {home}/data --run {home}/{run} --out {home}/{out} --device cpu".split(), *more]) == 0
    return home / out


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folds with feature_classifiers, and their out-of-fold predictions with all parts."""
    home = tmp_path_factory.mktemp("feature_classifier")
    fields = [field(n) for n in range(12)]
    names = [f"im{n:02}" for n in range(12)]
    labels = {name: [0 if n % 2 == 0 else 16] for n, name in enumerate(names)}
    images = {name: image for name, (image, _) in zip(names, fields, strict=True)}
    create_dataset(home / "data", images, labels, Spec(size=SIZE, folds=2))
    (home / "data/cells").mkdir()
    for name, (_, label_map) in zip(names, fields, strict=True):
        Image.fromarray(label_map.astype(np.uint16)).save(home / f"data/cells/{name}.png")
    train.main(words(home, "run", "--fold", "all", *QUICK))
    predict(home, "run", "oof", "--oof", "true", "--parts", "true")
    return home


def test_each_fold_learns_from_its_own_training_images_only(home: Path) -> None:
    for fold in (0, 1):
        folder = RunFolder(home / f"run/fold{fold}")
        found = load_feature_classifier(folder.feature_classifier, FEATURES)
        assert found.meta["images"] == len(folder.ids.read_text().split()) == 6
        assert found.meta["cells"] == 24


def test_the_cells_get_the_right_label_out_of_fold(home: Path) -> None:
    table = pd.read_parquet(home / "oof/feature_classifier/cells.parquet")
    even = table["ID"].str[-2:].astype(int).to_numpy() % 2 == 0
    assert (table[SCORES].to_numpy().argmax(axis=1) == np.where(even, 0, 16)).all()
    assert (np.where(even, table["0"], table["16"]) > 0.5).all()
    assert (np.where(even, table["16"], table["0"]) < 0.5).all()


def test_the_blend_is_the_mean_of_network_and_feature_classifier(home: Path) -> None:
    plain = ["--oof", "true", "--score.prior_rounds", "0", "--score.feature_share"]
    feature_classifier, network, blend = (
        pd.read_parquet(predict(home, "run", name, *plain, share) / "cells.parquet")[SCORES]
        for name, share in (("features", "1"), ("network", "0"), ("half", "0.5"))
    )
    np.testing.assert_allclose(blend, (feature_classifier + network) / 2, atol=1e-6)
    part = pd.read_parquet(home / "oof/feature_classifier/cells.parquet")[SCORES]
    np.testing.assert_allclose(feature_classifier, part, atol=1e-6)


def test_provenance_names_the_feature_classifier_of_each_fold(home: Path) -> None:
    members = read_json(home / "oof/provenance.json")["members"]
    wanted = [
        load_feature_classifier(home / f"run/fold{fold}/feature_classifier.safetensors", FEATURES).digest
        for fold in (0, 1)
    ]
    assert [member["feature_classifier"] for member in members] == wanted
    assert len(set(wanted)) == 2


def test_a_notebook_gives_the_scores_of_infer(home: Path) -> None:
    table = pd.read_parquet(predict(home, "run", "all") / "cells.parquet")
    data = DataSet.open(home / "data")
    found = wsss.load(home / "run", device="cpu").predict(np.array(data.image(3)), field(3)[1], name=data.ids[3])
    wanted = table[table["ID"] == data.ids[3]].reset_index(drop=True)
    np.testing.assert_allclose(found[SCORES], wanted[SCORES], atol=2e-5)


def test_the_summary_says_in_words_what_tells_the_classes(home: Path) -> None:
    summary = read_json(home / "run/fold0/feature_classifier.json")
    assert set(summary["classes"]) == {"Nucleoplasm", "Cytosol", "Negative"}
    assert all(len(reasons) == 3 and reasons[0]["words"] for reasons in summary["classes"].values())
    assert len(summary["importance"]) == len(FEATURES)
    assert sum(row["share"] for row in summary["importance"]) == pytest.approx(1, abs=1e-3)


def test_a_feature_classifier_can_be_added_to_a_finished_run_and_is_made_once(home: Path) -> None:
    train.main(words(home, "later", "--feature_classifier.enabled", "false"))
    folder = home / "later/fold0"
    weights = (folder / "best.safetensors").read_bytes()
    train.main(words(home, "later", *QUICK))
    assert (folder / "best.safetensors").read_bytes() == weights
    made = folder / "feature_classifier.safetensors"
    assert made.read_bytes() == (home / "run/fold0" / made.name).read_bytes()
    first = made.stat().st_mtime_ns
    train.main(words(home, "later", *QUICK))
    assert made.stat().st_mtime_ns == first


def test_a_fold_without_its_feature_classifier_is_refused(home: Path) -> None:
    shutil.copytree(home / "run", home / "torn")
    (home / "torn/fold1/feature_classifier.safetensors").unlink()
    with pytest.raises(DataError, match="fold1 has no feature classifier"):
        predict(home, "torn", "nothing", "--oof", "true")
    predict(home, "torn", "without", "--oof", "true", "--score.feature_share", "0")


def test_a_feature_classifier_of_other_images_is_refused(home: Path) -> None:
    shutil.copytree(home / "run", home / "mixed")
    shutil.copy(home / "run/fold0/feature_classifier.safetensors", home / "mixed/fold1/feature_classifier.safetensors")
    with pytest.raises(DataError, match="other images than the network"):
        predict(home, "mixed", "nothing", "--oof", "true")


def test_a_feature_classifier_that_stays_although_none_is_wanted_is_told(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(home / "run", tmp_path / "run")
    again = words(home, "run", "--fold", "0", "--feature_classifier.enabled", "false")
    again[again.index("--run") + 1] = str(tmp_path / "run")
    assert train.main(again) == 0
    assert f"infer uses {tmp_path}/run/fold0/feature_classifier.safetensors" in capsys.readouterr().out


def test_without_segmented_cells_the_way_out_is_told(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "data", tmp_path / "data", ignore=shutil.ignore_patterns("cells"))
    data = DataSet.open(tmp_path / "data")
    lessons = Lessons(data, np.arange(12), FeatureClassifierConfig(enabled=True, copies=0), 0)
    with pytest.raises(DataError, match=r"run python -m wsss\.segment first"):
        ensure_feature_classifier(RunFolder(tmp_path), lessons)


def test_a_shared_model_takes_the_feature_classifier_along(home: Path) -> None:
    out = home / "shared"
    assert export.main(["--run", str(home / "run"), "--to", "huggingface", "--out", str(out)]) == 0
    assert {path.name for path in out.glob("feature_classifier-*")} == {
        "feature_classifier-fold0.safetensors",
        "feature_classifier-fold1.safetensors",
    }
    data = DataSet.open(home / "data")
    image, cells = np.array(data.image(0)), read_label_map(find_label_map(data.folder / "cells", data.ids[0]))
    own, shared = (wsss.load(source, device="cpu").predict(image, cells) for source in (home / "run", out))
    pd.testing.assert_frame_equal(own, shared)


def test_cells_labelled_by_hand_teach_the_folds_that_train_on_their_images_alone(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "run", tmp_path / "run")
    data = DataSet.open(home / "data")
    folds = data.folds()
    inside = [data.ids[i] for i in np.flatnonzero(folds == 1)]  # fold 0 trains on them, fold 1 holds them out
    marks = image_marks(data, Digests())
    rows = [{"ID": name, "cell_id": 2, "Cell_Label": "18", "image_mark": marks[name]} for name in inside]
    pd.DataFrame(rows).to_csv(tmp_path / "truth.csv", index=False)
    before = [(tmp_path / f"run/fold{k}/feature_classifier.safetensors").read_bytes() for k in (0, 1)]
    again = words(home, "run", "--fold", "all", *QUICK, "--cell_labels", str(tmp_path / "truth.csv"))
    again[again.index("--run") + 1] = str(tmp_path / "run")
    train.main(again)
    after = [(tmp_path / f"run/fold{k}/feature_classifier.safetensors").read_bytes() for k in (0, 1)]
    assert after[0] != before[0]
    assert after[1] == before[1], "labels of held-out images must not reach the fold"
    paths = [tmp_path / f"run/fold{k}/feature_classifier.safetensors" for k in (0, 1)]
    meta = [load_feature_classifier(path, FEATURES).meta for path in paths]
    assert (meta[0]["answered_cells"], meta[1].get("answered_cells", 0)) == (6, 0)
    assert meta[0]["cell_labels"]
    assert read_json(tmp_path / "run/fold0/feature_classifier.json")["answered_cells"] == 6
    assert 18 in load_feature_classifier(paths[0], FEATURES).classes
    for row in rows:
        row["image_mark"] = "0" * 16
    pd.DataFrame(rows).to_csv(tmp_path / "truth.csv", index=False)
    with pytest.raises(DataError, match="other pixels or label maps"):
        train.main(again)
    without = ["--feature_classifier.enabled", "false", "--cell_labels", str(tmp_path / "truth.csv")]
    with pytest.raises(ConfigError, match=r"leave --feature_classifier\.enabled false out"):
        train.main(words(home, "plain", *without))
