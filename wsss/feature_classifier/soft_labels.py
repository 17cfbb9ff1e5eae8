"""Soft labels of single cells as a table: what the feature classifier settled on for the cells of training images."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from wsss.core.checks import DataError
from wsss.core.parquet import read_parquet, write_parquet


@dataclass(frozen=True)
class SoftLabels:
    """Cells in the order of their images."""

    image_ids: np.ndarray
    """(N,) str, the image of each cell."""
    cell_ids: np.ndarray
    """(N,) int64, the cell's value in the image's label map."""
    soft: np.ndarray
    """(N, K) float32: 0 outside the image's labels and Negative, rows sum to 1."""


def save_soft_labels(path: Path, labels: SoftLabels) -> None:
    """Write the columns ID, cell_id, 0, 1, ... as Parquet, whole or not at all."""
    columns = {"ID": pd.Series(labels.image_ids, dtype="str"), "cell_id": labels.cell_ids}
    columns |= {str(k): labels.soft[:, k] for k in range(labels.soft.shape[1])}
    write_parquet(path, pd.DataFrame(columns))


def load_soft_labels(path: Path) -> SoftLabels:
    """Read what `save_soft_labels` wrote.

    Raises:
        DataError: the file is missing or damaged.
    """
    again = "Remove it and run the same train command again."
    table = read_parquet(path, again=again)
    try:
        scores = table[[str(k) for k in range(table.shape[1] - 2)]].to_numpy(np.float32)
        return SoftLabels(table["ID"].to_numpy(object), table["cell_id"].to_numpy(np.int64), scores)
    except (KeyError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} is no table of soft labels ({reason}). {again}") from error
