"""Files for Docker and conda: they name what pyproject.toml has, and the image's files are enough to install from.

Neither an image nor an environment is built here: that takes a daemon, a network and 6 GB.
"""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SENT = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]


def test_conda_installs_this_folder_for_a_python_that_it_takes() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["name"] == PROJECT["name"]
    (pip,) = (entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert pip == ["-e ."], "all packages are those of pyproject.toml"
    least = tuple(map(int, PROJECT["requires-python"].removeprefix(">=").split(".")))
    (python,) = (text for text in environment["dependencies"] if str(text).startswith("python="))
    assert tuple(map(int, python.removeprefix("python=").split("."))) >= least


def test_the_image_installs_extras_that_there_are_and_starts_our_command() -> None:
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    steps = [tuple(line.split(" ", 1)) for line in lines]
    assert [step for step, _ in steps] == ["FROM", "COPY", "RUN", "ENV", "USER", "WORKDIR", "ENTRYPOINT"]
    texts = dict(steps)
    (folder,) = re.findall(r"^\. (\S+)$", texts["COPY"])
    (extras,) = re.findall(rf'"{folder}\[(.*)\]"', texts["RUN"])
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])
    assert texts["ENTRYPOINT"] == f'["{next(iter(PROJECT["scripts"]))}"]'


@pytest.mark.slow
def test_what_is_sent_to_docker_makes_the_whole_package(tmp_path: Path) -> None:
    for name in SENT:
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    words = ["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", "out", "."]
    subprocess.run([sys.executable, "-m", *words], cwd=tmp_path, check=True)
    (wheel,) = (tmp_path / "out").glob("*.whl")
    there = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(["git", "ls-files", "wsss"], cwd=ROOT, check=True, capture_output=True, text=True)
    assert set(tracked.stdout.split()) <= there
    assert {f"wsss/shipped/{path.name}" for path in (ROOT / "configs").glob("*.yaml")} <= there
