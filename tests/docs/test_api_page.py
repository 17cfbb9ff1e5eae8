"""The examples of docs/api.md run, in one namespace, in the order of the page."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from forest_file import FEATURES
from reviewable import write_reviewable
from squares import words
from tiny_subcell import write_subcell

from wsss.cells.regions import describe_cells
from wsss.data.synthetic import Look, draw_field
from wsss.feature_classifier.features import cell_features
from wsss.inference import tables
from wsss.train import main as train

PAGE = Path(__file__).parents[2] / "docs/api.md"
CYTOSOL, MITOTIC = 16, 11


def write_mixed(folder: Path) -> np.ndarray:
    """Write predictions with vectors of three fields in which a third of the cells divide; return which cells do."""
    frames, vectors, divides = [], [], []
    for k in range(3):
        look = Look(cell=0.2, several=0, lost=0)
        field = draw_field(np.random.default_rng([7, k]), 256, [CYTOSOL, MITOTIC], look)
        geometry = describe_cells(field.label_map)
        count = len(geometry)
        frame = tables.cells_frame(
            f"field{k}",
            fold=-1,
            size=field.label_map.shape,
            cell_ids=geometry.cell_id.to_numpy(),
            geometry={name: geometry[name] for name in geometry.columns},
            scores=np.full((count, 3), 0.5),
            rle=[b"0"] * count,
        )
        features = cell_features(field.image, field.label_map, field.nuclei)
        frames.append(frame)
        vectors.append(pd.concat([frame[["ID", "cell_id"]], pd.DataFrame(features, columns=list(FEATURES))], axis=1))
        divides += [MITOTIC in labels for labels in field.cell_labels]
    tables.write_cells(folder, frames)
    tables.write_embeddings(folder, vectors)
    return np.array(divides)


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    write_reviewable(tmp_path)
    write_subcell(tmp_path)
    divides = write_mixed(tmp_path / "preds/mixed")
    train([*words(tmp_path / "data", tmp_path / "runs/mine"), "--feature_classifier.enabled", "false"])
    capsys.readouterr()
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 8
    names: dict[str, Any] = {"__name__": "api_page"}
    exec("\n".join(blocks), names)
    printed = capsys.readouterr().out
    assert "highest score right" in printed
    assert f"{divides.sum()} of {len(divides)} cells differ" in printed
    assert f"These {divides.sum()} of {len(divides)} cells are the dividing ones" in PAGE.read_text()
    np.testing.assert_array_equal(names["cluster"] == names["minority"], divides)
