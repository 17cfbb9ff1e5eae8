"""Every stage starts quickly: nothing heavy is imported before it is needed."""

import subprocess
import sys

import pytest

from wsss.cli import STAGES

HEAVY = ("torch", "timm", "albumentations", "skimage", "cv2", "pandas", "pyarrow", "scipy", "sklearn", "matplotlib")
ASK = """
import importlib, sys
try:
    importlib.import_module("wsss." + sys.argv[1]).main(["--help"])
except SystemExit:
    pass
print("imported:", *[name for name in sys.argv[2:] if name in sys.modules])
"""


@pytest.mark.parametrize("stage", STAGES)
def test_help_comes_without_heavy_imports(stage: str) -> None:
    words = [sys.executable, "-c", ASK, stage, *HEAVY]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    *shown, last = done.stdout.splitlines()
    assert any("--config" in line for line in shown)  # the help was really printed
    assert [line for line in shown if line.startswith(f"  python -m wsss.{stage}")], "examples"
    assert "exit codes:" in shown
    assert last.split() == ["imported:"]
