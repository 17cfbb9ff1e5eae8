"""The recipe's backbones train, resume and infer on small data; minutes, so marked slow."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from squares import final, make_squares, words

from wsss.core.label_maps import write_label_map
from wsss.infer import main as infer
from wsss.train import main as train

pytestmark = pytest.mark.slow

DRS = ["--drs.mode", "learned", "--drs.after"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The squares, with two cells in each image."""
    folder = make_squares(tmp_path_factory.mktemp("data") / "squares")
    label_map = np.zeros((64, 64), np.int32)
    label_map[4:30, 4:60], label_map[34:60, 4:60] = 1, 2
    for n in range(12):
        write_label_map(folder / "cells" / f"im{n:02}", label_map)
    return folder


@pytest.mark.parametrize(
    ("backbone", "more"),
    [
        ("seresnext50", []),
        ("gluon_seresnext101_32x4d", []),
        ("cspresnext50", []),
        ("regnety_64", []),
        ("vgg16", []),
        ("seresnext50", [*DRS, "stages"]),
        ("vgg16", [*DRS, "activations", "--drs.extra", "3", "--output_stride", "8", "--optim.name", "sgd"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "drs" if value else "plain",
)
def test_it_trains_resumes_and_infers(backbone: str, more: list[str], data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = [*words(data, run), "--backbone", backbone, "--batch", "6", *more, "--optim.lr", "1e-4"]
    assert train(arguments) == 0
    before, meta = final(run)
    assert all(np.isfinite(row["train_loss"]) for row in meta["progress"]["history"])  # type: ignore[index]
    (run / "fold0" / "last.safetensors").unlink()  # back to the end of the first epoch
    assert train(arguments) == 0
    assert all(torch.equal(before[name], tensor) for name, tensor in final(run)[0].items())
    out = tmp_path / "preds"
    assert infer(["--data", str(data), "--run", str(run), "--out", str(out), "--crops.size", "64"]) == 0
    cells = pd.read_csv(out / "cells.csv")
    assert len(cells) == 24
    assert np.isfinite(cells[["0", "1"]].to_numpy()).all()
