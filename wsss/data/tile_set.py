"""Large images with masks as a set of tiles to learn from.

    large     FOLDER/<id>.tif (.tiff, .npy), and FOLDER/train.csv (id,encoding) and/or polygons, FOLDER/<id>.json (or
              .geojson)

Where both are there, the polygons are used, since they separate the objects. Tiles lie side by side; the last ones of a
row or column are moved back into the image.
"""

import os
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from wsss.core.checks import DataError, some
from wsss.core.rasters import files_by_id
from wsss.data.large import LargeImage, LargeMask, PolygonMask, RunMask
from wsss.data.masks import ONE_FILE, Contrast, MaskSet, images_of, open_masks, read_text_table

LARGE = (".tif", ".tiff", ".npy")


@dataclass(frozen=True)
class Tile:
    """A part of a large image."""

    image: int
    """Number of the image."""
    box: tuple[int, int, int, int]
    """y0, y1, x0, x1."""


@lru_cache(maxsize=64)
def _opened(path: Path, process: int) -> LargeImage:
    return LargeImage(path)


class TileSet(MaskSet):
    """Tiles of large images, read on demand.

    Args:
        folder: where the images are.
        paths: ID -> image.
        truths: ID -> mask; images without one can be predicted.
        tile: edge of the tiles, px.
        channels: 1 or 3; images must have as many.
    """

    truths_are = "train.csv or <id>.json; small images go into images/, with masks/ or objects/ beside it"

    def __init__(
        self, folder: Path, paths: dict[str, Path], truths: dict[str, LargeMask], tile: int, channels: int
    ) -> None:
        super().__init__(folder, [], channels)
        self.paths, self.truths = paths, truths
        self._contrasts: dict[str, Contrast] = {}
        self.images = sorted(paths)
        """IDs of the large images."""
        sizes = [_opened(paths[name], os.getpid()).size for name in self.images]
        self.tiles = [Tile(k, box) for k, size in enumerate(sizes) for box in _grid(size, tile)]

    def __len__(self) -> int:
        return len(self.tiles)

    @cached_property
    def ids(self) -> list[str]:
        """The tiles' IDs: that of the image, and the tile's first row and column."""
        return [f"{self.images[tile.image]}_{tile.box[0]}_{tile.box[2]}" for tile in self.tiles]

    @cached_property
    def has_truth(self) -> np.ndarray:
        """(N,) bool: whether the mask of a tile is known."""
        return np.array([self.images[tile.image] in self.truths for tile in self.tiles], bool)

    @cached_property
    def groups(self) -> np.ndarray:
        """(N,) int: the image that each tile is of; its tiles stay together in one fold."""
        return np.array([tile.image for tile in self.tiles], np.int64)

    def areas(self, label_map: np.ndarray) -> np.ndarray:
        """Return the pixels of each object of a label map that no edge of the tile may cut, (n,)."""
        label_map = label_map.copy()
        edges = np.concatenate([label_map[0], label_map[-1], label_map[:, 0], label_map[:, -1]])
        label_map[np.isin(label_map, edges)] = 0
        return super().areas(label_map)

    def paths_of(self, tiles: list[int]) -> dict[str, Path]:
        """Return ID -> file of the images that these tiles are of."""
        names = sorted({self.images[self.tiles[i].image] for i in tiles})
        return {name: self.paths[name] for name in names}

    def _large(self, i: int) -> LargeImage:
        """Return the image of tile i; one handle a process: those of a forked loader would move each other's place."""
        return _opened(self.paths[self.images[self.tiles[i].image]], os.getpid())

    def contrast(self, i: int, image: np.ndarray) -> Contrast:
        """Return the contrast of the image that tile i, which is `image`, is of."""
        name = self.images[self.tiles[i].image]
        if name not in self._contrasts:
            self._contrasts[name] = Contrast.of(self._large(i).drawn)
        return self._contrasts[name]

    def image(self, i: int) -> np.ndarray:
        """Return tile i as (channels, h, w) uint8."""
        large = self._large(i)
        if large.channels != self.channels:
            raise DataError(
                f"{large.path} has {large.channels} channels, expected {self.channels}: see masks.channels."
            )
        return large.read(*self.tiles[i].box)

    def label_map(self, i: int) -> np.ndarray:
        """Return the objects of tile i: (h, w) int32, 0 background.

        Raises:
            DataError: its mask is not known.
        """
        name = self.images[self.tiles[i].image]
        if name not in self.truths:
            raise DataError(f"{self.paths[name]} has no mask: it can be predicted, but not trained on.")
        return self.truths[name].read(*self.tiles[i].box)

    def ignored(self, i: int) -> np.ndarray:
        """Return the (h, w) bool pixels of tile i that must not count: none."""
        y0, y1, x0, x1 = self.tiles[i].box
        return np.zeros((y1 - y0, x1 - x0), bool)


def open_set(folder: Path, channels: int, tile: int) -> MaskSet:
    """Open images with masks in whichever layout the folder has: large images as tiles, others as they are.

    Raises:
        DataError: see `open_masks` and `open_tiles`.
    """
    is_large = not (folder / "images").is_dir() and bool(files_by_id(folder, LARGE, ONE_FILE))
    return open_tiles(folder, channels, tile) if is_large else open_masks(folder, channels)


def open_tiles(folder: Path, channels: int, tile: int) -> TileSet:
    """Open the large images of a folder, with their masks checked whole.

    Raises:
        DataError: a file is broken, or in one place only; see `RunMask` and `PolygonMask`.
    """
    paths, polygons = images_of(folder, LARGE), files_by_id(folder, (".json", ".geojson"), ONE_FILE)
    runs: dict[str, str] = {}
    if (folder / "train.csv").exists():
        table = read_text_table(folder / "train.csv", ("id", "encoding"))
        runs = dict(zip(table["id"], table["encoding"], strict=True))
    for where, ids in (("train.csv", runs), ("the .json files", polygons)):
        if alone := sorted(set(ids) - set(paths)):
            raise DataError(f"{folder}: {some(alone)} of {where} has no image: add it, or take it out.")
    truths: dict[str, LargeMask] = {}
    for name, path in paths.items():
        size = _opened(path, os.getpid()).size
        if name in polygons:
            truths[name] = PolygonMask(polygons[name], size)
        elif name in runs:
            truths[name] = RunMask(runs[name], size, f"the encoding of {name} in {folder / 'train.csv'}")
    return TileSet(folder, paths, truths, tile, channels)


def _grid(size: tuple[int, int], tile: int) -> list[tuple[int, int, int, int]]:
    """Return the boxes y0, y1, x0, x1 of tiles that cover an image."""
    rows, columns = ([min(start, max(0, edge - tile)) for start in range(0, edge, tile)] for edge in size)
    return [(y, min(y + tile, size[0]), x, min(x + tile, size[1])) for y in rows for x in columns]
