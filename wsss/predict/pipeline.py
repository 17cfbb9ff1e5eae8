"""The flow of images: reading, network, cell scores and encoding overlap; memory is bounded by a batch."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np

from wsss.cells.crops import cell_crops
from wsss.predict.cam import class_maps, crop_probs
from wsss.predict.image_tables import finish_image
from wsss.predict.members import Member
from wsss.predict.reading import cell_ids, read_sample, stored_map
from wsss.predict.task import Sample, Scored, Task


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


def score_now(task: Task, members: list[Member], samples: list[Sample], fold: int = -1) -> list[Scored]:
    """Score samples that are in memory already, as one batch."""
    with ThreadPoolExecutor(1) as pool:
        return [future.result() for future in list(_score_batch(task, members, samples, fold, pool))]


def _ahead(pool: ThreadPoolExecutor, task: Task, batches: list[list[int]]) -> Iterator[list[Sample]]:
    """Yield the samples of each batch while the next one is being read."""
    reading: list[Future[Sample]] = []
    for batch in [*batches, []]:
        upcoming = [pool.submit(read_sample, task, index) for index in batch]
        if reading:
            yield [future.result() for future in reading]
        reading = upcoming


def _score_batch(
    task: Task, members: list[Member], samples: list[Sample], fold: int, pool: ThreadPoolExecutor
) -> Iterator[Future[Scored]]:
    """Run the networks on a batch; hand each image's scoring and encoding to `pool`."""
    images = np.stack([sample.image for sample in samples])
    stored = [stored_map(task.data, sample) for sample in samples]
    maps = [class_maps(member.net, images, task.device) for member in members]
    stage2 = None
    if task.crops.mode != "none":
        stage2 = np.mean([crop_probs(m.net, _crops(task, images, stored), task.device) for m in members], axis=0)
    counts = [0 if label_map is None else len(cell_ids(label_map)) for label_map in stored]
    ends = np.cumsum(counts)
    for b, sample in enumerate(samples):
        own = None if stage2 is None else stage2[ends[b] - counts[b] : ends[b]]
        views = [(cam[b], probs[b]) for cam, probs in maps]
        yield pool.submit(finish_image, task, members, sample, stored[b], views, own, fold)


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
