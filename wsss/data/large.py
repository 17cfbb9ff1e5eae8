"""Large images and their masks, read part by part, and as a set of tiles to learn from.

Images are .npy and TIFF, mapped or read tile by tile; masks are run-length text or polygons:

    large     FOLDER/<id>.tif (.tiff, .npy), and FOLDER/train.csv (id,encoding) and/or outlines, FOLDER/<id>.json (or
              .geojson), see `wsss.core.outlines`

Where both are there, the polygons are used, since they separate the objects. Tiles lie side by side; the last ones of a
row or column are moved back into the image.
"""

import itertools
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tifffile

from wsss.core.checks import DataError, some
from wsss.core.console import say_notes
from wsss.core.files import digest_file
from wsss.core.outlines import IN_CORNER, check_crossings, in_corner, read_outlines
from wsss.core.png_jpeg import JPEGS, check_scans
from wsss.core.rasters import MOST_BLOWN_UP, MOST_RATIO, MOST_RATIO_BLANK, files_by_id
from wsss.core.reading import check_regular, named, read_npy
from wsss.core.rle import check_covered, enclosed, fill, parse_pairs
from wsss.core.tiff import CHANNEL_AXES, alpha_places, image_series, kind_of, open_tiff, orientation_of
from wsss.data.masks import ONE_FILE, Contrast, MaskSet, images_of, levels_of, open_masks, read_text_table


class LargeMask(Protocol):
    """The mask of a large image."""

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """Return a part: (y1 - y0, x1 - x0) int32, 0 background, else the number of the object."""


class RunMask:
    """One mask as run-length text down the columns (Kaggle).

    Args:
        text: starts from 1, and lengths.
        size: (H, W) of the image.
        where: what it belongs to, for messages.

    Raises:
        DataError: the text is broken, or leaves the image.
    """

    def __init__(self, text: str, size: tuple[int, int], where: str) -> None:
        starts, stops = parse_pairs(text, size, where)
        self.height = size[0]
        self.edges = np.stack([starts, stops], axis=1).ravel()  # rising: the mask turns on, off, on, ...

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """Return a part: (y1 - y0, x1 - x0) int32 of 0 and 1."""
        columns = np.arange(x0, x1)
        turns = np.zeros((len(columns), y1 - y0), np.int64)
        turns[:, 0] = np.searchsorted(self.edges, columns * self.height + y0, side="right")
        crossed = self.edges[slice(*np.searchsorted(self.edges, [x0 * self.height, x1 * self.height]))]
        column, row = crossed // self.height - x0, crossed % self.height - y0
        inside = (row > 0) & (row < y1 - y0)
        np.add.at(turns, (column[inside], row[inside]), 1)
        return (np.cumsum(turns, axis=1) % 2).T.astype(np.int32)


class PolygonMask:
    """Objects as outlines, see `read_outlines`; where they overlap, the one of the smaller box shows.

    Args:
        path: the file; coordinates are x, y in pixels.
        size: (H, W) of the image.

    Raises:
        DataError: no such file, outlines that leave the image, or that enclose no pixel; see also `check_crossings`.
    """

    def __init__(self, path: Path, size: tuple[int, int]) -> None:
        found = read_outlines(path)
        self.ids, self.objects = found.ids, found.cells
        rings = [[ring for part in shape for ring in part] for shape in self.objects]
        every = list(itertools.chain(*rings))
        points = np.concatenate(every or [np.zeros((0, 2))])
        low, high = points.min(axis=0, initial=size[1]), points.max(axis=0, initial=0)
        reach = f"from {low} to {high} (x, y)"
        if found.size not in (None, size) or (points < -1).any() or (points > [size[1] + 1, size[0] + 1]).any():
            raise DataError(
                f"{path} holds outlines {reach}, its image is {size[1]} wide and {size[0]} high: check that they "
                "belong together."
            )
        check_crossings(every, size, path)
        check_covered(int(sum(map(enclosed, every))), size, path)
        boxes = [np.concatenate([edge.min(axis=0), edge.max(axis=0)]) for edge in map(np.concatenate, rings)]
        self.boxes = np.array(boxes, np.float64).reshape(-1, 4)  # x0, y0, x1, y1
        extent = self.boxes[:, 2:] - self.boxes[:, :2]
        if len(extent) and extent.prod(axis=1).max() < 1:
            raise DataError(f"{path} holds outlines {reach}, none of a pixel: expected pixels of the image.")
        self.order = np.argsort(-extent.prod(axis=1), kind="stable")
        self.is_in_corner = in_corner(len(extent), (low[1], low[0], high[1], high[0]), size)

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """Return a part: (y1 - y0, x1 - x0) int32, of each object its number."""
        out = np.zeros((y1 - y0) * (x1 - x0), np.int32)
        left, top, right, bottom = self.boxes.T
        near = (left < x1) & (right >= x0) & (top < y1) & (bottom >= y0)
        for k in self.order[near[self.order]]:
            for part in self.objects[k]:
                for start, stop in fill([ring - [x0, y0] for ring in part], (y1 - y0, x1 - x0)).tolist():
                    out[start:stop] = self.ids[k]
        return out.reshape(y1 - y0, x1 - x0)


MOST_BLANK = 2**32
"""Values of an image that may be in a small file, as tiles without content."""
KEPT = 64
"""Decoded tiles of a TIFF that are kept, for neighbouring parts overlap."""


PATCHES, PATCH = 8, 128
"""Patches along each axis that are drawn from an image, and their edge in px."""


class LargeImage:
    """An image of which parts are read; of 16 bits, stretched as `levels_of` says of the whole image.

    Args:
        path: a .npy file or a TIFF, tiled or in strips, of 8 or 16 bits; (H, W), (H, W, C) or (C, H, W) with C up to 4.

    Raises:
        DataError: it cannot be read, or is of another kind.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._page: Any = None
        self._colours: int | None = None
        self._inverted = False
        with named(str(path)):
            if path.suffix.lower() != ".npy":
                self._open_tiff()
            pixels = self._map()
        self._mapped = pixels is not None
        described: Any = self._page if pixels is None else pixels
        shape, self._dtype = described.shape, described.dtype.newbyteorder("=")
        self.planes_first = len(shape) == 3 and shape[0] <= 4 < shape[2]
        of_images = self._dtype in (np.uint8, np.uint16) and len(shape) in (2, 3)
        if not of_images or (len(shape) == 3 and min(shape[0], shape[2]) > 4):
            raise DataError(
                f"{path} holds {self._dtype} of shape {tuple(shape)}, expected uint8 or uint16, (H, W) or up to 4 "
                "channels: convert it."
            )
        plane = shape[1:] if self.planes_first else shape[:2]
        self.size: tuple[int, int] = (int(plane[0]), int(plane[1]))
        """(H, W)."""
        pixels_in_all, most = math.prod(shape), max(MOST_BLANK, MOST_RATIO_BLANK * path.stat().st_size)
        if not 0 < pixels_in_all <= most:
            raise DataError(
                f"{path} says it is {' x '.join(map(str, shape))}, expected 1 to {most} values in its bytes."
            )
        self._samples = 1 if len(shape) == 2 else int(shape[0] if self.planes_first else shape[2])
        self.channels = self._colours or self._samples
        """Without transparency."""
        self._segment = lru_cache(KEPT)(self._decode)

    def _open_tiff(self) -> None:
        """Open a TIFF; refuse kinds that cannot be read part by part."""
        self._file = open_tiff(self.path)
        self._series, *others = image_series(self._file)
        if others:
            raise ValueError("it has several pages: expected one page with all channels of a pixel together")
        page: Any = self._series.pages[0]
        self._page, self._plain = page, self._series.dataoffset is not None
        if min(page.chunks) < 1:
            raise ValueError(f"it has tiles of {page.chunks}")
        for axis, n in zip(self._series.axes, self._series.shape, strict=True):
            if axis not in f"YX{CHANNEL_AXES}" and n > 1:
                raise DataError(f"{self.path} is a stack of {n} planes along {axis}, which are no channels: save one.")
        if (kind := kind_of(page)) not in ("MINISBLACK", "MINISWHITE", "RGB"):
            raise DataError(f"{self.path} is a TIFF of kind {kind}, expected grey values or RGB.")
        if orientation_of(page) != 1:
            raise DataError(f"{self.path} is stored turned or mirrored (orientation {orientation_of(page)}): turn it.")
        apart = len(self._series.pages) > 1 or page.planarconfig == tifffile.PLANARCONFIG.SEPARATE
        if apart and not self._plain:
            raise ValueError("channels lie apart: expected one page with all channels of a pixel together")
        self._inverted = kind == "MINISWHITE"
        alpha = alpha_places(page)
        if alpha and min(alpha) >= page.samplesperpixel - len(alpha):
            self._colours = page.samplesperpixel - len(alpha)

    def _map(self) -> np.ndarray | None:
        """Return the pixels as a map of the file; None for a TIFF that has to be decoded."""
        if self._page is None:
            check_regular(self.path)
            return read_npy(self.path, "Save it again as .npy or TIFF of 8 or 16 bits.", mapped=True)
        if not self._plain:
            return None
        series = self._series
        dtype = series.dtype.newbyteorder(self._file.byteorder)
        return np.memmap(self.path, dtype, mode="r", offset=series.dataoffset, shape=series.shape)

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """Return a part: (C, y1 - y0, x1 - x0) uint8, channels first."""
        part = self._stored(y0, y1, x0, x1)
        return part if self._dtype == np.uint8 else self._levels[part]

    @cached_property
    def _levels(self) -> np.ndarray:
        return levels_of(self._drawn(self._stored))

    def _stored(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        pixels = self._map() if self._mapped else None  # opened for each part: pages that were read do not pile up
        if pixels is None:
            part = self._read_segments(y0, y1, x0, x1)
        elif self.planes_first:
            part = np.moveaxis(pixels[:, y0:y1, x0:x1], 0, 2)
        else:
            part = np.array(pixels[y0:y1, x0:x1])
        part = part[..., None] if part.ndim == 2 else part[..., : self.channels]
        part = np.ascontiguousarray(np.moveaxis(part, 2, 0), self._dtype)
        return np.iinfo(self._dtype).max - part if self._inverted else part

    @cached_property
    def drawn(self) -> np.ndarray:
        """Pixels from all over the image, (C, h, w) uint8: patches on a grid, by which its contrast is known."""
        return self._drawn(self.read)

    def _drawn(self, read: Callable[[int, int, int, int], np.ndarray]) -> np.ndarray:
        starts = [np.linspace(0, max(0, length - PATCH), PATCHES).astype(int) for length in self.size]
        rows, columns = map(np.unique, starts)
        height, width = (min(PATCH, length) for length in self.size)
        return np.concatenate([read(y, y + height, x, x + width) for y in rows for x in columns], axis=1)

    def _read_segments(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        edge_y, edge_x = self._page.chunks[:2]
        out = np.zeros((y1 - y0, x1 - x0, self._samples), self._dtype)
        for row in range(y0 // edge_y, -(-y1 // edge_y)):
            for column in range(x0 // edge_x, -(-x1 // edge_x)):
                segment = self._segment(row, column)
                top, left = row * edge_y, column * edge_x
                ys = slice(max(y0, top), min(y1, top + segment.shape[0]))
                xs = slice(max(x0, left), min(x1, left + segment.shape[1]))
                part = segment[ys.start - top : ys.stop - top, xs.start - left : xs.stop - left]
                out[ys.start - y0 : ys.stop - y0, xs.start - x0 : xs.stop - x0] = part
        return out

    def _decode(self, row: int, column: int) -> np.ndarray:
        """Return one tile or strip as (h, w, C); tiles left out of the file are black."""
        index = row * self._page.chunked[1] + column
        handle = self._page.parent.filehandle
        with named(str(self.path)):
            handle.seek(self._page.dataoffsets[index])
            content = handle.read(self._page.databytecounts[index])
            if self._page.compression in JPEGS:
                check_scans([content], str(self.path))
            unpacked = math.prod(self._page.chunks)
            if content and unpacked > max(MOST_BLOWN_UP, MOST_RATIO * len(content)):
                raise DataError(
                    f"{self.path} has a tile or strip that unpacks from {len(content)} to {unpacked} bytes: save it in "
                    "smaller tiles."
                )
            pixels, _, shape = self._page.decode(content or None, index, jpegtables=self._page.jpegtables)
            if pixels is None:
                return np.zeros((*shape[1:3], self._samples), self._dtype)
            return np.asarray(pixels[0, : shape[1], : shape[2]])


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
        """(N,) int: the image that each tile is of, the first of equal files; its tiles stay together in one fold."""
        sizes = [self.paths[name].stat().st_size for name in self.images]
        first: dict[object, int] = {}
        like = [
            first.setdefault((size, digest_file(self.paths[name])) if sizes.count(size) > 1 else k, k)
            for k, (name, size) in enumerate(zip(self.images, sizes, strict=True))
        ]
        return np.array([like[tile.image] for tile in self.tiles], np.int64)

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
    corner = [name for name, truth in truths.items() if isinstance(truth, PolygonMask) and truth.is_in_corner]
    if corner:
        say_notes([f"outlines of {len(corner)} images ({some(corner)}): {': '.join(IN_CORNER)}."])
    return TileSet(folder, paths, truths, tile, channels)


def _grid(size: tuple[int, int], tile: int) -> list[tuple[int, int, int, int]]:
    """Return the boxes y0, y1, x0, x1 of tiles that cover an image."""
    rows, columns = ([min(start, max(0, edge - tile)) for start in range(0, edge, tile)] for edge in size)
    return [(y, min(y + tile, size[0]), x, min(x + tile, size[1])) for y in rows for x in columns]
