"""The two learners of soft labels: a forest and a regularised linear model."""

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.preprocessing import QuantileTransformer

from wsss.core.runtime import cores
from wsss.feature_classifier.store import SPREAD
from wsss.options.recipe import WeakConfig

STEPS = 60
"""Steps at most of the linear model's fit."""


class Forest:
    """Extremely randomised trees that predict soft labels, each class by itself."""

    def __init__(self, config: WeakConfig, seed: int) -> None:
        self._trees = ExtraTreesRegressor(
            config.trees,
            min_samples_leaf=config.leaf,
            max_features=0.2,
            random_state=seed,
        )

    def fit(self, features: np.ndarray, soft: np.ndarray, weights: np.ndarray | None = None) -> "Forest":
        """Learn from (N, F) features, (N, K) soft labels and (N,) weights of the cells, 1 each by default."""
        self._trees.set_params(n_jobs=cores())
        self._trees.fit(features, soft if soft.shape[1] > 1 else soft.ravel(), weights)
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
        trees = [tree.tree_ for tree in self._trees.estimators_]
        counts = [tree.node_count for tree in trees]
        ends, outputs = np.cumsum(counts), trees[0].value.shape[1]
        # filled tree by tree: thousands of images make gigabytes of leaves, which are not to be held twice
        out = {
            "roots": (ends - counts).astype(np.int32),
            "feature": np.empty(ends[-1], np.int16),
            "threshold": np.empty(ends[-1]),
            "left": np.empty(ends[-1], np.int32),
            "right": np.empty(ends[-1], np.int32),
            "value": np.empty((ends[-1], outputs), np.float32),
        }
        for tree, root, end in zip(trees, out["roots"], ends, strict=True):
            leaf, node = tree.children_left < 0, np.arange(root, end)
            out["feature"][root:end] = np.where(leaf, -1, tree.feature)
            out["threshold"][root:end] = tree.threshold
            out["left"][root:end] = np.where(leaf, node, root + tree.children_left)
            out["right"][root:end] = np.where(leaf, node, root + tree.children_right)
            out["value"][root:end] = tree.value[:, :, 0]
        return out


class Linear:
    """Logistic regression of each class against the rest, on features turned into normal scores."""

    def __init__(self, config: WeakConfig, seed: int) -> None:
        self._scale = QuantileTransformer(output_distribution="normal", random_state=seed)
        self._penalty = 1 / config.strength
        self._weights = np.zeros((0, 0))

    def fit(self, features: np.ndarray, soft: np.ndarray, weights: np.ndarray | None = None) -> "Linear":
        """Learn from (N, F) features, (N, K) soft labels and (N,) weights of the cells, 1 each by default."""
        self._scale.set_params(n_quantiles=min(200, len(features)))
        self._scale.fit(features)
        scaled, wanted = self._scaled(features).astype(np.float32), soft.astype(np.float32)
        shape = scaled.shape[1], soft.shape[1]
        counted = np.float32(1) if weights is None else weights.astype(np.float32)[:, None]

        def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
            weights = flat.reshape(shape).astype(np.float32)
            logits = scaled @ weights
            value = (counted * (np.logaddexp(0, logits) - wanted * logits)).sum(dtype=np.float64)
            slope = scaled.T @ (counted * (expit(logits) - wanted))
            weights[-1] = 0  # the intercept is free
            value += self._penalty / 2 * (weights.astype(np.float64) ** 2).sum()
            slope += np.float32(self._penalty) * weights
            return value / len(scaled), slope.ravel().astype(np.float64) / len(scaled)

        minimum = minimize(loss, np.zeros(np.prod(shape)), jac=True, method="L-BFGS-B", options={"maxiter": STEPS})
        self._weights = minimum.x.reshape(shape)
        return self

    def _scaled(self, features: np.ndarray) -> np.ndarray:
        """Return (N, F + 1) normal scores, the last column 1."""
        scaled = np.clip(self._scale.transform(features), -SPREAD, SPREAD)
        return np.hstack([scaled, np.ones((len(features), 1))])

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return (N, K) probabilities."""
        return np.asarray(expit(self._scaled(features) @ self._weights))

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the model as arrays: quantiles, references, and weights and intercept with a row a class."""
        return {
            "quantiles": self._scale.quantiles_,
            "references": self._scale.references_,
            "weights": np.ascontiguousarray(self._weights[:-1].T),
            "intercept": self._weights[-1].copy(),
        }
