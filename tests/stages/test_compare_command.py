"""The compare stage: table and picture of conditions, and what it refuses."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from reviewable import write_reviewable

from wsss import compare
from wsss.core.checks import ConfigError, DataError
from wsss.core.files import read_json, write_json
from wsss.inference import tables
from wsss.options.compare import CompareOptions
from wsss.stages.compare import _check_carried


@pytest.fixture
def preds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = write_reviewable(tmp_path)
    frame = tables.read_cells(folder).assign(rle="")
    frames = []
    for number in range(8):
        own = tables.put_carried(
            frame[frame.ID == "one"].assign(ID=f"image{number}"), {"drug": "b" if number % 2 else "a"}
        )
        own[["0", "1", "2"]] = [0.9, 0.1, 0.0] if number % 2 else [0.6, 0.7, 0.0]
        frames.append(own)
    tables.write_cells(folder, frames)
    return folder


def test_shares_and_differences_stand_in_the_table(
    preds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "--preds",
        str(preds),
        "--by",
        "drug",
        "--reference",
        "a",
        "--out",
        str(tmp_path / "out"),
        "--rounds",
        "100",
    ]
    assert compare.main(words) == 0
    table = pd.read_csv(tmp_path / "out/shares.csv").set_index(["condition", "class"])
    assert table.loc[("a", "Cytosol"), ["images", "cells", "share", "low", "high"]].tolist() == [4, 12, 1, 1, 1]
    assert table.loc[("b", "Cytosol"), "share"] == 0
    assert table.loc[("b", "Cytosol"), "difference"] == -1
    assert table.loc[("b", "Nucleoplasm"), "share"] == 1
    assert "a: 12 cells in 4 images; Nucleoplasm 100%" in capsys.readouterr().out
    with Image.open(tmp_path / "out/shares.png") as picture:
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 10


@pytest.mark.parametrize(("count", "share"), [("top", 0.0), ("mean", 0.6)])
def test_cells_can_be_counted_otherwise(preds: Path, tmp_path: Path, count: str, share: float) -> None:
    assert compare.main(["--preds", str(preds), "--by", "drug", "--count", count, "--out", str(tmp_path / "out")]) == 0
    table = pd.read_csv(tmp_path / "out/shares.csv").set_index(["condition", "class"])
    assert table.loc[("a", "Nucleoplasm"), "share"] == pytest.approx(share)


def test_columns_and_conditions_that_are_not_there_are_refused(preds: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'drug'"):
        compare.main(["--preds", str(preds), "--by", "drugs"])
    with pytest.raises(ConfigError, match="expected one of a, b"):
        compare.main(["--preds", str(preds), "--by", "drug", "--reference", "c"])
    frame = tables.read_cells(preds).assign(rle="")
    many = pd.concat([frame.assign(ID=f"more{k}", drug=f"d{k}")[:1] for k in range(70)])
    tables.write_cells(preds, [many])
    with pytest.raises(DataError, match="70 values"):
        compare.main(["--preds", str(preds), "--by", "drug"])


def test_a_class_that_was_renamed_and_a_condition_that_was_corrected_are_noticed(
    preds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--preds", str(preds), "--by", "drug", "--out", str(tmp_path / "out")]
    assert compare.main(words) == 0
    manifest = read_json(tmp_path / "data/dataset.json")
    write_json(tmp_path / "data/dataset.json", manifest | {"classes": ["Nucleus", *manifest["classes"][1:]]})
    assert compare.main(words) == 0
    assert "out of date (" in capsys.readouterr().out
    assert "Nucleus" in (tmp_path / "out/shares.csv").read_text()
    data = SimpleNamespace(ids=["image0"], carried=pd.DataFrame({"drug": ["b"]}), folder=tmp_path / "data")
    options = CompareOptions(preds=preds, by="drug")
    with pytest.raises(DataError, match=r"drug of image0 was corrected in .* \(image0: 'a', now 'b'\): run python"):
        _check_carried(options, tables.read_cells(preds), data)  # type: ignore[arg-type]
