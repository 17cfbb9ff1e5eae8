"""The one command of a day with a GPU, rehearsed on the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_check_runs_writes_its_results_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    words = ["bash", "scripts/gpu_check.sh", "--device", "cpu", "--quick", "--out", str(tmp_path)]
    environment = {**os.environ, "PYTHON": sys.executable}
    first = subprocess.run([*words, "--minutes", "0.02"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert first.returncode == 1, first.stderr  # the rest is missing
    begun = json.loads((tmp_path / "gpu_check.json").read_text())
    done = subprocess.run([*words, "--minutes", "60"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "gpu_check.json").read_text())
    assert results["machine"] == begun["machine"]  # not done again
    assert results["learn fp32"]["here"] == results["learn fp32"]["cpu"] < 0.3
    assert results["step test_resnet puzzle bf16 eager"]["flop"] > 1e6
    assert results["loader"]["images_per_s"] > 0
    assert results["augment"]["apart"] == 0  # the same device
    assert results["augment"]["hpa_images_per_s"] > 0
    table = (tmp_path / "gpu_check.txt").read_text().splitlines()
    assert len(table) == len(results) > 10
