"""Ways to find cells, all behind one call: fields in, label maps of cells and nuclei out.

There are two kinds. A plain backend is a function of one field; each worker process makes its own. A network backend
takes several fields at once and lives in the main process, next to its device; what is left to do for each field
(labelling, above all) goes to the workers. Another package can add its own of either kind: an entry point of the
group `wsss.backends` whose value is a factory.
"""

import importlib
import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

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
    """Given masks: a folder of label maps, `<ID>.png|tif|tiff|npz|npy`, or of outlines, `<ID>.geojson`, a COCO JSON, or
    a table with run lengths."""
    weights: Path | None = None
    """Weights of a network: a file, or a folder for hpacellseg."""
    device: str = "auto"
    """Where a network computes: auto, cpu, cuda or cuda:N."""
    batch: int = 8
    """Fields that a network takes at once."""
    pixel_um: float | None = None
    """Micrometres per pixel of the original images; None takes each for a whole field of the HPA."""
    category: str = ""
    """Of a COCO JSON: names or ids of the categories that are cells, separated by commas; 'all'; '' for no choice."""


Backend = Callable[[Field], CellMaps]
Finish = Callable[[], CellMaps]
"""The rest of the work on one field, to be called in another process: something that can be pickled."""


@runtime_checkable
class NetworkBackend(Protocol):
    """A backend that computes on a device, several fields at once."""

    def segment_batch(self, fields: Sequence[Field]) -> list[Finish]:
        """Run the networks once on every field; return what makes each field's maps."""
        ...


AnyBackend = Backend | NetworkBackend
Factory = Callable[[BackendOptions], AnyBackend]

BUILT_IN = {
    "classical": "wsss.segmenters.classical:make",
    "unet": "wsss.segmenters.cell_unet:make",
    "masks": "wsss.segmenters.masks:make",
    "hpacellseg": "wsss.segmenters.hpacellseg:make",
    "cellpose": "wsss.segmenters.cellpose:make",
    "instanseg": "wsss.segmenters.instanseg:make",
}


def backend_names() -> list[str]:
    """Return the names of all backends, the built-in ones first."""
    return list(dict.fromkeys([*BUILT_IN, *sorted(point.name for point in _foreign())]))


def make_backend(name: str, options: BackendOptions | None = None) -> AnyBackend:
    """Make the backend `name`; a built-in one wins over an entry point of the same name.

    Raises:
        ConfigError: there is no such backend, or it lacks an option, its package or its weights.
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
