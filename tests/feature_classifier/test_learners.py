"""The learners of the feature classifier."""

import numpy as np
import pytest

from wsss.feature_classifier import fit
from wsss.options.recipe import FitConfig


def test_a_forest_predicts_the_same_bits_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "cores", lambda: 8)
    rng = np.random.default_rng(0)
    features, soft = rng.normal(size=(400, 9)), rng.dirichlet(np.ones(3), 400)
    forest = fit.Forest(FitConfig(trees=60), seed=1).fit(features, soft)
    first = forest.predict(features)
    assert all(np.array_equal(first, forest.predict(features)) for _ in range(10))
