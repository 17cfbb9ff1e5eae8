"""Cells that somebody else has segmented, taken as they are: label maps, outlines, a COCO JSON, or run lengths.

Of a folder, each image's file is the label map <ID>.png (or another form of those), Cellpose's <ID>_cp_masks.png, the
outlines <ID>.geojson, or ImageJ's regions <ID>.zip. Pickles (Cellpose's _seg.npy) are never loaded.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from wsss.cells.instances import doubts_of, pair_nuclei, split_pieces
from wsss.core.checks import ConfigError, DataError, some
from wsss.core.label_maps import SUFFIXES as LABEL_MAPS
from wsss.core.label_maps import has_odd_palette, read_label_map
from wsss.core.labels import HPA_CHANNELS
from wsss.core.rasters import stem_of
from wsss.segmenters import Backend, BackendOptions, CellMaps, Field
from wsss.segmenters.coco import GEOJSON_SUFFIXES as OUTLINES
from wsss.segmenters.coco import REGION_SUFFIXES as REGIONS
from wsss.segmenters.coco import CocoMasks, Outlines, paint_outlines, read_outlines, read_regions
from wsss.segmenters.painted import GivenMasks, TableMasks, paint

SUFFIXES = (*OUTLINES, *LABEL_MAPS, *REGIONS)
"""Forms that are read, in this order where an image has several; in any case."""
ENDINGS = ("_cp_masks", "_rois", "", "_masks", "_mask", "_labels", "_label")
"""What programs put behind the name of the image, best first: Cellpose saves its masks next to the images."""
PICKLE = "_seg.npy"
"""Ending of Cellpose's pickles, which are never loaded."""


class MaskFolder:
    """The files of a folder, listed once.

    Args:
        folder: where the masks are.
        channels: names that files of single channels bear, for masks that were made of one.
    """

    def __init__(self, folder: Path, channels: Iterable[str] = HPA_CHANNELS) -> None:
        self.folder = folder
        self.channels = tuple(dict.fromkeys(channels))
        self.names = sorted(path.name for path in folder.iterdir() if path.name[0] != ".")
        self._files: dict[str, Path] = {}
        ranked = [(rank, name) for name in self.names if (rank := _rank(name)) is not None]
        for _, name in sorted(ranked, reverse=True):
            self._files[_stem(name)] = folder / name
        self._any_case = {stem.lower(): path for stem, path in self._files.items()}

    def __len__(self) -> int:
        return len(self._files)

    def find(self, name: str) -> Path | None:
        """Return the file of the image `name`; None if there is none.

        Raises:
            DataError: there are several, of several channels.
        """
        for ending in ENDINGS:
            if (path := self._files.get(name + ending)) is not None:
                return path
        for ending in ENDINGS:
            stems = [f"{name}_{channel}{ending}".lower() for channel in self.channels]
            paths = [self._any_case[stem] for stem in stems if stem in self._any_case]
            if len(paths) > 1:
                files = some(path.name for path in paths)
                raise DataError(f"{self.folder} has masks of several channels of {name} ({files}): leave one.")
            if paths:
                return paths[0]
        return None

    def similar(self, name: str) -> list[str]:
        """Return the names of all files that begin with the image's."""
        return [file for file in self.names if file.startswith(name)]


def _rank(name: str) -> int | None:
    """Return the place of a file's form among SUFFIXES; None for another one."""
    if name.lower().endswith(PICKLE):
        return None
    return next((k for k, suffix in enumerate(SUFFIXES) if name.lower().endswith(suffix)), None)


def _stem(name: str) -> str:
    """Return the name of a file without the ending of its form, as `stem_of` does."""
    return stem_of(name[:-3] if name.lower().endswith(".gz") else name)


FILES = (".json", ".json.gz", ".csv", ".tsv", ".txt", ".parquet")
"""Forms of one file with the masks of all images."""
CONVERT_SEG = (
    "python -c \"import glob, numpy as np; [np.save(f[:-8] + '_cp_masks.npy', np.load(f, allow_pickle=True)"
    ".item()['masks']) for f in glob.glob('*_seg.npy')]\""
)
"""To be run in a folder of trusted files: converts Cellpose's pickles to label maps."""


class _Source(Protocol):
    def masks(self, name: str, size: tuple[int, int]) -> GivenMasks: ...


@dataclass(frozen=True)
class GivenFile:
    """The backend of one file with the masks of all images."""

    source: _Source
    notes: Sequence[str] = field(default_factory=list)
    """What the user should know of the file, a line each."""
    split: bool = False
    """Whether each connected part of a mask is a separate cell."""

    def __call__(self, field: Field) -> CellMaps:
        """Paint the masks of one field, see `read_file`."""
        return _judged(read_file(field, self.source), field, self.split)


def make(options: BackendOptions) -> Backend:
    """Make the backend of given masks.

    Raises:
        ConfigError: nothing is named, it is no form of masks, a folder without them, or a category has to be said.
        DataError: a file of masks cannot be read.
    """
    given = options.masks
    if given is None:
        raise ConfigError("--backend masks needs --masks: a folder with one label map per image, <ID>.png, or a file.")
    name = given.name.lower()
    is_coco = name.endswith((".json", ".json.gz"))
    if options.category and not is_coco:
        raise ConfigError(f"--category chooses among the categories of a COCO JSON, and --masks is {given}.")
    if given.is_file() and is_coco:
        coco = CocoMasks(given, options.category, options.channels)
        return GivenFile(coco, coco.notes, options.split)
    if given.is_file() and name.endswith(FILES):
        return GivenFile(TableMasks(given), split=options.split)
    if given.is_file() and name.endswith((*OUTLINES, *REGIONS)):
        raise ConfigError(
            f"--masks {given} has the outlines of one image: pass the folder with one such file of each, named by ID."
        )
    if given.is_file() and name.endswith(PICKLE):
        raise ConfigError(f"--masks {given} is the masks of one image.{_way_out([name])}")
    if not given.is_dir():
        raise ConfigError(
            f"--masks {given} is no folder of label maps, and no file with one of {', '.join(FILES)} either."
        )
    folder = MaskFolder(given, options.channels)
    if not len(folder):
        raise ConfigError(
            f"--masks {given} holds no masks, expected <ID> with one of {', '.join(SUFFIXES)}.{_way_out(folder.names)}"
        )
    return lambda field: _judged(read_folder(field, folder), field, options.split)


def _judged(maps: CellMaps, field: Field, split: bool) -> CellMaps:
    """Return maps with doubts about them; or with each connected part as a separate cell."""
    if split:
        return replace(maps, cells=split_pieces(maps.cells))
    is_native = maps.cells.shape == (field.height, field.width)
    height, width = maps.cells.shape if is_native else field.image.shape[1:]
    return replace(maps, doubts=(*maps.doubts, *doubts_of(maps.cells[:height, :width])))


def _way_out(names: Sequence[str]) -> str:
    """Return a hint on converting Cellpose's pickles, '' if there are none."""
    if any(name.lower().endswith(PICKLE) for name in names):
        return f" Cellpose's _seg.npy are pickles, which are never loaded; if they are your own: {CONVERT_SEG}"
    return ""


def read_folder(field: Field, folder: MaskFolder) -> CellMaps:
    """Read the label map or the outlines of one field, ids as they are.

    Raises:
        DataError: there is no file, it is none of these, or it has neither the original nor the stored size.
    """
    path = folder.find(field.name)
    if path is None:
        raise DataError(
            f"{folder.folder} holds no masks of {field.name}: expected {field.name} with one of {', '.join(SUFFIXES)}."
            + _way_out(folder.similar(field.name))
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


def _from_outlines(field: Field, outlines: Outlines, path: Path) -> CellMaps:
    size = (field.height, field.width)
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


def read_file(field: Field, source: _Source) -> CellMaps:
    """Paint the masks of one field, numbered as they are.

    Raises:
        DataError: the file lacks the image, a mask is broken, or has neither the original nor the stored size; or a row
            of a table has no pixel left in the map, to which it could not be joined.
    """
    given = source.masks(field.name, (field.height, field.width))
    _check_size(given.size, field, given.where)
    cells = _within(paint(given), field, given.where)
    lost = np.setdiff1d(given.ids, cells)
    if lost.size and not isinstance(source, CocoMasks):
        raise DataError(f"{given.where}: no pixel is left of cell {some(lost)}: empty, or under other masks.")
    nuclei = source.nuclei(field.name) if isinstance(source, CocoMasks) else None
    doubts = ("stray",) if lost.size else ()
    return CellMaps(cells, None if nuclei is None else _paired(cells, paint(nuclei)), doubts)


def _paired(cells: np.ndarray, nuclei: np.ndarray) -> np.ndarray:
    """Return the nuclei, cut to the cells that hold most of them, with the ids of these cells."""
    ids = np.unique(cells)
    names = np.append([0], ids[ids > 0]).astype(np.int32)
    categories: np.ndarray = names[pair_nuclei(cells, nuclei)[1]]
    return categories


def _check_size(shape: tuple[int, ...], field: Field, where: str) -> None:
    native, stored = field.sizes
    if shape not in (native, stored):
        raise DataError(
            f"{where} is {_size(shape)}, but {field.name} is {_size(native)} (stored {_size(stored)}): "
            "give the map at either size."
        )


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
