"""Images with their cells, read from a data set."""

import numpy as np

from wsss.core.checks import DataError
from wsss.data.catalog import DataSet
from wsss.data.cell_maps import read_cells, read_nuclei
from wsss.inference.task import Sample, Task


def read_sample(task: Task, index: int) -> Sample:
    """Read one image; where its cells cannot be read, the sample says why."""
    data = task.data
    if task.following is not None:
        task.following.wait(data.ids[index])
    image = np.array(data.image(index))
    try:
        label_map = read_cells(data, index)
    except DataError as error:
        return Sample(index, image, None, None, str(error))
    return Sample(index, image, label_map, read_nuclei(data, index))


def stored_map(data: DataSet, sample: Sample) -> np.ndarray | None:
    """Return the sample's cells at stored size, (size, size) int32; None if there are none."""
    return None if sample.label_map is None else data.geometry(sample.index).labels_to_store(sample.label_map)
