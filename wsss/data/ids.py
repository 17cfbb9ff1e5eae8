"""IDs of images: what may be one, and which two would clash as file names."""

import unicodedata
from collections.abc import Iterable

from wsss.core.checks import DataError, some

LONGEST = 200
"""Longest ID, in UTF-8 bytes: file systems take names of 255, and suffixes are added."""


def fault(ID: str) -> str:
    """Return why a text cannot be the ID of an image (which becomes a file name), or '' if it can."""
    if not ID or ID.strip() != ID:
        return "is empty, or begins or ends with a blank"
    if "/" in ID or "\\" in ID or ".." in ID:
        return "has a path in it"
    if ID[0] == ".":
        return "begins with a dot"
    if any(unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") for letter in ID):
        return "has control characters"
    if len(ID.encode()) > LONGEST:
        return f"is longer than {LONGEST} bytes"
    return ""


def shown(ID: str) -> str:
    """Return an ID as it may stand in a message: quoted, escaped, at most 60 characters."""
    return ascii(ID if len(ID) <= 60 else ID[:57] + "...")


def check_distinct(ids: Iterable[str], where: str) -> None:
    """Raise DataError if two IDs differ only in case or Unicode form: they are one file on many disks."""
    seen: dict[str, str] = {}
    clashes = []
    for ID in ids:
        other = seen.setdefault(unicodedata.normalize("NFC", ID).casefold(), ID)
        if other != ID:
            clashes.append(f"{shown(other)} and {shown(ID)}")
    if clashes:
        raise DataError(
            f"{where}: IDs that differ only in case or Unicode form: {some(clashes)}. Rename one of each two."
        )
