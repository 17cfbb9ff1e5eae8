"""The classifier in docs/experiments.md, trained on an out-of-fold table by code that knows nothing of this project."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from wsss.core import rle
from wsss.core.label_maps import find_label_map, read_label_map
from wsss.data.synthetic import write_fields
from wsss.inference import tables
from wsss.options.evaluate import EvaluateOptions
from wsss.stages.evaluate import evaluate

PAGE = Path(__file__).parents[1] / "docs" / "experiments.md"
CLASSES = 19


def predictions(fields: Path, truth: pd.DataFrame, out: Path, *, oof: bool) -> None:
    """Write the table that infer would have written, with scores near the truth where it is out of fold."""
    rng = np.random.default_rng(0)
    frames = []
    for n, (name, own) in enumerate(truth.groupby("ID", sort=False)):
        label_map = read_label_map(find_label_map(fields / "masks", name))
        scores = rng.random((len(own), CLASSES)) * 0.3
        for i, label in enumerate(own.Label if oof else []):
            scores[i, [int(part) for part in label.split("|")]] = 0.9
        masks = rle.encode_label_map(label_map, own.cell.to_numpy())
        frames.append(
            tables.cells_frame(
                name,
                fold=n % 4 if oof else -1,
                size=label_map.shape,
                cell_ids=own.cell.to_numpy(),
                geometry={column: np.zeros(len(own)) for column in tables.GEOMETRY_COLUMNS},
                scores=scores,
                rle=list(masks.values()),
            )
        )
    tables.write_cells(out, frames)


def test_the_example_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n, part in enumerate(("train", "val")):
        truth = write_fields(tmp_path / part, 8, 128, n + 1, classes=[0, 9], prefix=part, workers=0)
        name = "train-oof" if part == "train" else part
        predictions(tmp_path / part, truth, tmp_path / "preds" / name, oof=part == "train")
    (tmp_path / "preds/val-forest").mkdir()
    (code,) = re.findall(r"```python\n(import cv2.*?)```", PAGE.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    report = evaluate(EvaluateOptions(Path("preds/val-forest"), Path("val/cells_truth.csv"))).report
    before = evaluate(EvaluateOptions(Path("preds/val"), Path("val/cells_truth.csv"))).report
    assert before["cells"]["mean_ap"] < 0.6 < report["cells"]["mean_ap"]
