"""Errors that a user can fix, and the small checks that raise them."""

import difflib
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import field, fields
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


class UserError(ValueError):
    """A mistake the user can fix: shown as one line without a traceback, exit code 2.

    The text says where, what it got, what it expected and what to do next.
    """


class ConfigError(UserError):
    """An option has a value it must not have, or a name that does not exist."""


class DataError(UserError):
    """A file, table or image is not as expected."""


class DiskError(UserError):
    """The file system refuses a file or folder. This concerns the whole run, so it ends; what was done is kept."""


class NoSpaceError(DiskError):
    """The disk is full."""


class Terminated(KeyboardInterrupt):
    """SIGTERM was received: everything ends as after Ctrl-C, with another exit code."""


_NO_MEMORY = ("out of memory", "allocate memory", "ALLOC_FAILED", "failed to map")


def says_no_memory(text: str) -> bool:
    """Return whether an error that is no MemoryError says that memory is full.

    GPUs, PyTorch on the CPU, CUDA's libraries and the loader of libraries say it in words: their errors have no type of
    their own.
    """
    return any(sign in text for sign in _NO_MEMORY)


def nearest(name: str, names: Iterable[str]) -> str:
    """Return ' Did you mean X?' for the closest of `names`, or '' if none is close."""
    matches = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return f" Did you mean '{matches[0]}'?" if matches else ""


def check_choice(where: str, value: object, choices: Iterable[object]) -> None:
    """Raise ConfigError unless `value` is one of `choices`."""
    choices = list(choices)
    if value not in choices:
        names = [str(choice) for choice in choices]
        raise ConfigError(f"{where} is '{value}', expected one of {', '.join(names)}.{nearest(str(value), names)}")


MOST = 2**31 - 1
"""No number that an option gives is larger: libraries take no more, and NaN and infinity are no values at all."""


def check_range(where: str, value: float, low: float, high: float = MOST) -> None:
    """Raise ConfigError unless low <= value <= high (NaN fails too)."""
    if not low <= value <= high:
        wanted = f"at least {low:g}" if high == MOST and not value > high else f"from {low:g} to {high:g}"
        raise ConfigError(f"{where} is {value:g}, expected {wanted}.")


def install(extra: str) -> str:
    """Return how to install an extra of this package, which no index has: from its source code."""
    return f"pip install -e '.[{extra}]' in the folder of wsss's source code"


def refuse_idle(options: Any, names: Iterable[str], where: str, group: str = "") -> None:
    """Raise ConfigError if one of these options, which change nothing there, is not at its default.

    Args:
        options: an instance of a dataclass.
        names: of fields with plain defaults.
        where: in which case they change nothing, such as 'without --truth'.
        group: prefix of their names, such as 'optim.'.
    """
    for name in names:
        if getattr(options, name) != getattr(type(options), name):
            raise ConfigError(f"--{group}{name} changes nothing {where}: leave it out.")


def between(default: Any, low: float, high: float = MOST) -> Any:
    """Declare a field of a dataclass whose value, or each of whose values, must lie within bounds; see `check_fields`.

    Args:
        default: its default, or a function that makes it.
    """
    metadata = {"bounds": (low, high)}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def check_fields(options: Any, group: str = "") -> None:
    """Raise ConfigError for a field outside the bounds that `between` declared, or outside the choices of its Literal.

    Args:
        options: an instance of a dataclass.
        group: prefix of its fields' names, such as 'puzzle'; '--' for those of flags.
    """
    choices, prefix = _choices(options.__class__), f"{group}." if group.strip("-") else group
    for declared in fields(options):
        name, value = f"{prefix}{declared.name}", getattr(options, declared.name)
        if declared.name in choices:
            allowed, kinds = choices[declared.name]
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                check_choice(name, value, allowed)
        if "bounds" in declared.metadata:
            for k, number in enumerate(value) if isinstance(value, list | tuple) else [(None, value)]:
                if isinstance(number, int | float):
                    check_range(name if k is None else f"{name}[{k}]", number, *declared.metadata["bounds"])


@cache
def _choices(kind: type) -> dict[str, tuple[tuple[Any, ...], tuple[type, ...]]]:
    """Return the choices of each field of a dataclass that is a Literal, and the types it may have instead."""
    choices = {}
    for name, hint in get_type_hints(kind).items():
        parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        allowed = tuple(value for part in parts if get_origin(part) is Literal for value in get_args(part))
        if allowed:
            kinds = tuple(part for part in parts if isinstance(part, type))
            choices[name] = allowed, (*kinds, int) if float in kinds else kinds
    return choices


def some(items: Iterable[object], most: int = 5) -> str:
    """List up to `most` items in a message: 'a, b, c and 12 more'."""
    names = [str(item) for item in items]
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def pasted(word: object) -> str:
    """Return a path or another argument as it can be pasted into a shell."""
    return shlex.quote(str(word))


def check_ending(out: Path, *endings: str) -> None:
    """Refuse an --out without the ending, in any case, by which other tools and wsss itself know the file.

    Raises:
        ConfigError: it has none of `endings`.
    """
    if not out.name.lower().endswith(endings):
        raise ConfigError(f"--out is {out}, expected a file name that ends with {' or '.join(endings)}.")


def exit_code(failed: int, count: int) -> int:
    """Return the exit code of a stage of whose `count` images some failed: 0 for none, 2 for all, else 1."""
    return 0 if not failed else 2 if failed >= count else 1


MOST_COMPARED = 1000


def unlike(ours: Sequence[object], theirs: Sequence[object], we: str, they: str) -> str:
    """Say how two lists of names differ that have none in common, by the first of ours and the nearest of theirs.

    Args:
        ours: names; a name that looks like another is shown with escapes, or with its type.
        we: whose names `ours` are, such as 'the table'.
        they: whose `theirs` are.

    Example:
        >>> unlike(["a1"], ["b", "a1 "], "the table", "the folder")
        "the table begins with 'a1', the nearest of the folder is 'a1 '"
    """
    if not len(ours) or not len(theirs):
        return f"{we} begins with {some(ours[:1]) or 'nothing'}, {they} with {some(theirs[:1]) or 'nothing'}"
    others = [str(name) for name in theirs[:MOST_COMPARED]]
    one = str(ours[0])
    near = difflib.get_close_matches(one, others, n=1, cutoff=0.6)
    if not near:
        return f"{we} begins with {one}, {they} with {others[0]}"
    other, kinds = near[0], ("", "")
    if one == other:
        kinds = tuple(f" ({type(names[0]).__name__})" for names in (ours, theirs))  # type: ignore[assignment]
    return f"{we} begins with {one!a}{kinds[0]}, the nearest of {they} is {other!a}{kinds[1]}"
