"""Ctrl-C, SIGTERM and killed processes: stated exit codes, nothing left running or in shared memory, and it goes on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from squares import make_squares, words

from wsss.data.build import Spec, create_dataset
from wsss.runs.run_folder import load_checkpoint

Started = tuple["subprocess.Popen[str]", Callable[[], bool]]
"""A stage with two workers, and whether it is at work."""


def start(stage: str, arguments: list[str]) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", f"wsss.{stage}", *arguments, "--workers", "2"]
    return subprocess.Popen(
        command,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background ignore Ctrl-C
    )


def training(home: Path) -> Started:
    data = make_squares(home / "squares")
    process = start("train", words(data, home / "run", "--epochs", "400", "--save_every", "1"))
    return process, (home / "run" / "fold0" / "last.safetensors").exists


def segmenting(home: Path) -> Started:
    rng = np.random.default_rng(0)
    images = {f"i{k:03d}": rng.integers(0, 99, (4, 128, 128), np.uint8) for k in range(400)}
    data = create_dataset(home / "set", images, spec=Spec(size=128))
    return start("segment", ["--data", str(data)]), lambda: any((data / "cells").glob("i*.png"))


STAGES = {"train": training, "segment": segmenting}


def at_work(started: Started) -> "tuple[subprocess.Popen[str], list[psutil.Process]]":
    """Wait until a stage has done something; return it with the processes below it."""
    process, working = started
    while not working():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    return process, psutil.Process(process.pid).children(recursive=True)


def shared() -> set[str]:
    """Return what this user has in shared memory."""
    folder = Path("/dev/shm")
    return {path.name for path in folder.glob("*") if path.stat().st_uid == os.getuid()} if folder.is_dir() else set()


def segments_of(below: list[psutil.Process], pid: int, before: set[str]) -> set[str]:
    """Return new names in shared memory that carry the number of one of these processes."""
    pids = {str(pid), *(str(process.pid) for process in below)}
    return {name for name in shared() - before if pids & set(name.replace("-", "_").split("_"))}


@pytest.mark.slow
@pytest.mark.parametrize("to_group", [False, True], ids=["process", "group"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("stage", STAGES)
def test_a_stop_signal_gives_its_exit_code_and_leaves_nothing(
    stage: str, number: signal.Signals, code: int, to_group: bool, tmp_path: Path
) -> None:
    before = shared()
    process, below = at_work(STAGES[stage](tmp_path))
    (os.killpg if to_group else os.kill)(process.pid, number)
    _, errors = process.communicate(timeout=60)
    # Workers of the other stages may die of a SIGTERM before the main process hears of it, as if they were killed.
    dies = stage != "train" and to_group and number == signal.SIGTERM
    assert process.returncode in ({code, 2} if dies else {code}), errors
    assert "Traceback" not in errors
    assert "start the same command again" in " ".join(errors.split()).lower()
    assert not psutil.wait_procs(below, timeout=10)[1]
    assert not segments_of(below, process.pid, before)
    assert not list(tmp_path.rglob(".lock"))
    if stage == "train":
        assert load_checkpoint(tmp_path / "run" / "fold0" / "last.safetensors")[1]["progress"]


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_after_a_killed_main_process_no_worker_stays(stage: str, tmp_path: Path) -> None:
    before = shared()
    process, below = at_work(STAGES[stage](tmp_path))
    assert below
    process.kill()
    process.communicate()
    assert not psutil.wait_procs(below, timeout=30)[1]
    assert not segments_of(below, process.pid, before)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_worker_ends_the_stage_in_one_line(stage: str, tmp_path: Path) -> None:
    process, below = at_work(STAGES[stage](tmp_path))
    workers = [own for own in below if "resource_tracker" not in " ".join(own.cmdline())]
    began = time.monotonic()
    workers[-1].kill()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - began < 60
    assert process.returncode == 2, errors
    assert "Traceback" not in errors
    assert "killed (out of memory" in errors
    assert "tart the same command again" in errors
    assert not psutil.wait_procs(below, timeout=10)[1]
