"""Options that had other names in version 0.1.0, or are gone: in flags, --config, config.yaml and checkpoints."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from wsss.core.checks import ConfigError
from wsss.core.console import say

RENAMED = {
    "opinion": "feature_classifier",
    "score.opinion_share": "score.feature_share",
    "score.stage2_share": "score.crop_share",
    "score.field_rounds": "score.prior_rounds",
}
"""Old name -> new name; the name of a group stands for all of its options."""
_CELLS = "image labels pooled from cells, and cells as puzzle pieces, lost 0.06 to 0.4 average precision"
_BY_ITSELF = "the feature classifier scores each class by itself"
_SELF_TRAINING = "it added nothing beside the feature classifier"
REMOVED = {
    "score.outlier_power": "it never changed a score",
    "score.exclusion": "score.one_class says whether classes exclude each other",
    "feature_classifier.weak.balance": _BY_ITSELF,
    "feature_classifier.weak.sharpen": _BY_ITSELF,
    "cells": _CELLS,
    "self_training": _SELF_TRAINING,
    "score.self_training_share": _SELF_TRAINING,
    "score.student_share": _SELF_TRAINING,
}
"""Options and groups that are gone, and why."""
SWITCHED_OFF = {
    "cells.pooling": "none",
    "cells.pieces": 0,
    "self_training.enabled": False,
}
"""What switched them on -> the value that left them off."""
OF_TRAINING = ("cells.pooling", "cells.pieces")
"""Those that shaped the weights of a network."""
OF_NETWORK = "cells.pooling"
"""That by which a network gave other scores than one without it."""
FORMER_DEFAULTS = {
    "feature_classifier.enabled": False,
    "score.region": "quantile",
    "score.relative": True,
    "score.min_prob": 0.01,
    "score.min_ratio": 0.02,
    "score.prob_power": 1.0,
    "score.prob_for_negative": True,
    "score.negative": "recipe",
    "score.blend": "mean",
    "score.prior_rounds": 0,
    "score.feature_share": 0.5,
    "score.unet_share": 0.5,
}
"""Defaults of version 0.1.0 that are others today, by the names of today."""
_noticed: set[str] = set()


def renamed(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return nested options under their names of today, without those that are gone; what was renamed is said once.

    Args:
        values: options by name, groups as dictionaries.
        where: the file they are from, for the notice.

    Raises:
        ConfigError: they are of a network that scores otherwise without what is gone.
    """
    old: list[str] = []
    current = _renamed(values, "", old)
    for name, value in switched_on(values):
        if name == OF_NETWORK:
            raise ConfigError(f"{name} {value} is gone, for {_CELLS}: train again without it, or use wsss 0.1.0.")
        old.append(name)
    _notice(old, where)
    return current


def renamed_config(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the options of a --config file under their names of today, as `renamed` does.

    Raises:
        ConfigError: the file asks for something that is gone.
    """
    for name, value in switched_on(values):
        raise ConfigError(f"{where} asks for {name} {value}, which is gone, for {_reason(name)}: take it out.")
    return renamed(values, where)


def switched_on(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield name and value of each option that is gone and was switched on."""
    for name, off in SWITCHED_OFF.items():
        group, _, option = name.partition(".")
        options = values.get(group)
        value = options.get(option, off) if isinstance(options, Mapping) else off
        if value != off:
            yield name, value


def _reason(name: str) -> str:
    return REMOVED.get(name) or REMOVED[name.partition(".")[0]]


def _renamed(values: Mapping[str, Any], above: str, old: list[str]) -> dict[str, Any]:
    current = {}
    for name, value in values.items():
        path = f"{above}{name}"
        if path in RENAMED or path == "score.outlier_power":
            old.append(path)
        if path not in REMOVED:
            new = RENAMED.get(path, path)
            nested = isinstance(value, Mapping)
            current[new.removeprefix(above)] = _renamed(value, f"{new}.", old) if nested else value
    return current


def renamed_flags(words: Sequence[str]) -> list[str]:
    """Return the words of a command line with options under their names of today; what was renamed is said once.

    Raises:
        ConfigError: an option is gone.
    """
    return [_renamed_flag(word) if word.startswith("--") else word for word in words]


def _renamed_flag(word: str) -> str:
    name, equals, value = word[2:].partition("=")
    if name in REMOVED or name.partition(".")[0] in REMOVED:
        raise ConfigError(f"--{name} is gone, for {_reason(name)}: leave it out.")
    for old, new in RENAMED.items():
        if name == old or name.startswith(f"{old}."):
            _notice([old], "the command line")
            return f"--{new}{name.removeprefix(old)}{equals}{value}"
    return word


def _notice(old: Sequence[str], where: str) -> None:
    """Say, once, which options go by other names."""
    fresh = [name for name in dict.fromkeys(old) if name not in _noticed]
    _noticed.update(fresh)
    if fresh:
        now = (f"{name} is now {RENAMED[name]}" if name in RENAMED else f"{name} is gone" for name in fresh)
        say(f"note: {where} has options of version 0.1.0: {', '.join(now)}.")
