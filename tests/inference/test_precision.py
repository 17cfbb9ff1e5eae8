"""A prediction on a CPU that computes in bfloat16: tried on its first images, recorded, kept to."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from wsss import infer, train
from wsss.core.checks import Terminated
from wsss.data.build import Spec, create_dataset
from wsss.runs.journal import Journal
from wsss.stages import infer as stage
from wsss.stages.infer import Trial

SIZE, COUNT = 64, 6


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("precision")
    rng = np.random.default_rng(0)
    images = {f"im{n}": rng.integers(0, 255, (4, SIZE, SIZE)).astype(np.uint8) for n in range(COUNT)}
    data = create_dataset(folder / "data", images, {name: [n % 2] for n, name in enumerate(images)}, Spec(size=SIZE))
    label_map = np.kron(np.arange(4).reshape(2, 2), np.ones((SIZE // 2, SIZE // 2))).astype(np.uint8)
    (data / "cells").mkdir()
    for name in images:
        Image.fromarray(label_map).save(data / "cells" / f"{name}.png")
    words = ["--data", str(data), "--run", str(folder / "run"), "--backbone", "test_resnet", "--weights", "none"]
    words += ["--crop", "64", "--batch", "3", "--epochs", "1", "--workers", "0", "--device", "cpu", "--fold", "none"]
    train.main([*words, "--feature_classifier.enabled", "false", "--crops.size", "32"])
    return data, folder / "run"


@pytest.fixture
def predict(
    trained: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[str, pd.DataFrame, bool]]:
    """Return what predicts: (name of the folder, words) -> (what it says, cells, whether it was in half precision)."""
    monkeypatch.setattr(stage, "computes_half", lambda device: True)
    monkeypatch.setattr(stage, "WORTH", 2)
    monkeypatch.setattr(stage, "FASTER", 0.0)
    monkeypatch.setattr(stage, "APART", 1.0)

    def predicted(name: str, *more: str) -> tuple[str, pd.DataFrame, bool]:
        data, run = trained
        capsys.readouterr()
        out = tmp_path / name
        where = ["--data", str(data), "--run", str(run), "--out", str(out)]
        infer.main([*where, "--device", "cpu", "--batch", "2", *more])
        half = json.loads((out / "provenance.json").read_text()).get("half", False)
        return capsys.readouterr().out, pd.read_csv(out / "cells.csv"), half

    return predicted


Predict = Callable[..., tuple[str, pd.DataFrame, bool]]


def test_bf16_is_taken_where_it_is_faster_and_close_enough(predict: Predict) -> None:
    said, cells, half = predict("auto")
    assert "precision: bf16; on the first 4 images bf16 was " in said
    assert half
    _, asked, _ = predict("asked", "--precision", "bf16")
    pd.testing.assert_frame_equal(cells, asked)
    said, _, half = predict("auto")
    assert half
    assert "precision" not in said  # done already


@pytest.mark.parametrize(("limit", "value"), [("FASTER", 1e9), ("APART", -1.0)])
def test_else_it_is_fp32(predict: Predict, limit: str, value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, limit, value)
    said, cells, half = predict("auto")
    assert "precision: fp32; on the first 4 images" in said
    assert not half
    said, plain, _ = predict("asked", "--precision", "fp32")
    assert "precision" not in said
    pd.testing.assert_frame_equal(cells, plain)


@pytest.mark.parametrize("begun_in_half", [True, False])
def test_a_run_that_goes_on_keeps_to_what_it_began_with(
    predict: Predict, begun_in_half: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "APART", 1.0 if begun_in_half else -1.0)
    _, whole, _ = predict("whole")
    add = Journal.add

    def killed(journal: Journal, *entry: object) -> None:
        add(journal, *entry)  # type: ignore[arg-type]
        if len(journal) == 3:
            raise Terminated

    monkeypatch.setattr(Journal, "add", killed)
    with pytest.raises((Terminated, SystemExit)):
        predict("parts")
    monkeypatch.setattr(Journal, "add", add)
    monkeypatch.setattr(stage, "APART", -1.0 if begun_in_half else 1.0)
    monkeypatch.setattr(stage, "computes_half", lambda device: not begun_in_half)  # even on another machine
    said, cells, half = predict("parts")
    assert f"precision: {'bf16' if begun_in_half else 'fp32'}, as the run began" in said
    assert half is begun_in_half
    pd.testing.assert_frame_equal(cells, whole)


def test_shards_and_short_runs_do_not_try(predict: Predict, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError):  # there is no provenance before the merge
        predict("shards", "--shard", "1/2")
    with pytest.raises(FileNotFoundError):
        predict("shards", "--shard", "2/2")
    _, merged, half = predict("shards", "--merge", "true")
    assert not half
    monkeypatch.setattr(stage, "WORTH", COUNT + 1)
    said, cells, half = predict("short")
    assert "note: this CPU computes in bf16" in said
    assert not half
    pd.testing.assert_frame_equal(cells, merged)


def test_parts_that_are_written_must_not_differ_either(predict: Predict, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []
    score = stage._score

    def counted(*args: Any) -> tuple[np.ndarray, float]:
        scores, seconds = score(*args)
        compared.append(len(scores))
        return scores, seconds

    monkeypatch.setattr(stage, "_score", counted)
    predict("plain")
    predict("parts", "--parts", "true")
    assert compared[-1] > compared[0]
    _, _, half = predict("vectors", "--embeddings", "true")
    assert not half


def test_both_conditions_must_hold() -> None:
    assert Trial(4, 1.3, 0.02).half
    assert not Trial(4, 1.29, 0.0).half
    assert not Trial(4, 3.0, 0.021).half
