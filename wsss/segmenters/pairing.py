"""Give nuclei that were found apart from their cells the cells' ids."""

import numpy as np

from wsss.cells.morphology import renumber


def pair_nuclei(cells: np.ndarray, nuclei: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number cells 1..N, and give every nucleus to the cell that holds most of it, cut to that cell.

    Args:
        cells: (H, W) int, 0 background; any ids.
        nuclei: (H, W) int with ids of their own; several may share a cell, and a cell may have none.

    Returns:
        Cells and nuclei, both (H, W) int32. Nuclei outside of all cells are left out.

    Raises:
        ValueError: the maps differ in size.
    """
    if cells.shape != nuclei.shape:
        raise ValueError(f"the cells are {cells.shape}, the nuclei {nuclei.shape}: they must match.")
    cells, nuclei = renumber(cells)[0], renumber(nuclei)[0]
    inside = (cells > 0) & (nuclei > 0)
    most = int(cells.max()) + 1
    pairs, counts = np.unique(nuclei[inside].astype(np.int64) * most + cells[inside], return_counts=True)
    owner = np.zeros(int(nuclei.max()) + 1, np.int32)
    order = np.argsort(counts, kind="stable")  # the last one written, with most pixels, stays
    owner[pairs[order] // most] = pairs[order] % most
    owned = owner[nuclei]
    return cells, np.where(owned == cells, owned, 0)
