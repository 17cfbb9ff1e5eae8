"""The feature classifier of a fold: fitted on the cells of its training images, kept beside its network."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsss.core.checks import DataError
from wsss.core.console import progress, say
from wsss.core.files import digest_json, write_json
from wsss.core.runtime import cores
from wsss.data.catalog import DataSet
from wsss.data.origin import image_marks
from wsss.data.photometric import Faults, faulty_copy
from wsss.feature_classifier.features import DESCRIPTIONS, cell_features, describe_features
from wsss.feature_classifier.fit import (
    Copies,
    LabelledCells,
    TooFewCells,
    TrainingCells,
    fit_calibration,
    fit_model,
    to_feature_classifier,
)
from wsss.feature_classifier.store import (
    CALIBRATION,
    NETWORK_SHARE,
    FeatureClassifier,
    load_feature_classifier,
    save_feature_classifier,
)
from wsss.metrics.cells import CellTruth
from wsss.options.recipe import FeatureClassifierConfig
from wsss.runs.inputs import Digests
from wsss.runs.run_folder import RunFolder

TOP = 3
"""How many reasons are given."""
MOST_IMAGES = 4000
"""Of more training images so many are learnt from: with 20 cells each and two copies, 240,000 rows of features."""


@dataclass(frozen=True)
class Reason:
    """One feature that speaks for a label."""

    feature: str
    level: str
    """high or low: how the cell's value stands among the training cells."""
    words: str
    """The feature in words."""
    weight: float
    """How much it raises the log odds of the label above those of a cell of median features."""


def explain_classes(
    feature_classifier: FeatureClassifier, words: Mapping[str, str] = DESCRIPTIONS
) -> dict[int, list[Reason]]:
    """Return for each class that the feature_classifier knows the features that set it apart most from the others."""
    names, reasons = feature_classifier.meta["names"], {}
    for label, weights in zip(feature_classifier.classes.tolist(), feature_classifier.linear.weights, strict=True):
        reasons[label] = [
            Reason(names[k], "high" if weights[k] > 0 else "low", words[names[k]], round(float(abs(weights[k])), 4))
            for k in np.argsort(-np.abs(weights))[:TOP]
        ]
    return reasons


SUMMARY = "feature_classifier.json"
ANSWERS = "cell_labels"
"""Entry of a feature classifier's record: digest of the cell labels given by hand that it learnt from."""


@dataclass(frozen=True)
class _Described:
    """The cells of one image."""

    features: np.ndarray
    """(N, F) float32."""
    ids: np.ndarray
    """(N,) numbers of the cells, rising."""
    copies: np.ndarray
    """(copies, N, F) float32."""
    emptied: np.ndarray
    """(copies, N) bool: which of the copies' cells lost their protein."""


@dataclass(frozen=True)
class Lessons:
    """What the feature classifier of a fold learns from: the same lessons, the same feature classifier."""

    data: DataSet
    """With segmented cells."""
    train: np.ndarray
    """Numbers of the images to learn from: no other is looked at."""
    config: FeatureClassifierConfig
    seed: int
    """Of the learners and of the changed copies."""
    answers: CellTruth | None = None
    """Cells labelled by hand; those of other images than `train` are left out."""

    def facts(self) -> dict[str, Any]:
        """Return all of it as JSON, data as digests."""
        return {
            ANSWERS: self._answers_digest(),
            "train_ids": digest_json([self.data.ids[i] for i in self.train]),
            "data": self.data.folds_digest,
            "label_maps": digest_json(image_marks(self.data, Digests(), self.train)),
            "options": {name: value for name, value in asdict(self.config).items() if name != "enabled"},
            "seed": self.seed,
        }

    def _answers_digest(self) -> str:
        """Return the digest of the answers about cells of the images `train`, '' without any."""
        if self.answers is None:
            return ""
        ids, cells, labels = self.answers.ids, self.answers.cells, self.answers.labels
        inside = _of_images(self.answers, [self.data.ids[i] for i in self.train])
        rows = [[str(ids[k]), int(cells[k]), labels[k].tolist()] for k in inside]
        return digest_json(sorted(rows)) if rows else ""

    def learn(self) -> FeatureClassifier:
        """Fit the feature classifier.

        Raises:
            TooFewCells: no training image has cells, or too few have.
        """
        cells = self._cells()
        model = fit_model(cells, self.seed, self.config.weak)
        more = self.facts() | {"images": len(np.unique(cells.image_of_cell)), "cells": len(cells.features)}
        more |= {"answered_cells": 0 if cells.labelled is None else len(cells.labelled.rows)}
        more[CALIBRATION] = fit_calibration(model, cells).record()
        return to_feature_classifier(model, tuple(describe_features(self.data.stains)), self.config.weak, more)

    def _cells(self) -> TrainingCells:
        """Describe the cells of the images."""
        data, train = self.data, self.train
        answered = np.isin(data.ids, [] if self.answers is None else self.answers.ids)
        usable = learnt_from(train[data.labels[train].any(axis=1)], data.labels, answered, self.seed)
        described = _describe_all(data, usable, self.config.copies, self.seed)
        if not any(len(cells.features) for cells in described):
            raise TooFewCells(
                f"{data.folder / 'cells'} holds no cells of the training images, which feature_classifier.enabled "
                "learns from: run python -m wsss.segment first, or leave the option out."
            )
        counts = [len(cells.features) for cells in described]
        owner = np.repeat(np.arange(len(described)), counts)
        features = np.concatenate([cells.features for cells in described])
        labelled = None if self.answers is None else _labelled(self.answers, [data.ids[i] for i in usable], described)
        copies = _copies(described, counts)
        return TrainingCells(features, owner, data.labels[usable], data.classes.negative, copies, labelled)


def ensure_feature_classifier(folder: RunFolder, lessons: Lessons) -> bool:
    """Fit the feature classifier of a fold unless the folder holds just that one already; return whether it was fitted.

    Args:
        folder: of the fold's run; receives feature_classifier.safetensors and feature_classifier.json.
        lessons: what it learns from.

    Raises:
        TooFewCells: no training image has cells, or too few have.
    """
    names = tuple(describe_features(lessons.data.stains))
    if (folder.path / SUMMARY).exists() and _holds(folder.feature_classifier, lessons.facts(), names):
        return False
    _write(folder, lessons.learn(), lessons.data)
    return True


def record_network_share(folder: RunFolder, data: DataSet, share: dict[str, Any]) -> None:
    """Write what was found about the network's share into the record of the feature classifier beside it."""
    fitted = load_feature_classifier(folder.feature_classifier, tuple(describe_features(data.stains)))
    _write(folder, fitted.with_meta({NETWORK_SHARE: share}), data)


def _write(folder: RunFolder, fitted: FeatureClassifier, data: DataSet) -> None:
    save_feature_classifier(folder.feature_classifier, fitted)
    write_json(folder.path / SUMMARY, _summary(fitted, data))


def _holds(path: Path, facts: dict[str, Any], names: tuple[str, ...]) -> bool:
    if not path.exists():
        return False
    written = load_feature_classifier(path, names).meta
    known = {ANSWERS: ""} | written  # classifiers of before hold no answers
    return all(known.get(name, value) == value for name, value in facts.items())


def _of_images(answers: CellTruth, names: Sequence[str]) -> list[int]:
    """Return the rows of the answers about cells of these images."""
    wanted = set(names)
    return [row for row, name in enumerate(answers.ids.tolist()) if name in wanted]


def learnt_from(
    train: np.ndarray, labels: np.ndarray, answered: np.ndarray, seed: int, most: int = MOST_IMAGES
) -> list[int]:
    """Choose the images that a feature classifier learns from: all, or `most`, drawn at random.

    Images with cells labelled by hand come first, then those of classes with at most `most` / (2 K) images.

    Args:
        train: (n,) numbers of images with labels.
        labels: (N, K) of 0/1, of all images.
        answered: (N,) bool, whether cells of the image were labelled by hand.
        most: how many.

    Returns:
        Their numbers, in the order of `train`.
    """
    if len(train) <= most:
        return train.tolist()
    shown = labels[train] > 0
    rare = shown[:, shown.sum(axis=0) <= most // (2 * labels.shape[1])].any(axis=1)
    drawn = np.random.default_rng(seed).permutation(len(train))
    order = np.lexsort((~rare[drawn], ~answered[train[drawn]]))
    return train[np.sort(drawn[order[:most]])].tolist()


def _labelled(answers: CellTruth, names: Sequence[str], described: list[_Described]) -> LabelledCells | None:
    """Return the answers about cells of these images by their rows among all cells; None without any."""
    starts = np.cumsum([0, *(len(cells.ids) for cells in described)])
    places = {
        (name, int(cell)): int(start) + k
        for name, cells, start in zip(names, described, starts, strict=False)
        for k, cell in enumerate(cells.ids)
    }
    pairs = [(places.get((str(answers.ids[k]), int(answers.cells[k])), -1), k) for k in _of_images(answers, names)]
    kept = [(row, k) for row, k in pairs if row >= 0]
    if len(kept) < len(pairs):
        say(f"note: {len(pairs) - len(kept)} labelled cells are not in the label maps at stored size: left out.")
    if not kept:
        return None
    rows, numbers = (np.array(column) for column in zip(*kept, strict=True))
    return LabelledCells(rows, answers.labels[numbers])


def _copies(described: list[_Described], counts: list[int]) -> Copies | None:
    """Put the changed copies of all images together."""
    if not described[0].copies.shape[0]:
        return None
    rows = np.split(np.arange(sum(counts)), np.cumsum(counts)[:-1])
    return Copies(
        np.concatenate([cells.copies.reshape(-1, cells.features.shape[1]) for cells in described]),
        np.concatenate([np.tile(row, len(cells.copies)) for row, cells in zip(rows, described, strict=True)]),
        np.concatenate([cells.emptied.ravel() for cells in described]),
    )


def _describe_all(data: DataSet, images: list[int], copies: int, seed: int) -> list[_Described]:
    """Describe the cells of images, in their order; those without a label map have no cells."""
    faults = Faults() if data.classes.negative is not None else Faults(negatives=0)
    views = data.stains

    def describe(index: int) -> _Described:
        image = np.array(data.image(index))
        try:
            label_map, nuclei = data.geometry(index).labels_to_store(data.cells(index)), data.nuclei(index)
        except DataError:  # segment has reported it; the image has no cells then
            label_map, nuclei = np.zeros((data.size, data.size), np.int32), None
        plain = cell_features(image, label_map, nuclei, views)
        changed = np.zeros((copies, *plain.shape), np.float32)
        emptied = np.zeros((copies, len(plain)), bool)
        for copy in range(copies):
            rng = np.random.default_rng([seed, copy, index])
            faulty, emptied[copy] = faulty_copy(image, label_map, rng, faults, views)
            changed[copy] = cell_features(faulty, label_map, nuclei, views)
        ids = np.unique(label_map)
        return _Described(plain, ids[ids != 0], changed, emptied)

    with ThreadPoolExecutor(cores()) as pool:
        return list(progress(pool.map(describe, images), "feature_classifier", total=len(images)))


def _summary(fitted: FeatureClassifier, data: DataSet) -> dict[str, Any]:
    """Tell what was learnt, in words."""
    words = describe_features(data.stains)
    told = ("images", "cells", "answered_cells", ANSWERS, "history", "margin_ratio", "one_class")
    shares = sorted(zip(fitted.meta["importance"], words, strict=True), reverse=True)
    classes = explain_classes(fitted, words).items()
    return {name: fitted.meta[name] for name in (*told, "options", "seed", "train_ids")} | {
        NETWORK_SHARE: fitted.meta.get(NETWORK_SHARE),
        "importance": [{"feature": name, "words": words[name], "share": share} for share, name in shares],
        "classes": {data.classes.names[k]: [asdict(reason) for reason in reasons] for k, reasons in classes},
    }
