"""Training: resumed runs equal unbroken ones, bad batches are named, and a network learns."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from wsss.core.checkpoint import load_checkpoint, save_checkpoint
from wsss.core.checks import ConfigError, DataError
from wsss.data.build import Spec, create_dataset
from wsss.train import main

SIZE = 64


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images in which a bright green square means class 1, and a bright red one class 0."""
    rng = np.random.default_rng(0)
    images, labels = {}, {}
    for n in range(12):
        image = rng.integers(0, 40, (4, SIZE, SIZE)).astype(np.uint8)
        y, x = rng.integers(0, SIZE - 24, 2)
        image[n % 2, y : y + 24, x : x + 24] = 230
        images[f"im{n:02}"], labels[f"im{n:02}"] = image, [n % 2]
    folder = tmp_path_factory.mktemp("data") / "squares"
    return create_dataset(folder, images, labels, Spec(size=SIZE))


def words(data: Path, run: Path, *more: str) -> list[str]:
    plain = ["--data", str(data), "--run", str(run), "--backbone", "test_resnet", "--weights", "none", "--crop", "64"]
    return [*plain, "--batch", "3", "--epochs", "2", "--workers", "0", *more]


def final(run: Path) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    tensors, meta = load_checkpoint(run / "fold0" / "last.safetensors")
    for row in meta["progress"]["history"]:  # the clock is no part of the result
        row["seconds"] = row["images_per_s"] = 0
    return tensors, meta


@pytest.fixture(scope="module")
def unbroken(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "unbroken"
    assert main(words(data, run, "--optim.ema", "0.9")) == 0
    return run


def same(a: Path, b: Path) -> None:
    (first, meta_a), (second, meta_b) = final(a), final(b)
    assert set(first) == set(second)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert meta_a == meta_b


def test_a_run_leaves_what_it_promises(unbroken: Path) -> None:
    names = {path.name for path in (unbroken / "fold0").iterdir()}
    assert {"config.yaml", "train_ids.txt", "log.csv", "last.safetensors", "best.safetensors"} <= names
    log = (unbroken / "fold0" / "log.csv").read_text().splitlines()
    assert len(log) == 3
    assert {"train_loss", "train_full", "train_tiles", "train_agreement", "val_loss", "val_f1", "val_map"} <= set(
        log[0].split(",")
    )


def test_the_same_seed_gives_the_same_run(data: Path, unbroken: Path, tmp_path: Path) -> None:
    assert main(words(data, tmp_path / "run", "--optim.ema", "0.9")) == 0
    same(unbroken, tmp_path / "run")


def test_the_number_of_workers_changes_nothing(data: Path, unbroken: Path, tmp_path: Path) -> None:
    assert main([*words(data, tmp_path / "run", "--optim.ema", "0.9"), "--workers", "2"]) == 0
    same(unbroken, tmp_path / "run")


def test_another_seed_gives_another_run(data: Path, unbroken: Path, tmp_path: Path) -> None:
    assert main(words(data, tmp_path / "run", "--optim.ema", "0.9", "--seed", "1")) == 0
    with pytest.raises(AssertionError):
        same(unbroken, tmp_path / "run")


def test_a_run_killed_in_an_epoch_equals_the_unbroken_one(data: Path, unbroken: Path, tmp_path: Path) -> None:
    """SIGKILL as soon as a checkpoint within the epoch is there; then the same command again."""
    run = tmp_path / "run"
    command = [sys.executable, "-m", "wsss.train", *words(data, run, "--optim.ema", "0.9", "--save_every", "1")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    last = run / "fold0" / "last.safetensors"
    deadline = time.monotonic() + 120
    while not last.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert load_checkpoint(last)[1]["progress"]["epoch"] < 2
    assert main(words(data, run, "--optim.ema", "0.9", "--save_every", "1")) == 0
    same(unbroken, run)


def test_ctrl_c_saves_the_state_and_goes_on_later(data: Path, unbroken: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "wsss.train", *words(data, run, "--optim.ema", "0.9", "--save_every", "1")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (run / "fold0" / "last.safetensors").exists():
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode in (0, 130)  # 0 if the signal came after the last step
    assert "Traceback" not in errors
    assert main(words(data, run, "--optim.ema", "0.9", "--save_every", "1")) == 0
    same(unbroken, run)


def test_another_recipe_is_refused_by_name(data: Path, unbroken: Path) -> None:
    with pytest.raises(DataError, match=r"another recipe: optim was lr was 0.0003, now 0.1"):
        main(words(data, unbroken, "--optim.ema", "0.9", "--optim.lr", "0.1"))


def test_another_cell_score_is_no_other_run(data: Path, unbroken: Path) -> None:
    assert main(words(data, unbroken, "--optim.ema", "0.9", "--score.region", "mean")) == 0


def test_a_damaged_checkpoint_is_refused_and_the_one_before_offered(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    main(words(data, run))
    last = run / "fold0" / "last.safetensors"
    content = bytearray(last.read_bytes())
    content[-5] ^= 1
    last.write_bytes(content)
    with pytest.raises(DataError, match=r"damaged.*last.safetensors.previous"):
        main(words(data, run))


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_images(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    main(words(data, run, "--epochs", "1"))
    path = run / "fold0" / "last.safetensors"
    tensors, meta = load_checkpoint(path)
    tensors["net.classifier.weight"][0] = float("nan")
    meta["progress"]["epoch"] = 0
    save_checkpoint(path, tensors, meta)
    with pytest.raises(DataError, match=r"epoch 1, step 1: the loss is not finite .* on images im\d\d"):
        main(words(data, run, "--epochs", "1"))


def test_bad_batches_may_be_skipped_up_to_a_number(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    main(words(data, run, "--epochs", "1"))
    path = run / "fold0" / "last.safetensors"
    tensors, meta = load_checkpoint(path)
    tensors["net.classifier.weight"][0] = float("nan")
    meta["progress"]["epoch"] = 0
    save_checkpoint(path, tensors, meta)
    with pytest.raises(DataError, match="epoch 1, step 3"):
        main(words(data, run, "--epochs", "1", "--bad_batches", "2"))


def test_a_fold_that_does_not_exist_is_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has folds 0 to 3"):
        main(words(data, tmp_path / "run", "--fold", "7"))


def test_tiles_that_do_not_fit_are_refused_before_training(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"stored at 64 px, expected a multiple of 96"):
        main([*words(data, tmp_path / "run", "--puzzle.side", "3"), "--crop", "96"])


def test_without_validation_the_last_weights_are_the_best(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    main(words(data, run, "--fold", "none"))
    last, best = (load_checkpoint(run / "full" / f"{name}.safetensors")[0] for name in ("last", "best"))
    assert all(torch.equal(best[name], last[name]) for name in best)
    assert len((run / "full" / "train_ids.txt").read_text().splitlines()) == 12


def test_a_network_learns_the_squares(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    main(words(data, run, "--epochs", "12", "--augment", "none", "--optim.lr", "0.003"))
    history = load_checkpoint(run / "fold0" / "best.safetensors")[1]["progress"]["history"]
    assert min(row["val_loss"] for row in history) < 0.5 * history[0]["val_loss"]
