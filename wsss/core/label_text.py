"""Labels as people write them, read into class ids: ids, names and the public Atlas's names of locations."""

import re
import unicodedata
from collections.abc import Iterable, Mapping

from wsss.core.checks import nearest
from wsss.core.labels import HPA, ClassList

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

_SEPARATORS = ("|", ";", ",", "\n", "/")


def _key(name: str) -> str:
    """Return what two spellings of a name have in common: letters and digits, in words."""
    text = unicodedata.normalize("NFKC", name).casefold().replace("&", " and ")
    return " ".join(re.findall(r"[^\W_]+", text)) or text


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

    def read(self, text: str) -> tuple[tuple[int, ...], list[str]]:
        """Return the sorted class ids of a text such as '8|5|0' or 'Nucleoplasm, Cytosol', and names without a class.

        Labels stand apart by | ; , / or a line's end, ids also by blanks; brackets and quotes around them do not count.

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
        for separator in _SEPARATORS:
            parts = _parts(text.split(separator))
            if len(parts) > 1 and all(map(self._knows, parts)):
                return parts
        parts = _parts(text.split())
        if all(part.isdecimal() or self._knows(part) for part in parts):
            return parts
        return _parts(re.split(r"[|;,\n]", text))

    def _knows(self, label: str) -> bool:
        return label in self._exact or _key(label) in self._names or _is_id(label)

    def _one(self, label: str) -> int | None:
        name = self._exact.get(label)
        if _is_id(label):
            return self._by_id(label, name)
        if name is not None:
            return name
        key = _key(label)
        if key in self._names:
            return self._names[key]
        hint = nearest(label, self.classes.names).strip()
        raise ValueError(
            f"label {label[:60]!a} is neither a class id nor a class name" + (f" ({hint})" if hint else "")
        )

    def _by_id(self, label: str, name: int | None) -> int | None:
        number = int(label)
        if number > self.last:
            raise ValueError(f"label {label} is outside the classes 0..{self.last}")
        if name is not None and name != number:
            raise ValueError(f"label {label} is the id of one class and the name of another: use other class names")
        return self.mapping[number] if self.mapping else number


def _is_id(label: str) -> bool:
    return re.fullmatch(r"[0-9]{1,9}", label) is not None


def _parts(texts: Iterable[str]) -> list[str]:
    return [part for text in texts if (part := text.strip().strip("'\"").strip())]
