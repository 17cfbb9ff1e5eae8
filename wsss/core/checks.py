"""Errors that are a user's to mend, and the small checks that raise them."""

import difflib
from collections.abc import Iterable
from dataclasses import field, fields
from typing import Any


class UserError(ValueError):
    """A mistake the user can mend: shown as one line without a traceback, exit code 2.

    The text says where, what it got, what it wanted and what to do next.
    """


class ConfigError(UserError):
    """An option has a value it must not have, or a name that does not exist."""


class DataError(UserError):
    """A file, table or image is not what it must be."""


class DiskError(UserError):
    """The file system refuses a file or folder: no fault of one image, so the run ends; what was done is kept."""


class NoSpaceError(DiskError):
    """The disk is full."""


class Terminated(KeyboardInterrupt):
    """SIGTERM came: everything ends as after Ctrl-C, with another exit code."""


def nearest(name: str, names: Iterable[str]) -> str:
    """Return ' Did you mean X?' for the closest of `names`, or '' if none is close."""
    found = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return f" Did you mean '{found[0]}'?" if found else ""


def check_choice(where: str, value: str, choices: Iterable[str]) -> None:
    """Raise ConfigError unless `value` is one of `choices`."""
    choices = list(choices)
    if value not in choices:
        raise ConfigError(f"{where} is '{value}', expected one of {', '.join(choices)}.{nearest(value, choices)}")


def check_range(where: str, value: float, low: float, high: float = float("inf")) -> None:
    """Raise ConfigError unless low <= value <= high (NaN fails too)."""
    if not low <= value <= high:
        wanted = f"at least {low:g}" if high == float("inf") else f"from {low:g} to {high:g}"
        raise ConfigError(f"{where} is {value:g}, expected {wanted}.")


def between(default: Any, low: float, high: float = float("inf")) -> Any:
    """Declare a field of a dataclass whose value, or each of whose values, must lie within bounds; see `check_fields`.

    Args:
        default: its default, or a function that makes it.
        low: lowest value.
        high: highest value.
    """
    metadata = {"bounds": (low, high)}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def check_fields(options: Any, group: str = "") -> None:
    """Raise ConfigError for a field outside the bounds that `between` declared; None and texts have none.

    Args:
        options: an instance of a dataclass.
        group: what stands before its fields' names, such as 'puzzle'.
    """
    for declared in fields(options):
        if "bounds" not in declared.metadata:
            continue
        name, value = f"{group}.{declared.name}" if group else declared.name, getattr(options, declared.name)
        for k, number in enumerate(value) if isinstance(value, list | tuple) else [(None, value)]:
            if isinstance(number, int | float):
                check_range(name if k is None else f"{name}[{k}]", number, *declared.metadata["bounds"])


def some(items: Iterable[object], most: int = 5) -> str:
    """List up to `most` items in a message: 'a, b, c and 12 more'."""
    names = [str(item) for item in items]
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
