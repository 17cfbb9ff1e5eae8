"""From class maps to pseudo-masks: refinement by the image, values of pixels or cells, two thresholds."""

import numpy as np
from skimage.segmentation import random_walker

from wsss.cells.regions import cell_means, group_pixels
from wsss.cells.scoring import resize
from wsss.options.masks import IGNORE
from wsss.options.pseudo import PseudoConfig

DILATIONS = (1, 2, 4, 8)
"""How far the neighbours of pixel-adaptive refinement lie, px of the grid."""
ROUNDS = 10
"""Rounds of pixel-adaptive refinement."""
CONTRAST = 0.1
"""Differences of neighbours count in this share of the local standard deviation."""


def refine(maps: np.ndarray, image: np.ndarray, config: PseudoConfig) -> np.ndarray:
    """Fit class maps to the image as `config.refine` says.

    Args:
        maps: (n, h, w) float32, not below 0.
        image: (C, h, w) of the same size; any scale, any number of channels.
        config: the rules.

    Returns:
        (n, h, w) float32: averages of neighbours (adaptive), or the peak times the probability that a walk ends in
        the sure pixels of the class (walk).
    """
    if config.refine == "adaptive":
        return adaptive(maps, image.astype(np.float32))
    if config.refine == "walk":
        return np.stack([_walk(own, image, config) for own in maps]) if len(maps) else maps
    return maps


def adaptive(maps: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Average every pixel of (n, h, w) maps with neighbours that look like it in the (C, h, w) image, round by round.

    Source: pixel-adaptive mask refinement, Araslanov and Roth, arXiv 2005.08104.
    """
    near = _neighbours(image)  # (J, C, h, w)
    contrast = CONTRAST * near.std(axis=0) + 1e-6
    likeness = -(np.abs(near - image) / contrast).mean(axis=1)  # (J, h, w)
    weights = np.exp(likeness - likeness.max(axis=0))
    weights /= weights.sum(axis=0)
    for _ in range(ROUNDS):
        maps = np.einsum("jnhw,jhw->nhw", _neighbours(maps), weights)
    return maps.astype(np.float32)


def _neighbours(planes: np.ndarray) -> np.ndarray:
    """Return (J, C, h, w): the planes moved by each dilation in eight directions; edges are repeated."""
    reach, (h, w) = max(DILATIONS), planes.shape[1:]
    wide = np.pad(planes, ((0, 0), (reach, reach), (reach, reach)), mode="edge")
    steps = [(y * d, x * d) for d in DILATIONS for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x]
    return np.stack([wide[:, reach + y : reach + y + h, reach + x : reach + x + w] for y, x in steps])


def _walk(values: np.ndarray, image: np.ndarray, config: PseudoConfig) -> np.ndarray:
    peak = values.max()
    seeds = np.where(values >= config.high * peak, 2, np.where(values < config.low * peak, 1, 0))
    if peak <= 0 or len(np.unique(seeds)) < 3:  # nothing sure, or nothing left to decide
        return values
    scaled = np.moveaxis(image.astype(np.float64), 0, -1) / max(1.0, float(image.max()))
    found = random_walker(scaled, seeds, mode="cg_j", channel_axis=-1, return_full_prob=True, prob_tol=0.1)
    return np.asarray(np.clip(found[1], 0, 1) * peak, np.float32)  # the solver is iterative, and off by some 1e-3


def values_of(maps: np.ndarray, label_map: np.ndarray, config: PseudoConfig) -> np.ndarray:
    """Return what the thresholds are compared with: (n, H, W) float32, 0 outside the cells where they count.

    Args:
        maps: (n, h, w) float32, not below 0; resized to the label map.
        label_map: (H, W) int, 0 background.
        config: the rules.
    """
    values = resize(maps, label_map.shape)
    if config.paint == "cells":
        values = _painted(values, label_map)
    return np.where(label_map > 0, values, 0).astype(np.float32) if config.inside_cells else values


def _painted(values: np.ndarray, label_map: np.ndarray) -> np.ndarray:
    """Give every pixel of a cell the mean of the cell, in each of (n, H, W) maps; 0 outside the cells."""
    cells, out = group_pixels(label_map), np.zeros_like(values)
    for own, painted in zip(values, out, strict=True):
        painted.ravel()[cells.order] = np.repeat(cell_means(own.ravel()[cells.order], cells), cells.sizes)
    return out


def peaks_of(values: np.ndarray) -> np.ndarray:
    """Return the highest value of each of (n, H, W) maps: (n,)."""
    return values.max(axis=(1, 2), initial=0)


def make_masks(values: np.ndarray, peaks: np.ndarray, label_map: np.ndarray, config: PseudoConfig) -> np.ndarray:
    """Cut values by the two thresholds.

    Args:
        values: (n, H, W) from `values_of`.
        peaks: (n,) what counts as 1.
        label_map: (H, W) int, 0 background.
        config: the rules.

    Returns:
        (n, H, W) uint8: 1 of the class, 0 not, 255 ignored. A map without any positive value tells nothing: the class
        must be somewhere, so all of it is ignored, but for what lies outside the cells.
    """
    share = values / np.maximum(peaks, 1e-12)[:, None, None]
    masks = np.where(share >= config.high, 1, np.where(share < config.low, 0, IGNORE)).astype(np.uint8)
    masks[peaks_of(values) <= 0] = IGNORE
    if config.inside_cells:
        masks[:, label_map == 0] = 0
    return masks
