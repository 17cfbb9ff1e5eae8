"""InstanSeg: nuclei and cells of fluorescence images in one pass, from any set of channels."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wsss.core.checks import ConfigError
from wsss.core.device import choose_device
from wsss.segmenters import BackendOptions, Field, Finish
from wsss.segmenters.extras import fetching, need, paired

MODEL = "fluorescence_nuclei_and_cells"
FIELD_UM = 2048 * 0.08
"""Edge of a whole field of the HPA, in micrometres."""


def make(options: BackendOptions) -> "InstanSeg":
    """Make the backend, with the TorchScript file of `--weights FILE` or the model that the package fetches and keeps.

    Raises:
        ConfigError: the package or the weights are missing.
    """
    options.need_roles("instanseg", "nucleus")
    package = need("instanseg", "instanseg", "pip install 'wsss[instanseg]'")
    device = str(choose_device(options.device).place)
    with fetching("instanseg"):
        model = MODEL if options.weights is None else _read(options.weights)
        return InstanSeg(package.InstanSeg(model, device=device, verbosity=0), options.pixel_um)


def _read(path: Path) -> Any:

    try:
        return torch.jit.load(path, map_location="cpu")
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"--weights {path} is no TorchScript file, expected InstanSeg's instanseg.pt.") from error


def _stains(field: Field) -> np.ndarray:
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
        longest = max(field.height, field.width)
        original_um = FIELD_UM / longest if self.pixel_um is None else self.pixel_um
        stored_um = original_um * longest / max(field.image.shape[1:])
        found = self.model.eval_small_image(_stains(field), stored_um, return_image_tensor=False)
        nuclei, cells = found[0].cpu().numpy().astype(np.int32)  # (1, 2, H, W)
        return functools.partial(paired, cells, nuclei)
