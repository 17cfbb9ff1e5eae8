"""Cellpose (version 4, Cellpose-SAM): cells from cytoplasm and nuclei, nuclei by themselves, paired afterwards."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from wsss.core.checks import ConfigError
from wsss.core.device import choose_device
from wsss.segmenters import BackendOptions, CellMaps, Field, Finish
from wsss.segmenters.extras import fetching, need, paired


def make(options: BackendOptions) -> "Cellpose":
    """Make the backend, with the weights of `--weights FILE` or those that the package fetches and keeps.

    Raises:
        ConfigError: the package or the weights are missing, or no channel shows nuclei or cells.
    """
    if not {"cell", "outline"} & set(options.roles):
        options.need_roles("cellpose", "nucleus")
    models = need("cellpose.models", "cellpose", "pip install 'wsss[cellpose]'")
    device = choose_device(options.device)
    chosen: dict[str, Any] = {}
    if options.weights is not None:
        # the package takes its default model, without a word, for a file that is not there
        if not options.weights.is_file():
            raise ConfigError(f"--weights {options.weights} is no file, expected a model of Cellpose 4.")
        chosen["pretrained_model"] = str(options.weights)
    with fetching("cellpose"):
        model = models.CellposeModel(gpu=device.is_cuda, device=device.place, use_bfloat16=device.is_cuda, **chosen)
    return Cellpose(model)


class Cellpose:
    """One model, asked twice about every field."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def segment_batch(self, fields: Sequence[Field]) -> list[Finish]:
        """Find cells and nuclei of every field; the pairing is left to `paired`."""
        cells = self._labels([_picture(*_stains(field)) for field in fields])
        if any(field.nucleus is None for field in fields):
            return [functools.partial(CellMaps, own.astype(np.int32), None) for own in cells]
        nuclei = self._labels([_picture(field.nucleus) for field in fields if field.nucleus is not None])
        return [functools.partial(paired, *maps) for maps in zip(cells, nuclei, strict=True)]

    def _labels(self, pictures: list[np.ndarray]) -> list[np.ndarray]:
        return list(self.model.eval(pictures, channel_axis=-1)[0])


def _stains(field: Field) -> list[np.ndarray]:
    """Return what fills or outlines the cells, and the nuclei, as far as they are stained."""
    planes = field.cell if field.cell is not None else field.outline, field.nucleus
    return [plane for plane in planes if plane is not None]


def _picture(*planes: np.ndarray) -> np.ndarray:
    """Stack planes into the (H, W, 3) that Cellpose takes; their order is of no importance to it."""
    empty = np.zeros_like(planes[0])
    return np.stack([*planes, empty, empty][:3], axis=-1)
