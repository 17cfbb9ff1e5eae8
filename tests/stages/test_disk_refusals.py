"""What the file system refuses (read-only, a file where a folder should be, a name too long): one line, exit code 2."""

import errno
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from squares import SIZE, make_squares, words

from wsss import cli, infer, train
from wsss.core.checks import DiskError
from wsss.core.csv_text import write_csv
from wsss.core.files import write_bytes
from wsss.core.label_maps import write_label_map
from wsss.data.catalog import DataSet
from wsss.reviewing.answers import Answers
from wsss.runs.journal import Journal

CPU = ["--device", "cpu"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, a data set with cells, a run, out-of-fold predictions and a truth table."""
    home = tmp_path_factory.mktemp("disk")
    data = make_squares(home / "data", folds=2, count=6)
    cells = np.kron(np.arange(1, 5).reshape(2, 2), np.ones((SIZE // 2, SIZE // 2))).astype(np.int32)
    (home / "images").mkdir()
    for name in DataSet.open(data).ids:
        write_label_map(data / "cells" / name, cells)
        Image.fromarray(np.zeros((32, 32, 4), np.uint8)).save(home / "images" / f"{name}.png")
    (home / "truth.csv").write_text("ID,cell,Label\n" + "".join(f"im00,{k},0\nim01,{k},1\n" for k in range(1, 5)))
    alone = ["--epochs", "1", "--crops.mode", "none", "--feature_classifier.enabled", "false"]
    assert train.main(words(data, home / "run", "--fold", "all", *alone)) == 0
    score = ["--data", str(data), "--run", str(home / "run"), "--oof", "--crops.mode", "none", *CPU]
    assert infer.main([*score, "--out", str(home / "oof")]) == 0
    shutil.copytree(home / "oof", home / "oof2")
    return home


STAGES: dict[str, str] = {
    "prepare": "--images {home}/images --size 32 --workers 0 --out {out}",
    "train": "--data {home}/data --run {out} --backbone test_resnet --weights none --crop 64 --epochs 1 --workers 0",
    "infer": "--data {home}/data --run {home}/run --oof --crops.mode none --out {out}",
    "pseudo": "--data {home}/data --run {home}/run --out {out}",
    "ensemble": "--preds {home}/oof {home}/oof2 --weights 0.5,0.5 --out {out}",
    "calibrate": "--preds {home}/oof --data {home}/data --out {out}/curves.json",
    "evaluate": "--preds {home}/oof --data {home}/data --truth {home}/truth.csv --out {out}/scores.json",
    "report": "--preds {home}/oof --data {home}/data --out {out}/report.html",
    "overlay": "--preds {home}/oof --data {home}/data --out {out} --most 1",
    "export": "--preds {home}/oof --data {home}/data --to tiff --out {out}",
    "demo": "--out {out} --train-fields 8 --epochs 1",
}


def ends_in_one_line(stage: str, home: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a stage; expect exit code 2 and one line on stderr, and return it."""
    argv = STAGES[stage].format(home=home, out=out).split()
    argv += CPU if stage in ("train", "infer", "pseudo") else []
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.run(import_module(f"wsss.{stage}").main, argv)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert ended.value.code == 2
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_an_output_below_a_file_is_refused(
    stage: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file" / "below", tmp_path / ("n" * 300) / "out"):
        assert str(out)[:60] in ends_in_one_line(stage, home, out, capsys)
    ends_in_one_line(stage, home, tmp_path / "file", capsys)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A read-only disk."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("needs root, to mount a file system")
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M,ro", "tmpfs", folder], capture_output=True)
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_read_only_disk_is_named(stage: str, home: Path, read_only: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "read-only" in ends_in_one_line(stage, home, read_only / "out", capsys)


def test_what_writes_on_a_read_only_disk_says_so(read_only: Path) -> None:
    calls: list[Callable[[], object]] = [
        lambda: write_bytes(read_only / "a", b"x"),
        lambda: write_label_map(read_only / "cells" / "a", np.ones((3, 3), int)),
        lambda: Journal(read_only / "new" / "j", "f"),
    ]
    for call in calls:
        with pytest.raises(DiskError, match=r"disk/.* cannot be written: the disk is read-only; choose a folder"):
            call()


NUMBERS = [
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
    errno.EFBIG,
    errno.EACCES,
    errno.EPERM,
    errno.ELOOP,
    errno.ENOENT,
    errno.EIO,
    errno.EMFILE,
    errno.ENOSPC,
    errno.EDQUOT,
]


@pytest.mark.parametrize("number", NUMBERS, ids=errno.errorcode.get)
def test_whatever_a_disk_refuses_is_one_line(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_: object) -> int:
        raise OSError(number, os.strerror(number), "/some/path")

    with pytest.raises(SystemExit) as ended:
        cli.run(fail, [])
    told = capsys.readouterr().err
    assert ended.value.code == 2
    assert told.startswith("error: /some/path cannot be ")
    assert told.count("\n") == 1


def test_other_errors_of_the_system_are_bugs_with_their_traceback() -> None:
    def fail(_: object) -> int:
        raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")

    with pytest.raises(ConnectionRefusedError):
        cli.run(fail, [])


def test_a_limit_for_the_size_of_files_is_named(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(DiskError, match=r"a\.csv cannot be written: the limit for the size .*ulimit -f"):
            write_bytes(tmp_path / "a.csv", bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_new_files_have_the_permissions_that_the_umask_leaves(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        write_bytes(tmp_path / "a", b"x")
        Journal(tmp_path / "b", "f").close()
        Answers(tmp_path / "c", ["x"]).close()
    finally:
        os.umask(before)
    modes = {name: (tmp_path / name).stat().st_mode & 0o777 for name in "abc"}
    assert modes == dict.fromkeys("abc", 0o666 & ~mask)


def test_the_longest_name_that_there_may_be_is_written(tmp_path: Path) -> None:
    write_bytes(tmp_path / ("ü" * 125 + ".json"), b"x")
    with pytest.raises(DiskError, match="its name is too long; choose a shorter one"):
        write_bytes(tmp_path / ("a" * 256), b"x")


def test_headers_and_every_text_of_a_csv_are_kept_from_being_run(tmp_path: Path) -> None:
    import pandas as pd

    table = pd.DataFrame({"ID": ["a", "b"], "=cmd|x": [1, -2], "why": ["@SUM(1)", None], "n": [-1.5, 2.0]})
    write_csv(tmp_path / "t.csv", table)
    assert (tmp_path / "t.csv").read_text() == "ID,'=cmd|x,why,n\na,1,'@SUM(1),-1.5\nb,-2,,2\n"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        ImportError("x.so: failed to map segment from shared object"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
    ],
)
def test_no_memory_and_a_folder_that_is_gone_are_one_line(
    error: Exception, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(words: object) -> int:
        raise error

    def look(words: object) -> int:
        (tmp_path / "gone").mkdir()
        monkeypatch.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()
        Path.cwd()
        return 0

    for main, text in ((fail, "error: no memory is left"), (look, "error: the working directory cannot be used")):
        with pytest.raises(SystemExit) as ended:
            cli.run(main)
        assert ended.value.code == 2
        assert capsys.readouterr().err.startswith(text)
