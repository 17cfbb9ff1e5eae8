"""The metadata of a checkpoint or a shared model, checked before a network is built from it."""

from collections.abc import Mapping
from typing import Any

from wsss.core.checks import DataError
from wsss.core.labels import MOST_CLASSES

MOST_CHANNELS = 64
MOST_EDGE = 16384


def check_network_record(
    record: Mapping[str, Any], where: object, needed: tuple[str, ...] = ("recipe", "fold")
) -> None:
    """Refuse the metadata of a network that lacks an entry, or has one of the wrong type or out of range.

    Args:
        record: the metadata.
        where: its file, for messages.
        needed: entries that it must have.

    Raises:
        DataError: an entry is missing or wrong; it is named.
    """
    for name in needed:
        if name not in record:
            raise DataError(f"{where} does not say its network's {name}: it is damaged or of another version.")
        wanted, good = _KINDS[name]
        if not good(record[name]):
            raise DataError(f"{where} gives '{str(record[name])[:80]}' as its network's {name}, expected {wanted}.")
    if "negative" in needed and (record["negative"] or 0) >= len(record["classes"]):
        raise DataError(
            f"{where} gives {record['negative']} as its negative class, of {len(record['classes'])} classes."
        )


def _names(most: int) -> Any:
    return lambda value: (
        isinstance(value, list)
        and 0 < len(value) <= most
        and all(isinstance(name, str) and len(name) <= 1000 for name in value)
        and len(set(value)) == len(value)
    )


def _whole(low: int, high: int) -> Any:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


_KINDS: dict[str, tuple[str, Any]] = {
    "recipe": ("its options", lambda value: isinstance(value, dict)),
    "fold": ("a number or none", lambda value: value is None or _whole(0, 1000)(value)),
    "classes": (f"1 to {MOST_CLASSES} different names", _names(MOST_CLASSES)),
    "channels": (f"1 to {MOST_CHANNELS} different names", _names(MOST_CHANNELS)),
    "negative": ("the number of a class or none", lambda value: value is None or _whole(0, MOST_CLASSES - 1)(value)),
    "size": (f"8 to {MOST_EDGE} pixels", _whole(8, MOST_EDGE)),
    "train_ids": ("a digest", lambda value: isinstance(value, str)),
    "versions": ("names and versions", lambda value: isinstance(value, dict) and "wsss" in value),
}

NETWORK = ("recipe", "fold", "classes", "negative", "channels", "size", "versions")
"""What the record of a classifier must say."""
