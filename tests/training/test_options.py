"""What a run may have beside the plain course: early stop, snapshots, fine-tuning, refinement, range test, preview."""

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from squares import final, make_squares, words

from wsss.core.checks import ConfigError, DataError
from wsss.core.files import read_json
from wsss.core.label_maps import write_label_map
from wsss.data.catalog import DataSet
from wsss.infer import main as infer
from wsss.inference.checkpoints import load_predicting
from wsss.models.cam_net import build_cam_net
from wsss.models.device import Device, choose_device
from wsss.options.recipe import ClassifyRecipe, OptimConfig
from wsss.runs.run_folder import RunFolder
from wsss.train import main
from wsss.training import watch
from wsss.training.state import LearningRate, TrainState
from wsss.training.watch import choose_fields, suggest


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_squares(tmp_path_factory.mktemp("data") / "squares", count=8)


@pytest.fixture(scope="module")
def first(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with everything that is written beside the weights."""
    run = tmp_path_factory.mktemp("runs") / "first"
    cosine = ["--optim.schedule", "cosine", "--optim.cycles", "2"]
    assert main(words(data, run, *cosine, "--epochs", "4", "--preview_every", "2")) == 0
    return run


def test_each_cosine_cycle_leaves_a_snapshot(first: Path) -> None:
    found = RunFolder(first / "fold0").snapshots()
    assert [path.name for path in found] == ["snapshot1.safetensors", "snapshot2.safetensors"]
    assert final(first, "snapshot1")[1]["progress"]["epoch"] == 2  # type: ignore[index]
    last, snapshot = final(first)[0], final(first, "snapshot2")[0]
    assert all(torch.equal(last[name], snapshot[name]) for name in snapshot)


def test_snapshots_are_averaged_when_asked_for(data: Path, first: Path, tmp_path: Path) -> None:
    with_cells = shutil.copytree(data, tmp_path / "data")
    for n in range(8):
        write_label_map(with_cells / "cells" / f"im{n:02}", np.ones((64, 64), np.int32))
    words = ["--data", str(with_cells), "--run", str(first), "--crops.mode", "none", "--device", "cpu"]
    assert infer([*words, "--out", str(tmp_path / "out"), "--snapshots", "true"]) == 0
    facts = read_json(tmp_path / "out" / "provenance.json")
    assert len({member["weights"] for member in facts["members"]}) == 2
    assert facts["classes"] == list(DataSet.open(data).classes.names)
    # what report --maps shows
    shown = [checkpoint.digest for checkpoint in load_predicting(first, choose_device("cpu"), facts)]
    assert shown == [member["weights"] for member in facts["members"]]


def test_cycles_must_end_with_an_epoch() -> None:
    with pytest.raises(ConfigError, match=r"optim.cycles 3 of 10 epochs"):
        ClassifyRecipe(epochs=10, optim=OptimConfig(schedule="cosine", cycles=3))
    rate = LearningRate(OptimConfig(schedule="cosine", cycles=2, warmup=0.2))
    assert [rate.cycle_ended(epoch, 10) for epoch in range(1, 11)] == [0, 0, 0, 0, 0, 1, 0, 0, 0, 2]


def test_previews_show_the_same_fields_as_they_grow(first: Path) -> None:
    found = sorted((first / "fold0" / "preview").iterdir())
    assert [path.name for path in found] == ["epoch002.png", "epoch004.png"]
    sizes = {Image.open(path).size for path in found}
    assert len(sizes) == 1


def test_fields_of_a_preview_cover_many_classes() -> None:
    labels = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 1], [0, 0, 1]], np.float32)
    assert choose_fields(labels, np.array([10, 11, 12, 13]), 3) == [12, 10, 11]


def test_a_run_without_progress_stops_early_and_stays_stopped(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = words(data, tmp_path / "run", "--epochs", "30", "--optim.early_stop", "2", "--optim.lr", "1e-12")
    arguments += ["--optim.floor", "0", "--puzzle.side", "1"]
    assert main(arguments) == 0
    reached = final(tmp_path / "run")[1]["progress"]["epoch"]  # type: ignore[index]
    assert reached < 30
    assert "stopped early" in capsys.readouterr().out
    assert main(arguments) == 0
    assert final(tmp_path / "run")[1]["progress"]["epoch"] == reached  # type: ignore[index]


def test_fine_tuning_starts_from_the_best_weights_of_the_fold(data: Path, first: Path, tmp_path: Path) -> None:
    run = tmp_path / "tuned"
    arguments = words(data, run, "--init_from", str(first), "--puzzle.weight", "0.25", "--epochs", "1")
    assert main([*arguments, "--optim.lr", "1e-12", "--optim.floor", "0"]) == 0
    tuned, best = final(run)[0], final(first, "best")[0]
    assert torch.allclose(tuned["net.classifier.weight"], best["net.classifier.weight"], atol=1e-6)
    (ancestor,) = RunFolder(run / "fold0").read()[0].ancestors or ()
    assert ancestor.chain == (f"init_from {first / 'fold0'}",)
    assert ancestor.images == set(RunFolder(first / "fold0").ids.read_text().split())


def test_a_run_that_saw_the_held_out_images_is_no_start(data: Path, first: Path, tmp_path: Path) -> None:
    arguments = words(data, tmp_path / "run", "--fold", "1", "--init_from", str(first / "fold0"))
    with pytest.raises(DataError, match=r"was trained on im\d\d.*held out in this run"):
        main(arguments)


def test_a_refined_network_learns_from_the_first_ones_maps(data: Path, first: Path, tmp_path: Path) -> None:
    run = tmp_path / "refined"
    drs = ["--drs.mode", "learned", "--drs.after", "activations", "--drs.refine_from", str(first)]
    assert main(words(data, run, *drs)) == 0
    log = pd.read_csv(run / "fold0" / "log.csv")
    assert (log["train_refine"] > 0).all()
    summed = log["train_full"] + log["train_tiles"] + 0.5 * log["train_agreement"] + log["train_refine"]
    np.testing.assert_allclose(log["train_loss"], summed, rtol=1e-4)


def test_a_range_test_suggests_a_rate_and_trains_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "RATES", watch.RATES[::4])
    run = tmp_path / "run"
    assert main(words(data, run, "--lr_find", "true")) == 0
    assert {path.name for path in (run / "fold0").iterdir()} == {"lr_find.csv", "lr_find.png"}
    rows = pd.read_csv(run / "fold0" / "lr_find.csv")
    assert rows["lr"].is_monotonic_increasing
    assert 1e-6 < suggest(rows.to_dict("records")) < 1  # type: ignore[arg-type]


def test_the_suggestion_is_where_the_loss_falls_most_steeply() -> None:
    rows = [{"lr": 10.0**k, "smoothed": s} for k, s in zip(range(-6, 1), [1, 1, 0.95, 0.5, 0.4, 0.39, 3], strict=True)]
    assert suggest(rows) == pytest.approx(1e-3)
    assert suggest([{"lr": 1e-7, "smoothed": 1.0}, {"lr": 1e-6, "smoothed": 2.0}]) == 1e-7


def test_tensorboard_is_asked_for_by_name_where_it_is_missing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[tensorboard\]'"):
        main(words(data, tmp_path / "run", "--tensorboard", "true"))


def test_a_process_that_writes_nothing_for_tensorboard_opens_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=opened.append))
    watch.open_tensorboard(tmp_path)
    assert opened == []


def test_tensorboard_holds_the_figures_of_every_epoch(data: Path, tmp_path: Path) -> None:
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert main(words(data, tmp_path / "run", "--tensorboard", "true")) == 0
    found = reading.EventAccumulator(str(tmp_path / "run" / "fold0" / "tensorboard")).Reload()
    log = pd.read_csv(tmp_path / "run" / "fold0" / "log.csv")
    points = found.Scalars("train/loss")
    assert [point.step for point in points] == list(log["epoch"])
    assert [point.value for point in points] == pytest.approx(list(log["train_loss"]), rel=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_network_learns_the_same_and_is_saved_under_the_same_names(data: Path, tmp_path: Path) -> None:
    for name, compiled in (("plain", "false"), ("fast", "true")):
        assert main(words(data, tmp_path / name, "--compile", compiled)) == 0
    plain, fast = final(tmp_path / "plain"), final(tmp_path / "fast")
    assert set(plain[0]) == set(fast[0])
    losses = [[row["train_loss"] for row in meta["progress"]["history"]] for _, meta in (plain, fast)]  # type: ignore[index]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_fp16_scales_its_gradients() -> None:
    recipe = ClassifyRecipe(backbone="test_resnet", weights="none", crop=64)
    net = build_cam_net(recipe, channels=4, classes=2)
    assert TrainState(net, recipe, Device(torch.device("cpu"), torch.float16)).scaler.is_enabled()
    assert not TrainState(net, recipe, choose_device("cpu")).scaler.is_enabled()
