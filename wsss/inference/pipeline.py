"""The flow of images: reading, network, cell scores and encoding overlap; memory is bounded by a batch."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from threadpoolctl import threadpool_limits

from wsss.cells.crops import crop_batches
from wsss.cells.runs import cell_ids
from wsss.core.runtime import cores
from wsss.inference.image_tables import finish_image
from wsss.inference.map_nets import unet_maps
from wsss.inference.members import Member, has_self_trained
from wsss.inference.reading import read_sample, stored_map
from wsss.inference.task import Sample, Scored, Task
from wsss.inference.view_maps import view_crop_probs, view_maps
from wsss.models.cell_probs import cell_probs

Field = tuple[Sample, np.ndarray | None]
"""An image as it is read, and its cells at stored size, (S, S) int32."""


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
    helpers = max(2, min(8, cores() // 2))  # a GPU outruns two
    with (
        threadpool_limits(1, "blas"),  # the small products of the scores, in threads of their own already
        ThreadPoolExecutor(helpers) as readers,
        ThreadPoolExecutor(1) as cutter,
        ThreadPoolExecutor(helpers) as writers,
        ThreadPoolExecutor(1) as network,
    ):
        finished: list[Future[Scored]] = []
        for fields in _ahead(readers, task, todo):
            running = network.submit(_score_batch, task, members, fields, fold, cutter, writers)
            # while the network runs, so that a kill costs no more than what is under way
            yield from (future.result() for future in finished)
            finished = running.result()
        yield from (future.result() for future in finished)


def score_now(task: Task, members: list[Member], samples: list[Sample], fold: int = -1) -> list[Scored]:
    """Score samples that are in memory already, as one batch."""
    fields = [(sample, stored_map(task.data, sample)) for sample in samples]
    with ThreadPoolExecutor(1) as pool:
        return [future.result() for future in _score_batch(task, members, fields, fold, pool, pool)]


def _ahead(pool: ThreadPoolExecutor, task: Task, batches: list[list[int]]) -> Iterator[list[Field]]:
    """Yield the fields of each batch while the next one is being read."""
    reading: list[Future[Field]] = []
    for batch in [*batches, []]:
        upcoming = [pool.submit(_read, task, index) for index in batch]
        if reading:
            yield [future.result() for future in reading]
        reading = upcoming


def _read(task: Task, index: int) -> Field:
    sample = read_sample(task, index)
    return sample, stored_map(task.data, sample)


def _score_batch(
    task: Task,
    members: list[Member],
    fields: list[Field],
    fold: int,
    cutter: ThreadPoolExecutor,
    writers: ThreadPoolExecutor,
) -> list[Future[Scored]]:
    """Run the networks on a batch, its crops cut in `cutter`; hand each image's scoring and encoding to `writers`."""
    images = np.stack([sample.image for sample, _ in fields])
    stored = [label_map for _, label_map in fields]
    with_cells = [(sample.image, label_map) for sample, label_map in fields if label_map is not None]
    crops = None
    if task.crops.mode != "none":
        crops = _one_ahead(cutter, crop_batches(with_cells, task.crops))  # the first are cut beside stage 1
    maps = [view_maps(member.net, images, task.device, task.tta, stored) for member in members]
    crop_scores = None if crops is None else _crop_scores(task, members, crops)
    self_trained_nets = _self_trained_scores(task, members, with_cells)
    unets = unet_maps(members, images, task.device)
    counts = [0 if label_map is None else len(cell_ids(label_map)) for label_map in stored]
    ends = np.cumsum(counts)
    scoring = []
    for b, (sample, label_map) in enumerate(fields):
        cells = slice(ends[b] - counts[b], ends[b])
        own = None if crop_scores is None else crop_scores[cells]
        self_trained = None if self_trained_nets is None else self_trained_nets[cells]
        views = [(cam[b], probs[b]) for cam, probs in maps]
        unet = [cam[b] for cam in unets]
        scoring.append(
            writers.submit(finish_image, task, members, sample, label_map, views, own, fold, self_trained, unet)
        )
    return scoring


def _crop_scores(task: Task, members: list[Member], crops: Iterator[np.ndarray]) -> np.ndarray:
    """Return the mean over the members of the probabilities (N, K) of crops, each batch cut once for all of them."""
    found = [
        np.mean([view_crop_probs(member.net, [batch], task.device, task.tta) for member in members], axis=0)
        for batch in crops
    ]
    none = view_crop_probs(members[0].net, [], task.device, task.tta)
    return np.concatenate([none, *found])


def _self_trained_scores(
    task: Task, members: list[Member], fields: list[tuple[np.ndarray, np.ndarray]]
) -> np.ndarray | None:
    """Return the mean of the members' self-trained networks (N, K); None where they are not asked for."""
    if not has_self_trained(members, task.score):
        return None
    self_trained_nets = [member.self_trained for member in members if member.self_trained]
    return np.mean([cell_probs(s.net, crop_batches(fields, s.crops), task.device) for s in self_trained_nets], axis=0)


def _one_ahead(pool: ThreadPoolExecutor, items: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Make each item in `pool`, from now on, while the one before it is in use."""

    def rest(upcoming: Future[np.ndarray | None]) -> Iterator[np.ndarray]:
        while (item := upcoming.result()) is not None:
            upcoming = pool.submit(next, items, None)
            yield item

    return rest(pool.submit(next, items, None))
