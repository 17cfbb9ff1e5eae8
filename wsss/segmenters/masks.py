"""Cells that somebody else has segmented, taken as they are: label maps, outlines, a COCO JSON, or run lengths.

Of a folder, each image's file is the label map <ID>.png (or another form of those), Cellpose's <ID>_cp_masks.png, the
outlines <ID>.geojson, or ImageJ's regions <ID>.zip. Pickles (Cellpose's _seg.npy) are never loaded.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from wsss.cells.instances import doubt_notes, doubts_of, pair_nuclei, split_pieces, with_background
from wsss.core.channels import with_channel
from wsss.core.checks import ConfigError, DataError, some
from wsss.core.label_maps import SUFFIXES as LABEL_MAPS
from wsss.core.label_maps import has_odd_palette, read_label_map
from wsss.core.labels import HPA_CHANNELS
from wsss.core.outlines import SUFFIXES as OUTLINES
from wsss.core.outlines import Outlines, holds_outlines, read_outlines
from wsss.core.rasters import UNREAD, stem_of, without_suffix
from wsss.data.ids import MASK_ENDINGS
from wsss.segmenters import Backend, BackendOptions, CellMaps, Field
from wsss.segmenters.annotations import (
    BESIDE,
    CocoMasks,
    TableMasks,
    paint,
    paint_outlines,
    read_regions,
)
from wsss.segmenters.annotations import REGION_SUFFIXES as REGIONS

SUFFIXES = (*OUTLINES, *LABEL_MAPS, *REGIONS)
"""Forms that are read, in this order where an image has several; in any case."""
CELLPOSE, ROIS, PLAIN = "{}_cp_masks", "{}_rois", "{}"
NAMES = (CELLPOSE, ROIS, "RoiSet_{}", "{}_RoiSet", *(f"{{}}{ending}" for ending in MASK_ENDINGS), PLAIN)
"""What programs make of the name of the image, best first; the plain name may be that of the image itself."""
PICKLE = "_seg.npy"
"""Ending of Cellpose's pickles, which are never loaded."""


class Masks(ABC):
    """Masks in any form that is read, a folder or one file; `open_cell_masks` tells which."""

    notes: Sequence[str] = ()
    """What the user should know of all of them together, a line each."""

    def __init__(self) -> None:
        self._doubts: dict[str, Sequence[str]] = {}

    @abstractmethod
    def maps(self, field: Field) -> CellMaps:
        """Return the maps of one field, cells numbered as they are.

        Raises:
            DataError: there are no masks of it, they are broken, or have neither the original nor the stored size.
        """

    def several(self, names: Iterable[str]) -> list[str]:
        """Return a note, or none, on those of some images that have several files of which one is read."""
        return []

    def cells(self, name: str, size: tuple[int, int]) -> np.ndarray:
        """Return the cells of image `name`, whose original is (H, W) `size`, as (H, W) int32; see `told`.

        Raises:
            DataError: as `maps`.
        """
        maps = self.maps(Field(name, np.zeros((0, *size), np.uint8), *size, 0))
        self._doubts[name] = (*maps.doubts, *doubts_of(maps.cells))
        return maps.cells

    def told(self) -> list[str]:
        """Return what the user should know of the masks of the images whose cells were read, a line each."""
        return [*self.notes, *self.several(self._doubts), *doubt_notes(self._doubts, segmenting=False)]


class MaskFolder(Masks):
    """A folder with a file of each image, listed once.

    Args:
        channels: names that files of single channels bear, for masks that were made of one.
    """

    def __init__(self, folder: Path, channels: Iterable[str] = HPA_CHANNELS) -> None:
        super().__init__()
        self.folder = folder
        self.channels = tuple(dict.fromkeys(channels))
        self.names = sorted(path.name for path in folder.iterdir() if path.name[0] != ".")
        self._pickles = {name[: -len(PICKLE)].lower() for name in self.names if name.lower().endswith(PICKLE)}
        self._files: dict[str, list[Path]] = {}
        ranked = [(rank, name) for name in self.names if (rank := _rank(folder / name)) is not None]
        for _, name in sorted(ranked):
            stem = _stem(name)
            for ID in dict.fromkeys((stem, without_suffix(stem))):  # a.tif.geojson may be of a.tif
                self._files.setdefault(ID, []).append(folder / name)
        self._any_case = {stem.lower(): paths for stem, paths in self._files.items()}

    def __len__(self) -> int:
        return len(self._files)

    def maps(self, field: Field) -> CellMaps:
        """Read the label map or the outlines of one field."""
        path = self.find(field.name)
        if path is None:
            similar = self.similar(field.name)
            raise DataError(
                f"{self.folder} holds no masks of {field.name}: expected {field.name} with one of "
                f"{', '.join(SUFFIXES)}, found {some(similar, 3)}.{_way_out(similar)}"
            )
        name = path.name.lower()
        if name.endswith(OUTLINES):
            return _from_outlines(field, read_outlines(path), path)
        if name.endswith(REGIONS):
            return _from_outlines(field, read_regions(path), path)
        cells = read_label_map(path, *field.sizes)
        _check_size(cells.shape, field, str(path))
        doubts = ("palette",) if has_odd_palette(path, cells.shape) else ()
        return CellMaps(cells=_within(cells, field, str(path)), nuclei=None, doubts=doubts)

    def find(self, name: str) -> Path | None:
        """Return the file of the image `name`; None if there is none.

        Raises:
            DataError: there are several, of several channels.
        """
        return next((path for path, _ in self._found(name)), None)

    def several(self, names: Iterable[str]) -> list[str]:
        """Go by the names of the files alone."""
        several = []
        for name in names:
            try:
                found = self._found(name)
            except DataError:  # said when the image is read
                continue
            passed = [path.name for path, form in found[1:] if not self._belongs(name, found[0][1], form)]
            if passed:
                several.append(f"{found[0][0].name}, not {some(passed, 3)}")
        note = f"{self.folder} has several files of {len(several)} images; read are {some(several, 3)}."
        return [note] if several else []

    def _found(self, name: str) -> list[tuple[Path, str]]:
        """Return the files of an image, each with the form of its name, the best first."""
        found: list[tuple[Path, str]] = []
        for form in NAMES:
            found += [(path, form) for path in self._files.get(form.format(name), [])]
            stems = [form.format(one).lower() for channel in self.channels for one in with_channel(name, channel)]
            paths = [self._any_case[stem] for stem in stems if stem in self._any_case]
            if len(paths) > 1 and not found:
                files = some(path[0].name for path in paths)
                raise DataError(f"{self.folder} has masks of several channels of {name} ({files}): leave one.")
            if form != PLAIN or not found:  # an image of a channel beside a mask is no other mask
                found += [(path, form) for of_channel in paths for path in of_channel]
        return found

    def _belongs(self, name: str, form: str, other: str) -> bool:
        """Whether a file that is passed over is known to lie beside one of `form`: Cellpose's image and outlines."""
        return form == CELLPOSE and (other == ROIS or (other == PLAIN and name.lower() in self._pickles))

    def similar(self, name: str) -> list[str]:
        """Return the names of all files with the image's in theirs, in any case; of all files if there are none."""
        return [file for file in self.names if name.lower() in file.lower()] or self.names


def _rank(path: Path) -> int | None:
    """Return the place of a file's form among SUFFIXES; None for another one."""
    name = path.name.lower()
    if name.endswith(PICKLE) or (name.endswith(".json") and not (path.is_file() and holds_outlines(path))):
        return None
    return next((k for k, suffix in enumerate(SUFFIXES) if name.endswith(suffix)), None)


def _stem(name: str) -> str:
    """Return the name of a file without the ending of its form, as `stem_of` does."""
    return stem_of(name[:-3] if name.lower().endswith(".gz") else name)


class MaskFile(Masks):
    """One file with the masks of all images."""

    def __init__(self, source: CocoMasks | TableMasks) -> None:
        super().__init__()
        self.source, self.notes = source, source.notes

    def maps(self, field: Field) -> CellMaps:
        """Paint the masks of one field; a row of a table must have a pixel left in the map, to be joined to it."""
        given = self.source.masks(field.name, (field.height, field.width))
        _check_size(given.size, field, given.where)
        cells = _within(paint(given), field, given.where)
        lost = np.setdiff1d(given.ids, cells)
        if lost.size and isinstance(self.source, TableMasks):
            raise DataError(f"{given.where}: no pixel is left of cell {some(lost)}: empty, or under other masks.")
        nuclei = self.source.nuclei(field.name) if isinstance(self.source, CocoMasks) else None
        doubts = ("stray",) if lost.size else ()
        return CellMaps(cells, None if nuclei is None else _paired(cells, paint(nuclei)), doubts)


def open_cell_masks(path: Path, channels: Iterable[str] = HPA_CHANNELS, category: str | None = None) -> Masks:
    """Open a folder with the masks of each image in a file, or one file with those of all.

    Args:
        channels: names that files of single channels bear.
        category: of a COCO JSON, see `CocoMasks`; None where it cannot be said.

    Raises:
        ConfigError: it is no form of masks, a folder without them, or a category has to be said.
        DataError: a file of masks cannot be read.
    """
    name = path.name.lower()
    is_coco = name.endswith((".json", ".json.gz")) and not (path.is_file() and holds_outlines(path))
    if category and not is_coco:
        raise ConfigError(f"--category chooses among the categories of a COCO JSON, and --masks is {path}.")
    if path.is_file() and is_coco:
        return MaskFile(CocoMasks(path, category, channels))
    if path.is_file() and name.endswith(TABLES):
        return MaskFile(TableMasks(path))
    if path.is_file() and name.endswith((*OUTLINES, *REGIONS)):
        raise ConfigError(
            f"--masks {path} has the outlines of one image: pass the folder with such a file of each, named by ID."
        )
    if path.is_file() and name.endswith(PICKLE):
        raise ConfigError(f"--masks {path} is the masks of one image.{_way_out([name])}")
    if not path.is_dir():
        raise ConfigError(
            f"--masks {path} is no folder of label maps, and no file with one of {', '.join(FILES)} either."
        )
    folder = MaskFolder(path, channels)
    if not len(folder):
        raise ConfigError(
            f"--masks {path} holds no masks, expected <ID> with one of {', '.join(SUFFIXES)}." + _way_out(folder.names)
        )
    return folder


@dataclass(frozen=True)
class GivenCells:
    """The backend of given masks."""

    given: Masks
    split: bool = False
    """Whether each connected part of a mask is a separate cell."""
    background: int = 0
    """The number of the background, which changes places with 0."""

    @property
    def notes(self) -> Sequence[str]:
        """What the user should know of the file, a line each."""
        return self.given.notes

    def __call__(self, field: Field) -> CellMaps:
        """Return the maps of one field, with doubts about them."""
        maps = self.given.maps(field)
        cells = maps.cells
        is_native = cells.shape == (field.height, field.width)
        height, width = cells.shape if is_native else field.image.shape[1:]
        if self.background:  # what pads the stored square stays empty
            cells = np.zeros_like(cells)
            cells[:height, :width] = with_background(maps.cells[:height, :width], self.background)
        doubts = doubts_of(cells[:height, :width])
        if self.split:
            cells = split_pieces(cells)
            doubts = [doubt for doubt in doubts if doubt.partition("=")[0] not in ("pieces", "binary")]
        return replace(maps, cells=cells, doubts=(*maps.doubts, *doubts))


TABLES = (".csv", ".tsv", ".txt", ".parquet")
FILES = (".json", ".json.gz", *TABLES)
"""Forms of one file with the masks of all images."""
CONVERT_SEG = (
    "python -c \"import glob, numpy as np; [np.save(f[:-8] + '_cp_masks.npy', np.load(f, allow_pickle=True)"
    ".item()['masks']) for f in glob.glob('*_seg.npy')]\""
)
"""To be run in a folder of trusted files: converts Cellpose's pickles to label maps."""


def mask_files(path: Path | None) -> list[Path]:
    """Return all that `open_cell_masks` reads, there or not: a folder or file, and what names empty images."""
    if path is None:
        return []
    return [path, path.with_name(BESIDE)] if path.name.lower().endswith(TABLES) else [path]


def make(options: BackendOptions) -> Backend:
    """Make the backend of given masks.

    Raises:
        ConfigError: nothing is named, or see `open_cell_masks`.
        DataError: a file of masks cannot be read.
    """
    if options.masks is None:
        raise ConfigError("--backend masks needs --masks: a folder with one label map per image, <ID>.png, or a file.")
    given = open_cell_masks(options.masks, options.channels, options.category)
    return GivenCells(given, options.split, options.background)


def _way_out(names: Sequence[str]) -> str:
    """Return a hint on converting Cellpose's pickles or JPEGs, '' if there are none."""
    if any(name.lower().endswith(PICKLE) for name in names):
        return f" Cellpose's _seg.npy are pickles, which are never loaded; if they are your own: {CONVERT_SEG}"
    if any(name.lower().endswith((".jpg", ".jpeg")) for name in names):
        return " JPEG does not keep the numbers of cells: save the masks as PNG or TIFF."
    if any(name.lower().endswith((".json", ".xml")) for name in names):
        return " Of JSON, outlines of each image (GeoJSON, labelme) are read, and one COCO file of all (CVAT, VIA)."
    if unread := [name for name in names if name.lower().endswith(UNREAD)]:
        return f" Of other forms are {some(unread, 3)}: save label maps as PNG or TIFF."
    return ""


def _from_outlines(field: Field, outlines: Outlines, path: Path) -> CellMaps:
    size = (field.height, field.width)
    if outlines.size not in (None, size):
        raise DataError(f"{path} is of an image of {_size(outlines.size)}, but {field.name} is {_size(size)}.")
    cells = paint_outlines(outlines.ids, outlines.cells, size, path)
    seen = np.isin(outlines.ids, cells).sum()
    if outlines.ids and not cells.any():
        raise DataError(
            f"{path}: none of its {len(outlines.ids)} outlines lies in the {_size(size)} pixels of {field.name}: "
            "expected outlines in pixels of the original image."
        )
    doubts = ("stray",) if seen < len(outlines.ids) else ()
    if not any(outlines.nuclei):
        return CellMaps(cells=cells, nuclei=None, doubts=doubts)
    return CellMaps(cells, _paired(cells, paint_outlines(outlines.ids, outlines.nuclei, size, path)), doubts)


def _paired(cells: np.ndarray, nuclei: np.ndarray) -> np.ndarray:
    """Return the nuclei, cut to the cells that hold most of them, with the ids of these cells."""
    ids = np.unique(cells)
    names = np.append([0], ids[ids > 0]).astype(np.int32)
    categories: np.ndarray = names[pair_nuclei(cells, nuclei)[1]]
    return categories


def _check_size(shape: tuple[int, ...], field: Field, where: str) -> None:
    native, stored = field.sizes
    if shape not in (native, stored):
        or_stored = (
            f" (stored {_size(stored)}): give the map at either size." if field.size else ": give it at that size."
        )
        raise DataError(f"{where} is {_size(shape)}, but {field.name} is {_size(native)}{or_stored}")


def _within(cells: np.ndarray, field: Field, where: str) -> np.ndarray:
    """Return the map after checking that none of it lies in the padding of the stored square."""
    height, width = field.image.shape[1:]
    if cells.shape != (field.height, field.width) and (cells[height:].any() or cells[:, width:].any()):
        raise DataError(
            f"{where} has cells beyond the {height} x {width} pixels that {field.name} fills of its stored square: "
            "scale the map with its aspect kept, or give it at the original size."
        )
    return cells


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
