"""The network gets the share of the scores that held-out images ask for, and no image asks for itself."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
from forest_file import FEATURES
from PIL import Image

from wsss import infer, train
from wsss.core.checks import DataError
from wsss.core.files import read_json
from wsss.data.build import Spec, create_dataset
from wsss.data.catalog import DataSet
from wsss.data.synthetic import draw_field
from wsss.feature_classifier.store import NETWORK_SHARE, load_feature_classifier, save_feature_classifier
from wsss.feature_classifier.train import record_network_share
from wsss.inference import network_share
from wsss.inference.checkpoints import CamCheckpoint, plan_oof
from wsss.inference.network_share import STEPS, _rescorer, choose_shares
from wsss.inference.sources import feature_share
from wsss.options.recipe import ClassifyRecipe
from wsss.options.scoring import CropConfig, ScoreConfig
from wsss.runs.record import RunRecord
from wsss.runs.run_folder import RunFolder

SIZE, IMAGES = 64, 12
LEAST = 5
"""For LEAST_IMAGES, of which each of two folds needs so many."""
SCORES = [str(k) for k in range(19)]


def blends(truth: np.ndarray, features: np.ndarray, network: np.ndarray) -> np.ndarray:
    return np.stack([(1 - share) * features + share * network for share in STEPS])


@pytest.fixture
def drawn() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Labels of 200 images for three classes, scores that know them, scores that know nothing, bootstrap samples."""
    rng = np.random.default_rng(0)
    truth = rng.random((200, 3)) < 0.4
    right = np.clip(truth * 0.6 + rng.random((200, 3)) * 0.5, 0, 1)
    return truth, right, rng.random((200, 3)), rng.integers(0, 200, (20, 200))


def test_who_knows_gets_the_share(drawn: tuple[np.ndarray, ...]) -> None:
    truth, right, noise, draws = drawn
    assert (choose_shares(truth, blends(truth, right, noise), draws) == 0).all()
    assert (choose_shares(truth, blends(truth, noise, right), draws) >= 0.5).all()


def test_each_class_has_its_own_share(drawn: tuple[np.ndarray, ...]) -> None:
    truth, right, noise, draws = drawn
    features, network = right.copy(), noise.copy()
    features[:, 1], network[:, 1] = noise[:, 1], right[:, 1]
    shares = choose_shares(truth, blends(truth, features, network), draws)
    assert shares[0] == shares[2] == 0
    assert shares[1] >= 0.5


def test_cells_at_the_border_count_as_infer_lets_them() -> None:
    """Scores of a cell that the border cuts, of half the area of the other, are halved by --score.border_power 1."""
    known: Any = SimpleNamespace(one_class=False)
    checkpoint = CamCheckpoint(cast(Any, SimpleNamespace(classes=("a",))), cast(Any, None), known)
    columns = {"area_px": [100, 50], "touches_border": [False, True]}
    columns |= {f"{name}:0": [0.8, 0.8] for name in ("image", "cam", "feature_classifier")}
    found = []
    for power in (0.0, 1.0):
        rules = ScoreConfig(border_power=power, prior_rounds=0)
        task: Any = SimpleNamespace(score=rules, crops=CropConfig(mode="none"))
        found.append(_rescorer(checkpoint, task, [pd.DataFrame(columns)], None)(0.5)[0, 0])
    assert found == pytest.approx([1 - 0.2**3, 1 - 0.4**3])


def test_equal_sources_leave_the_features_alone(drawn: tuple[np.ndarray, ...]) -> None:
    truth, right, _, draws = drawn
    assert (choose_shares(truth, blends(truth, right, right), draws) == 0).all()


def test_rare_classes_go_with_all_others(drawn: tuple[np.ndarray, ...]) -> None:
    truth, right, noise, draws = drawn
    truth[:, 1], truth[:, 2] = np.arange(200) < 3, np.arange(200) > 196
    features, network = right.copy(), noise.copy()
    features[:, 1], network[:, 1] = noise[:, 1], truth[:, 1]
    network[:, 0], features[:, 2] = right[:, 0], truth[:, 2]
    shares = choose_shares(truth, blends(truth, features, network), draws)
    assert shares[1] == shares[2]


def checkpoint(data: DataSet, fold: int, share: list[float] | None) -> CamCheckpoint:
    seen = tuple(name for name, own in zip(data.ids, data.folds(), strict=True) if own != fold)
    record = RunRecord(ClassifyRecipe(), fold, data.folds_digest, seen, data.channels, path=Path(f"run/fold{fold}"))
    net: Any = None
    return CamCheckpoint(record, net, network_share=None if share is None else np.array(share))


def test_out_of_fold_the_share_comes_from_other_folds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = {f"im{k}": rng.integers(0, 200, (4, 32, 32), dtype=np.uint8) for k in range(9)}
    spec = Spec(size=32, folds=3)
    data = DataSet.open(create_dataset(tmp_path / "data", images, {name: [int(name[2:]) % 2] for name in images}, spec))
    plan = plan_oof([checkpoint(data, 0, [0, 1]), checkpoint(data, 1, [0.5, 0]), checkpoint(data, 2, [0.3, 0.2])], data)
    shares = {one.fold: np.asarray(one.network_share) for (one,), _ in plan}
    np.testing.assert_allclose(shares[0], [0.4, 0.1])
    np.testing.assert_allclose(shares[2], [0.25, 0.5])
    assert all(one.network_share is None for (one,), _ in plan_oof([checkpoint(data, k, None) for k in range(3)], data))


def test_what_is_asked_for_counts_more_than_what_was_fitted(tmp_path: Path) -> None:
    fitted: list[Any] = [CamCheckpoint(None, None, network_share=np.array([0.2, 0]))]  # type: ignore[arg-type]
    np.testing.assert_allclose(np.asarray(feature_share(fitted, ScoreConfig())), [0.8, 1])
    assert feature_share(fitted, ScoreConfig(feature_share=0.3)) == 0.3
    nothing: list[Any] = [CamCheckpoint(None, None, network_share=np.zeros(2))]  # type: ignore[arg-type]
    assert feature_share(nothing, ScoreConfig()) == 1


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn fields, and a run of both folds."""
    home = tmp_path_factory.mktemp("share")
    names = [f"im{n:02}" for n in range(IMAGES)]
    labels = {name: [0 if n % 2 == 0 else 16] for n, name in enumerate(names)}
    fields = [draw_field(np.random.default_rng(n), SIZE, labels[name]) for n, name in enumerate(names)]
    images = {name: field.image for name, field in zip(names, fields, strict=True)}
    create_dataset(home / "data", images, labels, Spec(size=SIZE, folds=2))
    (home / "data/cells").mkdir()
    for name, field in zip(names, fields, strict=True):
        few = np.where(field.label_map <= 4, field.label_map, 0)
        Image.fromarray(few.astype(np.uint16)).save(home / f"data/cells/{name}.png")
    learn(home)
    return home


def learn(home: Path, *more: str) -> None:
    words = ["--data", str(home / "data"), "--run", str(home / "run"), "--fold", "all", "--backbone", "test_resnet"]
    quick = ["--weights", "none", "--epochs", "1", "--batch", "4", "--crop", "0", "--device", "cpu", "--workers", "0"]
    weak = [f"--feature_classifier.weak.{text}" for text in ("rounds=1", "folds=2", "trees=8", "leaf=1")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network_share, "LEAST_IMAGES", LEAST)
        patch.setattr(network_share, "DRAWS", 5)
        train.main([*words, *quick, *weak, "--feature_classifier.copies", "0", "--crops.size", "32", *more])


def predict(home: Path, out: str, *more: str) -> pd.DataFrame:
    words = [*f"--data {home}/data --run {home}/run --out {home}/{out} --device cpu".split(), *more]
    assert infer.main(words) == 0
    return pd.read_parquet(home / out / "cells.parquet")


def test_a_training_finds_the_share_once_and_says_what_it_found(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = read_json(home / "run/fold0/feature_classifier.json")["network_share"]
    assert LEAST <= found["images"] < IMAGES
    assert len(found["by_class"]) == 19
    assert set(found["image_ap"]) == {"features", "network", "both"}
    assert all(0 < value <= 1 for value in found["image_ap"].values())
    before = (home / "run/fold0/feature_classifier.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    learn(home)
    assert "the network gets" not in capsys.readouterr().out
    assert (home / "run/fold0/feature_classifier.safetensors").stat().st_mtime_ns == before
    learn(home, "--score.prior_rounds", "1")
    assert capsys.readouterr().out.count("the network gets") == 2, "other rules, other shares"


def test_scores_are_blended_class_by_class(home: Path) -> None:
    data = DataSet.open(home / "data")
    shares = {fold: np.random.default_rng(fold).choice(STEPS, 19) for fold in (0, 1)}
    for fold, share in shares.items():
        made = {"by_class": share.tolist(), "images": 24, "made_with": {}}
        record_network_share(RunFolder(home / f"run/fold{fold}"), data, made)
    plain = ["--score.prior_rounds", "0", "--score.blend", "mean", "--parts", "true"]
    for out, more in (("all", []), ("oof", ["--oof", "true"])):
        blended = predict(home, out, *plain, *more)
        network, features = (
            sum(pd.read_parquet(home / out / part / "cells.parquet")[SCORES] for part in parts) / len(parts)
            for parts in (("cam", "crop"), ("feature_classifier",))
        )
        share = np.mean(list(shares.values()), axis=0)[None]
        if more:  # by the other fold's share
            share = np.stack([shares[1 - fold] for fold in blended["fold"]])
        wanted = share * network[SCORES] + (1 - share) * features[SCORES]
        np.testing.assert_allclose(blended[SCORES], wanted, atol=2e-6)


@pytest.mark.parametrize("share", [[0.5] * 3, [2.0] * 19, [float("nan")] * 19, ["a"] * 19, 3])
def test_a_share_that_is_none_is_refused(home: Path, share: Any) -> None:
    folder = RunFolder(home / "run/fold0")
    fitted = load_feature_classifier(folder.feature_classifier, FEATURES)
    path = home / "other.safetensors"
    save_feature_classifier(path, fitted.with_meta({NETWORK_SHARE: {"by_class": share}}))
    with pytest.raises(DataError, match=r"other\.safetensors holds no forest, linear model and curves that fit"):
        load_feature_classifier(path, FEATURES)
