import numpy as np
import pytest
from forest_file import FEATURES

from wsss.feature_classifier.fit import TrainingCells, fit_model, to_feature_classifier
from wsss.feature_classifier.store import FeatureClassifier
from wsss.feature_classifier.train import explain_classes
from wsss.options.recipe import FitConfig

MEMBRANE, NUCLEUS = FEATURES.index("rim_mean"), FEATURES.index("nucleus_to_cytoplasm")
CONFIG = FitConfig(rounds=1, folds=2, trees=4)


@pytest.fixture(scope="module")
def feature_classifier() -> FeatureClassifier:
    """Class 0 has a high `rim_mean`, class 1 a high `nucleus_to_cytoplasm`; all else is noise."""
    rng = np.random.default_rng(0)
    truth = np.repeat(rng.permutation(np.arange(60) % 2), 5)
    features = rng.normal(0, 1, (300, len(FEATURES))).astype(np.float32)
    features[:, MEMBRANE] += 4 * (truth == 0)
    features[:, NUCLEUS] += 4 * (truth == 1)
    labels = np.eye(2)[truth[::5]]
    model = fit_model(TrainingCells(features, np.arange(300) // 5, labels, None), 0, CONFIG)
    return to_feature_classifier(model, FEATURES, CONFIG, {})


def test_every_class_is_told_by_its_own_feature(feature_classifier: FeatureClassifier) -> None:
    told = explain_classes(feature_classifier)
    assert {"rim_mean", "nucleus_to_cytoplasm"} <= {reason.feature for reason in told[0]}
    levels = {label: {r.feature: r.level for r in reasons} for label, reasons in told.items()}
    assert (levels[0]["rim_mean"], levels[1]["rim_mean"]) == ("high", "low")
