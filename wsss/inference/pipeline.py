"""The flow of images: reading, networks, cell scores and encoding overlap; memory is bounded by a batch."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
from threadpoolctl import threadpool_limits

from wsss.cells.instances import crop_batches
from wsss.cells.regions import cell_ids
from wsss.core.checks import DataError
from wsss.core.runtime import cores
from wsss.data.catalog import DataSet
from wsss.data.cell_maps import read_cells, read_nuclei
from wsss.inference.checkpoints import CamCheckpoint
from wsss.inference.results import Scored, finish_image
from wsss.inference.sources import Batch, Sample, Source, Task, look, sources_of


def predict(
    task: Task, members: list[CamCheckpoint], indices: list[int], skip: set[int], fold: int
) -> Iterator[Scored]:
    """Score images with the mean of `members`, in batches in order.

    Args:
        task: data and rules.
        members: the networks.
        indices: the images.
        skip: images whose results are there already; batches of such images alone are left out.
        fold: what the tables say of these images; -1 for not out of fold.
    """
    sources = sources_of(members, task)
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
        for samples in _ahead(readers, task, todo):
            running = network.submit(_score_batch, task, members, sources, samples, fold, cutter, writers)
            # while the network runs, so that a kill costs no more than what is under way
            yield from (future.result() for future in finished)
            finished = running.result()
        yield from (future.result() for future in finished)


def score_now(task: Task, members: list[CamCheckpoint], samples: list[Sample], fold: int = -1) -> list[Scored]:
    """Score samples that are in memory already, as one batch."""
    sources = sources_of(members, task)
    with ThreadPoolExecutor(1) as pool:
        return [future.result() for future in _score_batch(task, members, sources, samples, fold, pool, pool)]


def read_sample(task: Task, index: int) -> Sample:
    """Read one image; where its cells cannot be read, the sample says why."""
    data = task.data
    if task.overlap is not None:
        task.overlap.wait(data.ids[index])
    image = np.array(data.image(index))
    try:
        label_map = read_cells(data, index)
    except DataError as error:
        return make_sample(data, index, image, None, problem=str(error))
    return make_sample(data, index, image, label_map, read_nuclei(data, index))


def make_sample(
    data: DataSet,
    index: int,
    image: np.ndarray,
    label_map: np.ndarray | None,
    nuclei: np.ndarray | None = None,
    problem: str = "",
) -> Sample:
    """Put an image (C, S, S) and its label map at native or stored size, None without cells, together."""
    geometry = data.geometry(index)
    none = np.zeros((data.size, data.size), np.int32)
    cells = none if label_map is None else geometry.labels_to_store(label_map)
    content = (geometry.content_height, geometry.content_width)
    return Sample(index, image, label_map, cells, cell_ids(cells), content, nuclei, problem)


def _ahead(pool: ThreadPoolExecutor, task: Task, batches: list[list[int]]) -> Iterator[list[Sample]]:
    """Yield the samples of each batch while the next one is being read."""
    reading: list[Future[Sample]] = []
    for batch in [*batches, []]:
        upcoming = [pool.submit(read_sample, task, index) for index in batch]
        if reading:
            yield [future.result() for future in reading]
        reading = upcoming


def _score_batch(
    task: Task,
    members: list[CamCheckpoint],
    sources: list[Source],
    samples: list[Sample],
    fold: int,
    cutter: ThreadPoolExecutor,
    writers: ThreadPoolExecutor,
) -> list[Future[Scored]]:
    """Run the networks on a batch, its crops cut in `cutter`; hand each image's scoring and encoding to `writers`."""
    batch = Batch(samples, np.stack([sample.image for sample in samples]))
    fields = [(sample.image, sample.cells) for sample in samples]
    # the first crops are cut while the maps are made
    crops = [[_one_ahead(cutter, crop_batches(fields, cut)) for cut in source.cuts] for source in sources]
    maps = look(members, task, batch)
    seen = {source.name: source.see(batch, of_source) for source, of_source in zip(sources, crops, strict=True)}
    scoring = []
    for b, sample in enumerate(samples):
        by_network = tuple(probs[b] for _, probs in maps)
        filled = replace(
            sample,
            maps=tuple(cam[b] for cam, _ in maps),
            probs=np.mean(by_network, axis=0),
            probs_by_network=by_network,
            seen={name: of_images[b] for name, of_images in seen.items()},
        )
        scoring.append(writers.submit(finish_image, task, sources, filled, fold))
    return scoring


def _one_ahead(pool: ThreadPoolExecutor, items: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Make each item in `pool`, from now on, while the one before it is in use."""

    def rest(upcoming: Future[np.ndarray | None]) -> Iterator[np.ndarray]:
        while (item := upcoming.result()) is not None:
            upcoming = pool.submit(next, items, None)
            yield item

    return rest(pool.submit(next, items, None))
