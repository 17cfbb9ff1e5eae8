"""Training that knows the cells: through the commands, resumed, in parts, and refused where it cannot be."""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from squares import equal, final, make_squares, words

import wsss
from wsss.core.checks import ConfigError, DataError
from wsss.core.device import choose_device
from wsss.core.label_maps import read_label_map, write_label_map
from wsss.data.catalog import DataSet
from wsss.export import main as export
from wsss.infer import main as infer
from wsss.models.cam_net import build_cam_net
from wsss.options.recipe import CellTrainConfig, ClassifyRecipe, OptimConfig, PuzzleConfig
from wsss.options.scoring import CropConfig
from wsss.runs.record import RunRecord
from wsss.runs.run_folder import RunFolder
from wsss.train import main
from wsss.training.loading import Batch
from wsss.training.state import Job, TrainState
from wsss.training.tasks.classify import ClassifyLearner, train_loader

PIECES = ["--cells.pieces", "2", "--cells.piece_size", "32", "--crops.mode", "stored", "--crops.size", "32"]
ALL = ["--cells.pooling", "attention", *PIECES, "--optim.ema", "0.9", "--optim.accumulate", "2"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The squares, with cells in all images but one."""
    folder = make_squares(tmp_path_factory.mktemp("data") / "squares")
    for n in range(11):
        label_map = np.zeros((64, 64), np.int32)
        label_map[2:30, 2:34], label_map[34:62, 8 + n : 40 + n], label_map[5:20, 40:60] = 4, 9, 2
        write_label_map(folder / "cells" / f"im{n:02}", label_map)
    (folder / "segments.csv").write_text("what segment says of them\n")
    return folder


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with everything on."""
    run = tmp_path_factory.mktemp("runs") / "unbroken"
    assert main(words(data, run, *ALL, "--preview_every", "2")) == 0
    return run


def test_every_part_of_the_loss_is_logged_and_summed(run: Path) -> None:
    log = pd.read_csv(run / "fold0" / "log.csv")
    for when in ("train", "val"):
        part = {name: log[f"{when}_{name}"] for name in ("full", "tiles", "agreement", "pieces", "cell_agreement")}
        summed = part["full"] + part["tiles"] + part["pieces"] + 0.5 * (part["agreement"] + part["cell_agreement"])
        np.testing.assert_allclose(log[f"{when}_loss"], summed, rtol=1e-4)


def test_a_stopped_run_equals_the_unbroken_one_whatever_the_workers(
    data: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = RunFolder.save

    def save_and_stop(*args: object) -> None:
        saved(*args)  # type: ignore[arg-type]
        os.kill(os.getpid(), signal.SIGINT)

    arguments = words(data, tmp_path / "run", *ALL, "--save_every", "2")
    monkeypatch.setattr(RunFolder, "save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        main(arguments)
    monkeypatch.undo()
    assert main([*arguments, "--workers", "1"]) == 0
    assert equal(run, tmp_path / "run")


def test_other_cells_are_another_run(data: Path, run: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(data, tmp_path / "data"))
    changed = sorted((other / "cells").iterdir())[0]
    shutil.copy(sorted((other / "cells").iterdir())[-1], changed)
    with pytest.raises(DataError, match="cells"):
        main(words(other, run, *ALL))


@pytest.mark.parametrize("option", [["--cells.pooling", "lse"], PIECES])
def test_without_label_maps_the_run_is_refused_at_once(option: list[str], tmp_path: Path) -> None:
    bare = make_squares(tmp_path / "bare")
    with pytest.raises(ConfigError, match=r"has none of the 9 images to train on: run python -m wsss.segment"):
        main(words(bare, tmp_path / "run", *option))
    assert not (tmp_path / "run" / "fold0" / "config.yaml").exists()


def test_inference_pools_over_the_cells_as_training_does(data: Path, run: Path, tmp_path: Path) -> None:
    arguments = ["--data", str(data), "--run", str(run), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert infer(arguments) == 1  # the image without cells is told of
    images = pd.read_csv(tmp_path / "out" / "images.csv", index_col="ID")
    assert not images[["0", "1"]].isna().any(axis=None)
    found = wsss.load(run, device="cpu")
    net, opened = found.members[0].net, DataSet.open(data)
    assert net.pool is not None
    for n in (3, 11):  # the last has no cells
        image = torch.from_numpy(np.array(opened.image(n)))[None]
        with torch.no_grad():
            output = net(image)
        probs = output.logits.sigmoid()[0]
        if n == 3:
            label_map = read_label_map(data / "cells" / "im03.png")
            table = found.predict(image[0].numpy(), label_map)
            assert len(table) == 3
            full = torch.nn.functional.interpolate(net.poolable(output), (64, 64), mode="bilinear")[0].detach()
            means = torch.stack([full[:, torch.from_numpy(label_map == k)].mean(dim=1) for k in (2, 4, 9)])
            scores, logits = means.split(means.shape[1] // 2, dim=1)[::-1]
            probs = (scores.softmax(dim=0) * logits).sum(dim=0).sigmoid()
        np.testing.assert_allclose(images.loc[f"im{n:02}", ["0", "1"]].to_numpy(float), probs.detach()[:2], atol=1e-5)


def test_the_onnx_form_is_refused_and_a_shared_model_works(data: Path, run: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(ConfigError, match=r"pools over cells .*huggingface"):
        export(["--run", str(run), "--to", "onnx", "--out", str(tmp_path / "onnx")])
    assert export(["--run", str(run), "--to", "huggingface", "--out", str(tmp_path / "model")]) == 0
    image, label_map = DataSet.open(data).image(0), read_label_map(data / "cells" / "im00.png")
    tables = [wsss.load(place, device="cpu").predict(image, label_map) for place in (run, tmp_path / "model")]
    pd.testing.assert_frame_equal(*tables)


def test_parts_of_a_batch_teach_what_the_batch_teaches(data: Path, tmp_path: Path) -> None:
    """What several processes rest on: losses of the parts, weighted by their images, add up to that of the whole."""
    recipe = ClassifyRecipe(
        backbone="test_efficientnet_ln",  # batch norms would see other images in each part
        weights="none",
        crop=64,
        batch=4,
        optim=OptimConfig(name="sgd"),
        cells=CellTrainConfig("noisy_or", pieces=2, piece_size=32),
        crops=CropConfig("stored", 32),
    )
    net = build_cam_net(recipe, channels=4, classes=19)
    device = choose_device("cpu")
    learner = ClassifyLearner(
        Job(recipe, device, RunFolder(tmp_path), RunRecord(recipe, 0, "", (), ("red",)), []),
        TrainState(net, recipe, device),
        [],
    )
    batch = next(train_loader(DataSet.open(data), np.array([1, 5, 7, 11]), recipe).epoch(0))
    assert isinstance(batch, Batch)
    assert batch.cells is not None
    gradients = []
    for parts in ([batch], [batch.first(1), Batch(*(part[1:] for part in batch))]):  # type: ignore[misc, index]
        net.zero_grad()
        for part in parts:
            share = len(part.images) / len(batch.images)
            (share * learner.losses(learner.model, part, 0.5)["loss"]).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]))
    assert torch.allclose(*gradients, rtol=1e-3, atol=1e-5)


def test_plain_batches_carry_no_cells(data: Path) -> None:
    recipe = ClassifyRecipe(batch=2, crop=64, puzzle=PuzzleConfig(side=1))
    assert next(train_loader(DataSet.open(data), np.arange(4), recipe).epoch(0)).cells is None
    knowing = replace(recipe, cells=CellTrainConfig("lse"))
    assert next(train_loader(DataSet.open(data), np.arange(4), knowing).epoch(0)).cells.shape == (2, 64, 64)  # type: ignore[union-attr]


@pytest.mark.slow
def test_two_processes_train_the_network_that_one_trains(data: Path, tmp_path: Path) -> None:
    sgd = ["--backbone", "test_efficientnet_ln", "--optim.name", "sgd", *ALL]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "--"]
    subprocess.run([*command, "wsss.train", *words(data, tmp_path / "two", *sgd)], check=True, timeout=600)
    assert main(words(data, tmp_path / "one", *sgd)) == 0
    one, two = final(tmp_path / "one")[0], final(tmp_path / "two")[0]
    assert all(torch.allclose(one[name], two[name], rtol=1e-4, atol=1e-5) for name in one)
    logs = [pd.read_csv(tmp_path / name / "fold0" / "log.csv") for name in ("one", "two")]
    shared = [name for name in logs[0] if name not in ("seconds", "images_per_s")]
    np.testing.assert_allclose(logs[1][shared], logs[0][shared], rtol=2e-4)
