"""Ways to find cells, all behind one call: fields in, label maps of cells and nuclei out.

There are two kinds. A plain backend is a function of one field; each worker process makes its own. A network backend
takes several fields at once and lives in the main process, next to its device; what is left to do for each field
(labelling, above all) goes to the workers. Another package can add a backend of either kind: an entry point of the
group `wsss.backends` whose value is a factory.
"""

import importlib
import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from wsss.core.channels import HPA_ROLES
from wsss.core.checks import ConfigError, check_choice
from wsss.core.label_maps import Geometry
from wsss.core.labels import HPA_CHANNELS
from wsss.core.reading import one_line

GROUP = "wsss.backends"


@dataclass(frozen=True)
class Field:
    """One field of view, as a backend sees it."""

    name: str
    """The image's ID."""
    image: np.ndarray
    """(C, h, w) uint8, without padding."""
    height: int
    """Rows of the original image."""
    width: int
    """Columns of the original image."""
    size: int
    """Edge of the stored square that the image is the top left part of."""
    roles: tuple[str, ...] = HPA_ROLES
    """What each channel shows; red, green, blue and yellow of the Atlas if left out."""
    names: tuple[str, ...] = ()
    """Names of the channels, if they are known."""
    pixel_um: float | None = None
    """Micrometres per pixel of the original image, if they are known."""

    @property
    def sizes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(H, W) of the original image, and of the stored square: label maps have one of them."""
        return Geometry(self.height, self.width, self.size).sizes

    @property
    def nucleus(self) -> np.ndarray | None:
        """(h, w) uint8: the nuclear stain; None without one."""
        return self._brightest("nucleus")

    @property
    def cell(self) -> np.ndarray | None:
        """(h, w) uint8: what fills the cells, the brighter of several stains; None without one."""
        return self._brightest("cell")

    @property
    def outline(self) -> np.ndarray | None:
        """(h, w) uint8: the cells' borders; None without such a stain."""
        return self._brightest("outline")

    @property
    def cells(self) -> list[np.ndarray]:
        """The stains that fill the cells, each (h, w) uint8; of red and yellow, as the Atlas calls them, red first."""
        order = sorted(range(len(self.roles)), key=lambda k: "yellow" in self.names[k : k + 1])
        return [self.image[k] for k in order if self.roles[k] == "cell"]

    def _brightest(self, wanted: str) -> np.ndarray | None:
        planes = [plane for plane, role in zip(self.image, self.roles, strict=True) if role == wanted]
        return np.max(planes, axis=0) if planes else None


@dataclass(frozen=True)
class CellMaps:
    """What a backend found: label maps of the field's image, of its stored square, or of the original image."""

    cells: np.ndarray
    """(H, W) int32, 0 background."""
    nuclei: np.ndarray | None
    """(H, W) int32 with the ids of the cells, or None where the backend knows no nuclei."""
    doubts: tuple[str, ...] = ()
    """Doubts about given maps, see `wsss.cells.instances.doubts_of`."""


@dataclass(frozen=True)
class BackendOptions:
    """What the stage hands to every factory; a backend takes what concerns it."""

    masks: Path | None = None
    """Given masks: a folder of label maps, `<ID>.png|tif|tiff|npz|npy`, or of outlines, `<ID>.geojson|zip|roi`, a COCO
    JSON, or a table with run lengths."""
    weights: Path | None = None
    """Weights of a network: a file, or a folder for hpacellseg."""
    device: str = "auto"
    """Where a network computes: auto, cpu, cuda or cuda:N."""
    batch: int = 8
    """Fields that a network takes at once."""
    pixel_um: float | None = None
    """Micrometres per pixel of the original images; None for what they declare, or a whole field of the HPA."""
    category: str = ""
    """Of a COCO JSON: names or ids of the categories that are cells, separated by commas; 'all'; '' for no choice."""
    roles: tuple[str, ...] = HPA_ROLES
    """What each channel of the images shows."""
    split: bool = False
    """Whether each connected part of a given mask is a separate cell."""
    channels: tuple[str, ...] = HPA_CHANNELS
    """Names that files of single channels bear."""
    grow: float = 0.0
    """How far cells reach around nuclei where no stain shows them, in radii of a typical nucleus."""
    background: int = 0
    """The number of the background in given masks, which changes places with 0."""

    def need_roles(self, backend: str, *wanted: str) -> None:
        """Check that the images have the channel roles that a backend needs.

        Raises:
            ConfigError: a role is missing.
        """
        missing = [role for role in wanted if role not in self.roles]
        if missing:
            known = ", ".join(sorted(filter(None, set(self.roles)))) or "none"
            raise ConfigError(
                f"--backend {backend} looks at channels of the role {' and '.join(wanted)}; the data set has {known}: "
                "prepare it again with --roles and --overwrite true, choose another backend, or bring label maps "
                "(--backend masks)."
            )


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
    "hpacellseg": "wsss.segmenters.packages:make",
    "cellpose": "wsss.segmenters.packages:make_cellpose",
    "instanseg": "wsss.segmenters.packages:make_instanseg",
}


AUTO = "auto"
UNET_WEIGHTS = Path(__file__).with_name("cell_unet.safetensors")
"""Of the backend unet, if no others are given."""


def choose_backend(name: str, roles: Sequence[str]) -> str:
    """Return the backend that 'auto' means for images whose channels have these roles; any other name as it is."""
    if name != AUTO:
        return name
    return "unet" if {"nucleus", "cell"} <= set(roles) else "classical"


def segment_one(backend: AnyBackend, field: Field) -> CellMaps:
    """Segment a single field, whatever kind the backend is."""
    return backend.segment_batch([field])[0]() if isinstance(backend, NetworkBackend) else backend(field)


def backend_names() -> list[str]:
    """Return the names of all backends, the built-in ones first."""
    return list(dict.fromkeys([*BUILT_IN, *sorted(point.name for point in _foreign())]))


def make_backend(name: str, options: BackendOptions | None = None) -> AnyBackend:
    """Make the backend `name`; a built-in one wins over an entry point of the same name.

    Raises:
        ConfigError: there is no such backend, or it lacks an option, its package or its weights.
    """
    if name not in (AUTO, *BUILT_IN):  # else no installed package is looked at
        check_choice("--backend", name, [AUTO, *backend_names()])
    name = choose_backend(name, (options or BackendOptions()).roles)
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        factory: Factory = getattr(importlib.import_module(module), attribute)
    else:
        point = next(point for point in _foreign() if point.name == name)
        try:
            factory = point.load()
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"--backend {name} ({point.value}) cannot be imported: {one_line(error)}.") from error
    return factory(options or BackendOptions())


def _foreign() -> importlib.metadata.EntryPoints:
    return importlib.metadata.entry_points(group=GROUP)
