"""Options that had other names in version 0.1.0: taken by the command line, --config, config.yaml and checkpoints."""

from collections.abc import Mapping, Sequence
from typing import Any

from wsss.core.checks import ConfigError
from wsss.core.console import say

RENAMED = {
    "opinion": "feature_classifier",
    "score.opinion_share": "score.feature_share",
    "score.student_share": "score.self_training_share",
    "score.stage2_share": "score.crop_share",
    "score.field_rounds": "score.prior_rounds",
}
"""Old name -> new name; the name of a group stands for all of its options."""
REMOVED = {"score.outlier_power": "it never changed a score"}
"""Options that are gone, and why."""
_noticed: set[str] = set()


def renamed(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return nested options under their names of today, without those that are gone; what was renamed is said once.

    Args:
        values: options by name, groups as dictionaries.
        where: the file they are from, for the notice.
    """
    old: list[str] = []
    current = _renamed(values, "", old)
    _notice(old, where)
    return current


def _renamed(values: Mapping[str, Any], above: str, old: list[str]) -> dict[str, Any]:
    current = {}
    for name, value in values.items():
        path = f"{above}{name}"
        if path in REMOVED or path in RENAMED:
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
    if name in REMOVED:
        raise ConfigError(f"--{name} is gone, for {REMOVED[name]}: leave it out.")
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
