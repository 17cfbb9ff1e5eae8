"""score.compartment for images without nuclei is refused in one line."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from squares import make_squares, words

from wsss import infer, train
from wsss.core.checks import ConfigError
from wsss.core.label_maps import write_label_map


def test_a_compartment_without_nuclei_is_refused_and_with_nuclei_changes_scores(tmp_path: Path) -> None:
    data, run = make_squares(tmp_path / "data"), tmp_path / "run"
    label_map = np.zeros((64, 64), np.int32)
    label_map[4:60, 4:60] = 1
    for n in range(12):
        write_label_map(data / f"cells/im{n:02}", label_map)
    train.main(words(data, run, "--epochs", "1", "--feature_classifier.enabled", "false"))
    ask = [
        "--data",
        str(data),
        "--run",
        str(run),
        "--device",
        "cpu",
        "--crops.mode",
        "none",
        "--score.relative",
        "false",
    ]
    halves = ["--score.compartment", "0.5", "--score.region", "mean"]
    with pytest.raises(ConfigError, match=r"score.compartment is 0.5, which needs nuclei, and im00, im01, im02 and 9"):
        infer.main([*ask, *halves, "--out", str(tmp_path / "refused")])
    nuclei = np.zeros((64, 64), np.int32)
    nuclei[20:30, 20:30] = 1
    for n in range(12):
        write_label_map(data / f"nuclei/im{n:02}", nuclei)
    whole = [*ask, "--score.region", "mean", "--out", str(tmp_path / "whole")]
    assert infer.main(whole) == infer.main([*ask, *halves, "--out", str(tmp_path / "halves")]) == 0
    tables = [(tmp_path / name / "cells.csv").read_text() for name in ("whole", "halves")]
    assert tables[0] != tables[1]
    (data / "cells/im03.png").unlink()
    (data / "nuclei/im04.png").write_text("no picture")
    write_label_map(data / "nuclei/im05", nuclei[:32])
    assert infer.main([*ask, *halves, "--out", str(tmp_path / "broken")]) == 1
    images = pd.read_csv(tmp_path / "broken/images.csv").set_index("ID")
    assert images.index[images.status != "ok"].tolist() == ["im03", "im04", "im05"]
    assert "nuclei/im05.png is (32, 64), expected (64, 64)" in images.status["im05"]
