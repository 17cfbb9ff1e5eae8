"""Files of feature classifiers, good and bad ones."""

import json

import numpy as np
from safetensors.numpy import save

from wsss.feature_classifier.features import DESCRIPTIONS
from wsss.feature_classifier.store import FORMAT, _digest

FEATURES = tuple(DESCRIPTIONS)
"""Names of the features of images of the Atlas."""


def feature_classifier(**changes: np.ndarray) -> bytes:
    """Return a feature classifier of one tree of three nodes, with a digest that fits whatever is changed."""
    count = len(FEATURES)
    arrays = {
        "forest.roots": np.array([0], np.int32),
        "forest.feature": np.array([0, -1, -1], np.int16),
        "forest.threshold": np.zeros(3),
        "forest.left": np.array([1, 1, 2], np.int32),
        "forest.right": np.array([2, 1, 2], np.int32),
        "forest.value": np.ones((3, 2), np.float32),
        "linear.quantiles": np.zeros((5, count)),
        "linear.references": np.linspace(0, 1, 5),
        "linear.weights": np.zeros((2, count)),
        "linear.intercept": np.zeros(2),
        "classes": np.array([0, 1]),
    }
    arrays |= {name.replace("_", ".", 1): np.asarray(value) for name, value in changes.items()}
    meta = {"count": 3, "names": list(FEATURES)}
    head = {"format": FORMAT, "meta": meta, "digest": _digest(arrays, meta)}
    return save(arrays, {"wsss": json.dumps(head)})
