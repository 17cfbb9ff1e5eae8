"""Cells that somebody else has segmented, taken as they are: label maps, outlines, a COCO JSON, or run lengths.

Of a folder, each image's file is the label map <ID>.png (or another form of those), Cellpose's <ID>_cp_masks.png, the
outlines <ID>.geojson, or ImageJ's regions <ID>.zip. Pickles (Cellpose's _seg.npy) are never loaded.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from wsss.cells.plausible import doubts_of, split_pieces
from wsss.core.checks import ConfigError, DataError
from wsss.core.label_maps import has_odd_palette, read_label_map
from wsss.segmenters import Backend, BackendOptions, CellMaps, Field
from wsss.segmenters.coco import CocoMasks
from wsss.segmenters.geojson import SUFFIXES as OUTLINES
from wsss.segmenters.geojson import Outlines, paint_outlines, read_outlines
from wsss.segmenters.imagej import SUFFIXES as REGIONS
from wsss.segmenters.imagej import read_regions
from wsss.segmenters.mask_folder import PICKLE, SUFFIXES, MaskFolder
from wsss.segmenters.mask_tables import TableMasks
from wsss.segmenters.painted import GivenMasks, paint
from wsss.segmenters.pairing import pair_nuclei

FILES = (".json", ".json.gz", ".csv", ".tsv", ".txt", ".parquet")
"""Forms of one file with the masks of all images."""
CONVERT_SEG = (
    "python -c \"import glob, numpy as np; [np.save(f[:-8] + '_cp_masks.npy', np.load(f, allow_pickle=True)"
    ".item()['masks']) for f in glob.glob('*_seg.npy')]\""
)
"""Run in a folder of one's own files: makes label maps of Cellpose's pickles."""


class _Source(Protocol):
    def masks(self, name: str, size: tuple[int, int]) -> GivenMasks: ...


@dataclass(frozen=True)
class GivenFile:
    """The backend of one file with the masks of all images."""

    source: _Source
    notes: Sequence[str] = field(default_factory=list)
    """What the user should know of the file, a line each."""
    split: bool = False
    """Whether each connected part of a mask is a cell of its own."""

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


def _judged(found: CellMaps, field: Field, split: bool) -> CellMaps:
    """Return maps with what speaks against them; or with each connected part as a cell of its own."""
    if split:
        return replace(found, cells=split_pieces(found.cells))
    is_native = found.cells.shape == (field.height, field.width)
    height, width = found.cells.shape if is_native else field.image.shape[1:]
    return replace(found, doubts=(*found.doubts, *doubts_of(found.cells[:height, :width])))


def _way_out(names: Sequence[str]) -> str:
    """Return what makes readable files of Cellpose's pickles, '' if there are none."""
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
            + _way_out(folder.beside(field.name))
        )
    name = path.name.lower()
    if name.endswith(OUTLINES):
        return _from_outlines(field, read_outlines(path), path)
    if name.endswith(REGIONS):
        return _from_outlines(field, read_regions(path), path)
    cells = read_label_map(path)
    _check_size(cells.shape, field, str(path))
    doubts = ("palette",) if has_odd_palette(path) else ()
    return CellMaps(cells=_within(cells, field, str(path)), nuclei=None, doubts=doubts)


def _from_outlines(field: Field, found: Outlines, path: Path) -> CellMaps:
    size = (field.height, field.width)
    cells = paint_outlines(found.ids, found.cells, size, path)
    seen = np.isin(found.ids, cells).sum()
    if found.ids and not cells.any():
        raise DataError(
            f"{path}: none of its {len(found.ids)} outlines lies in the {_size(size)} pixels of {field.name}: expected "
            "outlines in pixels of the original image."
        )
    doubts = ("stray",) if seen < len(found.ids) else ()
    if not any(found.nuclei):
        return CellMaps(cells=cells, nuclei=None, doubts=doubts)
    return CellMaps(cells, _paired(cells, paint_outlines(found.ids, found.nuclei, size, path)), doubts)


def read_file(field: Field, source: _Source) -> CellMaps:
    """Paint the masks of one field, numbered as they are.

    Raises:
        DataError: the file lacks the image, a mask is broken, or has neither the original nor the stored size.
    """
    given = source.masks(field.name, (field.height, field.width))
    _check_size(given.size, field, given.where)
    cells = _within(paint(given), field, given.where)
    nuclei = source.nuclei(field.name) if isinstance(source, CocoMasks) else None
    return CellMaps(cells=cells, nuclei=None if nuclei is None else _paired(cells, paint(nuclei)))


def _paired(cells: np.ndarray, nuclei: np.ndarray) -> np.ndarray:
    """Return the nuclei, cut to the cells that hold most of them, with the ids of these cells."""
    ids = np.unique(cells)
    names = np.append([0], ids[ids > 0]).astype(np.int32)
    found: np.ndarray = names[pair_nuclei(cells, nuclei)[1]]
    return found


def _check_size(shape: tuple[int, ...], field: Field, where: str) -> None:
    native, stored = (field.height, field.width), (field.size, field.size)
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
