import numpy as np
import pytest
from scipy.special import expit

from wsss.feature_classifier.features import DESCRIPTIONS, FEATURES
from wsss.feature_classifier.fit import fit_weak, to_feature_classifier
from wsss.feature_classifier.store import FeatureClassifier
from wsss.feature_classifier.train import contributions, explain_cell, explain_classes
from wsss.options.recipe import WeakConfig

MEMBRANE, NUCLEUS = FEATURES.index("rim_mean"), FEATURES.index("nucleus_to_cytoplasm")
CONFIG = WeakConfig(rounds=1, folds=2, trees=4)


@pytest.fixture(scope="module")
def feature_classifier() -> FeatureClassifier:
    """Class 0 has a high `rim_mean`, class 1 a high `nucleus_to_cytoplasm`; all else is noise."""
    rng = np.random.default_rng(0)
    truth = np.repeat(rng.permutation(np.arange(60) % 2), 5)
    features = rng.normal(0, 1, (300, len(FEATURES))).astype(np.float32)
    features[:, MEMBRANE] += 4 * (truth == 0)
    features[:, NUCLEUS] += 4 * (truth == 1)
    labels = np.eye(2)[truth[::5]]
    return to_feature_classifier(fit_weak(features, np.arange(300) // 5, labels, None, 0, CONFIG), FEATURES, CONFIG, {})


def test_the_strongest_reason_of_a_cell_is_the_feature_that_makes_its_class(
    feature_classifier: FeatureClassifier,
) -> None:
    cell = np.zeros(len(FEATURES), np.float32)
    cell[MEMBRANE] = 5
    cell[NUCLEUS] = -2
    reasons = explain_cell(feature_classifier, cell, 0)
    assert {(reasons[0].feature, reasons[0].level), (reasons[1].feature, reasons[1].level)} == {
        ("rim_mean", "high"),
        ("nucleus_to_cytoplasm", "low"),
    }
    assert reasons[0].words == DESCRIPTIONS[reasons[0].feature]
    assert reasons[0].weight >= reasons[1].weight >= reasons[2].weight > 0


def test_contributions_and_intercept_are_the_log_odds(feature_classifier: FeatureClassifier) -> None:
    cells = np.random.default_rng(1).normal(0, 2, (7, len(FEATURES))).astype(np.float32)
    parts = contributions(feature_classifier, cells)
    assert parts.shape == (7, 2, len(FEATURES))
    np.testing.assert_allclose(
        expit(parts.sum(axis=2) + feature_classifier.linear.intercept), feature_classifier.linear.predict(cells)
    )


def test_every_class_is_told_by_its_own_feature(feature_classifier: FeatureClassifier) -> None:
    told = explain_classes(feature_classifier)
    assert {"rim_mean", "nucleus_to_cytoplasm"} <= {reason.feature for reason in told[0]}
    levels = {label: {r.feature: r.level for r in reasons} for label, reasons in told.items()}
    assert (levels[0]["rim_mean"], levels[1]["rim_mean"]) == ("high", "low")


def test_a_class_that_was_never_seen_cannot_be_explained(feature_classifier: FeatureClassifier) -> None:
    with pytest.raises(ValueError, match="knows the classes"):
        explain_cell(feature_classifier, np.zeros(len(FEATURES), np.float32), 9)
