"""The examples of docs/api.md run, in one namespace, in the order of the page."""

import re
from pathlib import Path

import pytest
from reviewable import write_reviewable

PAGE = Path(__file__).parents[2] / "docs/api.md"


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    write_reviewable(tmp_path)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 5
    exec("\n".join(blocks), {"__name__": "api_page"})
    assert "highest score right" in capsys.readouterr().out
