"""Predicted masks as they are read again: with their images, their true masks, and what a comparison tells.

An image is asked for by its ID. Images larger than memory (`LargePredicted`) are read in parts and shown shrunk.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wsss.cells.instances import mask_channel
from wsss.core.checks import ConfigError, DataError, some
from wsss.core.csv_text import read_text, unguard_text
from wsss.core.files import check_seal, read_record
from wsss.core.label_maps import find_label_map, read_label_map
from wsss.core.reading import read_npy
from wsss.data.large import LargeImage, LargeMask, TileSet, open_set
from wsss.data.masks import MaskSet
from wsss.metrics.instances import (
    HIT,
    INVENTED,
    MISSED,
    Compared,
    Hits,
    MaskScore,
    Overlap,
    compare_objects,
    hits,
    overlap,
    overlap_of_masks,
    score_mask,
    score_pixels,
)
from wsss.options.report import ReportOptions
from wsss.reports.masks import FOUND, pack_masks
from wsss.reports.overlay import fit, scale_bar
from wsss.reports.page import Field
from wsss.runs.inputs import Digests
from wsss.runs.result_record import check_entry, check_recorded, files_of_record, record_of, there_now

AGAIN = "Run infer again to make it."
"""The way out where a file of the predictions is missing or damaged."""

PART = 2048
"""Edge of the parts that are read at once, px."""
TILE = 1024
"""Edge of the tiles in which folders of large images are opened; none is read."""


def image_table(preds: Path) -> pd.DataFrame:
    """Read images.csv of predicted masks as text: ID and status, and what else there is."""
    check_recorded(preds / "images.csv")
    return unguard_text(read_text(preds / "images.csv", ("ID", "status")))


def predicted_map(preds: Path, name: str, record: dict[str, Any]) -> np.ndarray:
    """Return the predicted objects of an image, (H, W) int32; a mask that is not parted is object 1."""
    probs = preds / "probs" / f"{name}.npy"  # not compressed: its size is the image's
    sizes = [read_npy(probs, AGAIN, mapped=True).shape[1:]] if probs.exists() else []
    if record["segmentation"]["objects"]:
        return read_label_map(find_label_map(preds / "objects", name), *sizes)
    return (read_label_map(preds / "masks" / f"{name}.png", *sizes) > 0).astype("int32")


def predicted_probs(preds: Path, name: str, files: Mapping[str, Sequence[str]]) -> np.ndarray:
    """Return the predicted maps of an image, (K, H, W) float32 in [0, 1]; `files` as of `files_of_record`."""
    path = preds / "probs" / f"{name}.npy"
    check_entry(path, preds, files)
    probs = read_npy(path, AGAIN)
    check_seal(path, AGAIN)
    return probs.astype("float32") / 255


def pixels_of(predicted: Path, truth: LargeMask) -> tuple[int, int, int]:
    """Return how many pixels a large mask has, how many its truth has, and how many both have in common."""
    image = LargeImage(predicted)
    height, width = image.size
    counts = np.zeros(3, np.int64)
    for y in range(0, height, PART):
        for x in range(0, width, PART):
            box = (y, min(y + PART, height), x, min(x + PART, width))
            a, b = image.read(*box)[0] > 0, truth.read(*box) > 0
            counts += [a.sum(), b.sum(), (a & b).sum()]
    found, true, both = counts.tolist()
    return found, true, both


@dataclass(frozen=True)
class Against:
    """How the objects of one image compare with its true ones."""

    score: MaskScore
    areas: np.ndarray
    """Of the true objects, px."""
    hits: Hits
    compared: Compared

    @classmethod
    def of(cls, pairs: Overlap, score: MaskScore) -> "Against":
        """Return what an overlap of the objects found (a) with the true ones (b) tells."""
        return cls(score, pairs.areas_b, hits(pairs), compare_objects(pairs))


@dataclass(frozen=True)
class Seen:
    """What is known of one image."""

    name: str
    size: tuple[int, ...]
    """(H, W)."""
    areas: np.ndarray
    """Of the objects found, px."""
    sure: float
    """See `expected_iou`; NaN where no probabilities are kept."""
    against: Against | None = None
    """None where no truth is known."""

    def row(self) -> dict[str, Any]:
        """Return its row in the table of images."""
        row: dict[str, Any] = {"name": self.name, "found": len(self.areas), "area": int(self.areas.sum())}
        if (true := self.against) is None:
            return row | {"sure": self.sure}
        compared = true.compared
        row |= {"true": true.hits.true, "mergers": compared.mergers, "splits": compared.splits}
        row |= {HIT: int(true.hits.matched[0])} | asdict(true.score)
        return row | {MISSED: count(compared.true, MISSED), INVENTED: count(compared.predicted, INVENTED)}


def count(fates: np.ndarray, fate: str) -> int:
    """Return how many of some objects have a fate."""
    return int((fates == fate).sum())


class Predicted:
    """Predictions of masks with their images, and their truth where it is known.

    Attributes:
        names: IDs of the images that were predicted.
        paths: ID -> file of the image.
        folder: of the images, for messages.
        has_masks: whether that folder holds true masks.
        truth_folder: where true masks were looked for, or None.
        separated: whether masks are parted into objects that can be compared.
        has_probs: whether probabilities are kept.

    Raises:
        ConfigError: the images are not found.
        DataError: predictions, images and truth do not fit each other.
    """

    paths: dict[str, Path]
    folder: Path
    has_masks = False
    separated = False
    has_probs = True

    def __init__(self, options: ReportOptions, record: dict[str, Any]) -> None:
        self.options, self.record, self.truth_folder = options, record, truth_of(options)
        self.table = image_table(options.preds)
        self.names = self.table.ID[self.table.status == "ok"].tolist()
        self.open()
        self._check()

    def open(self) -> None:
        """Open images and truth."""
        self.separated = bool(self.record["segmentation"]["objects"])
        self.images = self._set(data_of(self.options, self.record), "--data")
        self.folder, self.has_masks = self.images.folder, bool(self.images.has_truth.any())
        self.paths = {item.id: item.image for item in self.images.items}
        self.truth = None if self.truth_folder is None else self._set(self.truth_folder, "--truth")

    def _set(self, folder: Path, flag: str) -> MaskSet:
        masks = open_set(folder, self.record["channels"], TILE)
        if isinstance(masks, TileSet):
            raise ConfigError(f"{folder} holds large images, {self.options.preds} others: pass their folder as {flag}.")
        return masks

    def _check(self) -> None:
        preds = self.options.preds
        if strangers := sorted(set(self.names) - set(self.paths)):
            raise DataError(f"{preds} has {some(strangers)}, which {self.folder} lacks: pass the right --data.")
        if self.truth_folder is not None and not self.true_places:
            raise DataError(f"{self.truth_folder} has no mask of an image of {preds}: pass the right --truth.")
        items = (record_of(preds) or {"items": {}})["items"]
        wanted = [name for name in self.names if name in items]
        now = Digests().of_files([self.paths[name] for name in wanted])
        if changed := [name for name, digest in zip(wanted, now, strict=True) if digest != items[name]]:
            raise DataError(
                f"pixels of {some(changed, 3)} in {self.folder} have changed since {preds} was predicted: "
                "run python -m wsss.infer again."
            )

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.images.ids)}

    @cached_property
    def true_places(self) -> dict[str, Any]:
        """ID -> where its true mask is, of predicted images with one."""
        if self.truth is None:
            return {}
        there = {name: i for i, name in enumerate(self.truth.ids) if self.truth.has_truth[i]}
        return {name: there[name] for name in self.names if name in there}

    def maps(self, name: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the label maps of an image, (H, W) predicted and true, without ignored pixels.

        Raises:
            DataError: their sizes differ.
        """
        found = predicted_map(self.options.preds, name, self.record)
        if self.truth is None or name not in self.true_places:
            return found, None
        i = self.true_places[name]
        true, ignored = self.truth.label_map(i), self.truth.ignored(i)
        if true.shape != found.shape:
            raise DataError(
                f"the mask of {name} is {true.shape}, its prediction {found.shape}: pass the right --truth."
            )
        true = true if self.separated else (true > 0).astype(np.int32)
        return np.where(ignored, 0, found), np.where(ignored, 0, true)

    @cached_property
    def _files(self) -> dict[str, list[str]]:
        return files_of_record(self.options.preds)

    def look(self, name: str) -> Seen:
        """Return what is known of an image."""
        found, true = self.maps(name)
        areas = np.unique(found[found > 0], return_counts=True)[1]
        probs = mask_channel(predicted_probs(self.options.preds, name, self._files), self.record["target"])
        against = None if true is None else Against.of(overlap(found, true), score_mask(found, true))
        return Seen(name, found.shape, areas, expected_iou(probs, found > 0), against)

    def picture(self, name: str) -> np.ndarray:
        """Return an image as (C, h, w) uint8, of the size of its maps."""
        return self.images.image(self._places[name])

    def field(self, seen: Seen) -> Field:
        """Return an image as the gallery shows it."""
        image, (found, true) = self.picture(seen.name), self.maps(seen.name)
        if image.shape[1:] != found.shape:
            raise DataError(f"the image {seen.name} is {image.shape[1:]}, its prediction {found.shape}: infer again.")
        edge, (height, width) = min(self.options.edge, max(found.shape)), seen.size
        pairs = None if true is None else self.pairs(seen.name, found, true)
        fates = [FOUND] if len(seen.areas) else []
        if seen.against is not None:
            compared = seen.against.compared
            fates = sorted({*compared.predicted.tolist(), *compared.true.tolist()})
        return Field(
            seen.name,
            f"{height} × {width} px, {self.about(seen)}",
            fit(found, edge, labels=True).shape,
            fates,
            len(seen.areas),
            pack_masks(image, found, true, pairs, edge, self.options.quality),
            scale_bar(self.options.pixel_size * width),
        )

    def pairs(self, name: str, found: np.ndarray, true: np.ndarray) -> Overlap:
        """Return the overlap of an image's objects."""
        return overlap(found, true)

    def about(self, seen: Seen) -> str:
        """Return the figures of an image as text."""
        if seen.against is None:
            sure = "" if np.isnan(seen.sure) else f"; IoU expected {seen.sure:.2f}"
            return (f"{len(seen.areas)} objects found" if self.separated else found_or_not(len(seen.areas))) + sure
        score, true = seen.against.score, seen.against.hits.true
        if self.separated:
            return f"{true} objects, {len(seen.areas)} found; Dice {score.dice:.2f}, AP {score.instance_ap:.2f}"
        where = found_or_not(len(seen.areas)) if true else f"truly empty, {found_or_not(len(seen.areas))}"
        return f"{where}; Dice {score.dice:.2f}, IoU {score.iou:.2f}"


def found_or_not(masks: int) -> str:
    """Return whether an image has a mask."""
    return "a mask found" if masks else "nothing found"


class LargePredicted(Predicted):
    """The same of images larger than memory: masks as a whole, shown shrunk."""

    has_probs = False

    def open(self) -> None:
        """Open images and truth."""
        self.rows, self.pixels = self.table.set_index("ID"), dict[str, tuple[int, int, int]]()
        paths = {name: Path(path) for name, path in self.record["large"].items()}
        if self.options.data is not None:
            paths = self._tiles(self.options.data, "--data").paths
        if gone := [path for path in paths.values() if not path.exists()]:
            raise ConfigError(f"{some(gone)} is not there: pass the folder of the images as --data.")
        self.paths, self.folder = paths, next(iter(paths.values())).parent
        self.large_truth = None if self.truth_folder is None else self._tiles(self.truth_folder, "--truth")

    def _tiles(self, folder: Path, flag: str) -> TileSet:
        tiles = open_set(folder, self.record["channels"], TILE)
        if not isinstance(tiles, TileSet):
            raise ConfigError(f"{folder} holds no large images, as {self.options.preds} does: pass theirs as {flag}.")
        return tiles

    @cached_property
    def true_places(self) -> dict[str, Any]:
        """ID -> true mask."""
        truths = {} if self.large_truth is None else self.large_truth.truths
        return {name: truths[name] for name in self.names if name in truths}

    def _mask(self, name: str) -> LargeImage:
        return LargeImage(self.options.preds / "masks" / f"{name}.tif")

    def maps(self, name: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the shrunk masks of an image, (h, w) of 0 and 1, predicted and true."""
        mask, truth = self._mask(name), self.true_places.get(name)
        found = self._shrunk(lambda *box: mask.read(*box) > 0, mask.size)
        true = None if truth is None else self._shrunk(lambda *box: (truth.read(*box) > 0)[None], mask.size)
        return _as_map(found), None if true is None else _as_map(true)

    def look(self, name: str) -> Seen:
        """Return what is known of an image."""
        mask, truth = self._mask(name), self.true_places.get(name)
        if truth is None:
            area = int(self.rows.area_px[name])
            return Seen(name, mask.size, np.array([area] if area else [], np.int64), np.nan)
        self.pixels[name] = pixels_of(mask.path, truth)
        pairs = overlap_of_masks(*self.pixels[name])
        return Seen(name, mask.size, pairs.areas_a, np.nan, Against.of(pairs, score_pixels(*self.pixels[name])))

    def pairs(self, name: str, found: np.ndarray, true: np.ndarray) -> Overlap:
        """Return the overlap at full size, which `look` has found."""
        return overlap_of_masks(*self.pixels[name])

    def picture(self, name: str) -> np.ndarray:
        """Return an image shrunk, as (C, h, w) uint8."""
        image = LargeImage(self.paths[name])
        return np.rint(self._shrunk(image.read, image.size)).astype(np.uint8)

    def about(self, seen: Seen) -> str:
        """Return the figures of an image as text."""
        objects = f"; {self.rows.n_objects[seen.name]} objects" if self.record["segmentation"]["objects"] else ""
        return super().about(seen) + objects

    def _shrunk(self, read: Callable[[int, int, int, int], np.ndarray], size: tuple[int, int]) -> np.ndarray:
        return shrunk(read, size, max(1, max(size) // self.options.edge))


def _as_map(shares: np.ndarray) -> np.ndarray:
    return (shares[0] >= 0.5).astype(np.int32)


def shrunk(read: Callable[[int, int, int, int], np.ndarray], size: tuple[int, int], step: int) -> np.ndarray:
    """Shrink an image that is read in parts: the means of squares of `step` px, (C, h, w) float64.

    Args:
        read: (y0, y1, x0, x1) -> (C, y1 - y0, x1 - x0).
        size: (H, W) of the image.
        step: edge of the squares; those at the lower and right border may be cut.
    """
    height, width = size
    part = max(1, PART // step) * step
    rows = []
    for y in range(0, height, part):
        row = []
        for x in range(0, width, part):
            pixels = read(y, min(y + part, height), x, min(x + part, width)).astype(np.float64)
            for axis in (1, 2):
                starts = np.arange(0, pixels.shape[axis], step)
                counts = np.diff(starts, append=pixels.shape[axis])
                counts = counts[:, None] if axis == 1 else counts
                pixels = np.add.reduceat(pixels, starts, axis=axis) / counts
            row.append(pixels)
        rows.append(np.concatenate(row, axis=2))
    return np.concatenate(rows, axis=1)


def expected_iou(probs: np.ndarray, mask: np.ndarray) -> float:
    """Return the IoU of a (H, W) mask that is expected if the (H, W) probabilities are true.

    It is the sum of the probabilities in the mask over that of the larger of mask and probability; of an empty mask,
    the probability that the likeliest pixel is background.
    """
    if not mask.any():
        return float(1 - probs.max(initial=0))
    return float(probs[mask].sum() / np.maximum(probs, mask).sum())


def data_of(options: ReportOptions, record: dict[str, Any]) -> Path:
    """Return the folder of the images: the one given, else the one that was predicted, else that of the truth."""
    predicted = Path(str(record["data"]))
    folder = options.data or (predicted if predicted.is_dir() else options.truth)
    if folder is None:
        raise ConfigError(f"{predicted} is not there: pass the folder of the images of {options.preds} as --data.")
    return folder


def truth_of(options: ReportOptions) -> Path | None:
    """Return the folder of the true masks: the one given, else the one that `evaluate` used, if it is still there."""
    scores = options.preds / "scores.json"
    if options.truth is None and scores.exists():
        truth = str(read_record(scores, "truth")["truth"])
        known = there_now(truth, options.preds, record_of(options.preds, scores.name))
        return known if known is not None and known.is_dir() else None
    return options.truth
