"""The model hub: whether it answers, before its client tries for a minute."""

import importlib.util
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants

ANSWER_S = 3.0
"""A hub that does not answer within these seconds is out of reach."""


@contextmanager
def quick_hub() -> Iterator[None]:
    """Let the hub's client look into its cache alone, where the hub is out of reach."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not answers(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def answers(url: str, seconds: float | None = None) -> bool:
    """Return whether a server answers, whatever it says, within some seconds (`ANSWER_S`); proxies are respected."""
    seconds = ANSWER_S if seconds is None else seconds
    answered = threading.Event()

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=seconds).close()
        except urllib.error.HTTPError:
            answered.set()
        except (OSError, ValueError):
            return
        answered.set()

    # In a thread, because no time limit holds for the look-up of a name.
    threading.Thread(target=ask, daemon=True).start()
    return answered.wait(seconds)


def installed(packages: dict[str, str]) -> list[str]:
    """Return the backbones, of backbone -> package, whose package with weights is installed."""
    return [name for name, package in packages.items() if importlib.util.find_spec(package) is not None]
