from pathlib import Path

import numpy as np
import pytest
from sklearn.ensemble import ExtraTreesRegressor

from wsss.core.checks import DataError
from wsss.feature_classifier.fit import FittedModel, TrainingCells, fit_model, to_feature_classifier
from wsss.feature_classifier.store import FeatureClassifier, load_feature_classifier, save_feature_classifier
from wsss.options.recipe import FitConfig

NAMES = ("a", "b", "c", "d", "flat")
CONFIG = FitConfig(rounds=1, folds=2, trees=12, leaf=2)


@pytest.fixture(scope="module")
def fitted() -> tuple[FittedModel, FeatureClassifier]:
    """A model of four classes of six, with a feature that never changes and one that takes few values."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 240)
    features = (3 * np.eye(5)[truth] + rng.normal(0, 1, (240, 5))).astype(np.float32)
    features[:, 3], features[:, 4] = features[:, 3].round(), 7
    labels = np.zeros((60, 6))
    np.put_along_axis(labels, truth.reshape(60, 4), 1, axis=1)
    model = fit_model(TrainingCells(features, np.arange(240) // 4, labels, 5), 0, CONFIG)
    return model, to_feature_classifier(model, NAMES, CONFIG, {"seed": 0})


def hard_cases() -> np.ndarray:
    usual = np.random.default_rng(1).normal(1, 2, (300, 5)).astype(np.float32)
    usual[:, 3], usual[:, 4] = usual[:, 3].round(), 7
    return np.concatenate([usual, [[1e9] * 5, [-1e9] * 5, [0] * 5, [7] * 5]]).astype(np.float32)


def test_plain_numpy_gives_the_scores_of_scikit_learn(fitted: tuple[FittedModel, FeatureClassifier]) -> None:
    model, feature_classifier = fitted
    np.testing.assert_allclose(feature_classifier.predict(hard_cases()), model.predict(hard_cases()), atol=1e-6)
    for stored, learner in zip((feature_classifier.forest, feature_classifier.linear), model.learners, strict=True):
        np.testing.assert_allclose(stored.predict(hard_cases()), learner.predict(hard_cases()), atol=1e-6)


def test_a_saved_feature_classifier_is_the_same_when_loaded(
    fitted: tuple[FittedModel, FeatureClassifier], tmp_path: Path
) -> None:
    _, feature_classifier = fitted
    save_feature_classifier(tmp_path / "o.safetensors", feature_classifier)
    found = load_feature_classifier(tmp_path / "o.safetensors", NAMES)
    assert (found.predict(hard_cases()) == feature_classifier.predict(hard_cases())).all()
    assert (found.meta, found.digest) == (feature_classifier.meta, feature_classifier.digest)
    assert found.predict(np.zeros((0, 5))).shape == (0, 6)


def test_loading_needs_no_scikit_learn_model(
    fitted: tuple[FittedModel, FeatureClassifier], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_feature_classifier(tmp_path / "o.safetensors", fitted[1])

    def fail(*_: object) -> None:
        raise AssertionError("scikit-learn predicted")

    monkeypatch.setattr(ExtraTreesRegressor, "predict", fail)
    assert load_feature_classifier(tmp_path / "o.safetensors", NAMES).predict(hard_cases()).any()


def test_damage_and_other_features_are_told_in_one_line(
    fitted: tuple[FittedModel, FeatureClassifier], tmp_path: Path
) -> None:
    path = tmp_path / "o.safetensors"
    save_feature_classifier(path, fitted[1])
    whole = path.read_bytes()
    for names, told in ((("a", "b", "c", "d", "new"), "flat, new"), (NAMES[::-1], "another order")):
        with pytest.raises(DataError, match=told):
            load_feature_classifier(path, names)
    place = whole.index(fitted[1].linear.weights.tobytes())
    for content in (whole[:1000], b"", whole[:place] + b"\x00\x01" + whole[place + 2 :]):
        path.write_bytes(content)
        with pytest.raises(DataError, match="damaged") as error:
            load_feature_classifier(path, NAMES)
        assert "\n" not in str(error.value)
    path.unlink()
    with pytest.raises(DataError, match="does not exist"):
        load_feature_classifier(path, NAMES)
