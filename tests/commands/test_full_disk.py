"""A disk that fills up at any stage: one line, exit code 2, the last good state intact, no temporary files left."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from squares import make_squares, words

from wsss.core.checkpoint import load_checkpoint
from wsss.core.checks import NoSpaceError
from wsss.core.files import write_bytes
from wsss.core.journal import Journal
from wsss.core.label_maps import write_label_map

pytestmark = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("mount") is None,
    reason="needs root, for a small file system of its own",
)
ROOM = 4 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", folder], capture_output=True)
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(disk: Path, leave: int = 0) -> Path:
    """Take all the room but `leave` bytes."""
    free = shutil.disk_usage(disk).free
    (disk / "filler").write_bytes(bytes(free - leave))
    return disk / "filler"


def run(stage: str, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", f"wsss.{stage}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=300)


def says_so(done: "subprocess.CompletedProcess[str]") -> bool:
    """Whether a run ended with one line about the disk."""
    lines = [line for line in done.stderr.splitlines() if "error" in line.lower()]
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert len(lines) == 1, done.stderr
    return lines[0].startswith("error: ") and ("room" in lines[0] or "disk" in lines[0])


def parts(folder: Path) -> list[Path]:
    return [*folder.rglob(".*.part"), *folder.rglob(".lock")]


def test_a_file_on_a_full_disk_stays_as_it_was(disk: Path) -> None:
    write_bytes(disk / "a.csv", b"old")
    fill(disk)
    with pytest.raises(NoSpaceError, match=r"a\.csv cannot be written: no room is left \(0\.0 MB free in .*disk\)"):
        write_bytes(disk / "a.csv", bytes(10**6))
    assert (disk / "a.csv").read_bytes() == b"old"
    assert not parts(disk)


def test_a_label_map_on_a_full_disk_is_no_fault_of_its_image(disk: Path) -> None:
    fill(disk)
    with pytest.raises(NoSpaceError):
        write_label_map(disk / "cells" / "a", np.random.default_rng(0).integers(0, 9, (500, 500)))


def test_a_journal_on_a_full_disk_keeps_what_it_has(disk: Path) -> None:
    with Journal(disk / "j", "f") as journal:
        journal.add("a", {"n": 1}, b"x" * 1000)
        filler = fill(disk, leave=50_000)
        with pytest.raises(NoSpaceError, match="full"):
            journal.add("b", {"n": 2}, bytes(10**6))
    filler.unlink()
    with Journal(disk / "j", "f") as journal:
        assert journal.keys() == {"a"}


def test_a_checkpoint_that_finds_no_room_leaves_the_last_one_in_its_place(disk: Path, tmp_path: Path) -> None:
    data, last = make_squares(tmp_path / "data"), disk / "run" / "fold0" / "last.safetensors"
    more = words(data, disk / "run", "--epochs", "40")
    assert run("train", *words(data, disk / "run", "--epochs", "1")).returncode == 0
    content = last.read_bytes()
    shutil.rmtree(disk / "run")
    first = run("train", *more, "--epochs", "1")
    assert first.returncode == 0, first.stderr
    assert len(last.read_bytes()) == len(content)
    filler = fill(disk, leave=len(content) // 2)
    before = load_checkpoint(last)[1]["progress"]["epoch"]
    tensors, meta = load_checkpoint(last)
    from wsss.core.checkpoint import save_checkpoint

    with pytest.raises(NoSpaceError):
        save_checkpoint(last, tensors, meta)
    assert load_checkpoint(last)[1]["progress"]["epoch"] == before
    filler.unlink()
    assert not parts(disk)
