"""Small operations on masks and label maps, at the cost of the pixels however many labels there are."""

import cv2
import numpy as np


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
