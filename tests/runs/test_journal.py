"""Journals: whole records, one fingerprint."""

from pathlib import Path

import pytest

from wsss.core.checks import ConfigError, DataError
from wsss.runs.journal import Journal


def test_records_are_there_after_reopening(tmp_path: Path) -> None:
    with Journal(tmp_path / "j", "f") as journal:
        journal.add("b", {"n": 1}, b"xy")
        journal.add("a", {"n": 2})
    with Journal(tmp_path / "j", "f") as journal:
        assert len(journal) == 2
        assert journal.keys() == {"a", "b"}
        assert journal.get("b") == ({"n": 1}, b"xy")
        assert journal.get("c") is None
        assert [key for key, _, _ in journal.items()] == ["a", "b"]


def test_other_inputs_are_refused_in_words(tmp_path: Path) -> None:
    digest = "0123456789abcdef"
    with Journal(tmp_path / "j", {"share": 0.5, "truth.csv": digest}) as journal:
        journal.add("a", {})
    with pytest.raises(ConfigError) as caught:
        Journal(tmp_path / "j", {"share": 0.7, "truth.csv": digest[::-1]})
    assert "(share was 0.5, now 0.7, truth.csv has changed)" in str(caught.value)
    assert digest not in str(caught.value)


def test_a_journal_without_items_blocks_nothing(tmp_path: Path) -> None:
    Journal(tmp_path / "j", {"share": 0.5}).close()
    with Journal(tmp_path / "j", {"share": 0.7}) as journal:
        journal.add("a", {})
        assert len(journal) == 1
    Journal(tmp_path / "j", {"share": 0.7}).close()


def test_a_journal_of_failures_alone_blocks_nothing(tmp_path: Path) -> None:
    with Journal(tmp_path / "j", {"masks": "wrong"}) as journal:
        journal.add("a", {"status": "failed"})
        journal.add("b", {"failed": True})
    with Journal(tmp_path / "j", {"masks": "right"}) as journal:
        assert len(journal) == 0
        journal.add("a", {"status": "ok", "failed": False})
        journal.add("b", {"failed": True})
    with pytest.raises(ConfigError, match="masks was right, now wrong"):
        Journal(tmp_path / "j", {"masks": "wrong"})


def test_rubbish_is_named(tmp_path: Path) -> None:
    (tmp_path / "j").write_bytes(b"not a database" * 100)
    with pytest.raises(DataError, match="damaged"):
        Journal(tmp_path / "j", "f")


def test_what_was_added_survives_a_kill(tmp_path: Path) -> None:
    import signal
    import subprocess
    import sys

    code = (
        "import os, signal, sys; from pathlib import Path; from wsss.runs.journal import Journal\n"
        "j = Journal(Path(sys.argv[1]), 'f'); j.add('a', {'n': 1}, b'x' * 100000)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "j")], check=False)
    assert killed.returncode == -signal.SIGKILL
    with Journal(tmp_path / "j", "f") as journal:
        assert journal.keys() == {"a"}
