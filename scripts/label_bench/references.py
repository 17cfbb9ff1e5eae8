"""Rows that no network makes: true image labels copied to cells, and a classifier trained on TRUE labels of cells."""

from pathlib import Path
from typing import Any

import numpy as np

from label_bench.fields import FieldSet
from wsss.cells.regions import cell_ids
from wsss.core.files import without_nan
from wsss.core.labels import HPA
from wsss.data.catalog import DataSet
from wsss.data.tables import read_labels
from wsss.feature_classifier.features import cell_features
from wsss.feature_classifier.fit import Forest
from wsss.metrics.cells import copy_to_cells, join_by_number, read_cell_truth, score_table
from wsss.options.recipe import FitConfig


def copied_report(fields: FieldSet) -> dict[str, Any]:
    """Score the true labels of each image, copied to all its cells; the record of `score_table`."""
    truth = read_cell_truth(fields.truth, HPA)
    labels = read_labels(fields.labels, HPA).labels
    copied = copy_to_cells(truth, {name: HPA.encode(ids) for name, ids in labels.items()}, HPA)
    report: dict[str, Any] = without_nan(score_table(truth.labels, copied, HPA))
    return report


def supervised_report(train: Path, train_truth: Path, test: Path, test_truth: Path, seed: int) -> dict[str, Any]:
    """Fit features and forest on the true cells of one prepared set, and score those of another: an upper bound."""
    learnt, labels = _described(DataSet.open(train), train_truth)
    forest = Forest(FitConfig(trees=300), seed).fit(learnt, labels)
    data = DataSet.open(test)
    features, truth = _described(data, test_truth)
    report: dict[str, Any] = without_nan(score_table(truth, np.clip(forest.predict(features), 0, 1), data.classes))
    return report


def _described(data: DataSet, truth_path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return features (N, F) and true labels (N, K) of the cells in a table of truth."""
    truth = read_cell_truth(truth_path, data.classes)
    names, cells, features = [], [], []
    for index, name in enumerate(data.ids):
        label_map = data.geometry(index).labels_to_store(data.cells(index))
        ids = cell_ids(label_map)
        names += [name] * len(ids)
        cells += ids.tolist()
        features.append(cell_features(np.array(data.image(index)), label_map, data.nuclei(index)))
    join = join_by_number(truth, np.array(names, object), np.array(cells))
    known = join.rows >= 0
    return np.concatenate(features)[join.rows[known]], truth.labels[known]
