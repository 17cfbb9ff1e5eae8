"""Exact resume under fire: a run killed again and again, during saves too, ends with the same bits. Slow."""

import multiprocessing
import random
import shutil
import signal
import time
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
from squares import equal, make_squares, words

from wsss.cli import run_stage
from wsss.train import main

pytestmark = pytest.mark.slow

KILLS = 30
EPOCHS = 40
IN_SAVES = 3
"""Every so many kills comes while a checkpoint is being written."""
PRELOAD = [
    "wsss.train",
    "wsss.training.fit",
    "wsss.training.loading",
    "wsss.training.tasks.classify",
    "wsss.training.watch",
]


def writing(folder: Path) -> bool:
    """Whether a save is under way: its temporary file is there, or the last checkpoint is between two names."""
    if any(folder.glob(".last.safetensors.*.part")):
        return True
    return (folder / "last.safetensors.previous").exists() and not (folder / "last.safetensors").exists()


def kill_once(
    context: ForkServerContext, arguments: list[str], folder: Path, rng: random.Random, in_save: bool
) -> bool:
    """Go on with the run and kill it; return whether it still ran, and was saving if so asked."""
    before = saved_at(folder)
    process = context.Process(target=run_stage, args=("train", arguments))
    process.start()
    while process.is_alive() and saved_at(folder) == before:
        time.sleep(0.001)  # until it has loaded, and saved something new
    time.sleep(rng.uniform(0, 0.3))
    while in_save and process.is_alive() and not writing(folder):
        pass
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


def saved_at(folder: Path) -> float:
    last = folder / "last.safetensors"
    try:
        return last.stat().st_mtime
    except FileNotFoundError:
        return 0.0


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_run_killed_thirty_times_equals_the_unbroken_one(workers: str, tmp_path: Path) -> None:
    data = make_squares(tmp_path / "squares")
    more = ["--optim.ema", "0.9", "--optim.schedule", "cosine", "--epochs", str(EPOCHS), "--save_every", "1"]
    assert main(words(data, tmp_path / "unbroken", *more)) == 0
    run = tmp_path / "killed"
    arguments = [*words(data, run, *more), "--workers", workers]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)  # so that a process starts at once
    rng = random.Random(int(workers))
    kills = during_saves = 0
    began_again = 0
    while kills < KILLS:
        in_save = kills % IN_SAVES == 0
        if kill_once(context, arguments, run / "fold0", rng, in_save):
            kills += 1
            during_saves += writing(run / "fold0")
        else:  # it came to its end first: the same run from the start again
            assert equal(tmp_path / "unbroken", run)
            shutil.rmtree(run)
            began_again += 1
            assert began_again < KILLS
    assert main(arguments) == 0
    assert equal(tmp_path / "unbroken", run)
    print(f"{kills} kills, {during_saves} within a save, {began_again} times begun again")
    assert during_saves >= 3
