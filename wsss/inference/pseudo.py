"""Class maps of a run on the images it learns from: the first half of pseudo-masks."""

from collections.abc import Iterator

import numpy as np

from wsss.cells.pseudo_masks import peaks_of, refine, values_of
from wsss.cells.scoring import resize
from wsss.core.checks import ConfigError, DataError
from wsss.core.device import Device
from wsss.data.catalog import DataSet
from wsss.data.cell_maps import read_cells
from wsss.inference.checkpoints import CamCheckpoint, Plan, plan_oof
from wsss.inference.views import view_maps
from wsss.options.pseudo import PseudoConfig
from wsss.options.scoring import TtaConfig

GRID = 4
"""Maps are kept, and refined, at a pixel for so many of the stored image."""


def plan_pseudo(members: list[CamCheckpoint], data: DataSet, *, oof: bool) -> dict[str, Plan]:
    """Decide which network makes the maps of which images, by name of the folder they go into.

    Out of fold there is one folder, 'oof', in which each image's maps are by the network that held it out; together
    they have seen the labels of all images. Otherwise each network has a folder of its own, named as its run's, with
    the images it was trained on: no label of the images that it held out reaches the maps.

    Raises:
        ConfigError: two networks of one name.
        DataError: see `plan_oof`; or a network was trained on images that the data set lacks.
    """
    if oof:
        return {"oof": plan_oof(members, data)}
    found: dict[str, Plan] = {}
    for member in members:
        trained_on = frozenset(member.record.train_ids)
        own = [i for i, name in enumerate(data.ids) if data.ok[i] and name in trained_on]
        if len(own) < len(trained_on):
            raise DataError(
                f"{member.path} was trained on {len(trained_on)} images, of which {data.folder} has {len(own)}: "
                "pass the data set that it was trained on."
            )
        if member.path.name in found:
            raise ConfigError(f"{member.path} is the second network named {member.path.name}: pass one run.")
        found[member.path.name] = [([member], own)]
    return found


def cells_of(data: DataSet, index: int, config: PseudoConfig) -> np.ndarray:
    """Return the cells of an image at stored size; 1 in all of its content where cell masks do not count.

    Raises:
        DataError: there are no cells.
    """
    geometry = data.geometry(index)
    if config.inside_cells:
        return geometry.labels_to_store(read_cells(data, index))
    content = np.zeros((data.size, data.size), np.int32)
    content[: geometry.content_height, : geometry.content_width] = 1
    return content


def label_maps(
    data: DataSet,
    members: list[CamCheckpoint],
    indices: list[int],
    tta: TtaConfig,
    config: PseudoConfig,
    device: Device,
    *,
    batch: int,
    skip: set[int],
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield (index, maps (n, g, g) float32, peaks (n,)) of the classes that each image bears; g is size / GRID.

    Images of `skip` are left out; batches are cut before that, so that what they hold does not depend on it.
    """
    size = (data.size // GRID, data.size // GRID)
    for first in range(0, len(indices), batch):
        own = indices[first : first + batch]
        if set(own) <= skip:
            continue
        images = np.stack([data.image(i) for i in own])
        cells = [_cells_or_none(data, i, config) for i in own]
        averaged = [view_maps(member.net, images, device, tta, cells)[0] for member in members]
        maps = np.mean(averaged, axis=0)  # (B, K, h, w)
        for b, i in enumerate(own):
            found = cells[b]
            if found is None or i in skip:
                continue
            positive = np.maximum(resize(maps[b][data.labels[i] > 0], size), 0)
            positive = refine(positive, _shrunk(images[b]), config)
            yield i, positive, peaks_of(values_of(positive, found, config))


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
