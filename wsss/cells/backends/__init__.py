"""Ways to find cells, all behind one call: a field in, label maps of cells and nuclei out.

A backend is made once per process by its factory and then called on one field after another. Another package can add
its own: an entry point of the group `wsss.backends` whose value is a factory.
"""

import importlib
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsss.core.checks import check_choice

GROUP = "wsss.backends"


@dataclass(frozen=True)
class Field:
    """One field of view, as a backend sees it."""

    name: str
    """The image's ID."""
    image: np.ndarray
    """(4, h, w) uint8, red green blue yellow, without padding."""
    height: int
    """Rows of the original image."""
    width: int
    """Columns of the original image."""
    size: int
    """Edge of the stored square that the image is the top left part of."""


@dataclass(frozen=True)
class CellMaps:
    """What a backend found: label maps of the field's image, of its stored square, or of the original image."""

    cells: np.ndarray
    """(H, W) int32, 0 background."""
    nuclei: np.ndarray | None
    """(H, W) int32 with the ids of the cells, or None where the backend knows no nuclei."""


@dataclass(frozen=True)
class BackendOptions:
    """What the stage hands to every factory; a backend takes what concerns it."""

    masks: Path | None = None
    """Folder of given label maps, `<ID>.png|tif|tiff|npz|npy`; needed by the backend 'masks'."""


Backend = Callable[[Field], CellMaps]
Factory = Callable[[BackendOptions], Backend]

BUILT_IN = {
    "classical": "wsss.cells.backends.classical:make",
    "masks": "wsss.cells.backends.masks:make",
}


def backend_names() -> list[str]:
    """Return the names of all backends, the built-in ones first."""
    return list(dict.fromkeys([*BUILT_IN, *sorted(point.name for point in _foreign())]))


def make_backend(name: str, options: BackendOptions | None = None) -> Backend:
    """Make the backend `name`; a built-in one wins over an entry point of the same name.

    Raises:
        ConfigError: there is no such backend, or it lacks an option.
    """
    check_choice("--backend", name, backend_names())
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        factory: Factory = getattr(importlib.import_module(module), attribute)
    else:
        factory = next(point for point in _foreign() if point.name == name).load()
    return factory(options or BackendOptions())


def _foreign() -> importlib.metadata.EntryPoints:
    return importlib.metadata.entry_points(group=GROUP)
