"""Test-time augmentation through the command: other scores, told in the record, out of fold as before."""

from pathlib import Path

import numpy as np
import pytest
from squares import make_squares, words

from wsss.core.checks import ConfigError
from wsss.core.files import read_json
from wsss.core.label_maps import write_label_map
from wsss.infer import main as infer
from wsss.inference.tables import read_cells
from wsss.train import main


def test_views_change_scores_and_stay_out_of_fold(tmp_path: Path) -> None:
    data, run = make_squares(tmp_path / "data", folds=2, count=6), tmp_path / "run"
    cells = np.zeros((64, 64), np.int32)
    cells[5:30, 4:40], cells[35:60, 20:50] = 1, 2
    for n in range(6):
        write_label_map(data / "cells" / f"im{n:02}", cells)
    assert main(words(data, run, "--fold", "all", "--epochs", "1", "--feature_classifier.enabled", "false")) == 0
    plain = ["--data", str(data), "--run", str(run), "--device", "cpu", "--oof", "--crops.size", "32"]
    views = ["--tta.views", "turns", "--tta.scales", "[0.5,1]"]
    assert infer([*plain, "--out", str(tmp_path / "plain")]) == 0
    assert infer([*plain, *views, "--parts", "--out", str(tmp_path / "views")]) == 0
    tables = {name: read_cells(tmp_path / name) for name in ("plain", "views", "views/crop")}
    one, other = tables["plain"], tables["views"]
    assert one[["ID", "cell_id", "fold"]].equals(other[["ID", "cell_id", "fold"]])
    assert (other.fold >= 0).all()
    assert np.abs(one["0"] - other["0"]).max() > 1e-4
    record = read_json(tmp_path / "views" / "provenance.json")
    assert record["tta"] == {"views": "turns", "scales": [0.5, 1.0]}
    assert all(member["seen_and_predicted"] == 0 for member in record["members"])
    with pytest.raises(ConfigError, match="holds another result"):
        infer([*plain, "--out", str(tmp_path / "views")])
