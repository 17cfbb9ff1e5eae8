"""A tiny prediction that tests review: two fields with three cells each, three classes."""

from pathlib import Path

import numpy as np
import pandas as pd

from wsss.cells.regions import describe_cells
from wsss.core import rle
from wsss.core.files import write_json
from wsss.core.label_maps import write_label_map
from wsss.core.labels import ClassList
from wsss.data.build import Spec, create_dataset
from wsss.inference import tables

CLASSES = ClassList(("Nucleoplasm", "Cytosol", "Negative"), 2)
IDS = ("one", "two")
SHAPE = (48, 80)


def label_map() -> np.ndarray:
    """Return three cells with gaps in their numbers."""
    out = np.zeros(SHAPE, np.int32)
    out[4:22, 3:20] = 2
    out[4:22, 24:40] = 5
    out[26:44, 30:60] = 9
    return out


def write_reviewable(folder: Path) -> Path:
    """Write data/, its label maps and preds/ into a folder; return preds."""
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 255, (4, *SHAPE), np.uint8) for name in IDS}
    create_dataset(folder / "data", images, {"one": [0], "two": [0, 1]}, Spec(size=64, classes=CLASSES, folds=2))
    table = describe_cells(label_map())
    frames = []
    for name in IDS:
        (folder / "data/cells").mkdir(exist_ok=True)
        write_label_map(folder / f"data/cells/{name}", label_map())
        frame = tables.cells_frame(
            name,
            fold=-1,
            size=SHAPE,
            cell_ids=table.cell_id.to_numpy(),
            geometry={column: table[column] for column in table.columns},
            scores=rng.random((3, 3)),
            rle=list(rle.encode_label_map(label_map(), table.cell_id.to_numpy()).values()),
        )
        frames.append(frame)
    preds = folder / "preds"
    tables.write_cells(preds, frames)
    rows = pd.DataFrame({"ID": list(IDS), "fold": -1, "n_cells": 3, "status": "ok"})
    rows[["0", "1", "2"]] = rng.random((2, 3))
    tables.write_images(preds, rows)
    write_json(preds / "provenance.json", {"data": str(folder / "data")})
    return preds
