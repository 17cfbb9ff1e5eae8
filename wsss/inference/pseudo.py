"""Class maps of a run on the images it learns from: the first half of pseudo-masks."""

from collections.abc import Iterator

import numpy as np
from skimage.segmentation import random_walker

from wsss.cells.regions import cell_means, group_pixels
from wsss.cells.scoring import resize
from wsss.core.checks import ConfigError, DataError
from wsss.data.catalog import DataSet
from wsss.inference.checkpoints import CamCheckpoint, Plan, plan_oof
from wsss.inference.sources import batches_of
from wsss.models.cam_net import class_maps
from wsss.models.device import Device
from wsss.options.masks import IGNORE
from wsss.options.pseudo import PseudoConfig, PseudoOptions

GRID = 4
"""Maps are kept, and refined, at one pixel for this many of the stored image."""


def plan_pseudo(checkpoints: list[CamCheckpoint], data: DataSet, *, oof: bool) -> dict[str, Plan]:
    """Decide which network makes the maps of which images, by name of the folder they go into.

    Out of fold there is one folder, 'oof', in which each image's maps are by the network that held it out; together
    they have seen the labels of all images. Otherwise each network has its folder, named as its run's, with
    the images it was trained on: no label of the images that it held out reaches the maps.

    Raises:
        ConfigError: two networks of one name.
        DataError: see `plan_oof`; or a network was trained on images that the data set lacks.
    """
    if oof:
        return {"oof": plan_oof(checkpoints, data)}
    plans: dict[str, Plan] = {}
    for checkpoint in checkpoints:
        trained_on = frozenset(checkpoint.record.train_ids)
        learnt = [i for i, name in enumerate(data.ids) if data.ok[i] and name in trained_on]
        if len(learnt) < len(trained_on):
            raise DataError(
                f"{checkpoint.path} was trained on {len(trained_on)} images, of which {data.folder} has {len(learnt)}: "
                "pass the data set that it was trained on."
            )
        if checkpoint.path.name in plans:
            raise ConfigError(f"{checkpoint.path} is the second network named {checkpoint.path.name}: pass one run.")
        plans[checkpoint.path.name] = [([checkpoint], learnt)]
    return plans


def cells_of(data: DataSet, index: int, config: PseudoConfig) -> np.ndarray:
    """Return the cells of an image at stored size; 1 in all of its content where cell masks do not count.

    Raises:
        DataError: there are no cells.
    """
    geometry = data.geometry(index)
    if config.inside_cells:
        return geometry.labels_to_store(data.cells(index))
    content = np.zeros((data.size, data.size), np.int32)
    content[: geometry.content_height, : geometry.content_width] = 1
    return content


def label_maps(
    data: DataSet,
    checkpoints: list[CamCheckpoint],
    indices: list[int],
    options: PseudoOptions,
    device: Device,
    skip: set[int],
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield (index, maps (n, g, g) float32, peaks (n,)) of the classes that each image bears; g is size / GRID.

    Images of `skip` are left out.
    """
    size = (data.size // GRID, data.size // GRID)
    for chosen in batches_of(indices, options.batch, skip):
        images = np.stack([data.image(i) for i in chosen])
        cells = [_cells_or_none(data, i, options.pseudo) for i in chosen]
        averaged = [class_maps(checkpoint.net, images, device, options.tta)[0] for checkpoint in checkpoints]
        maps = np.mean(averaged, axis=0)  # (B, K, h, w)
        for b, i in enumerate(chosen):
            label_map = cells[b]
            if label_map is None or i in skip:
                continue
            positive = np.maximum(resize(maps[b][data.labels[i] > 0], size), 0)
            positive = refine(positive, _shrunk(images[b]), options.pseudo)
            yield i, positive, peaks_of(values_of(positive, label_map, options.pseudo))


def _cells_or_none(data: DataSet, index: int, config: PseudoConfig) -> np.ndarray | None:
    try:
        return cells_of(data, index, config)
    except DataError:
        return None


def _shrunk(image: np.ndarray) -> np.ndarray:
    """Average a (C, S, S) image over blocks of GRID x GRID: float32."""
    c, s, _ = image.shape
    blocks = image.reshape(c, s // GRID, GRID, s // GRID, GRID)
    return blocks.mean(axis=(2, 4), dtype=np.float32)


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

    Returns:
        (n, h, w) float32: averages of neighbours (adaptive), or the peak times the probability that a walk ends in
        the sure pixels of the class (walk).
    """
    if config.refine == "adaptive":
        return adaptive(maps, image.astype(np.float32))
    if config.refine == "walk":
        return np.stack([_walk(one, image, config) for one in maps]) if len(maps) else maps
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
    probs = random_walker(scaled, seeds, mode="cg_j", channel_axis=-1, return_full_prob=True, prob_tol=0.1)
    return np.asarray(np.clip(probs[1], 0, 1) * peak, np.float32)  # the solver is iterative, and off by some 1e-3


def values_of(maps: np.ndarray, label_map: np.ndarray, config: PseudoConfig) -> np.ndarray:
    """Return what the thresholds are compared with: (n, H, W) float32, 0 outside the cells where they count.

    Args:
        maps: (n, h, w) float32, not below 0; resized to the label map.
        label_map: (H, W) int, 0 background.
    """
    values = resize(maps, label_map.shape)
    if config.paint == "cells":
        values = _painted(values, label_map)
    return np.where(label_map > 0, values, 0).astype(np.float32) if config.inside_cells else values


def _painted(values: np.ndarray, label_map: np.ndarray) -> np.ndarray:
    """Give every pixel of a cell the mean of the cell, in each of (n, H, W) maps; 0 outside the cells."""
    cells, out = group_pixels(label_map), np.zeros_like(values)
    for plane, painted in zip(values, out, strict=True):
        painted.ravel()[cells.order] = np.repeat(cell_means(plane.ravel()[cells.order], cells), cells.sizes)
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

    Returns:
        (n, H, W) uint8: 1 of the class, 0 not, 255 ignored. A map without any positive value says nothing: the class
        must be somewhere, so all of it is ignored, but for what lies outside the cells.
    """
    share = values / np.maximum(peaks, 1e-12)[:, None, None]
    masks = np.where(share >= config.high, 1, np.where(share < config.low, 0, IGNORE)).astype(np.uint8)
    masks[peaks_of(values) <= 0] = IGNORE
    if config.inside_cells:
        masks[:, label_map == 0] = 0
    return masks
