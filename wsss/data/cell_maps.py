"""The label maps that the stage segment left in a data set, image by image."""

import numpy as np

from wsss.core.checks import DataError
from wsss.core.label_maps import find_label_map, given_maps, number_cells, read_label_map
from wsss.data.catalog import DataSet


def read_cells(data: DataSet, index: int) -> np.ndarray:
    """Return the cells of an image as kept on disk, (H, W) int32 at native or stored size.

    Raises:
        DataError: there is no label map, or it has another size.
    """
    label_map = read_label_map(find_label_map(data.folder / "cells", data.ids[index]))
    native = (data.geometry(index).height, data.geometry(index).width)
    if label_map.shape not in (native, (data.size, data.size)):
        raise DataError(f"the label map is {label_map.shape}, expected {native} or {(data.size, data.size)}")
    return label_map


def without_cells(data: DataSet, indices: np.ndarray) -> list[str]:
    """Return the IDs of those images that have no label map, by the names of the files."""
    found = given_maps(data.folder / "cells")
    return [data.ids[i] for i in indices if data.ids[i] not in found]


def numbered_cells(data: DataSet, index: int) -> np.ndarray:
    """Return the cells of an image at stored size, (size, size) int32, numbered 1..N; no cells without a label map.

    Raises:
        DataError: there is a label map, but it cannot be read or has another size.
    """
    try:
        find_label_map(data.folder / "cells", data.ids[index])
    except DataError:
        return np.zeros((data.size, data.size), np.int32)
    return number_cells(data.geometry(index).labels_to_store(read_cells(data, index)))


def read_nuclei(data: DataSet, index: int) -> np.ndarray | None:
    """Return the nuclei of an image at stored size, (size, size) int32; None where the cells came without them."""
    try:
        path = find_label_map(data.folder / "nuclei", data.ids[index])
    except DataError:  # given label maps come without nuclei
        return None
    return data.geometry(index).labels_to_store(read_label_map(path))
