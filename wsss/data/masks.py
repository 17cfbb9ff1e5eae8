"""Images with masks as they come: Kaggle's salt layout, the Bowl's layout, or plain folders. Nothing is guessed.

    salt      FOLDER/images/<id>.png, FOLDER/train.csv (id,rle_mask), and/or FOLDER/masks/<id>.png; FOLDER/depths.csv
    bowl      FOLDER/<id>/images/<one file>, FOLDER/<id>/masks/*.png, one object a file
    folders   FOLDER/images/<id>.*, FOLDER/masks/<id>.*, and FOLDER/ignore/<id>.* for pixels that must not count
    objects   FOLDER/images/<id>.*, FOLDER/objects/<id>.*, label maps with a number for each object; before masks/

Masks may be named <id>_mask, _masks, _label or _labels. They are 0 and 255 (or 1, or 65535). Images without any mask
can be predicted, but are not trained on.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from wsss.cells.instances import DOUBTS, MOST_BORDER, doubts_of, renumber, split_pieces
from wsss.core.checks import DataError, some
from wsss.core.console import say_notes
from wsss.core.csv_text import read_text
from wsss.core.files import MASK_SET, composed, digest_bytes, digest_json, not_that
from wsss.core.label_maps import given_maps, has_odd_palette, read_label_map
from wsss.core.rasters import LOSSY, SUFFIXES, UNREAD, Raster, files_by_id, image_names, open_raster
from wsss.core.rle import decode_pairs
from wsss.data.ids import MASK_ENDINGS, by_products, result_notes, unread_notes

FULL = (1, 255, 65535)
"""Values that stand for the object in a mask; one of them, besides 0."""
ONE_FILE = ": expected one file of each ID."


@dataclass(frozen=True)
class Contrast:
    """How the greys of an image are stretched, so that dim images and those of bright ground look like the others."""

    low: float
    """Grey that becomes 0."""
    high: float
    """Grey that becomes 255."""
    inverted: bool
    """Whether the picture is turned dark for bright, before all else."""

    @classmethod
    def of(cls, image: np.ndarray) -> "Contrast":
        """Choose the contrast of a (C, H, W) uint8 image, or of pixels drawn from it."""
        greys = image.mean(axis=0, dtype=np.float32)
        inverted = bool(np.median(greys) > BRIGHT_GROUND)
        low, high = np.percentile(255 - greys if inverted else greys, STRETCHED)
        return cls(float(low), float(max(high, low + LEAST_CONTRAST)), inverted)

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Return the stretched (C, H, W) uint8 image."""
        levels = np.arange(256)
        levels = 255 - levels if self.inverted else levels
        table = np.clip((levels - self.low) / (self.high - self.low), 0, 1) * 255
        return np.rint(table).astype(np.uint8)[image]


STRETCHED = (1, 99.8)
"""Percentiles of an image's greys that become 0 and 255."""
LEAST_CONTRAST = 10
"""Greys between them at least: an image of noise alone stays one."""
BRIGHT_GROUND = 128
"""Median grey from which the ground is bright."""


def levels_of(pixels: np.ndarray) -> np.ndarray:
    """Return what each grey of 16 bits becomes in 8, (65536,) uint8: STRETCHED of uint16 `pixels` are 0 and 255."""
    low, high = np.percentile(pixels, STRETCHED)
    scale = 255 / max(high - low, LEAST_CONTRAST)
    return np.rint(np.clip((np.arange(2**16) - low) * scale, 0, 255)).astype(np.uint8)


def read_picture(path: Path, channels: int) -> np.ndarray:
    """Read a picture as (channels, H, W) uint8, grey (1) or colour (3); transparency is dropped.

    Of 16 bits, which cameras fill to their own depth, the darkest and brightest greys of the picture become 0 and 255,
    see `levels_of`.

    Raises:
        DataError: it cannot be read, is of another type than 8 or 16 bits, or has other channels than grey or RGB.
    """
    with open_raster(path, where=str(path)) as raster:
        pixels, header = raster.shown(), raster.header
    if pixels.dtype not in (np.uint8, np.uint16) or header.photometric or header.samples not in (1, 3):
        kind = header.photometric or f"{header.samples} x {header.dtype}"
        raise DataError(
            f"{path} is a picture of kind {kind}, expected one of uint8 or uint16, grey or colour (1 or 3): convert it."
        )
    pixels = pixels[..., : 3 if raster.colours is not None else header.samples]
    if pixels.dtype == np.uint16:
        pixels = levels_of(pixels)[pixels]
    if pixels.shape[-1] == channels:
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))
    if channels == 3:
        return np.ascontiguousarray(np.repeat(pixels.transpose(2, 0, 1), 3, axis=0))
    return np.array(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))[None]


def read_mask(path: Path, size: tuple[int, int], image: Path) -> np.ndarray:
    """Read a mask as (H, W) bool: 0 and one of 1, 255 and 65535, of any type; an empty or a full one is a mask too.

    Args:
        size: (H, W) that it must have.
        image: the picture it belongs to, for messages.

    Raises:
        DataError: it cannot be read, has another size or other values.
    """
    with open_raster(path, where=str(path), blank=[size]) as raster:
        _check_size(path, (raster.header.height, raster.header.width), size, image)
        values = _mask_values(raster.plane(path, "a grey one of 0 and 255"), raster, path)
    present = np.unique(values)
    if not any(set(present.tolist()) <= {0, full} for full in FULL):
        raise DataError(
            f"{path} holds the values {some(present)}, expected 0 and one of 1, 255 and 65535: save it as such a mask, "
            "or a label map, with a number for each object, in objects/ instead of masks/."
        )
    return np.asarray(values > 0)


def _check_size(path: Path, found: tuple[int, int], size: tuple[int, int], image: Path) -> None:
    if found != size:
        raise DataError(
            f"{path} is {found[0]} x {found[1]}, its image {image} is {size[0]} x {size[1]}: image and mask must match."
        )


def _mask_values(places: np.ndarray, raster: Raster, path: Path) -> np.ndarray:
    """Return (H, W) numbers, of a palette the greys that it stands for; its places where it holds other colours."""
    if raster.colours is None:
        return places
    used = np.unique(places)
    colours = raster.colours_of(used)
    if colours is None:
        return places
    if (colours == colours[:, :1]).all():
        return np.asarray(colours[np.searchsorted(used, places), 0])
    if used[0] == 0 and colours[0].sum() > colours.sum(axis=1).min():
        raise DataError(f"{path} has a palette whose colour 0 is not the darkest: save the mask as grey 0 and 255.")
    return places


def read_text_table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """Read a table with these columns as text, nothing turned into numbers or NaN.

    Raises:
        DataError: it cannot be read, lacks a column, or names an ID twice.
    """
    table = read_text(path, columns)
    table[columns[0]] = image_names(table[columns[0]].tolist(), path)
    twice = table[columns[0]][table[columns[0]].duplicated()]
    if len(twice):
        raise DataError(f"{path} names {some(twice.unique())} more than once.")
    return table


@dataclass(frozen=True)
class MaskItem:
    """Where an image, its mask and its ignored pixels are stored."""

    id: str
    image: Path
    masks: tuple[Path, ...] | None
    """Pictures of its objects, or of all of them together; None where nothing is known."""
    runs: str | None = None
    """Run-length text of its mask, counted down the columns."""
    objects: Path | None = None
    """Label map of its objects."""
    ignore: Path | None = None
    """Picture of the pixels that must not count."""

    @property
    def has_truth(self) -> bool:
        """Whether its mask is known; it may be empty."""
        return self.masks is not None or self.runs is not None or self.objects is not None


class MaskSet:
    """Images with their masks, read on demand; label maps are cached, 2 bytes a pixel.

    Args:
        items: sorted by ID.
        channels: 1 for grey, 3 for colour; images are converted to it.
    """

    truths_are = "masks/, objects/ or train.csv"
    """Where its masks would be."""

    def __init__(self, folder: Path, items: list[MaskItem], channels: int = 3) -> None:
        self.folder, self.items, self.channels = folder, items, channels
        self._maps: dict[int, np.ndarray] = {}
        self._prints: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def ids(self) -> list[str]:
        """The images' IDs."""
        return [item.id for item in self.items]

    @cached_property
    def has_truth(self) -> np.ndarray:
        """(N,) bool: whether the mask of an image is known."""
        return np.array([item.has_truth for item in self.items], bool)

    @cached_property
    def groups(self) -> np.ndarray:
        """(N,) int: images of one number stay together in one fold; those with masks whose grey pixels are the same."""
        first: dict[str, int] = {}
        known = np.flatnonzero(self.has_truth).tolist()
        prints = {i: self._prints[i] if i in self._prints else self._print(i, self._grey(i)) for i in known}
        return np.array([first.setdefault(prints.get(i) or str(i), i) for i in range(len(self))], np.int64)

    def areas(self, label_map: np.ndarray) -> np.ndarray:
        """Return the pixels of each object of a label map, (n,)."""
        return np.unique(label_map[label_map > 0], return_counts=True)[1]

    @property
    def twins(self) -> dict[str, str]:
        """ID -> key of the field: images with the same key stay in one fold."""
        return dict(zip(self.ids, map(str, self.groups.tolist()), strict=True))

    def image(self, i: int) -> np.ndarray:
        """Return image i as (channels, H, W) uint8."""
        return read_picture(self.items[i].image, self.channels)

    def contrast(self, i: int, image: np.ndarray) -> Contrast:
        """Return the contrast of image i, which is `image`, for networks that see stretched images."""
        return Contrast.of(image)

    def label_map(self, i: int) -> np.ndarray:
        """Return the objects of image i: (H, W) int32, 0 background; 1 everywhere in a mask without objects.

        Where objects overlap, the smaller one shows, so that each keeps its own pixels.

        Raises:
            DataError: a mask of another size or with other values, a broken run-length text, or no mask at all.
        """
        if i not in self._maps:
            label_map = self._read(i)
            self._maps[i] = label_map.astype(np.uint16) if label_map.max(initial=0) <= 65535 else label_map
        return self._maps[i].astype(np.int32)

    def ignored(self, i: int) -> np.ndarray:
        """Return the (H, W) bool pixels of image i that must not count."""
        path, size = self.items[i].ignore, self._size(i)
        return np.zeros(size, bool) if path is None else read_mask(path, size, self.items[i].image)

    def _size(self, i: int) -> tuple[int, int]:
        return self._maps[i].shape if i in self._maps else self.image(i).shape[1:]

    def _grey(self, i: int) -> np.ndarray:
        return read_picture(self.items[i].image, 1)[0]

    def _print(self, i: int, grey: np.ndarray) -> str:
        """Return, and keep, what identifies the pixels of image i; '' for one without anything to see."""
        self._prints[i] = digest_bytes(grey.tobytes()) + str(grey.shape) if np.ptp(grey) else ""
        return self._prints[i]

    def _read(self, i: int) -> np.ndarray:
        item, grey = self.items[i], self._grey(i)
        size = (grey.shape[0], grey.shape[1])
        self._print(i, grey)
        if item.objects is not None:
            return read_objects(item.objects, size, item.image)
        if item.masks is not None:
            return stack_objects((read_mask(path, size, item.image) for path in item.masks), size)
        if item.runs is None:
            raise DataError(f"{item.image} has no mask: it can be predicted, but not trained on.")
        return decode_pairs(item.runs, size, where=f"the rle_mask of {item.id} in {self.folder / 'train.csv'}").astype(
            np.int32
        )


PIECES = 2
"""Pieces of an object, on average, from which on a label map shows masks or classes and no objects."""


def read_objects(path: Path, size: tuple[int, int], image: Path) -> np.ndarray:
    """Read a label map of objects as (H, W) int32, 0 background, numbered from 1 without gaps in their order.

    Args:
        path, size, image: as of `read_mask`.

    Raises:
        DataError: it cannot be read, has another size, or one number for several objects or for the background.
    """
    label_map = read_label_map(path, size)
    _check_size(path, (label_map.shape[0], label_map.shape[1]), size, image)
    numbered = renumber(label_map)[0]
    doubts = [*doubts_of(label_map), *(["palette"] if has_odd_palette(path, size) else [])]
    for doubt in doubts:
        kind, _, number = doubt.partition("=")
        in_pieces = kind == "pieces" and split_pieces(label_map).max() >= PIECES * numbered.max()
        if in_pieces or kind in ("border", "palette", "wrapped"):
            what, _, way_out = DOUBTS[kind]
            raise DataError(f"{path}: {what.format(number)}: {way_out.format(number)}; masks belong in masks/.")
    return numbered


def stack_objects(masks: Iterable[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Number (H, W) bool masks from 1 in order; a pixel of several is of the smallest, of equal ones of the last."""
    pixels = math.prod(size)
    out, areas = np.zeros(pixels, np.int32), np.full(pixels, pixels)  # the object of each pixel, and its area
    for k, mask in enumerate(masks, 1):
        inside = np.flatnonzero(mask)
        ours = inside[areas[inside] >= inside.size]
        out[ours], areas[ours] = k, inside.size
    return out.reshape(size)


def open_masks(folder: Path, channels: int = 3) -> MaskSet:
    """Open a set of images with masks, whichever of the layouts it has.

    Raises:
        DataError: no such layout, an ID that is in one table or folder only, several files of one ID.
    """
    if not folder.is_dir():
        items = []
    elif (folder / "images").is_dir():
        by_runs = (folder / "train.csv").exists() and not (folder / "objects").is_dir()
        items = _salt(folder) if by_runs else _folders(folder)
    else:
        items = _bowl(folder)
    if not items:
        raise DataError(
            f"{not_that(folder, MASK_SET)}: choose the folder above images/ (with masks/, objects/ or train.csv) or "
            "<id>/images/."
        )
    return MaskSet(folder, sorted(items, key=lambda item: item.id), channels)


def _bowl(folder: Path) -> list[MaskItem]:
    items = []
    for subfolder in sorted(path for path in folder.iterdir() if (path / "images").is_dir()):
        pictures = _pictures(subfolder / "images")
        if len(pictures) != 1:
            raise DataError(f"{subfolder / 'images'} holds {len(pictures)} pictures, expected one.")
        masks = tuple(_pictures(subfolder / "masks").values()) if (subfolder / "masks").is_dir() else None
        items.append(MaskItem(composed(subfolder.name), next(iter(pictures.values())), masks))
    return items


def _folders(folder: Path) -> list[MaskItem]:
    images, ignore = images_of(folder / "images"), _pictures(folder / "ignore")
    _known_ids(ignore, images, "ignore/", "images/", folder)
    items = [MaskItem(name, path, None, ignore=ignore.get(name)) for name, path in images.items()]
    if (folder / "objects").is_dir():
        given = folder / "objects"
        lossy = {name: path for name, path in files_by_id(given, LOSSY, ONE_FILE).items() if name in images}
        maps = _named_like(images, lossy | given_maps(given), given)  # that it is a JPEG is said when it is read
        _same_ids(images, maps, "images/", "objects/", folder)
        return [replace(item, objects=maps[item.id]) for item in items]
    if not (folder / "masks").is_dir():
        return items
    masks = _named_like(images, _pictures(folder / "masks"), folder / "masks")
    _same_ids(images, masks, "images/", "masks/", folder)
    return [replace(item, masks=(masks[item.id],)) for item in items]


def _salt(folder: Path) -> list[MaskItem]:
    images = images_of(folder / "images")
    masks = _named_like(images, _pictures(folder / "masks"), folder / "masks")
    table = read_text_table(folder / "train.csv", ("id", "rle_mask"))
    runs = dict(zip(table.id, table.rle_mask, strict=True))
    _same_ids(images, runs, "images/", "train.csv", folder)
    if masks:
        _same_ids(images, masks, "images/", "masks/", folder)
    if (folder / "depths.csv").exists():
        depths: pd.Series = read_text_table(folder / "depths.csv", ("id", "z")).id
        _known_ids(images, depths.tolist(), "train.csv", "depths.csv", folder)
    return [
        MaskItem(name, path, (masks[name],) if masks else None, None if masks else runs[name])
        for name, path in images.items()
    ]


def _pictures(folder: Path) -> dict[str, Path]:
    """Return ID -> picture of a folder, which may be missing."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    unread = [name for name in names if name.lower().endswith((*UNREAD, ".npy", ".npz"))]
    if other := sorted(name for name in unread if name[0] != "." and not name.endswith("_seg.npy")):
        raise DataError(f"{folder} holds {some(other, 3)}, which is no form of picture that is read: save it as PNG.")
    return files_by_id(folder, SUFFIXES, ONE_FILE)


def images_of(folder: Path, endings: Collection[str] = SUFFIXES) -> dict[str, Path]:
    """Return ID -> picture of a folder of images; results of programs that segment are left out, and told."""
    pictures = files_by_id(folder, endings, ONE_FILE)
    results = by_products(pictures)
    unread = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    say_notes([*result_notes(results), *unread_notes(unread)])
    return {name: path for name, path in pictures.items() if name not in results}


def _named_like(images: Collection[str], files: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """Return ID -> file of a folder of masks; a file that no image is named like may have an ending: <ID>_mask."""
    found: dict[str, Path] = {}
    for name, path in files.items():
        heads = [name.removesuffix(ending) for ending in ("_cp_masks", "_seg", *MASK_ENDINGS) if name.endswith(ending)]
        ID = name if name in images else next((head for head in heads if head in images), name)
        if ID in found:
            raise DataError(f"{folder} holds {found[ID].name} and {path.name}{ONE_FILE}")
        found[ID] = path
    return found


def _same_ids(a: Iterable[str], b: Iterable[str], name_a: str, name_b: str, folder: Path) -> None:
    _known_ids(a, b, name_a, name_b, folder)
    _known_ids(b, a, name_b, name_a, folder)


def _known_ids(ids: Iterable[str], known: Iterable[str], where: str, missing_in: str, folder: Path) -> None:
    alone = sorted(set(ids) - set(known))
    if alone:
        raise DataError(f"{folder}: {some(alone)} of {where} is not in {missing_in}: add it there, or take it out.")


LEAST_SHARE = 0.005
"""Share of the objects with masks that may be smaller than the least that is predicted: specks of an annotator."""


@dataclass(frozen=True)
class Survey:
    """What reading every mask once has shown; a faulty mask is reported then."""

    coverage: np.ndarray
    """(N,) share of each image that is mask; NaN where it is unknown."""
    sizes: np.ndarray
    """(N, 2) height and width; 0 where the mask is unknown."""
    areas: list[np.ndarray]
    """Of each image: the pixels of each of its objects; none where the mask is unknown."""

    def least_object(self, indices: np.ndarray) -> int:
        """Return the size, px, that all but LEAST_SHARE of the objects of some images reach.

        It is 0 where no image holds several objects: their masks are then areas, which may have any size.
        """
        areas = [self.areas[i] for i in indices]
        if max(map(len, areas), default=0) < 2:
            return 0
        return int(np.quantile(np.concatenate(areas), LEAST_SHARE, method="lower"))


def survey(masks: MaskSet) -> Survey:
    """Read every mask; a note says if all look inverted, the mask lying around what it should show.

    Raises:
        DataError: a mask is invalid, or there is none at all.
    """
    coverage, sizes = np.full(len(masks), np.nan), np.zeros((len(masks), 2), np.int64)
    areas = [np.zeros(0, np.int64)] * len(masks)
    around: list[bool] = []
    for i in np.flatnonzero(masks.has_truth):
        label_map = masks.label_map(int(i))
        coverage[i], sizes[i] = (label_map > 0).mean(), label_map.shape
        areas[i] = masks.areas(label_map)
        if 0 < coverage[i] < 1:
            sides = np.concatenate([label_map[0], label_map[-1], label_map[:, 0], label_map[:, -1]])
            around.append(float((sides > 0).mean()) > MOST_BORDER)
    if not masks.has_truth.any():
        raise DataError(f"{masks.folder} has no mask to learn from: add {masks.truths_are}.")
    if len(around) > 1 and all(around):
        say_notes([f"{masks.folder}: all masks cover the borders of their images: if they are inverted, invert them."])
    return Survey(coverage, sizes, areas)


def folds_digest(ids: list[str], folds: np.ndarray) -> str:
    """Return the digest of a division into folds."""
    return digest_json(dict(zip(ids, folds.tolist(), strict=True)))
