"""Names of a data set's files: what may be an ID, which two would clash, and which are results of other programs."""

import re
import unicodedata
from collections.abc import Collection, Iterable
from urllib.parse import unquote, urlsplit

from wsss.core.channels import split_channel
from wsss.core.checks import DataError, some
from wsss.core.files import composed
from wsss.core.labels import HPA_CHANNELS
from wsss.core.rasters import UNREAD, without_suffix

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
    kinds = set(map(unicodedata.category, ID))
    if "Cs" in kinds:  # a byte as Python keeps it
        return "is not UTF-8"
    if kinds & {"Cc", "Cf", "Zl", "Zp"}:
        return "has control characters"
    if len(ID.encode()) > LONGEST:
        return f"is longer than {LONGEST} bytes"
    return ""


def from_name(text: str, channels: Iterable[str] = HPA_CHANNELS) -> list[str]:
    """Return the ID that a cell of a table means, and further names that its image may go by.

    `https://images.proteinatlas.org/10580/1610_C1_1_` is 10580_1610_C1_1 (as `download` names it) or 1610_C1_1;
    `a.png` and, red being one of the channels, `a_red.png` are a. Other text is the ID itself.
    """
    text = composed(text.strip())
    if re.match(r"https?://", text):
        parts = [part for part in unquote(urlsplit(text).path).split("/") if part][-2:]
        *head, last = [*parts[:-1], _COLOURS.sub("", without_suffix(parts[-1])).rstrip("_")] if parts else [""]
        return ["_".join([*head, last]), last]
    stem = without_suffix(text)
    if stem == text:
        return [stem]
    return [stem, split_channel(stem, channels)[0]]


_COLOURS = re.compile("(_(red|green|blue|yellow))+$")
"""What the addresses of the Atlas's pictures end with."""


def check_names(names: Iterable[str], where: object) -> None:
    """Refuse IDs of a table that could not be file names: they would be read and written elsewhere.

    Raises:
        DataError: names the first of them.
    """
    for ID in names:
        if reason := fault(str(ID)):
            raise DataError(f"{where}: the ID {shown(str(ID))} {reason}, which no image has: make the table again.")


def shown(ID: str) -> str:
    """Return an ID for messages: quoted, escaped, at most 60 characters."""
    return ascii(ID if len(ID) <= 60 else ID[:57] + "...")


def check_distinct(ids: Iterable[str], where: str) -> None:
    """Raise DataError if two IDs differ only in case or Unicode form: they are one file on many disks."""
    seen: dict[str, str] = {}
    clashes = []
    for ID in ids:
        other = seen.setdefault(composed(ID).casefold(), ID)
        if other != ID:
            clashes.append(f"{shown(other)} and {shown(ID)}")
    if clashes:
        raise DataError(
            f"{where}: IDs that differ only in case or Unicode form: {some(clashes)}. Rename one of each two."
        )


MASK_ENDINGS = ("_masks", "_mask", "_labels", "_label")
"""What programs put behind the name of an image for that of its masks, best first."""
_BY_CELLPOSE = re.compile(r".+_(cp_(masks|outlines|output)|outlines_cp|flows_cp|masks_cp)\w*", re.IGNORECASE)
_BESIDE = re.compile(
    r"(.+?)[_-](seg|masks?|labels?|labelled|segmentation|Simple Segmentation|Object Predictions|Probabilities"
    r"|flows?|dP|cellprob|outlines?|overlays?|pred|preview)",
    re.IGNORECASE,
)
"""What programs that segment write beside the images."""


def by_products(stems: Collection[str], channels: Collection[str] = ()) -> set[str]:
    """Return those of the names of pictures that are results of programs that segment, and no images.

    Names that only Cellpose gives always are; those that say mask, labels, flows, ... are if they go on from the name
    of another picture, or of the image of which it is one of the `channels`.

    Args:
        stems: names without endings, see `stem_of`.
        channels: names that files of single channels bear.
    """
    split = {stem: split_channel(stem, channels) for stem in stems}
    heads = {name.casefold() for stem, (ID, _) in split.items() for name in (stem, ID)}
    found = set()
    for stem in stems:
        beside = _BESIDE.fullmatch(stem)
        is_channel = split[stem][1]  # `outline` may be one
        if _BY_CELLPOSE.fullmatch(stem) or (beside and not is_channel and beside[1].casefold() in heads):
            found.add(stem)
    return found


def result_notes(names: Collection[str]) -> list[str]:
    """Return a note, or none, on pictures that are no images, see `by_products`."""
    shown = some(sorted(names), 3)
    what = (
        f"{len(names)} files are results of programs that segment, by their names, and not read as images: {shown}; if "
        "they are images, rename them."
    )
    return [what] if names else []


def unread_notes(names: Iterable[str]) -> list[str]:
    """Return a note, or none, on those of the names of files that are pictures of forms that are not read."""
    unread = sorted(name for name in names if name.lower().endswith(UNREAD) and name[0] != ".")
    if not unread:
        return []
    return [f"{len(unread)} files are of forms that are not read, and left out: {some(unread, 3)}; save them as TIFF."]
