"""A fitted feature classifier as one safetensors file of plain arrays, and its predictions in plain numpy.

Nothing is pickled, and scikit-learn is not needed to predict: another version of it cannot change a score.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from scipy.special import expit, logit, ndtri

from wsss.core.checks import DataError, some
from wsss.core.files import check_format, write_bytes
from wsss.core.labels import MOST_CLASSES
from wsss.core.reading import one_line, parse_json
from wsss.metrics.calibration import Calibration

FORMAT = "wsss-feature_classifier-2"
LEAF = -1
"""What stands for the feature of a node that has no children."""
ROWS = 256
"""Cells that go through the trees at once."""
NEAR = 1e-7
"""Values this near to the lowest or highest known one count as it, as in scikit-learn."""
SPREAD = 4.0
"""Normal scores of features beyond this are cut."""
NETWORK_SHARE = "network_share"
"""Entry of a feature classifier's record: what was found on held-out images about the network beside it."""
CALIBRATION = "calibration"
"""Entry of its record: the curves of its scores."""
LEAST = 2e-3
"""A probability of a learner below this counts as this, above 1 less this as that: no learner alone decides."""


def agreement(views: np.ndarray) -> np.ndarray:
    """Join probabilities of several learners: the mean of their log odds, (learners, N, K) -> (N, K) float64."""
    return np.asarray(expit(logit(np.clip(views, LEAST, 1 - LEAST)).mean(axis=0)))


@dataclass(frozen=True)
class StoredForest:
    """Trees one after another: node i goes on to node left[i] or right[i], or is a leaf with value[i]."""

    roots: np.ndarray
    """(T,) int32, the first node of each tree."""
    feature: np.ndarray
    """(M,) int16, the feature that each node asks for; LEAF for none."""
    threshold: np.ndarray
    """(M,) float64: features up to it go left."""
    left: np.ndarray
    """(M,) int32; a leaf is its own child."""
    right: np.ndarray
    """(M,) int32; a leaf is its own child."""
    value: np.ndarray
    """(M, C) float32, the soft label of a leaf."""

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return (N, C) float64 probabilities for (N, F) float32 features."""
        parts = [self._some(features[a : a + ROWS]) for a in range(0, len(features), ROWS)]
        return np.concatenate(parts) if parts else np.zeros((0, self.value.shape[1]))

    def _some(self, features: np.ndarray) -> np.ndarray:
        rows = np.arange(len(features))
        node = np.repeat(self.roots[:, None], len(features), axis=1)  # (T, N), all trees at once
        while (inner := self.feature[node] != LEAF).any():
            asked = features[rows, np.where(inner, self.feature[node], 0)]
            node = np.where(asked <= self.threshold[node], self.left[node], self.right[node])
        return np.asarray(self.value[node].mean(axis=0, dtype=np.float64))


@dataclass(frozen=True)
class StoredLinear:
    """Logistic regression of each class against the rest, on normal scores of the features."""

    quantiles: np.ndarray
    """(Q, F) float64, the values of each feature at `references`, rising."""
    references: np.ndarray
    """(Q,) float64 in [0, 1]."""
    weights: np.ndarray
    """(C, F) float64."""
    intercept: np.ndarray
    """(C,) float64."""

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return (N, C) float64 probabilities for (N, F) features."""
        scaled = normal_scores(features, self.quantiles, self.references)
        return np.asarray(expit(scaled @ self.weights.T + self.intercept))


def normal_scores(features: np.ndarray, quantiles: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Turn (N, F) features into normal scores within +-SPREAD, float64.

    Args:
        features: of cells.
        quantiles: (Q, F) the values of each feature at `references`, rising.
        references: (Q,) in [0, 1].
    """
    ranks = [_ranks(column, known, references) for column, known in zip(features.T, quantiles.T, strict=True)]
    return np.clip(ndtri(np.array(ranks).T.reshape(features.shape)), -SPREAD, SPREAD)


def _ranks(values: np.ndarray, known: np.ndarray, references: np.ndarray) -> np.ndarray:
    # values that several quantiles share get the middle of their ranks; the ends are 0 and 1
    up = np.interp(values, known, references)
    down = np.interp(-values, -known[::-1], -references[::-1])
    ranks = np.where(values + NEAR > known[-1], 1, (up - down) / 2)
    return np.where(values - NEAR < known[0], 0, ranks)


@dataclass(frozen=True)
class FeatureClassifier:
    """A feature classifier, ready to score cells."""

    forest: StoredForest
    linear: StoredLinear
    classes: np.ndarray
    """(C,) int64, the class ids that the learners know; the others always score 0."""
    meta: dict[str, Any]
    """count (of all classes), names (of the features), importance (F,), history, config, and what the caller added."""
    digest: str
    """Of the content: equal feature_classifiers have equal digests."""

    @property
    def one_class(self) -> bool:
        """Whether the cells that it learnt from show one class each; False for classifiers of before."""
        return self.meta.get("one_class") is True

    @property
    def network_share(self) -> np.ndarray | None:
        """(K,) share of the network beside it in each score, as found on held-out images; None if it was not."""
        fitted = self.meta.get(NETWORK_SHARE)
        return None if fitted is None else np.asarray(fitted["by_class"], np.float64)

    @property
    def calibration(self) -> Calibration | None:
        """The curves of its scores after the image prior; None for classifiers of before."""
        record = self.meta.get(CALIBRATION)
        return None if record is None else Calibration.of_record(record, self.meta["count"])

    def with_meta(self, more: dict[str, Any]) -> "FeatureClassifier":
        """Return the same with further entries in its record."""
        return self.of(self.forest, self.linear, self.classes, self.meta | more)

    @classmethod
    def of(
        cls, forest: StoredForest, linear: StoredLinear, classes: np.ndarray, meta: dict[str, Any]
    ) -> "FeatureClassifier":
        """Return the feature classifier of these learners, with its digest."""
        return cls(forest, linear, classes, meta, _digest(_arrays(forest, linear, classes), meta))

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return scores (N, K) float32 in [0, 1] for (N, F) float32 features; each class by itself."""
        features = np.asarray(features, np.float32)
        out = np.zeros((len(features), self.meta["count"]), np.float32)
        if len(features):
            out[:, self.classes] = agreement(np.array([self.forest.predict(features), self.linear.predict(features)]))
        return out


def save_feature_classifier(path: Path, feature_classifier: FeatureClassifier) -> None:
    """Write a feature classifier, whole or not at all."""
    header = {"format": FORMAT, "meta": feature_classifier.meta, "digest": feature_classifier.digest}
    # one entry only: safetensors writes several in any order, and equal content must give equal bytes
    arrays = _arrays(feature_classifier.forest, feature_classifier.linear, feature_classifier.classes)
    write_bytes(path, save(arrays, {"wsss": json.dumps(header, sort_keys=True)}))


def load_feature_classifier(path: Path, names: tuple[str, ...]) -> FeatureClassifier:
    """Read a feature classifier.

    Args:
        names: the features that it will be asked about, in order.

    Raises:
        DataError: the file is missing, damaged, no feature_classifier, or was made from other features.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist: train with --feature_classifier.enabled true to make it.")
    again = "remove it and run the same train command again to make a new one"
    try:
        with safe_open(path, framework="numpy") as stream:
            header = parse_json((stream.metadata() or {}).get("wsss", "{}"), path)
            arrays = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"{path} is damaged or no safetensors file ({one_line(error)}): {again}.") from error
    header = header if isinstance(header, dict) else {}
    check_format(path, header.get("format"), FORMAT, "feature classifier", again)
    meta = header.get("meta")
    if not isinstance(meta, dict) or _digest(arrays, meta) != header.get("digest"):
        raise DataError(f"{path} is damaged, its content does not match its digest: {again}.")
    if meta.get("names") != list(names):
        known = meta.get("names")
        other = sorted({str(name) for name in (known if isinstance(known, list) else [])} ^ set(names)) or [
            "the same in another order"
        ]
        raise DataError(f"{path} was made from other cell features ({some(other)}): {again}.")
    forest = {name.split(".")[1]: array for name, array in arrays.items() if name.startswith("forest.")}
    linear = {name.split(".")[1]: array for name, array in arrays.items() if name.startswith("linear.")}
    try:
        stored = StoredForest(**forest), StoredLinear(**linear)
        _check_arrays(*stored, arrays["classes"], meta["count"], len(names))
        _check_share(meta)
        if meta.get(CALIBRATION) is not None:
            Calibration.of_record(meta[CALIBRATION], meta["count"])
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise DataError(
            f"{path} holds no forest, linear model and curves that fit each other ({one_line(error)}): {again}."
        ) from error
    return FeatureClassifier(*stored, arrays["classes"], meta, header["digest"])


def _check_share(meta: dict[str, Any]) -> None:
    """Refuse shares of the network that are none."""
    if meta.get(NETWORK_SHARE) is None:
        return
    shares = np.asarray(meta[NETWORK_SHARE]["by_class"], np.float64)
    if shares.shape != (meta["count"],) or not ((shares >= 0) & (shares <= 1)).all():
        raise ValueError("shares of the network that are not one number in [0, 1] a class")


def _check_arrays(forest: StoredForest, linear: StoredLinear, classes: np.ndarray, count: int, features: int) -> None:
    """Refuse arrays that do not fit each other, above all trees whose walk would not end."""
    if not isinstance(count, int) or not 0 < count <= MOST_CLASSES:
        raise ValueError(f"{count!r} classes")
    if classes.ndim != 1 or not len(classes) or classes.min() < 0 or classes.max() >= count:
        raise ValueError("the classes that it knows are not among those that there are")
    nodes = len(forest.feature)
    shapes = {
        "forest": [part.shape for part in (forest.feature, forest.threshold, forest.left, forest.right)],
        "values": [forest.value.shape],
        "linear": [linear.quantiles.shape, linear.references.shape, linear.weights.shape, linear.intercept.shape],
    }
    steps = len(linear.references)
    wanted = {
        "forest": [(nodes,)] * 4,
        "values": [(nodes, len(classes))],
        "linear": [(steps, features), (steps,), (len(classes), features), (len(classes),)],
    }
    if shapes != wanted or forest.roots.ndim != 1 or not len(forest.roots) or not steps:
        raise ValueError(f"shapes {shapes}")
    node = np.arange(nodes)
    leaf = forest.feature == LEAF
    inner = (forest.feature >= 0) & (forest.feature < features)
    below = [np.where(leaf, child == node, (child > node) & (child < nodes)) for child in (forest.left, forest.right)]
    if not ((leaf | inner) & below[0] & below[1]).all() or forest.roots.min() < 0 or forest.roots.max() >= nodes:
        raise ValueError("a node of a tree that is above itself, or asks for no feature")
    numbers = (forest.value, linear.quantiles, linear.references, linear.weights, np.exp(linear.intercept))
    if not all(np.isfinite(array).all() for array in numbers) or not np.isfinite(linear.intercept).any():
        raise ValueError("values that are no numbers")


def _arrays(forest: StoredForest, linear: StoredLinear, classes: np.ndarray) -> dict[str, np.ndarray]:
    arrays = {f"forest.{name}": array for name, array in vars(forest).items()}
    arrays |= {f"linear.{name}": array for name, array in vars(linear).items()}
    arrays["classes"] = classes.astype(np.int64)
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _digest(arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> str:
    sha = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
    for name in sorted(arrays):
        sha.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        sha.update(arrays[name].data)  # not a copy: that of the leaves may be half a gigabyte
    return sha.hexdigest()[:16]
