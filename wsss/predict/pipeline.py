"""From images and cells to scores: reading, network, cell scores and encoding overlap; memory is bounded by a batch."""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd

from wsss.cells.crops import cell_crops
from wsss.cells.instances import describe_cells
from wsss.cells.regions import visible_share
from wsss.cells.scoring import finish_scores, stage1_scores
from wsss.core.checks import DataError
from wsss.core.device import Device
from wsss.core.label_maps import find_label_map, read_label_map
from wsss.core.rle import encode_label_map
from wsss.core.score_config import CropConfig, ScoreConfig
from wsss.data.catalog import DataSet
from wsss.predict.cam import class_maps, crop_probs
from wsss.predict.members import Member
from wsss.predict.tables import cells_frame


@dataclass(frozen=True)
class Task:
    """What to do with every image."""

    data: DataSet
    score: ScoreConfig
    crops: CropConfig
    device: Device
    batch: int = 8
    """Images the network sees at once. Batches are cut from the plan, never from what is left of it, so that a run
    that was interrupted gives the very numbers of one that was not."""


@dataclass(frozen=True)
class Sample:
    """One image, read."""

    index: int
    image: np.ndarray
    """(C, S, S) uint8."""
    label_map: np.ndarray | None
    """As kept on disk, native or stored size; None if there is none."""
    nuclei: np.ndarray | None
    """(S, S) nuclei at stored size, where the cell masks come with them."""
    problem: str = ""
    """Why there is no label map."""


@dataclass(frozen=True)
class Scored:
    """One image's results."""

    index: int
    record: dict[str, Any]
    """n_cells, status, fold and probs: the image's row."""
    payload: bytes
    """Its cells: the blended table and, as columns 'stage:class', the parts; Arrow IPC."""


def predict(task: Task, members: list[Member], indices: list[int], skip: set[int], fold: int) -> Iterator[Scored]:
    """Score images with the mean of `members`, in batches in order.

    Args:
        task: data and rules.
        members: the networks.
        indices: the images.
        skip: images whose results are there already; batches of such images alone are left out.
        fold: what the tables say of these images; -1 for not out of fold.
    """
    batches = [indices[b : b + task.batch] for b in range(0, len(indices), task.batch)]
    todo = [batch for batch in batches if not set(batch) <= skip]
    with ThreadPoolExecutor(2) as readers, ThreadPoolExecutor(2) as writers:
        finished: list[Future[Scored]] = []
        for samples in _ahead(readers, task, todo):
            previous, finished = finished, list(_score_batch(task, members, samples, fold, writers))
            yield from (future.result() for future in previous)
        yield from (future.result() for future in finished)


def _ahead(pool: ThreadPoolExecutor, task: Task, batches: list[list[int]]) -> Iterator[list[Sample]]:
    """Yield the samples of each batch while the next one is being read."""
    reading: list[Future[Sample]] = []
    for batch in [*batches, []]:
        upcoming = [pool.submit(_read, task, index) for index in batch]
        if reading:
            yield [future.result() for future in reading]
        reading = upcoming


def _read(task: Task, index: int) -> Sample:
    data = task.data
    image, name = np.array(data.image(index)), data.ids[index]
    try:
        label_map = read_label_map(find_label_map(data.folder / "cells", name))
    except DataError as error:
        return Sample(index, image, None, None, str(error))
    native = (data.geometry(index).height, data.geometry(index).width)
    if label_map.shape not in (native, (data.size, data.size)):
        problem = f"the label map is {label_map.shape}, expected {native} or {(data.size, data.size)}"
        return Sample(index, image, None, None, problem)
    return Sample(index, image, label_map, _read_nuclei(data, index))


def _read_nuclei(data: DataSet, index: int) -> np.ndarray | None:
    try:
        path = find_label_map(data.folder / "nuclei", data.ids[index])
    except DataError:  # given label maps come without nuclei
        return None
    return data.geometry(index).labels_to_store(read_label_map(path))


def _score_batch(
    task: Task, members: list[Member], samples: list[Sample], fold: int, pool: ThreadPoolExecutor
) -> Iterator[Future[Scored]]:
    """Run the networks on a batch; hand each image's scoring and encoding to `pool`."""
    images = np.stack([sample.image for sample in samples])
    stored = [_stored_map(task.data, sample) for sample in samples]
    maps = [class_maps(member.net, images, task.device) for member in members]
    stage2 = None
    if task.crops.mode != "none":
        stage2 = np.mean([crop_probs(m.net, _crops(task, images, stored), task.device) for m in members], axis=0)
    counts = [0 if label_map is None else len(_ids(label_map)) for label_map in stored]
    ends = np.cumsum(counts)
    for b, sample in enumerate(samples):
        own = None if stage2 is None else stage2[ends[b] - counts[b] : ends[b]]
        views = [(cam[b], probs[b]) for cam, probs in maps]
        yield pool.submit(_finish, task, sample, stored[b], views, own, fold)


def _stored_map(data: DataSet, sample: Sample) -> np.ndarray | None:
    return None if sample.label_map is None else data.geometry(sample.index).labels_to_store(sample.label_map)


def _ids(label_map: np.ndarray) -> np.ndarray:
    found = np.unique(label_map)
    return found[found != 0]


def _crops(task: Task, images: np.ndarray, stored: list[np.ndarray | None]) -> Iterator[np.ndarray]:
    """Yield the crops of all cells of the batch, image by image and by rising id, in batches of crops."""
    pairs = zip(images, stored, strict=True)
    crops = (
        crop
        for image, cells in pairs
        if cells is not None
        for _, own in cell_crops(image, cells, task.crops)
        for crop in own
    )
    while batch := list(islice(crops, task.crops.batch)):
        yield np.stack(batch)


def _finish(
    task: Task,
    sample: Sample,
    stored: np.ndarray | None,
    views: list[tuple[np.ndarray, np.ndarray]],
    stage2: np.ndarray | None,
    fold: int,
) -> Scored:
    """Turn one image's maps and crop probabilities into its tables."""
    data, index = task.data, sample.index
    geometry, negative = data.geometry(index), data.classes.negative
    probs = np.mean([p for _, p in views], axis=0)
    status = "ok" if stored is not None else f"no cells: {sample.problem}"
    if stored is None or sample.label_map is None:
        label_map = stored = np.zeros((data.size, data.size), np.int32)
    else:
        label_map = sample.label_map
    content = (geometry.content_height, geometry.content_width)
    stage1 = np.mean(
        [
            stage1_scores(cam, p, stored, task.score, negative=negative, nuclei=sample.nuclei, content=content)
            for cam, p in views
        ],
        axis=0,
    )
    final = finish_scores(stage1, stage2, task.score, visible=visible_share(stored, content))
    parts = {"": final, "image": np.tile(probs, (len(final), 1)), "stage1": stage1}
    if stage2 is not None:
        parts["stage2"] = stage2
    frame = _frame(task, index, label_map, _ids(stored), parts, probs, fold)
    record = {"n_cells": len(frame), "status": status, "fold": fold, "probs": [float(p) for p in probs]}
    stream = BytesIO()
    frame.to_feather(stream)
    return Scored(index, record, stream.getvalue())


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
    table = describe_cells(label_map, geometry=None if native else geometry)
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
    names = {f"{stage}:{k}": scores for stage, scores in parts.items() if stage for k in range(scores.shape[1])}
    columns = {name: align(scores)[:, int(name.split(":")[1])] for name, scores in names.items()}
    return pd.concat([frame, pd.DataFrame(columns, index=frame.index)], axis=1)


def take_stage(frames: Iterable[pd.DataFrame], stage: str) -> Iterator[pd.DataFrame]:
    """Keep the blended table of each frame ('' for `stage`), or put the scores of a part in its place."""
    for frame in frames:
        plain = frame[[name for name in frame.columns if ":" not in name]]
        if stage:
            scores = [name for name in plain.columns if name.isdecimal()]
            plain = plain.assign(**{name: frame[f"{stage}:{name}"] for name in scores})
        yield plain
