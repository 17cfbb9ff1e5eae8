"""A disk that fills up at any stage: one line, exit code 2, the last good state intact, no temporary files left."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from squares import equal, make_squares, words

from wsss.core.checks import NoSpaceError
from wsss.core.files import write_bytes
from wsss.core.label_maps import write_label_map
from wsss.data.synthetic import write_fields
from wsss.runs.journal import Journal
from wsss.runs.run_folder import save_checkpoint

pytestmark = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("mount") is None,
    reason="needs root, for a small file system of its own",
)
ROOM = 16 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 MB."""
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


def test_a_checkpoint_that_finds_no_room_leaves_the_last_one_in_its_place(disk: Path) -> None:
    last = disk / "last.safetensors"
    save_checkpoint(last, {"w": torch.zeros(200_000)}, {"step": 1})
    content = last.read_bytes()
    fill(disk, leave=100_000)
    with pytest.raises(NoSpaceError):
        save_checkpoint(last, {"w": torch.ones(200_000)}, {"step": 2})
    assert last.read_bytes() == content
    assert not parts(disk)


@pytest.mark.slow
def test_every_stage_ends_in_one_line_and_goes_on_once_there_is_room(disk: Path, tmp_path: Path) -> None:
    """Fill the disk before each stage, then make room: every stage ends as it does where the disk is never full."""
    write_fields(tmp_path / "fields", 12, 128, 1, prefix="f", workers=0)
    results = {}
    for home, full in ((tmp_path / "roomy", False), (disk, True)):
        for stage, arguments, leave in stages(tmp_path / "fields", home):
            if full:
                filler = fill(disk, leave=leave)
                assert says_so(run(stage, *arguments))
                assert not parts(disk)
                filler.unlink()
            done = run(stage, *arguments)
            assert done.returncode == 0, done.stderr
        tables = [*(home / "data" / "cells").iterdir(), *(home / "preds").glob("*.csv")]
        results[home] = {path.name: path.read_bytes() for path in tables}
    assert results[disk] == results[tmp_path / "roomy"]
    assert equal(disk / "run", tmp_path / "roomy" / "run")


def stages(fields: Path, home: Path) -> list[tuple[str, list[str], int]]:
    """Return the stages, their words, and the bytes left that are too few for each."""
    prepare = ["--images", f"{fields}/images", "--labels", f"{fields}/train.csv", "--size", "128", "--workers", "0"]
    score = ["--data", f"{home}/data", "--run", f"{home}/run", "--device", "cpu", "--batch", "2", "--crops.size", "32"]
    return [
        ("prepare", [*prepare, "--out", f"{home}/data"], 200_000),
        ("segment", ["--data", f"{home}/data", "--workers", "0"], 40_000),
        ("train", [*words(home / "data", home / "run"), "--save_every", "1"], 700_000),
        ("infer", [*score, "--out", f"{home}/preds"], 40_000),
    ]


@pytest.mark.slow
def test_a_full_folder_for_temporary_files_changes_nothing(disk: Path, tmp_path: Path) -> None:
    data = make_squares(tmp_path / "data")
    fill(disk)
    assert run("segment", "--data", str(data), "--workers", "1", TMPDIR=str(disk)).returncode == 0
    done = run("train", *words(data, tmp_path / "run", "--epochs", "1"), "--workers", "1", TMPDIR=str(disk))
    assert done.returncode == 0, done.stderr
