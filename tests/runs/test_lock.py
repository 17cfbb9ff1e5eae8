"""Two runs into one folder: one goes on, the other is told who holds it; a death frees it at once."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from wsss.core.checks import ConfigError
from wsss.core.files import write_text
from wsss.runs.output import LOCK, hold

HOLD = """
import os, sys, time
from pathlib import Path
from wsss.runs.output import hold
with hold(Path(sys.argv[1])):
    if sys.argv[2:] == ["fork"] and os.fork() == 0:
        os.write(1, f"{os.getpid()}\\n".encode())  # in one piece: the parent writes to the same pipe
        time.sleep(60)
        os._exit(0)
    os.write(1, b"held\\n")
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that holds the folder `run`."""
    process = start(tmp_path / "run")
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def start(folder: Path, *more: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", HOLD, str(folder), *more], text=True, stdout=subprocess.PIPE)


def test_a_second_run_is_told_process_host_and_start_of_the_first(
    tmp_path: Path, holder: "subprocess.Popen[str]"
) -> None:
    with pytest.raises(ConfigError) as caught, hold(tmp_path / "run"):
        pass
    text = str(caught.value)
    assert f"in use by process {holder.pid} on {socket.gethostname()} since {time.strftime('%Y-%m-%d')}" in text
    assert "\n" not in text
    assert (tmp_path / "run" / LOCK).exists(), "the lock of the other is left alone"


def test_the_lock_of_a_killed_run_is_free_at_once_and_its_temporary_files_go(
    tmp_path: Path, holder: "subprocess.Popen[str]"
) -> None:
    run = tmp_path / "run"
    (run / "cells").mkdir()
    for name in (".a.csv.abcdef01.part", "cells/.b.png.abcdef02.part", "kept.csv", ".foreign.part"):
        (run / name).write_text("half")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (run / LOCK).exists(), "a stale file lies there"
    with hold(run, "cells"):
        pass
    assert sorted(path.name for path in run.rglob("*")) == [".foreign.part", "cells", "kept.csv"]


def test_a_forked_child_that_outlives_the_holder_does_not_keep_the_lock(tmp_path: Path) -> None:
    process = start(tmp_path / "run", "fork")
    assert process.stdout is not None
    lines = {process.stdout.readline().strip() for _ in range(2)}
    (child,) = (int(line) for line in lines if line != "held")
    process.kill()
    process.wait()
    try:
        os.kill(child, 0)  # it lives
        with hold(tmp_path / "run"):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        process.stdout.close()


def test_a_folder_is_free_after_the_block_and_after_an_error(tmp_path: Path) -> None:
    def fail() -> None:
        with hold(tmp_path / "run"):
            (tmp_path / "run" / "result").touch()
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        fail()
    with hold(tmp_path / "run"):
        pass
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["result"]


def test_a_folder_that_stays_empty_is_removed_again_and_an_old_one_is_not(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    for name in ("new", "old"):
        with hold(tmp_path / name):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_runs_with_locks_of_their_own_work_side_by_side(tmp_path: Path) -> None:
    with hold(tmp_path / "run", lock=".lock.1"), hold(tmp_path / "run", lock=".lock.2"):
        assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [".lock.1", ".lock.2"]


def test_a_file_that_links_elsewhere_is_replaced_and_the_other_place_left_alone(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "a.csv").symlink_to(tmp_path / "elsewhere")
    write_text(tmp_path / "run" / "a.csv", "table")
    assert (tmp_path / "elsewhere").read_text() == "mine"
    assert (tmp_path / "run" / "a.csv").read_text() == "table"


def enter(folder: Path, log: Path) -> None:
    for _ in range(60):
        try:
            with hold(folder):
                with log.open("x"):
                    time.sleep(0.001)
                log.unlink()
        except ConfigError:
            time.sleep(0.001)


def test_of_many_that_come_and_go_never_two_are_in(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    context = multiprocessing.get_context("fork")
    crowd = [context.Process(target=enter, args=(tmp_path / "run", tmp_path / "inside")) for _ in range(4)]
    for process in crowd:
        process.start()
    for process in crowd:
        process.join()
    assert [process.exitcode for process in crowd] == [0] * 4  # FileExistsError: two were in at once
