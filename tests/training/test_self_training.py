"""Self-training through the commands: a network of single cells beside the fold's, blended in by infer."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from test_feature_classifier import QUICK, SCORES, SIZE, field, predict, words

import wsss
from wsss import export, train
from wsss.core.checks import ConfigError, DataError
from wsss.core.device import choose_device
from wsss.core.files import digest_file, read_json
from wsss.data.build import Spec, create_dataset
from wsss.data.catalog import DataSet
from wsss.feature_classifier.soft_labels import load_soft_labels
from wsss.feature_classifier.train import ensure_feature_classifier
from wsss.models.cam_net import build_cam_net
from wsss.options.feature_classifier import FeatureClassifierConfig, SelfTrainingConfig, WeakConfig
from wsss.options.recipe import ClassifyRecipe
from wsss.runs.checkpoint import load_checkpoint
from wsss.runs.run_folder import RunFolder
from wsss.training import self_training
from wsss.training.self_training import ensure_self_trained

TAUGHT = [*QUICK, "--self_training.enabled", "true", "--self_training.size", "32", "--self_training.batch", "8"]
TAUGHT += ["--self_training.confidence", "0.4", "--self_training.lr", "0.003", "--self_training.epochs", "8"]
TAUGHT += ["--self_training.changed", "0"]
RECIPE = ClassifyRecipe(
    backbone="test_resnet",
    weights="none",
    crop=64,
    feature_classifier=FeatureClassifierConfig(
        enabled=True, copies=0, weak=WeakConfig(rounds=1, folds=2, trees=8, leaf=1)
    ),
    self_training=SelfTrainingConfig(enabled=True, rounds=2, confidence=0.3, epochs=1, batch=8, size=32),
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folds with self-trained networks, and their out-of-fold predictions with all parts."""
    home = tmp_path_factory.mktemp("self_trained")
    fields = [field(n) for n in range(12)]
    names = [f"im{n:02}" for n in range(12)]
    labels = {name: [0 if n % 2 == 0 else 16] for n, name in enumerate(names)}
    images = {name: image for name, (image, _) in zip(names, fields, strict=True)}
    create_dataset(home / "data", images, labels, Spec(size=SIZE, folds=2))
    (home / "data/cells").mkdir()
    for name, (_, label_map) in zip(names, fields, strict=True):
        Image.fromarray(label_map.astype(np.uint16)).save(home / f"data/cells/{name}.png")
    train.main(words(home, "run", "--fold", "all", *TAUGHT))
    predict(home, "run", "oof", "--oof", "true", "--parts", "true")
    return home


def taught(folder: Path, data: DataSet, recipe: ClassifyRecipe = RECIPE) -> dict[str, torch.Tensor]:
    """Teach a network the cells of the images outside fold 0; return its weights."""
    torch.manual_seed(0)
    net = build_cam_net(recipe, channels=4, classes=19, pretrained=False)
    run, rows = RunFolder(folder), np.flatnonzero(data.folds() != 0)
    ensure_feature_classifier(run, data, rows, recipe.feature_classifier, recipe.seed)
    ensure_self_trained(run, data, rows, recipe, net, choose_device("cpu"))
    return load_checkpoint(run.self_trained)[0]


def flipped(home: Path, index: int) -> DataSet:
    """Return the data set with another label at one image, its folds as they were."""
    data = DataSet.open(home / "data")
    data.labels[index] = 0
    data.labels[index, 7] = 1
    return data


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


def test_no_label_of_a_held_out_image_reaches_the_network(home: Path, tmp_path: Path) -> None:
    data = DataSet.open(home / "data")
    held_out, seen = (int(np.flatnonzero(data.folds() == fold)[0]) for fold in (0, 1))
    runs = {"plain": data, "held_out": flipped(home, held_out), "seen": flipped(home, seen)}
    self_trained_nets = {name: taught(tmp_path / name, own) for name, own in runs.items()}
    assert same(self_trained_nets["plain"], self_trained_nets["held_out"])
    assert not same(self_trained_nets["plain"], self_trained_nets["seen"])
    feature_classifiers = {name: load_file(RunFolder(tmp_path / name).feature_classifier) for name in runs}
    assert same(feature_classifiers["plain"], feature_classifiers["held_out"])
    assert not same(feature_classifiers["plain"], feature_classifiers["seen"])


def test_no_pixel_of_a_held_out_image_is_looked_at(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = DataSet.open(home / "data")
    looked: set[int] = set()
    image = DataSet.image

    def noted(own: DataSet, i: int) -> np.ndarray:
        looked.add(i)
        return image(own, i)

    monkeypatch.setattr(DataSet, "image", noted)
    taught(tmp_path, data)
    assert looked == set(np.flatnonzero(data.folds() != 0).tolist())


def test_the_cells_get_the_right_label_out_of_fold(home: Path) -> None:
    table = pd.read_parquet(home / "oof/self_trained/cells.parquet")
    even = table["ID"].str[-2:].astype(int).to_numpy() % 2 == 0
    true, other = (np.where(even, table[a], table[b]) for a, b in (("0", "16"), ("16", "0")))
    assert (true > other).mean() > 0.9


def test_the_self_trained_takes_its_share_of_the_feature_classifier(home: Path) -> None:
    alone = predict(home, "run", "alone", "--oof", "true", "--score.feature_share", "0")
    network, feature_classifier, self_trained, blend = (
        pd.read_parquet(path / "cells.parquet")[SCORES]
        for path in (alone, home / "oof/feature_classifier", home / "oof/self_trained", home / "oof")
    )
    np.testing.assert_allclose(blend, 0.5 * network + 0.5 * (0.9 * feature_classifier + 0.1 * self_trained), atol=1e-6)


def test_provenance_names_the_self_trained_of_each_fold(home: Path) -> None:
    members = read_json(home / "oof/provenance.json")["members"]
    wanted = [digest_file(RunFolder(home / f"run/fold{fold}").self_trained) for fold in (0, 1)]
    assert [own["self_trained"] for own in members] == wanted


def test_soft_labels_follow_the_labels_of_the_image(home: Path) -> None:
    data, labels = DataSet.open(home / "data"), load_soft_labels(home / "run/fold0/soft_labels.parquet")
    allowed = data.labels[[data.ids.index(name) for name in labels.image_ids]]
    allowed[:, 18] = 1
    assert labels.soft[allowed == 0].max() < 0.2
    assert (labels.soft.max(axis=1) > 0.5).all()


def test_a_self_trained_can_be_added_to_a_finished_run_and_is_made_once(home: Path) -> None:
    train.main(words(home, "later", *QUICK))
    folder = RunFolder(home / "later/fold0")
    weights = folder.best.read_bytes()
    folder.soft_labels.unlink()  # as in runs of earlier versions
    train.main(words(home, "later", *TAUGHT))
    assert folder.best.read_bytes() == weights
    made = folder.self_trained.stat().st_mtime_ns
    train.main(words(home, "later", *TAUGHT))
    assert folder.self_trained.stat().st_mtime_ns == made
    assert folder.self_trained.read_bytes() == RunFolder(home / "run/fold0").self_trained.read_bytes()


def test_a_run_stopped_between_rounds_goes_on_to_the_same_bytes(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = DataSet.open(home / "data")
    taught(tmp_path / "whole", data)
    calls, learn = [], self_training.train_self_trained

    def stop_at_the_third(*given: object) -> object:
        calls.append(given[-1])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return learn(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(self_training, "train_self_trained", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        taught(tmp_path / "torn", data)
    taught(tmp_path / "torn", data)
    assert calls[2:] == ["self-training 2", "self-training 2"]  # the first round is not done again
    whole, torn = (RunFolder(tmp_path / name).self_trained for name in ("whole", "torn"))
    assert torn.read_bytes() == whole.read_bytes()
    assert not list((tmp_path / "torn").glob("*.partial*"))


def test_a_fold_without_its_self_trained_is_refused(home: Path) -> None:
    shutil.copytree(home / "run", home / "torn")
    (home / "torn/fold1/self_trained.safetensors").unlink()
    with pytest.raises(DataError, match="fold1 has no self-trained network"):
        predict(home, "torn", "nothing", "--oof", "true")
    predict(home, "torn", "without", "--oof", "true", "--score.self_training_share", "0")


def test_a_self_trained_of_other_images_is_refused(home: Path) -> None:
    shutil.copytree(home / "run", home / "mixed")
    shutil.copy(home / "run/fold0/self_trained.safetensors", home / "mixed/fold1/self_trained.safetensors")
    with pytest.raises(DataError, match="other images than the network"):
        predict(home, "mixed", "nothing", "--oof", "true")


def test_a_notebook_gives_the_scores_of_infer(home: Path) -> None:
    table = pd.read_parquet(predict(home, "run", "all") / "cells.parquet")
    data = DataSet.open(home / "data")
    found = wsss.load(home / "run", device="cpu").predict(np.array(data.image(3)), field(3)[1], name=data.ids[3])
    wanted = table[table["ID"] == data.ids[3]].reset_index(drop=True)
    np.testing.assert_allclose(found[SCORES], wanted[SCORES], atol=2e-5)


def test_a_shared_model_takes_the_self_trained_along(home: Path) -> None:
    out = home / "shared"
    assert export.main(["--run", str(home / "run"), "--to", "huggingface", "--out", str(out)]) == 0
    own, shared = (wsss.load(source, device="cpu").predict(*field(0)) for source in (home / "run", out))
    pd.testing.assert_frame_equal(own, shared)


def test_without_a_confident_cell_the_way_out_is_told(home: Path, tmp_path: Path) -> None:
    sure = replace(RECIPE, self_training=replace(RECIPE.self_training, confidence=1.0))
    with pytest.raises(DataError, match=r"lower self_training\.confidence"):
        taught(tmp_path, DataSet.open(home / "data"), sure)


def test_a_teacher_is_needed() -> None:
    with pytest.raises(ConfigError, match=r"needs feature_classifier\.enabled"):
        ClassifyRecipe(self_training=SelfTrainingConfig(enabled=True))
