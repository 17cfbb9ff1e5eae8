"""Backends around other packages, Cellpose and InstanSeg: a missing package is reported in one line."""

import functools
import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from wsss.cells.instances import pair_nuclei
from wsss.core.checks import ConfigError, install
from wsss.core.label_maps import Geometry
from wsss.core.reading import one_line
from wsss.models.device import choose_device
from wsss.segmenters import BackendOptions, CellMaps, Field, Finish


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
        stored_um = Geometry(field.height, field.width, field.size).stored_um(self.pixel_um)
        label_maps = self.model.eval_small_image(_instanseg_stains(field), stored_um, return_image_tensor=False)
        nuclei, cells = label_maps[0].cpu().numpy().astype(np.int32)  # (1, 2, H, W)
        return functools.partial(paired, cells, nuclei)
