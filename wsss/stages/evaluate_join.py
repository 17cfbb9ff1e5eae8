"""Which predicted cell stands for which true one."""

from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd

from wsss.core.checks import DataError
from wsss.core.files import read_json
from wsss.core.runtime import progress
from wsss.inference.tables import iter_cells
from wsss.metrics.cells import Join, join_by_number, joined
from wsss.metrics.instances import match_pairs
from wsss.metrics.true_masks import TrueMasks
from wsss.metrics.truth import CellTruth


class JoinOptions(Protocol):
    """What a stage that joins cells is asked."""

    @property
    def preds(self) -> Path:
        """Folder of predictions."""

    @property
    def join(self) -> str:
        """auto, number or iou."""

    @property
    def join_iou(self) -> float:
        """Lowest IoU of the join by overlap."""


def check_numbers(options: JoinOptions, truth: Path, masks: TrueMasks | None) -> None:
    """Refuse to join by number, unless asked for, where the predicted cells were numbered by what found them.

    Raises:
        DataError: that is so.
    """
    record = options.preds / "provenance.json"
    if options.join != "auto" or masks is not None or not record.exists():
        return
    segments = Path(str(read_json(record).get("data", ""))) / "segment.json"
    if not segments.is_file():
        return
    backend = read_json(segments)["options"]["backend"]
    if backend != "masks":
        raise DataError(
            f"the cells of {options.preds} were found by --backend {backend}, so their numbers need not be those of "
            f"{truth}: pass the folder of the true label maps as --masks, or --join number if the table was made for "
            "these very cells."
        )


def join_cells(
    options: JoinOptions, truth: CellTruth, cells: pd.DataFrame, masks: TrueMasks | None
) -> tuple[Join, str]:
    """Find the predicted cell of each true one as --join says; return the join, and how it was made."""
    how = options.join
    if how == "auto":
        how = "iou" if masks and (options.preds / "cells.parquet").exists() else "number"
    if how == "number":
        return join_by_number(truth, cells.ID.to_numpy(), cells.cell_id.to_numpy()), how
    if masks is None:
        raise DataError("--join iou needs the true label maps: pass --masks DIR.")
    return joined(truth, _overlapping(options, masks, cells.ID.nunique()), cells.ID.to_numpy()), how


def _overlapping(options: JoinOptions, masks: TrueMasks, images: int) -> np.ndarray:
    """Return the (N,) row of the predicted cell that overlaps each true one, -1 for none; `images` have cells."""
    rows = np.full(len(masks.truth.ids), -1)
    known, start = set(masks.image_ids), 0
    for image_id, own in progress(iter_cells(options.preds), "join cells", total=images):
        if image_id in known:
            true = masks.read(image_id)
            size = (int(own.ImageHeight.iloc[0]), int(own.ImageWidth.iloc[0]))
            iou = true.iou([text.encode("ascii") for text in own.rle], size, f"{options.preds}: {image_id}")
            found = match_pairs(iou, options.join_iou)[: len(true.rows)]
            rows[true.rows] = np.where(found >= 0, start + found, -1)
        start += len(own)
    return rows
