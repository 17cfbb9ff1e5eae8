"""Two CPU processes: the same run as one, figures alike, one writer, all end together."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from squares import final, make_squares, words

from wsss.core.checks import ConfigError
from wsss.runs.run_folder import load_checkpoint, save_checkpoint
from wsss.train import main
from wsss.training.loading import EpochBatches
from wsss.training.state import World, join_processes

# Layer norms and SGD: batch norms would see other images in each process, Adam would enlarge rounding.
PLAIN = ["--backbone", "test_efficientnet_ln", "--optim.name", "sgd", "--optim.ema", "0.5", "--optim.accumulate", "2"]

FORK = multiprocessing.get_context("fork")  # a child that has nothing to import

Start = Callable[[list[str]], "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_squares(tmp_path_factory.mktemp("data") / "squares")


@pytest.fixture
def torchrun() -> Iterator[Start]:
    """Start two processes of wsss.train; those that a failed test leaves are ended."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "--"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started: list[subprocess.Popen[str]] = []

    def start(arguments: list[str]) -> "subprocess.Popen[str]":
        words = [*command, "wsss.train", *arguments]
        process = subprocess.Popen(words, text=True, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()  # torchrun ends its processes
            process.communicate(timeout=60)


def wait_for(path: Path, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 300
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_alone_there_is_nothing_to_agree_on() -> None:
    with join_processes("cpu") as world:
        assert world.leads
        assert world.total([1.0, 2.0]) == [1.0, 2.0]
        rows = np.ones((3, 2))
        assert world.gather(rows) is rows


@pytest.mark.parametrize("world", [2, 3, 4])
def test_the_parts_of_a_batch_are_the_batch(world: int) -> None:
    whole = EpochBatches(4, seed=1)
    parts = [EpochBatches(4, 1, rank, world) for rank in range(world)]
    for batches in (whole, *parts):
        batches.set(np.arange(10, 20), epoch=3)
    for step, batch in enumerate(whole):
        shares = [list(part)[step] for part in parts]
        counted = [share[: len(range(rank, len(batch), world))] for rank, share in enumerate(shares)]
        assert all(shares)  # even the one that counts nothing has an image to go through the network
        assert sorted(key for share in counted for key in share) == sorted(batch)


def test_a_batch_smaller_than_the_processes_is_refused(data: Path, tmp_path: Path) -> None:
    from wsss.models.device import choose_device
    from wsss.options.recipe import ClassifyRecipe
    from wsss.stages.train import check_world

    with pytest.raises(ConfigError, match="fewer than the 4 processes"):
        check_world(ClassifyRecipe(batch=3), choose_device("cpu"), World(0, 4))
    with pytest.raises(ConfigError, match="sync_bn needs GPUs"):
        check_world(ClassifyRecipe(sync_bn=True), choose_device("cpu"), World(0, 4))


def second(arguments: list[str], place: dict[str, str], spoken: Path) -> None:
    """Be the second of two processes; write what it says into a file."""
    os.environ |= {**place, "RANK": "1", "LOCAL_RANK": "1"}
    with spoken.open("w") as out, redirect_stdout(out), redirect_stderr(out):
        assert main(arguments) == 0


def test_two_processes_train_the_network_that_one_trains(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(data, tmp_path / "one", *PLAIN)) == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    place |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "test"}  # as torchrun does
    spoken = tmp_path / "spoken"
    capsys.readouterr()
    process = FORK.Process(target=second, args=(words(data, tmp_path / "two", *PLAIN), place, spoken))
    process.start()
    try:
        for name, value in {**place, "RANK": "0", "LOCAL_RANK": "0"}.items():  # this process is the first of the two
            monkeypatch.setenv(name, value)
        assert main(words(data, tmp_path / "two", *PLAIN)) == 0
        process.join(300)
    finally:
        process.kill()
    assert process.exitcode == 0, spoken.read_text()
    assert capsys.readouterr().out.count("epoch 1/2") == 1
    assert "epoch" not in spoken.read_text()  # one process speaks
    (one, meta_one), (two, meta_two) = final(tmp_path / "one"), final(tmp_path / "two")
    assert all(torch.allclose(one[name], two[name], rtol=1e-4, atol=1e-5) for name in one)
    logs = [pd.read_csv(tmp_path / name / "fold0" / "log.csv") for name in ("one", "two")]
    shared = [name for name in logs[0] if name not in ("seconds", "images_per_s")]
    np.testing.assert_allclose(logs[1][shared], logs[0][shared], rtol=2e-4)
    assert meta_one["recipe"] == meta_two["recipe"]


@pytest.mark.slow
def test_a_killed_process_ends_all_and_the_run_goes_on_with_any_number(
    data: Path, tmp_path: Path, torchrun: Start
) -> None:
    run = tmp_path / "run"
    arguments = words(data, run, *PLAIN, "--epochs", "400")
    process = torchrun(arguments)
    wait_for(run / "fold0" / "last.safetensors", process)
    victim = psutil.Process(process.pid).children()[1]
    began = time.monotonic()
    victim.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert time.monotonic() - began < 60
    reached = load_checkpoint(run / "fold0" / "last.safetensors")[1]["progress"]["epoch"]
    assert 0 < reached < 400
    last = run / "fold0" / "last.safetensors"
    tensors, meta = load_checkpoint(last)
    meta["progress"]["epoch"] = 398  # the rest in one process
    save_checkpoint(last, tensors, meta)
    assert main(arguments) == 0
    assert final(run)[1]["progress"]["epoch"] == 400  # type: ignore[index]


@pytest.mark.slow
def test_a_stop_signal_saves_once_and_ends_all(data: Path, tmp_path: Path, torchrun: Start) -> None:
    run = tmp_path / "run"
    process = torchrun(words(data, run, *PLAIN, "--epochs", "400"))
    wait_for(run / "fold0" / "last.safetensors", process)
    psutil.Process(process.pid).children()[1].send_signal(signal.SIGTERM)  # not even the first process
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "interrupted: start the same command again" in errors
    meta = load_checkpoint(run / "fold0" / "last.safetensors")[1]
    assert meta["progress"]["epoch"] < 400


@pytest.mark.slow
def test_a_bad_batch_of_one_process_stops_all_and_names_its_images(data: Path, tmp_path: Path, torchrun: Start) -> None:
    run = tmp_path / "run"
    main(words(data, run, *PLAIN, "--epochs", "1"))
    path = run / "fold0" / "last.safetensors"
    tensors, meta = load_checkpoint(path)
    tensors["net.classifier.weight"][0] = 3e38  # sums overflow; weights that are no numbers would not be read
    meta["progress"]["epoch"] = 0
    save_checkpoint(path, tensors, meta)
    process = torchrun(words(data, run, *PLAIN, "--epochs", "1"))
    _, errors = process.communicate(timeout=300)  # its start included, which is slow on a busy machine
    assert process.returncode != 0
    told = [line for line in errors.splitlines() if line.startswith("error: epoch 1, step 1: the loss is not finite")]
    assert len(set(told)) == 1  # in the words of the first process to end, or of both
    assert told[0].count("im") >= 4  # the three images of the batch, and the word
