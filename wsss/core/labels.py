"""Class lists: the 19 classes of the Human Protein Atlas, the 28 of the 2018 competition, custom ones; their text."""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from wsss.core.checks import DataError, nearest, some

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


LABEL_COLUMNS = ("Label", "Labels", "class", "classes", "location", "locations")
"""Names of the column of a table with the labels, in order of preference."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


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
        if odd := [ascii(name) for name in self.names if _CONTROL.search(name)]:
            raise DataError(f"class names must have no line breaks or other control characters, got {some(odd)}.")
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


ATLAS_TO_HPA: dict[str, str | None] = {
    "Vesicles": "Vesicles and punctate cytosolic patterns",
    "Peroxisomes": "Vesicles and punctate cytosolic patterns",
    "Endosomes": "Vesicles and punctate cytosolic patterns",
    "Lysosomes": "Vesicles and punctate cytosolic patterns",
    "Lipid droplets": "Vesicles and punctate cytosolic patterns",
    "Cytoplasmic bodies": "Vesicles and punctate cytosolic patterns",
    "Focal adhesion sites": "Actin filaments",
    "Focal adhesions": "Actin filaments",
    "Cell Junctions": "Plasma membrane",
    "Centriolar satellite": "Centrosome",
    "Microtubule organizing center": "Centrosome",
    "Microtubule ends": "Microtubules",
    "Nucleoli rim": "Nucleoli",
    "Nucleus but not nucleoli": "Nucleoplasm",
    "Golgi": "Golgi apparatus",
    "No staining": "Negative",
    "No specific signal": "Negative",
    **dict.fromkeys(
        (
            "Cytokinetic bridge",
            "Midbody",
            "Midbody ring",
            "Cleavage furrow",
            "Mitotic chromosome",
            "Kinetochore",
            "Rods & Rings",
            "Primary cilium",
            "Primary cilium tip",
            "Primary cilium transition zone",
            "Basal body",
            "Acrosome",
            "Equatorial segment",
            "Perinuclear theca",
            "Calyx",
            "Flagellar centriole",
            "Connecting piece",
            "Annulus",
            "Mid piece",
            "Principal piece",
            "End piece",
        )
    ),
}
"""Location of the public Atlas or of the 2018 competition -> name of the class here; None has no counterpart."""

_SEPARATORS = ("|", ";", ",", "\n", "/", "\\", ":", "+", "&", "\u00a6", "_", " - ", " and ")
"""Best first, before any other sign; a separator counts where all parts are labels, since names may hold it too."""
MOST_SIGNS = 8
"""Separators within the name of a class that are recognised."""
_SIGN = re.compile(r"[^\w .()\[\]{}'\"-]")
"""Signs that may be separators as well."""


_MEANT = re.compile(r"[^\W_]+|[+<>=≤≥≠~!?±%¬↑↓]|(?<!\w)[-−](?=\w)|(?<=\w)[-−](?!\w)")
"""Words, and signs that make another name: GFP+ and GFP-, <2 and >2; '-' only where it joins no two words."""


def _key(name: str) -> str:
    """Return what two spellings of a name have in common: its words, and signs that mean something."""
    text = unicodedata.normalize("NFKC", name).casefold().replace("&", " and ")
    return " ".join(_MEANT.findall(text)).replace("−", "-") or text


class LabelReader:
    """Reads the labels of one image or cell.

    Args:
        classes: the classes; a label is the id or the name of one, in any upper and lower case. With the 19 classes of
            the Human Protein Atlas the other names of its locations are known too.
        mapping: class ids of another list -> ids here (None: no counterpart), for labels that are its ids.
    """

    def __init__(self, classes: ClassList, mapping: Mapping[int, int | None] | None = None) -> None:
        self.classes, self.mapping = classes, mapping
        self.last = max(mapping) if mapping else len(classes) - 1
        self._names: dict[str, int | None] = {}
        if classes == HPA:
            known: dict[str | None, int | None] = {None: None, **{name: k for k, name in enumerate(classes.names)}}
            self._names = {_key(name): known[ours] for name, ours in ATLAS_TO_HPA.items()}
        keys = [_key(name) for name in classes.names]
        self._names |= {key: k for k, key in enumerate(keys) if keys.count(key) == 1}
        self._exact = {name: k for k, name in enumerate(classes.names)}
        signs = max(len(re.findall(r"[^\w ]|_|\band\b", name)) for name in classes.names)
        self._most_parts = 1 + min(signs, MOST_SIGNS)

    def read(self, text: str) -> tuple[tuple[int, ...], list[str]]:
        """Return the sorted class ids of a text such as '8|5|0' or 'Nucleoplasm, Cytosol', and names without a class.

        Labels stand apart by any sign, '_', ' - ', ' and ' or a line's end, ids also by blanks; brackets and quotes
        around them do not count. An id may be written 8.0, as pandas does.

        Raises:
            ValueError: a label is neither an id nor a name; the message says which.
        """
        labels = self._split(text)
        ids = [self._one(label) for label in labels]
        lost = [label for label, k in zip(labels, ids, strict=True) if k is None]
        return tuple(sorted({k for k in ids if k is not None})), lost

    def _split(self, text: str) -> list[str]:
        text = text.strip()
        if self._knows(text):  # a name may have a separator in it
            return [text]
        text = text.strip("[](){} ")
        for separator in dict.fromkeys((*_SEPARATORS, *_SIGN.findall(text[:200]))):
            texts = text.split(separator)
            parts = self._known(texts, separator) if len(texts) > 1 else []
            if len(parts) > 1:
                return parts
        parts = _parts(text.split())
        if all(map(self._knows, parts)):
            return parts
        return _parts(re.split(r"[|;,\n]", text))

    def _known(self, texts: list[str], separator: str) -> list[str]:
        """Return the labels of a text that was split, [] if one is unknown; a name may have the separator in it."""
        labels: list[str] = []
        first = 0
        while first < len(texts):
            if not texts[first] or texts[first].isspace():
                first += 1
                continue
            for last in range(min(len(texts), first + self._most_parts), first, -1):
                found = _parts([separator.join(texts[first:last])])
                if all(map(self._knows, found)):
                    break
            else:
                return []
            labels += found
            first = last
        return labels

    def _knows(self, label: str) -> bool:
        return label in self._exact or _key(label) in self._names or _is_id(label)

    def _one(self, label: str) -> int | None:
        name = self._exact.get(label)
        if _is_id(label) and (name is None or label.isdecimal()):
            return self._by_id(label.removesuffix(".0"), name)
        if name is not None:
            return name
        key = _key(label)
        if key in self._names:
            return self._names[key]
        hint = nearest(label, self.classes.names).strip()
        if not hint:
            own = "the 19 of the Human Protein Atlas; yours are named by prepare --classes"
            hint = own if self.classes == HPA else some(self.classes.names)
        raise ValueError(f"label {label[:60]!a} is neither a class id nor a class name ({hint})")

    def _by_id(self, label: str, name: int | None) -> int | None:
        number = int(label)
        if number > self.last:
            raise ValueError(f"label {label} is outside the classes 0..{self.last}")
        if name is not None and name != number:
            raise ValueError(f"label {label} is the id of one class and the name of another: use other class names")
        return self.mapping[number] if self.mapping else number


def _is_id(label: str) -> bool:
    return re.fullmatch(r"[0-9]{1,9}(\.0)?", label) is not None


def _parts(texts: Iterable[str]) -> list[str]:
    return [part for text in texts if (part := text.strip().strip("'\"").strip())]
