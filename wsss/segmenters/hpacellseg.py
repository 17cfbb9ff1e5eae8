"""The networks of hpacellseg (CellProfiling/HPA-Cell-Segmentation); the labelling is ours.

Of the package only `CellSegmentator` is used, for its two probability maps. Weights are two safetensors files in one
folder, which `scripts/convert_hpacellseg.py` makes once from the published whole-model pickles.
"""

import functools
import json
import pickle
import re
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from skimage import transform

from wsss.core.checks import ConfigError, DataError
from wsss.core.device import choose_device
from wsss.core.digests import BLANK, check_seal, sealed
from wsss.core.files import write_bytes
from wsss.core.reading import parse_json
from wsss.segmenters import BackendOptions, CellMaps, Field, Finish
from wsss.segmenters.extras import need
from wsss.segmenters.label_cells import label_cells

INSTALL = (
    "pip install --no-deps 'hpacellseg @ git+https://github.com/CellProfiling/HPA-Cell-Segmentation' "
    "'pytorch_zoo @ git+https://github.com/haoxusci/pytorch_zoo' && pip install 'wsss[hpacellseg]'"
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
    factor = EDGE / max(plane.shape)
    if factor == 1:
        return plane
    shape = [max(1, round(length * factor)) for length in plane.shape[::-1]]
    return cv2.resize(plane, shape, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)


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
        with safe_open(path, framework="pt") as file:
            about = parse_json((file.metadata() or {}).get("wsss", "{}"), path)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} is no safetensors file of a network ({error}): convert the pickle again.") from error
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


def convert_pickle(source: Path, target: Path, *, er: bool = True) -> None:
    """Write the weights of a whole-model pickle as safetensors.

    Only what the architecture consists of is unpickled; a pickle that names anything else is refused, and runs nothing.

    Args:
        source: the pickle, as hpacellseg publishes it.
        target: the safetensors file.
        er: the network was trained with the yellow plane (the three-channel cell model).

    Raises:
        DataError: the file is missing, no pickle of a network, or one of another architecture.
    """
    blank = build_network(3, 3)
    parts: set[Any] = {type(module) for module in blank.modules()} | {
        torch.nn.DataParallel,
        torch.nn.functional.relu,
        set,
    }
    try:
        with torch.serialization.safe_globals(list(parts)):
            network: Any = torch.load(source, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise DataError(f"{source} does not exist: fetch the published weights first.") from None
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it names {named.group(1)}, which is no part of {ARCHITECTURE}" if named else "it is damaged"
        raise DataError(f"{source} is no pickle of one of hpacellseg's published networks: {reason}.") from error
    except (ImportError, AttributeError, EOFError, RuntimeError, TypeError, KeyError) as error:
        raise DataError(f"{source} is no pickle of a network ({' '.join(str(error).split())}).") from error
    network = network.module if isinstance(network, torch.nn.DataParallel) else network
    found = f"{type(network).__module__}.{type(network).__name__}"
    if found != ARCHITECTURE:
        raise DataError(f"{source} holds a {found}, expected {ARCHITECTURE}: hpacellseg's published networks.")
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    classes, channels = int(network.target_channel_num), int(network.input_channel_num)
    build_network(classes, channels).load_state_dict(tensors)
    about = {"architecture": ARCHITECTURE, "classes": classes, "channels": channels, "er": er, "digest": BLANK}
    write_bytes(target, sealed(save(tensors, {"wsss": json.dumps(about)})))
