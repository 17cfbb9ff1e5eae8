"""The feature classifier of a fold: fitted on the cells of its training images, kept beside its network."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
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
from wsss.feature_classifier.fit import Copies, LabelledCells, TooFewCells, fit_weak, to_feature_classifier
from wsss.feature_classifier.store import (
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
    reasons = {}
    for label, weights in zip(feature_classifier.classes.tolist(), feature_classifier.linear.weights, strict=True):
        order = np.argsort(-np.abs(weights))[:TOP]
        reasons[label] = [_reason(feature_classifier, words, k, weights[k], abs(weights[k])) for k in order]
    return reasons


def _reason(
    feature_classifier: FeatureClassifier, words: Mapping[str, str], k: int, value: float, weight: float
) -> Reason:
    name = feature_classifier.meta["names"][k]
    return Reason(name, "high" if value > 0 else "low", words[name], round(float(weight), 4))


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


def ensure_feature_classifier(
    folder: RunFolder,
    data: DataSet,
    train: np.ndarray,
    config: FeatureClassifierConfig,
    seed: int,
    answers: CellTruth | None = None,
) -> bool:
    """Fit the feature classifier of a fold unless the folder holds just that one already; return whether it was fitted.

    Args:
        folder: of the fold's run; receives feature_classifier.safetensors and feature_classifier.json.
        data: the data set, with segmented cells.
        train: numbers of the images to learn from: no other is looked at.
        config: the rules.
        seed: of the learners and of the changed copies.
        answers: cells labelled by hand; those of other images than `train` are left out.

    Raises:
        TooFewCells: no training image has cells, or too few have.
    """
    facts = feature_classifier_facts(data, train, config, seed, answers)
    names = tuple(describe_features(data.stains))
    if (folder.path / SUMMARY).exists() and _holds(folder.feature_classifier, facts, names):
        return False
    feature_classifier = fit_feature_classifier(data, train, config, seed, answers)
    save_feature_classifier(folder.feature_classifier, feature_classifier)
    write_json(folder.path / SUMMARY, _summary(feature_classifier, data))
    return True


def record_network_share(folder: RunFolder, data: DataSet, share: dict[str, Any]) -> None:
    """Write what was found about the network's share into the record of the feature classifier beside it."""
    fitted = load_feature_classifier(folder.feature_classifier, tuple(describe_features(data.stains)))
    fitted = fitted.with_meta({NETWORK_SHARE: share})
    save_feature_classifier(folder.feature_classifier, fitted)
    write_json(folder.path / SUMMARY, _summary(fitted, data))


def feature_classifier_facts(
    data: DataSet, train: np.ndarray, config: FeatureClassifierConfig, seed: int, answers: CellTruth | None = None
) -> dict[str, Any]:
    """Return what a feature classifier is made of: the same facts, the same feature_classifier."""
    return {
        ANSWERS: _answers_digest(data, train, answers),
        "train_ids": digest_json([data.ids[i] for i in train]),
        "data": data.folds_digest,
        "label_maps": digest_json(image_marks(data, Digests(), train)),
        "options": {name: value for name, value in asdict(config).items() if name != "enabled"},
        "seed": seed,
    }


def _holds(path: Path, facts: dict[str, Any], names: tuple[str, ...]) -> bool:
    if not path.exists():
        return False
    written = load_feature_classifier(path, names).meta
    known = {ANSWERS: ""} | written  # classifiers of before hold no answers
    return all(known.get(name, value) == value for name, value in facts.items())


def _answers_digest(data: DataSet, train: np.ndarray, answers: CellTruth | None) -> str:
    """Return the digest of the answers about cells of the images `train`, '' without any."""
    if answers is None:
        return ""
    inside = _of_images(answers, [data.ids[i] for i in train])
    rows = [[str(answers.ids[k]), int(answers.cells[k]), answers.labels[k].tolist()] for k in inside]
    return digest_json(sorted(rows)) if rows else ""


def _of_images(answers: CellTruth, names: Sequence[str]) -> list[int]:
    """Return the rows of the answers about cells of these images."""
    wanted = set(names)
    return [row for row, name in enumerate(answers.ids.tolist()) if name in wanted]


def fit_feature_classifier(
    data: DataSet, train: np.ndarray, config: FeatureClassifierConfig, seed: int, answers: CellTruth | None = None
) -> FeatureClassifier:
    """Fit the feature classifier on the cells of the images `train`, see `ensure_feature_classifier`."""
    labels, negative = data.labels, data.classes.negative
    answered = np.isin(data.ids, [] if answers is None else answers.ids)
    usable = learnt_from(train[labels[train].any(axis=1)], labels, answered, seed)
    described = _describe_all(data, usable, config.copies, seed)
    if not any(len(cells.features) for cells in described):
        raise TooFewCells(
            f"{data.folder / 'cells'} holds no cells of the training images, which feature_classifier.enabled "
            "learns from: "
            "run python -m wsss.segment first, or leave the option out."
        )
    counts = [len(cells.features) for cells in described]
    owner = np.repeat(np.arange(len(described)), counts)
    features = np.concatenate([cells.features for cells in described])
    labelled = None if answers is None else _labelled(answers, [data.ids[i] for i in usable], described)
    copies = _copies(described, counts)
    model = fit_weak(features, owner, labels[usable], negative, seed, config.weak, copies, labelled)
    more = feature_classifier_facts(data, train, config, seed, answers)
    more |= {"images": sum(count > 0 for count in counts), "cells": len(features)}
    more |= {"answered_cells": 0 if labelled is None else len(labelled.rows)}
    return to_feature_classifier(model, tuple(describe_features(data.stains)), config.weak, more)


def learnt_from(
    train: np.ndarray, labels: np.ndarray, answered: np.ndarray, seed: int, most: int = MOST_IMAGES
) -> list[int]:
    """Choose the images that a feature classifier learns from: all, or `most`, drawn at random.

    Images with cells labelled by hand come first, then those of classes with at most `most` / (2 K) images.

    Args:
        train: (n,) numbers of images with labels.
        labels: (N, K) of 0/1, of all images.
        answered: (N,) bool, whether cells of the image were labelled by hand.
        seed: of the draw.
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
    faults = Faults() if data.classes.negative is not None else replace(Faults(), negatives=0)
    views = data.stains

    def describe(index: int) -> _Described:
        try:
            label_map = data.geometry(index).labels_to_store(data.cells(index))
        except DataError:  # segment has reported it; the image has no cells then
            label_map = np.zeros((data.size, data.size), np.int32)
        image, nuclei = np.array(data.image(index)), data.nuclei(index)
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


def _summary(feature_classifier: FeatureClassifier, data: DataSet) -> dict[str, Any]:
    """Tell what was learnt, in words."""
    words = describe_features(data.stains)
    shares = sorted(zip(feature_classifier.meta["importance"], words, strict=True), reverse=True)
    classes = explain_classes(feature_classifier, words)
    return {
        **{
            name: feature_classifier.meta[name]
            for name in (
                *("images", "cells", "answered_cells", ANSWERS, "history", "margin_ratio", "one_class"),
                *("options", "seed", "train_ids"),
            )
        },
        NETWORK_SHARE: feature_classifier.meta.get(NETWORK_SHARE),
        "importance": [{"feature": name, "words": words[name], "share": share} for share, name in shares],
        "classes": {data.classes.names[k]: [asdict(reason) for reason in reasons] for k, reasons in classes.items()},
    }
