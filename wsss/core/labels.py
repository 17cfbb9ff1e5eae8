"""Class lists: the 19 classes of the Human Protein Atlas, the 28 of the 2018 competition, and custom ones."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from wsss.core.checks import DataError, some

MOST_CLASSES = 10_000

HPA_CHANNELS = ("red", "green", "blue", "yellow")

HPA_NAMES = (
    "Nucleoplasm",
    "Nuclear membrane",
    "Nucleoli",
    "Nucleoli fibrillar center",
    "Nuclear speckles",
    "Nuclear bodies",
    "Endoplasmic reticulum",
    "Golgi apparatus",
    "Intermediate filaments",
    "Actin filaments",
    "Microtubules",
    "Mitotic spindle",
    "Centrosome",
    "Plasma membrane",
    "Mitochondria",
    "Aggresome",
    "Cytosol",
    "Vesicles and punctate cytosolic patterns",
    "Negative",
)

KAGGLE2018_TO_HPA: dict[int, int | None] = {
    **{k: k for k in range(8)},
    **dict.fromkeys((8, 9, 10, 20, 26), 17),
    11: 8,
    **dict.fromkeys((12, 13), 9),
    **dict.fromkeys((14, 15), 10),
    17: 11,
    **dict.fromkeys((18, 19), 12),
    **dict.fromkeys((21, 22), 13),
    23: 14,
    24: 15,
    25: 16,
    16: None,
    27: None,
}
"""Class of the 2018 competition -> class here; None has no counterpart (cytokinetic bridge, rods and rings)."""


@dataclass(frozen=True)
class ClassList:
    """The classes of a data set, in the order of their ids 0..K-1."""

    names: tuple[str, ...] = HPA_NAMES
    negative: int | None = 18
    """Id of the class 'no specific signal', or None if there is none."""

    def __post_init__(self) -> None:
        if len(self.names) > MOST_CLASSES:
            raise DataError(f"there are {len(self.names)} class names, expected {MOST_CLASSES} at most.")
        if len(self.names) == 0 or len(set(self.names)) != len(self.names):
            raise DataError(f"class names must be distinct and at least one, got {some(self.names, 30) or 'none'}.")
        if self.negative is not None and not 0 <= self.negative < len(self.names):
            raise DataError(f"the negative class is {self.negative}, expected 0..{len(self.names) - 1} or none.")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def columns(self) -> list[str]:
        """The names of the score columns in every table: the ids as text, '0' ... 'K-1'."""
        return [str(k) for k in range(len(self.names))]

    def encode(self, ids: Iterable[int]) -> np.ndarray:
        """Turn class ids into (K,) float32 of 0/1.

        Raises:
            DataError: an id is outside 0..K-1.
        """
        out = np.zeros(len(self.names), np.float32)
        for k in ids:
            if not 0 <= k < len(self.names):
                raise DataError(f"label {k} is outside the classes 0..{len(self.names) - 1}.")
            out[k] = 1
        return out


HPA = ClassList()


def parse_label(text: str) -> list[int]:
    """Read class ids from '8|5|0' (the form of every table wsss writes); '' gives no ids."""
    return [int(part) for part in text.split("|")] if text else []


def format_label(ids: Iterable[int]) -> str:
    """Write class ids as '0|5|8', sorted and without doubles."""
    return "|".join(str(k) for k in sorted({int(k) for k in ids}))
