"""Without a network, and with read-only inputs and home: the stages work, and nothing tries to connect."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from squares import make_squares, words

from wsss import segment

OFFLINE = """
import json, socket, sys

local = socket.socket.connect

def refuse(*what):
    raise AssertionError(f"tried to connect: {what}")

def connect(self, address):
    return local(self, address) if self.family == socket.AF_UNIX else refuse(address)  # processes of this machine

socket.socket.connect = connect
socket.socket.connect_ex = socket.create_connection = socket.getaddrinfo = refuse
import importlib
for stage, arguments in json.loads(sys.argv[1]):
    code = importlib.import_module(f"wsss.{stage}").main(arguments)
    assert code == 0, (stage, code)
"""

FEW = [f"--feature_classifier.{text}" for text in ("copies=0", "weak.trees=8", "weak.folds=2", "weak.rounds=1")]


def run(*stages: tuple[str, list[str]], home: Path) -> None:
    """Run stages in one process that cannot connect, with a home that takes nothing."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TORCH_", "XDG_"))}
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, json.dumps(stages)],
        env={**environment, "HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert "tried to connect" not in done.stderr


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Let nobody write into a folder: not even root, where that can be had by mounting it anew."""
    if os.geteuid() == 0:
        subprocess.run(["mount", "--bind", folder, folder], check=False)
        done = subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=False)
        try:
            assert done.returncode or not os.access(folder, os.W_OK)
            yield
        finally:
            subprocess.run(["umount", "-l", folder], check=False)
        return
    places = [folder, *folder.rglob("*")]
    for path in places:
        path.chmod(0o500 if path.is_dir() else 0o400)
    try:
        yield
    finally:
        for path in places:
            path.chmod(0o700)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home folder that cannot be written, by root either: it lies below a file."""
    (tmp_path / "file").touch()
    return tmp_path / "file" / "home"


def test_segment_train_infer_and_report_never_connect_and_need_no_home_or_writable_input(
    home: Path, tmp_path: Path
) -> None:
    data = make_squares(tmp_path / "data", folds=2, count=6)
    train = words(data, tmp_path / "run", "--epochs", "1", "--crops.size", "32", *FEW)
    score = ["--data", str(data), "--run", str(tmp_path / "run"), "--out", str(tmp_path / "preds"), "--device", "cpu"]
    page = ["--preds", str(tmp_path / "preds"), "--data", str(data), "--out", str(tmp_path / "report.html")]
    cells = ["--data", str(shutil.copytree(data, tmp_path / "copy")), "--workers", "0"]
    assert segment.main(["--data", str(data), "--workers", "0"]) == 0
    with read_only(data):
        run(("segment", cells), ("train", train), ("infer", score), ("report", page), home=home)
    assert (tmp_path / "preds" / "cells.csv").exists()
    assert (tmp_path / "report.html").exists()


@pytest.mark.slow
def test_the_demo_never_connects(home: Path, tmp_path: Path) -> None:
    small = ["--train-fields", "16", "--test-fields", "2", "--size", "128", "--epochs", "1"]
    run(("demo", ["--out", str(tmp_path / "demo"), *small]), home=home)
    assert (tmp_path / "demo" / "preds" / "test" / "scores.json").exists()
