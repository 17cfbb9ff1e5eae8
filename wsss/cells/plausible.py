"""Whether given label maps are what they are taken for: signs that they are not, found in the maps themselves."""

from collections.abc import Iterable, Mapping

import numpy as np
from skimage.measure import label

from wsss.core.checks import some

LEAST_PIECE = 0.2
"""Pieces of a cell that are smaller than this share of its largest do not count: specks."""
MOST_BORDER = 0.5
"""A cell that holds more of the border of the map, and touches all four sides, is background."""

DOUBTS = {
    "pieces": "one label is many pieces that do not touch, as in a binary mask: pass --split to take each for a cell",
    "border": "one label covers most of the border: it looks like background, which must be 0",
    "full": "no pixel is 0: background must be 0",
    "palette": "the pixels are places in a table of colours that do not look like cell numbers: save grey numbers",
    "stray": "outlines that cover no pixel, outside the image or under others, are left out: are all at its size?",
}
"""What may be wrong with a label map, and what to do."""


def doubts_of(label_map: np.ndarray) -> list[str]:
    """Return what speaks against a label map (H, W) int32, keys of DOUBTS."""
    found = []
    ids, counts = np.unique(label_map, return_counts=True)
    cells = ids[ids > 0]
    if len(cells) and _in_pieces(label_map, len(cells)):
        found.append("pieces")
    if _covers_border(label_map):
        found.append("border")
    elif len(cells) and ids[0] > 0 and len(counts) > 1:
        found.append("full")
    return found


def _in_pieces(label_map: np.ndarray, cells: int) -> bool:
    """Whether a cell has three large pieces or more, or the only cell two."""
    parts, count = label(label_map, background=0, connectivity=2, return_num=True)
    if count <= cells:
        return False
    areas = np.bincount(parts.ravel())[1:]
    owners = np.zeros(count + 1, np.int64)
    owners[parts] = label_map
    _, owner = np.unique(owners[1:], return_inverse=True)
    largest = np.zeros(cells, np.int64)
    np.maximum.at(largest, owner, areas)
    large = np.bincount(owner[areas >= LEAST_PIECE * largest[owner]], minlength=cells)
    return bool(large.max() >= (2 if cells == 1 else 3))


def _covers_border(label_map: np.ndarray) -> bool:
    sides = label_map[0], label_map[-1], label_map[:, 0], label_map[:, -1]
    ids, counts = np.unique(np.concatenate(sides), return_counts=True)
    most = int(counts.argmax())
    on_all = all((side == ids[most]).any() for side in sides)
    return bool(ids[most] > 0 and on_all and counts[most] > MOST_BORDER * counts.sum())


def split_pieces(label_map: np.ndarray) -> np.ndarray:
    """Number each connected part (8 neighbours) of each label by itself, 1..N: (H, W) int32."""
    return label(label_map, background=0, connectivity=2).astype(np.int32)


def doubt_notes(doubts: Mapping[str, Iterable[str]]) -> list[str]:
    """Return a line for each kind of doubt that names images.

    Args:
        doubts: ID -> keys of DOUBTS.
    """
    notes = []
    for kind, text in DOUBTS.items():
        images = [name for name, own in doubts.items() if kind in own]
        if images:
            notes.append(f"label maps of {len(images)} images ({some(images)}): {text}.")
    return notes
