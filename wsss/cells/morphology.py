"""Operations on masks and label maps, and signs that a given label map is not what it should be."""

from collections.abc import Iterable, Mapping

import cv2
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
    "stray": "outlines and masks without a pixel, outside the image or under others, are left out: do sizes match?",
}
"""What may be wrong with a label map, and what to do."""


def doubts_of(label_map: np.ndarray) -> list[str]:
    """Return the doubts about a label map (H, W) int32, keys of DOUBTS."""
    doubts = []
    ids, counts = np.unique(label_map, return_counts=True)
    cells = ids[ids > 0]
    if len(cells) and _in_pieces(label_map, len(cells)):
        doubts.append("pieces")
    if _covers_border(label_map):
        doubts.append("border")
    elif len(cells) and ids[0] > 0 and len(counts) > 1:
        doubts.append("full")
    return doubts


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
        images = [name for name, of_image in doubts.items() if kind in of_image]
        if images:
            notes.append(f"label maps of {len(images)} images ({some(images)}): {text}.")
    return notes


def drop_small(labels: np.ndarray, least: float) -> np.ndarray:
    """Clear the labels of fewer than `least` pixels in a (H, W) label map; the others keep their ids."""
    keep = np.bincount(labels.ravel()) >= least
    keep[0] = False
    return np.where(keep, np.arange(len(keep)), 0).astype(np.int32)[labels]


def renumber(labels: np.ndarray, *others: np.ndarray) -> tuple[np.ndarray, ...]:
    """Number the labels of a (H, W) map 1..N in their order, and `others` alike; ids that it lacks become 0."""
    most = max(int(one.max()) for one in (labels, *others))
    present = np.bincount(labels.ravel(), minlength=most + 1) > 0
    present[0] = False
    numbers = np.where(present, np.cumsum(present), 0).astype(np.int32)
    return tuple(numbers[one] for one in (labels, *others))


def fill_holes(mask: np.ndarray, most: float) -> np.ndarray:
    """Fill the holes of at most `most` pixels in a (H, W) bool mask; what touches the image's border is no hole."""
    _, holes, stats, _ = cv2.connectedComponentsWithStats(1 - mask.astype(np.uint8), connectivity=4)
    left, top, wide, high, area = stats.T
    inner = (left > 0) & (top > 0) & (left + wide < mask.shape[1]) & (top + high < mask.shape[0])
    fill = inner & (area <= most)
    fill[0] = False
    return mask | fill[holes]


def fill_cells(labels: np.ndarray) -> np.ndarray:
    """Give the background that a single cell encloses to that cell; gaps between several cells stay."""
    count, holes, stats, _ = cv2.connectedComponentsWithStats((labels == 0).astype(np.uint8), connectivity=4)
    left, top, wide, high, _ = stats.T
    inner = (left > 0) & (top > 0) & (left + wide < labels.shape[1]) & (top + high < labels.shape[0])
    low, high_id = np.full(count, np.iinfo(np.int32).max), np.zeros(count, np.int64)
    for one, two in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        for here, there in ((one, two), (two, one)):
            at = (labels[here] == 0) & (labels[there] > 0)
            np.minimum.at(low, holes[here][at], labels[there][at])
            np.maximum.at(high_id, holes[here][at], labels[there][at])
    owner = np.where(inner & (low == high_id), high_id, 0).astype(np.int32)
    owner[0] = 0
    return np.where(labels == 0, owner[holes], labels)


def pair_nuclei(cells: np.ndarray, nuclei: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number cells 1..N, and give every nucleus to the cell that holds most of it, cut to that cell.

    Args:
        cells: (H, W) int, 0 background; any ids.
        nuclei: (H, W) int with any ids; several may share a cell, and a cell may have none.

    Returns:
        Cells and nuclei, both (H, W) int32. Nuclei outside of all cells are left out.

    Raises:
        ValueError: the maps differ in size.
    """
    if cells.shape != nuclei.shape:
        raise ValueError(f"the cells are {cells.shape}, the nuclei {nuclei.shape}: they must match.")
    cells, nuclei = renumber(cells)[0], renumber(nuclei)[0]
    inside = (cells > 0) & (nuclei > 0)
    most = int(cells.max()) + 1
    pairs, counts = np.unique(nuclei[inside].astype(np.int64) * most + cells[inside], return_counts=True)
    owner = np.zeros(int(nuclei.max()) + 1, np.int32)
    order = np.argsort(counts, kind="stable")  # the last one written, with most pixels, stays
    owner[pairs[order] // most] = pairs[order] % most
    owned = owner[nuclei]
    return cells, np.where(owned == cells, owned, 0)
