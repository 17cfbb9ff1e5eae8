"""Two learners of soft cell labels, of different kinds so that their mistakes differ: a forest and a linear model."""

import numpy as np
from scipy.special import softmax
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import QuantileTransformer

from wsss.core.runtime import cores
from wsss.options.feature_classifier import WeakConfig

SPREAD = 4.0
"""Normal scores of features beyond this are cut."""


class Forest:
    """Extremely randomised trees that predict soft labels."""

    def __init__(self, config: WeakConfig, seed: int) -> None:
        self._trees = ExtraTreesRegressor(
            config.trees,
            min_samples_leaf=config.leaf,
            max_features=0.3,
            random_state=seed,
        )

    def fit(self, features: np.ndarray, soft: np.ndarray) -> "Forest":
        """Learn from (N, F) features and (N, K) soft labels."""
        self._trees.set_params(n_jobs=cores())
        self._trees.fit(features, soft if soft.shape[1] > 1 else soft.ravel())
        return self

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return (N, K) probabilities, the same bits each time."""
        self._trees.set_params(n_jobs=1)  # threads would add up the trees in the order in which they happen to end
        return self._trees.predict(features).reshape(len(features), -1)

    @property
    def importance(self) -> np.ndarray:
        """(F,) how much each feature decides, summing to 1."""
        return self._trees.feature_importances_

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the trees one after another as arrays: roots, feature, threshold, left, right, value.

        Nodes are numbered through all trees; a leaf asks for no feature (-1) and is its own child.
        """
        trees = [own.tree_ for own in self._trees.estimators_]
        counts = [tree.node_count for tree in trees]
        roots = np.cumsum(counts) - counts
        joined = {
            name: np.concatenate([getattr(tree, name) for tree in trees])
            for name in ("feature", "threshold", "children_left", "children_right", "value")
        }
        leaf = joined["children_left"] < 0
        own, root = np.arange(len(leaf)), np.repeat(roots, counts)
        return {
            "roots": roots.astype(np.int32),
            "feature": np.where(leaf, -1, joined["feature"]).astype(np.int16),
            "threshold": joined["threshold"],
            "left": np.where(leaf, own, root + joined["children_left"]).astype(np.int32),
            "right": np.where(leaf, own, root + joined["children_right"]).astype(np.int32),
            "value": joined["value"][:, :, 0].astype(np.float32),
        }


class Linear:
    """Multinomial logistic regression on features turned into normal scores; soft labels are weights."""

    def __init__(self, config: WeakConfig, seed: int) -> None:
        self._scale = QuantileTransformer(output_distribution="normal", random_state=seed)
        self._model = LogisticRegression(C=config.strength, max_iter=300)
        self._weights = self._intercept = np.zeros(0)

    def fit(self, features: np.ndarray, soft: np.ndarray) -> "Linear":
        """Learn from (N, F) features and (N, K) soft labels."""
        self._scale.set_params(n_quantiles=min(200, len(features)))
        scaled = np.clip(self._scale.fit_transform(features), -SPREAD, SPREAD)
        cell, label = np.nonzero(soft > 0.01)
        self._weights = np.zeros((soft.shape[1], features.shape[1]))
        # a class that no cell has gets the probability 0
        self._intercept = np.full(soft.shape[1], -np.inf)
        known = np.unique(label)
        self._intercept[known] = 0
        if len(known) > 1:
            self._model.fit(scaled[cell], label, sample_weight=soft[cell, label])
            # of two classes, scikit-learn keeps one row: the second against the first
            rows = known[-len(self._model.coef_) :]
            self._weights[rows], self._intercept[rows] = self._model.coef_, self._model.intercept_
        return self

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return (N, K) probabilities."""
        scaled = np.clip(self._scale.transform(features), -SPREAD, SPREAD)
        return np.asarray(softmax(scaled @ self._weights.T + self._intercept, axis=1))

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the model as arrays: quantiles, references, and weights and intercept with a row a class."""
        return {
            "quantiles": self._scale.quantiles_,
            "references": self._scale.references_,
            "weights": self._weights,
            "intercept": self._intercept,
        }
