"""Cells that somebody else has segmented: a folder of label maps, taken as they are."""

from pathlib import Path

from wsss.cells.backends import Backend, BackendOptions, CellMaps, Field
from wsss.core.checks import ConfigError, DataError
from wsss.core.label_maps import SUFFIXES, find_label_map, read_label_map


def make(options: BackendOptions) -> Backend:
    """Make the backend of given label maps.

    Raises:
        ConfigError: no folder is named, or it holds no label map.
    """
    folder = options.masks
    if folder is None:
        raise ConfigError("--backend masks needs --masks FOLDER with one label map per image, <ID>.png.")
    if not folder.is_dir():
        raise ConfigError(f"--masks {folder} is no folder, expected one with a label map per image, <ID>.png.")
    if not any(path.suffix.lower() in SUFFIXES for path in folder.iterdir()):
        raise ConfigError(f"--masks {folder} holds no label map, expected <ID> with one of {', '.join(SUFFIXES)}.")
    return lambda field: read_given(field, folder)


def read_given(field: Field, folder: Path) -> CellMaps:
    """Read the label map of one field, ids as they are.

    Raises:
        DataError: there is no file, it is no label map, or it has neither the original nor the stored size.
    """
    path = find_label_map(folder, field.name)
    cells = read_label_map(path)
    native, stored = (field.height, field.width), (field.size, field.size)
    if cells.shape not in (native, stored):
        raise DataError(
            f"{path} is {_size(cells.shape)}, but {field.name} is {_size(native)} (stored {_size(stored)}): "
            "give the map at either size."
        )
    height, width = field.image.shape[1:]
    if cells.shape != native and (cells[height:].any() or cells[:, width:].any()):
        raise DataError(
            f"{path} has cells beyond the {height} x {width} pixels that {field.name} fills of its stored square: "
            "scale the map with its aspect kept, or give it at the original size."
        )
    return CellMaps(cells=cells, nuclei=None)


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
