"""Cells that somebody else has segmented, taken as they are: label maps, a COCO JSON, or a table of run lengths."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from wsss.core.checks import ConfigError, DataError
from wsss.core.label_maps import SUFFIXES, find_label_map, read_label_map
from wsss.segmenters import Backend, BackendOptions, CellMaps, Field
from wsss.segmenters.coco import CocoMasks
from wsss.segmenters.mask_tables import TableMasks
from wsss.segmenters.painted import GivenMasks, paint


class _Source(Protocol):
    def masks(self, name: str, size: tuple[int, int]) -> GivenMasks: ...


FILES: dict[str, Callable[[Path], _Source]] = {".json": CocoMasks, ".csv": TableMasks, ".parquet": TableMasks}


def make(options: BackendOptions) -> Backend:
    """Make the backend of given masks.

    Raises:
        ConfigError: nothing is named, it is no form of masks, or a folder without label maps.
        DataError: a file of masks cannot be read.
    """
    given = options.masks
    if given is None:
        raise ConfigError("--backend masks needs --masks: a folder with one label map per image, <ID>.png, or a file.")
    if given.is_file() and given.suffix.lower() in FILES:
        source = FILES[given.suffix.lower()](given)
        return lambda field: read_file(field, source)
    if not given.is_dir():
        raise ConfigError(
            f"--masks {given} is no folder of label maps, and no file with one of {', '.join(FILES)} either."
        )
    if not any(path.suffix.lower() in SUFFIXES for path in given.iterdir()):
        raise ConfigError(f"--masks {given} holds no label map, expected <ID> with one of {', '.join(SUFFIXES)}.")
    return lambda field: read_folder(field, given)


def read_folder(field: Field, folder: Path) -> CellMaps:
    """Read the label map of one field, ids as they are.

    Raises:
        DataError: there is no file, it is no label map, or it has neither the original nor the stored size.
    """
    path = find_label_map(folder, field.name)
    cells = read_label_map(path)
    _check_size(cells.shape, field, str(path))
    return CellMaps(cells=_within(cells, field, str(path)), nuclei=None)


def read_file(field: Field, source: _Source) -> CellMaps:
    """Paint the masks of one field, numbered as they are.

    Raises:
        DataError: the file lacks the image, a mask is broken, or has neither the original nor the stored size.
    """
    given = source.masks(field.name, (field.height, field.width))
    _check_size(given.size, field, given.where)
    return CellMaps(cells=_within(paint(given), field, given.where), nuclei=None)


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
