"""Backends around other packages, hpacellseg, Cellpose and InstanSeg: a missing package is reported in one line.

Of hpacellseg (CellProfiling/HPA-Cell-Segmentation) only `CellSegmentator` is used, for its two probability maps; the
labelling is ours. Its weights are two safetensors files in one folder, which `scripts/convert_hpacellseg.py` makes once
from the published whole-model pickles.
"""

import functools
import importlib
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import torch
from safetensors import SafetensorError
from skimage import transform
from skimage.segmentation import watershed

from wsss.cells.instances import drop_small, fill_cells, fill_holes, pair_nuclei, renumber
from wsss.core.checks import ConfigError, DataError, install
from wsss.core.files import check_seal
from wsss.core.label_maps import Geometry, nearest
from wsss.core.reading import one_line
from wsss.models.device import choose_device
from wsss.models.weights import read_recorded
from wsss.segmenters import BackendOptions, CellMaps, Field, Finish
from wsss.segmenters.classical import scaled


def need(module: str, backend: str, way: str) -> ModuleType:
    """Import the module that a backend needs.

    Raises:
        ConfigError: it, or something it needs itself, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"--backend {backend} cannot import {error.name or module}: {way}") from error


@contextmanager
def fetching(backend: str) -> Iterator[None]:
    """Turn a failed download of weights into one line that says what to do."""
    try:
        yield
    except OSError as error:  # those of urllib and requests are OSErrors too
        raise ConfigError(
            f"--backend {backend} could not fetch or read its weights ({one_line(error)}): "
            "fetch them where there is a network, then pass --weights FILE."
        ) from error


def paired(cells: np.ndarray, nuclei: np.ndarray) -> CellMaps:
    """Give separately segmented nuclei the ids of their cells."""
    return CellMaps(*pair_nuclei(cells.astype(np.int32), nuclei.astype(np.int32)))


def make_cellpose(options: BackendOptions) -> "Cellpose":
    """Make the backend, with the weights of `--weights FILE` or those that the package fetches and keeps.

    Raises:
        ConfigError: the package or the weights are missing, or no channel shows nuclei or cells.
    """
    if not {"cell", "outline"} & set(options.roles):
        options.need_roles("cellpose", "nucleus")
    models = need("cellpose.models", "cellpose", install("cellpose"))
    device = choose_device(options.device)
    chosen: dict[str, Any] = {}
    if options.weights is not None:
        # the package takes its default model, without a word, for a file that is not there
        if not options.weights.is_file():
            raise ConfigError(f"--weights {options.weights} is no file, expected a model of Cellpose 4.")
        chosen["pretrained_model"] = str(options.weights)
    with fetching("cellpose"):
        half = device.half is torch.bfloat16
        model = models.CellposeModel(gpu=device.is_cuda, device=device.place, use_bfloat16=half, **chosen)
    return Cellpose(model)


class Cellpose:
    """One model, run twice on every field."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def segment_batch(self, fields: Sequence[Field]) -> list[Finish]:
        """Find cells and nuclei of every field; the pairing is left to `paired`."""
        cells = self._labels([_picture(*_cellpose_stains(field)) for field in fields])
        if any(field.nucleus is None for field in fields):
            return [functools.partial(CellMaps, label_map.astype(np.int32), None) for label_map in cells]
        nuclei = self._labels([_picture(field.nucleus) for field in fields if field.nucleus is not None])
        return [functools.partial(paired, *maps) for maps in zip(cells, nuclei, strict=True)]

    def _labels(self, pictures: list[np.ndarray]) -> list[np.ndarray]:
        return list(self.model.eval(pictures, channel_axis=-1)[0])


def _cellpose_stains(field: Field) -> list[np.ndarray]:
    """Return what fills or outlines the cells, and the nuclei, as far as they are stained."""
    planes = field.cell if field.cell is not None else field.outline, field.nucleus
    return [plane for plane in planes if plane is not None]


def _picture(*planes: np.ndarray) -> np.ndarray:
    """Stack planes into the (H, W, 3) that Cellpose takes; their order is of no importance to it."""
    empty = np.zeros_like(planes[0])
    return np.stack([*planes, empty, empty][:3], axis=-1)


MODEL = "fluorescence_nuclei_and_cells"


def make_instanseg(options: BackendOptions) -> "InstanSeg":
    """Make the backend, with the TorchScript file of `--weights FILE` or the model that the package fetches and keeps.

    Raises:
        ConfigError: the package or the weights are missing.
    """
    options.need_roles("instanseg", "nucleus")
    package = need("instanseg", "instanseg", install("instanseg"))
    device = str(choose_device(options.device).place)
    with fetching("instanseg"):
        model = MODEL if options.weights is None else _read_torchscript(options.weights)
        return InstanSeg(package.InstanSeg(model, device=device, verbosity=0), options.pixel_um)


def _read_torchscript(path: Path) -> Any:
    try:
        return torch.jit.load(path, map_location="cpu")
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"--weights {path} is no TorchScript file, expected InstanSeg's instanseg.pt.") from error


def _instanseg_stains(field: Field) -> np.ndarray:
    """Return what shows nuclei and cells, (k, h, w); the protein of interest would bias the masks."""
    planes = [field.nucleus, *field.cells, field.outline]
    return np.stack([plane for plane in planes if plane is not None])


class InstanSeg:
    """One model that labels nuclei and cells."""

    def __init__(self, model: Any, pixel_um: float | None) -> None:
        self.model = model
        self.pixel_um = pixel_um

    def segment_batch(self, fields: Sequence[Field]) -> list[Finish]:
        """Label every field; the pairing is left to the worker."""
        return [self._segment(field) for field in fields]

    def _segment(self, field: Field) -> Finish:
        pixel_um = self.pixel_um or field.pixel_um
        stored_um = Geometry(field.height, field.width, field.size).stored_um(pixel_um)
        label_maps = self.model.eval_small_image(_instanseg_stains(field), stored_um, return_image_tensor=False)
        nuclei, cells = label_maps[0].cpu().numpy().astype(np.int32)  # (1, 2, H, W)
        return functools.partial(paired, cells, nuclei)


REFERENCE_EDGE = 2048
"""Edge of the fields, in pixels, for which the areas and the radius below are meant."""

SEED_LEVEL, NUCLEUS_LEVEL, BORDER_LEVEL, CELL_LEVEL = 0.15, 0.4, 0.05, 0.22
SEED_AREA, NUCLEUS_HOLE, NUCLEUS_AREA, CELL_AREA, CLOSING_RADIUS = 500, 1000, 2500, 5500, 6
MOST_REDUCTION, LEAST_EDGE = 4.0, 512
"""The watersheds run on maps reduced by this factor, but not to a longer edge below this."""
SMALL_CELL = 2500
"""Cells of fewer pixels than this (their mean, on the reduced map) have their touching borders drawn again, finer: a
border that is off by half a reduced pixel takes two per cent off the overlap of a cell of 600 such pixels."""


@dataclass(frozen=True)
class _Maps:
    """Border and body of nuclei or of cells, (H, W) uint8."""

    border: np.ndarray
    body: np.ndarray

    def shrunk(self, shape: tuple[int, int]) -> "_Maps":
        """Scale both to (width, height) `shape` by area averaging."""
        return _Maps(*(cv2.resize(m, shape, interpolation=cv2.INTER_AREA) for m in (self.border, self.body)))


def label_cells(nuclei: np.ndarray, cells: np.ndarray, *, scale: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Label nuclei and cells in the probability maps of a segmentation network.

    Args:
        nuclei: (H, W, 3) uint8, or float in [0, 1]: unused, border, body; as hpacellseg gives them. Any size.
        cells: the same for cells, of the same size.
        scale: pixels of the maps per pixel of the reference (a field photographed at 2048 x 2048); None takes the
            longer edge for that of a whole field.

    Returns:
        Nuclei and cells, (H, W) int32 with shared ids 1..N. A nucleus lies within its cell.

    Raises:
        DataError: a map has another shape, or values that are no probabilities.

    Source: hpacellseg's label_cell (section 5 of the method), without its limits on number, type and size.
    """
    nucleus, cell = _read(nuclei, "nuclei"), _read(cells, "cells")
    if nucleus.body.shape != cell.body.shape:
        raise DataError(f"the nuclei map is {nucleus.body.shape}, the cell map {cell.body.shape}: they must match.")
    height, width = cell.body.shape
    scale = max(height, width) / REFERENCE_EDGE if scale is None else scale
    step = min(MOST_REDUCTION, max(1.0, max(height, width) / LEAST_EDGE))
    shape = (max(1, round(width / step)), max(1, round(height / step)))
    seeds = _find_seeds(nucleus, SEED_AREA * (scale / step) ** 2, shape)
    level = _cell_level(cell.body)
    small_nucleus, small_cell = nucleus.shrunk(shape), cell.shrunk(shape)
    labels = _label_reduced(seeds, small_nucleus, small_cell, level, scale / step)
    nuclei_mask, small_nuclei_mask = (m.body > _byte(NUCLEUS_LEVEL) for m in (nucleus, small_nucleus))
    cells_mask, small_cells_mask = ((m.body > level) | (m.border > _byte(BORDER_LEVEL)) for m in (cell, small_cell))
    full_nuclei = _refine(labels[0], nuclei_mask, small_nuclei_mask)
    light = cell.body if _are_small(labels[1]) else None
    full_cells = _refine(labels[1], cells_mask, small_cells_mask, light)
    full_nuclei[full_nuclei != full_cells] = 0
    return full_nuclei.astype(np.int32), full_cells.astype(np.int32)


def _byte(probability: float) -> int:
    return round(255 * probability)


def _read(maps: np.ndarray, name: str) -> _Maps:
    """Take border and body out of (H, W, 3) maps as uint8."""
    if maps.ndim != 3 or maps.shape[2] != 3 or 0 in maps.shape:
        raise DataError(f"the {name} map is {maps.shape}, expected (H, W, 3): unused, border, body.")
    if maps.dtype == np.uint8:
        return _Maps(*(cv2.extractChannel(maps, k) for k in (1, 2)))
    if not np.issubdtype(maps.dtype, np.floating):
        raise DataError(f"the {name} map is {maps.dtype}, expected uint8, or float in [0, 1].")
    planes = [np.ascontiguousarray(maps[..., k], np.float32) for k in (1, 2)]
    low, high = min(float(p.min()) for p in planes), max(float(p.max()) for p in planes)
    if not (low >= 0 and high <= 1):  # NaN fails both
        raise DataError(f"the {name} map holds values from {low:g} to {high:g}, expected probabilities 0..1.")
    return _Maps(*(cv2.convertScaleAbs(p, alpha=255) for p in planes))


def _find_seeds(nucleus: _Maps, least: float, shape: tuple[int, int]) -> np.ndarray:
    """Label bodies away from borders at full size, scale to `shape` and drop the tiny ones: (h, w) int32.

    Reduced first, the thin borders between neighbours would blur away and the neighbours become one.
    """
    mask = (nucleus.body > _byte(SEED_LEVEL)) & (nucleus.border <= _byte(BORDER_LEVEL))
    _, parts = cv2.connectedComponents(mask.view(np.uint8), connectivity=4)
    rows, columns = nearest(shape[1], parts.shape[0]), nearest(shape[0], parts.shape[1])
    seeds = parts[rows[:, None], columns]
    return drop_small(seeds, least)


def _cell_level(body: np.ndarray) -> int:
    """Return the level above which a pixel is of a cell: half of Otsu's, but not below the fixed one."""
    otsu, _ = cv2.threshold(body, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    return max(_byte(CELL_LEVEL), round(otsu / 2))


def _label_reduced(
    seeds: np.ndarray, nucleus: _Maps, cell: _Maps, level: int, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Run the steps of label_cell on maps of `scale`; return nuclei and cells with shared ids 1..N."""
    area = scale**2
    mask = fill_holes(nucleus.body > _byte(NUCLEUS_LEVEL), NUCLEUS_HOLE * area)
    nuclei = drop_small(_flood(nucleus.body, seeds, mask), NUCLEUS_AREA * area)
    cells = drop_small(_flood(cell.body, nuclei, (cell.body > level) | (nuclei > 0)), CELL_AREA * area)
    cells = fill_cells(_close(cells, CLOSING_RADIUS * scale))
    # uint16: the sum of two uint8 maps would wrap
    both = cell.body.astype(np.uint16) + cell.border
    cells = _flood(both, cells, (cell.border > _byte(BORDER_LEVEL)) | (cells > 0))
    cells = drop_small(fill_cells(cells), CELL_AREA * area)
    cells, nuclei = renumber(cells, nuclei)
    return nuclei, cells


def _flood(light: np.ndarray, seeds: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Grow the seeds over the mask, brightest pixels first: (H, W) int32."""
    # the inside of a seed has nothing to conquer: left out, it does not pass through the watershed's queue
    inside = np.zeros(seeds.shape, bool)
    centre = seeds[1:-1, 1:-1]
    inside[1:-1, 1:-1] = centre > 0
    for neighbour in (seeds[:-2, 1:-1], seeds[2:, 1:-1], seeds[1:-1, :-2], seeds[1:-1, 2:]):
        inside[1:-1, 1:-1] &= centre == neighbour
    grown = watershed(-light.astype(np.int32), seeds, mask=mask & ~inside).astype(np.int32)
    np.copyto(grown, seeds, where=inside & mask)
    return grown


def _close(labels: np.ndarray, radius: float) -> np.ndarray:
    """Close gaps narrower than a disk; labels keep what they have."""
    if radius < 0.5:
        return labels
    side = 2 * round(radius) + 1
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    # float32 holds every id below 2**24 exactly, and OpenCV has no morphology of int32
    closed = cv2.morphologyEx(labels.astype(np.float32), cv2.MORPH_CLOSE, disk).astype(np.int32)
    return np.where(labels > 0, labels, closed)


def _are_small(labels: np.ndarray) -> bool:
    return bool(0 < np.count_nonzero(labels) < SMALL_CELL * labels.max())


def _refine(
    labels: np.ndarray, mask: np.ndarray, small_mask: np.ndarray, light: np.ndarray | None = None
) -> np.ndarray:
    """Bring reduced labels to the size of `mask`, outlines following `mask` where the reduced ones followed theirs.

    With `light`, the borders between labels follow its valleys too, at half the size of `mask`.

    Returns:
        (H, W) float32 or uint16 (whatever is fastest to scale), whole numbers.
    """
    narrow = labels.astype(np.uint16) if labels.max() < 2**16 else labels.astype(np.float32)
    around = np.where(labels > 0, narrow, cv2.dilate(narrow, np.ones((3, 3), np.uint8)))
    shape = mask.shape[::-1]
    if light is not None:
        around = _redraw_borders(around, light)
    wide = cv2.resize(around, shape, interpolation=cv2.INTER_NEAREST)
    added = ((labels > 0) & ~small_mask).astype(np.uint8)
    keep = mask.view(np.uint8) | cv2.resize(added, shape, interpolation=cv2.INTER_NEAREST)
    return cv2.copyTo(wide, keep)


def _redraw_borders(labels: np.ndarray, light: np.ndarray) -> np.ndarray:
    """Draw the borders between touching labels (h, w) again at half the size of `light`, where that is larger."""
    shape = (light.shape[1] // 2, light.shape[0] // 2)
    if shape[0] <= labels.shape[1] or shape[1] <= labels.shape[0]:
        return labels
    kernel = np.ones((3, 3), np.uint8)
    highest = cv2.dilate(labels, kernel)
    lowest = cv2.erode(np.where(labels > 0, labels, highest.max()), kernel)
    open_again = ((highest != lowest) & (labels > 0)).view(np.uint8)
    wide = cv2.resize(labels, shape, interpolation=cv2.INTER_NEAREST)
    seeds = np.where(cv2.resize(open_again, shape, interpolation=cv2.INTER_NEAREST) > 0, 0, wide).astype(np.int32)
    grown = _flood(cv2.resize(light, shape, interpolation=cv2.INTER_AREA), seeds, wide > 0)
    # a label that was all border keeps its place
    return np.where(grown > 0, grown, wide).astype(labels.dtype)


INSTALL = (
    "pip install --no-deps 'hpacellseg @ git+https://github.com/CellProfiling/HPA-Cell-Segmentation' "
    "'pytorch_zoo @ git+https://github.com/haoxusci/pytorch_zoo' && " + install("hpacellseg")
)
EDGE = 512
"""Longest edge, in pixels, of the fields that the networks were trained on: a quarter of 2048."""
NUCLEI, CELLS = "nuclei.safetensors", "cells.safetensors"
ARCHITECTURE = "pytorch_zoo.unet.DPNUnet"
"""The one architecture of the published networks, and the only one that is ever built."""


def make(options: BackendOptions) -> "HpaCellSeg":
    """Make the backend.

    Raises:
        ConfigError: the package or its weights are missing.
    """
    if options.weights is None:
        raise ConfigError(
            "--backend hpacellseg needs --weights FOLDER, made from the published pickles by "
            "scripts/convert_hpacellseg.py."
        )
    options.need_roles("hpacellseg", "nucleus", "cell")
    return HpaCellSeg(options.weights, options.device)


class HpaCellSeg:
    """Both networks on one device; every field passes through each of them once, at the stored scale."""

    def __init__(self, weights: Path, device: str = "auto") -> None:
        package = need("hpacellseg.cellsegmentator", "hpacellseg", INSTALL)
        package.transform = types.SimpleNamespace(rescale=_rescale)  # type: ignore[attr-defined]
        place = choose_device(device).place
        nuclei, cells = load_network(weights / NUCLEI)[0], load_network(weights / CELLS)
        self.with_er = cells[1]
        # padding: sides that do not divide by 32 pass too, and cells at the image's border get better
        self.net = package.CellSegmentator(
            nuclei_model=nuclei,
            cell_model=cells[0],
            scale_factor=1,
            device=str(place),
            padding=True,
            multi_channel_model=self.with_er,
        )

    def segment_batch(self, fields: Sequence[Field]) -> list[Finish]:
        """Run both networks on every field; the labelling is left to `label_field`.

        Raises:
            ConfigError: the device has not enough memory for them.
        """
        blue = [_scaled(field.nucleus) for field in fields if field.nucleus is not None]
        red, yellow = ([_scaled(field.cells[k]) for field in fields] for k in (0, -1))
        try:
            nuclei = self.net.pred_nuclei(blue)
            cells = self.net.pred_cells([red, yellow if self.with_er else None, blue])
        except torch.cuda.OutOfMemoryError as error:
            raise ConfigError("the GPU's memory does not hold hpacellseg's networks: pass --device cpu.") from error
        shapes = [field.image.shape[1:] for field in fields]
        return [functools.partial(label_field, *maps) for maps in zip(nuclei, cells, shapes, strict=True)]


def label_field(nuclei: np.ndarray, cells: np.ndarray, shape: tuple[int, int]) -> CellMaps:
    """Label a field's probability maps, (h, w, 3) uint8 each, at the field's own (H, W) `shape`."""
    maps = [
        m if m.shape[:2] == shape else cv2.resize(m, shape[::-1], interpolation=cv2.INTER_LINEAR)
        for m in (nuclei, cells)
    ]
    own_nuclei, own_cells = label_cells(*maps)
    return CellMaps(cells=own_cells, nuclei=own_nuclei)


def _scaled(plane: np.ndarray) -> np.ndarray:
    """Bring a plane to the scale that the networks know; a store of 512 has it already."""
    return scaled(plane, EDGE / max(plane.shape))


def _rescale(image: np.ndarray, scale: float, multichannel: bool = False) -> np.ndarray:
    """Stand in for scikit-image's rescale, which since 0.23 does not know the word `multichannel` of the package."""
    return np.asarray(transform.rescale(image, scale, channel_axis=-1 if multichannel else None))


def load_network(path: Path) -> tuple[torch.nn.Module, bool]:
    """Build the architecture and fill it from a converted file; return it and whether it uses the yellow plane.

    Raises:
        ConfigError: the file is missing, or the package with the architecture.
        DataError: the file is no converted network.
    """
    if not path.is_file():
        raise ConfigError(f"{path} does not exist: convert the published pickles by scripts/convert_hpacellseg.py.")
    check_seal(path, "Convert the pickle again.")
    try:
        about, tensors = read_recorded(path)
    except (SafetensorError, OSError) as error:
        raise DataError(
            f"{path} is no safetensors file of a network ({one_line(error)}): convert the pickle again."
        ) from error
    if not isinstance(about, dict) or about.get("architecture") != ARCHITECTURE:
        raise DataError(f"{path} does not name {ARCHITECTURE} as its architecture: convert the pickle again.")
    shape = [n for name in ("classes", "channels") if isinstance(n := about.get(name), int)]
    if len(shape) < 2 or not all(0 < n <= 16 for n in shape):
        raise DataError(f"{path} names {shape} classes and channels, expected up to 16: convert the pickle again.")
    network = build_network(*shape)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise DataError(f"{path} does not fit {ARCHITECTURE}: convert the pickle again.") from error
    return network.eval(), bool(about.get("er"))


def build_network(classes: int, channels: int) -> torch.nn.Module:
    """Build hpacellseg's architecture with random weights."""
    unet = need("pytorch_zoo.unet", "hpacellseg", INSTALL)
    with _nothing_fetched():
        network: torch.nn.Module = unet.DPNUnet(classes, channels)
    return network


@contextmanager
def _nothing_fetched() -> Iterator[None]:
    """Keep the architecture's constructor from fetching ImageNet weights, which are overwritten anyway."""
    zoo, dpn = (need(f"pytorch_zoo.{name}", "hpacellseg", INSTALL) for name in ("abstract_model", "dpn"))
    before = zoo.encoder_params["dpn92"]
    zoo.encoder_params["dpn92"] = before | {"init_op": functools.partial(dpn.dpn92, pretrained=None), "url": None}
    try:
        yield
    finally:
        zoo.encoder_params["dpn92"] = before
