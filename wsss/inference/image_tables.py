"""From one image's maps to its rows: cell scores, geometry and masks, with the parts that the score is blended from."""

from collections.abc import Iterable, Iterator
from functools import partial
from io import BytesIO

import numpy as np
import pandas as pd

from wsss.cells.blending import finish_scores
from wsss.cells.instances import measure_cells
from wsss.cells.runs import cell_ids, visible_share
from wsss.cells.scoring import cell_cam_scores
from wsss.core.rle import encode_label_map
from wsss.feature_classifier.features import cell_features
from wsss.inference.members import Member, has_feature_classifiers
from wsss.inference.tables import cells_frame
from wsss.inference.task import Sample, Scored, Task


def finish_image(
    task: Task,
    members: list[Member],
    sample: Sample,
    stored: np.ndarray | None,
    views: list[tuple[np.ndarray, np.ndarray]],
    crop_scores: np.ndarray | None,
    fold: int,
    self_trained: np.ndarray | None = None,
    unets: list[np.ndarray] | None = None,
) -> Scored:
    """Turn one image's maps and crop probabilities into its tables.

    Args:
        task: data and rules.
        members: the networks, for their feature classifiers.
        sample: the image.
        stored: (S, S) its cells at stored size; None if it has none.
        views: raw maps (K, h, w) and image probabilities (K,) of each network.
        crop_scores: (N, K) probabilities of the cells' crops; None to do without.
        fold: what the tables say of the image.
        self_trained: (N, K) what the self-trained networks say of the cells; None to do without.
        unets: class maps (K, h, w) in [0, 1] of each U-Net; None or empty to do without.
    """
    data, index = task.data, sample.index
    geometry, negative = data.geometry(index), data.classes.negative
    probs = np.mean([p for _, p in views], axis=0)
    status = "ok" if stored is not None else f"no cells: {sample.problem}"
    if stored is None or sample.label_map is None:
        label_map = stored = np.zeros((data.size, data.size), np.int32)
    else:
        label_map = sample.label_map
    content = (geometry.content_height, geometry.content_width)
    rules = partial(cell_cam_scores, negative=negative, nuclei=sample.nuclei, content=content)
    cam_scores = np.mean([rules(cam, p, stored, task.score) for cam, p in views], axis=0)
    unet = None
    if unets:
        unet = np.mean([rules(cam, probs, stored, task.score, normalised=True) for cam in unets], axis=0)
    feature_classifier = _feature_classifier_scores(task, members, sample, stored)
    visible = visible_share(stored, content)
    second = _with_self_trained(feature_classifier, self_trained, task.score.self_training_share)
    share = task.score.unet_share
    maps = cam_scores if unet is None else (1 - share) * cam_scores + share * unet
    final = finish_scores(maps, crop_scores, task.score, negative=negative, feature_classifier=second, visible=visible)
    record_probs = probs
    if task.calibration is not None:
        final, record_probs = task.calibration.of_cells(final), task.calibration.of_image(probs)
    parts = {"": final, "image": np.tile(probs, (len(final), 1)), "cam": cam_scores}
    if crop_scores is not None:
        parts["crop"] = crop_scores
    if feature_classifier is not None:
        parts["feature_classifier"] = feature_classifier
    if self_trained is not None:
        parts["self_trained"] = self_trained
    if unet is not None:
        parts["unet"] = unet
    frame = _frame(task, index, label_map, cell_ids(stored), parts, probs, fold)
    record = {"n_cells": len(frame), "status": status, "fold": fold, "probs": [float(p) for p in record_probs]}
    stream = BytesIO()
    frame.to_feather(stream)
    return Scored(index, record, stream.getvalue())


def _with_self_trained(
    feature_classifier: np.ndarray | None, self_trained: np.ndarray | None, share: float
) -> np.ndarray | None:
    """Return (1 - share) * feature_classifier + share * self_trained, or the feature_classifier where there is no
    self_trained."""
    return (
        feature_classifier
        if feature_classifier is None or self_trained is None
        else (1 - share) * feature_classifier + share * self_trained
    )


def _feature_classifier_scores(
    task: Task, members: list[Member], sample: Sample, stored: np.ndarray
) -> np.ndarray | None:
    """Return the mean of the members' feature classifiers (N, K); None where they are not asked for."""
    if not has_feature_classifiers(members, task.score):
        return None
    features = cell_features(sample.image, stored, sample.nuclei)
    return np.mean(
        [member.feature_classifier.predict(features) for member in members if member.feature_classifier], axis=0
    )


def _frame(
    task: Task,
    index: int,
    label_map: np.ndarray,
    scored_ids: np.ndarray,
    parts: dict[str, np.ndarray],
    probs: np.ndarray,
    fold: int,
) -> pd.DataFrame:
    """Put scores beside the geometry of the original image.

    A cell so small that scaling lost it has no scores of its own and gets the image's probabilities.
    """
    data, geometry = task.data, task.data.geometry(index)
    native = label_map.shape == (geometry.height, geometry.width)
    table = measure_cells(label_map, geometry=None if native else geometry)
    ids = table["cell_id"].to_numpy()
    row = np.searchsorted(scored_ids, ids)
    seen = np.isin(ids, scored_ids)

    def align(scores: np.ndarray) -> np.ndarray:
        out = np.tile(probs, (len(ids), 1)).astype(np.float32)
        out[seen] = scores[row[seen]]
        return out

    masks = encode_label_map(geometry.labels_to_native(label_map), ids)
    frame = cells_frame(
        data.ids[index],
        fold=fold,
        size=(geometry.height, geometry.width),
        cell_ids=ids,
        geometry={name: table[name] for name in table.columns},
        scores=align(parts[""]),
        rle=[masks[k] for k in ids.tolist()],
    )
    beside = {stage: align(scores) for stage, scores in parts.items() if stage}
    columns = {f"{stage}:{k}": scores[:, k] for stage, scores in beside.items() for k in range(scores.shape[1])}
    return pd.concat([frame, pd.DataFrame(columns, index=frame.index)], axis=1)


def take_stage(frames: Iterable[pd.DataFrame], stage: str) -> Iterator[pd.DataFrame]:
    """Keep the blended table of each frame ('' for `stage`), or put the scores of a part in its place."""
    for frame in frames:
        plain = frame[[name for name in frame.columns if ":" not in name]]
        if stage:
            scores = [name for name in plain.columns if name.isdecimal()]
            plain = plain.assign(**{name: frame[f"{stage}:{name}"] for name in scores})
        yield plain
