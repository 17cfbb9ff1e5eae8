"""Every stage starts quickly: nothing heavy is imported before it is needed."""

import subprocess
import sys

from wsss.cli import STAGES

HEAVY = ("torch", "timm", "albumentations", "skimage", "cv2", "pandas", "pyarrow", "scipy", "sklearn", "matplotlib")
ASK = """
import importlib, sys
for stage in sys.argv[1].split():
    print("stage:", stage)
    try:
        importlib.import_module("wsss." + stage).main(["--help"])
    except SystemExit:
        pass
print("imported:", *[name for name in sys.argv[2:] if name in sys.modules])
"""


def test_help_comes_without_heavy_imports() -> None:
    words = [sys.executable, "-c", ASK, " ".join(STAGES), *HEAVY]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    *pages, last = done.stdout.removeprefix("stage: ").replace("\nimported:", "\nstage: imported:").split("\nstage: ")
    assert last.split() == ["imported:"]
    for stage, page in zip(STAGES, pages, strict=True):
        shown = page.splitlines()
        assert shown[0] == stage
        assert any("--config" in line for line in shown)  # the help was really printed
        assert [line for line in shown if line.startswith(f"  python -m wsss.{stage}")], "examples"
        assert "exit codes:" in shown
