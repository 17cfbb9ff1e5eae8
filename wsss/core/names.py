"""Names of files in one Unicode form, whatever system wrote them."""

import unicodedata
from pathlib import Path


def composed(name: str) -> str:
    """Return a name in composed Unicode (NFC): macOS writes 'ü' as two letters, other systems as one."""
    return unicodedata.normalize("NFC", name)


def as_on_disk(folder: Path, name: str) -> str:
    """Return a composed file name as the folder has it: decomposed if only that is there."""
    apart = unicodedata.normalize("NFD", name)
    return apart if apart != name and not (folder / name).exists() and (folder / apart).exists() else name
