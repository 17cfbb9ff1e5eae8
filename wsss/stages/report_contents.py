"""What the report is made from: predictions, their data set, and what is known of their quality."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from wsss.core.checks import DataError, some
from wsss.core.files import read_record
from wsss.data.catalog import DataSet
from wsss.inference.tables import read_cells, read_images, score_columns
from wsss.options.report import ReportOptions
from wsss.stages.export import data_folder_of
from wsss.stages.report_evidence import Evidence, Truth, gather


@dataclass(frozen=True)
class Contents:
    """Everything the page is made from."""

    options: ReportOptions
    data: DataSet
    cells: pd.DataFrame
    """All cells without their masks; row numbers are those of `scores` and of the picks."""
    images: pd.DataFrame
    scores: np.ndarray
    """(N, K) float32."""
    evidence: Evidence
    record: dict[str, Any]
    """The content of provenance.json, empty where there is none."""


def collect(options: ReportOptions) -> Contents:
    """Read the tables and work out the figures.

    Raises:
        DataError: predictions, data set and truth do not fit each other.
    """
    data = DataSet.open(data_folder_of(options.preds, options.data))
    cells, images = read_cells(options.preds), read_images(options.preds)
    columns = score_columns(cells, options.preds)
    if columns != data.classes.columns or columns != score_columns(images, options.preds / "images.csv"):
        raise DataError(f"{options.preds} has {len(columns)} classes, {data.folder} has {len(data.classes)}.")
    strangers = sorted((set(images.ID) | set(cells.ID)) - set(data.ids))
    if strangers:
        raise DataError(f"{options.preds} has {some(strangers)}, which {data.folder} has not: pass its --data.")
    given = Truth(options.truth, options.masks, options.threshold)
    evidence = gather(options.preds, data, cells, images, given)
    path = options.preds / "provenance.json"
    record = read_record(path) if path.exists() else {}
    return Contents(options, data, cells, images, cells[columns].to_numpy(np.float32), evidence, record)
