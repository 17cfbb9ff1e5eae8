"""The backend `unet`: the U-Net that comes with wsss finds nuclei and cells in the stains of nuclei and cells."""

import functools
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors import SafetensorError
from skimage.segmentation import expand_labels, watershed

from wsss.cells.instances import fill_holes
from wsss.core.checks import ConfigError, DataError
from wsss.core.files import check_format, check_seal
from wsss.core.reading import one_line
from wsss.models.device import Device, choose_device, in_parts
from wsss.models.unet import BACKBONE, Unet, build_cell_unet
from wsss.models.weights import load_weights, read_recorded
from wsss.segmenters import UNET_WEIGHTS, BackendOptions, CellMaps, Field, Finish
from wsss.segmenters.classical import ClassicalConfig, find_nuclei, maps_of_shape, reduced_root, scaled, tidy_cells

LOW, HIGH = 1.0, 99.8
LEAST = 24.0
"""A plane that spans fewer grey levels than this is not stretched to the whole range."""
BLOCK, LEAST_SIGNAL = 4, 5.0
"""A plane whose means over blocks of 4 x 4 pixels span fewer grey levels than this shows nothing but noise."""


def stretch(image: np.ndarray) -> np.ndarray:
    """Stretch every plane of (C, H, W) uint8 between two of its quantiles, on a square-root scale: uint8."""
    out = np.empty(image.shape, np.uint8)
    for plane, target in zip(image, out, strict=True):
        cumulated = np.cumsum(np.bincount(plane.ravel(), minlength=256)) / plane.size
        low, high = (float(np.searchsorted(cumulated, q / 100)) for q in (LOW, HIGH))
        levels = (np.arange(256) - low) / max(high - low, LEAST)
        target[:] = np.rint(255 * np.sqrt(np.clip(levels, 0, 1))).astype(np.uint8)[plane] if _shows(plane) else 0
    return out


def _shows(plane: np.ndarray) -> bool:
    height, width = (n // BLOCK for n in plane.shape)
    if not height or not width:
        return bool(np.ptp(plane) >= LEAST_SIGNAL)
    blocks = plane[: height * BLOCK, : width * BLOCK].reshape(height, BLOCK, width, BLOCK).mean(axis=(1, 3))
    return bool(np.ptp(blocks) >= LEAST_SIGNAL)


EDGE = 384
"""Longer edge, in pixels, of the field that the network sees first: the scale it was trained at."""
RADIUS, LEAST_RADIUS, MOST_RADIUS = 10.0, 6.0, 16.0
"""Nuclei that it was trained on, in pixels; where those found are smaller or larger, the field is looked at again."""
EDGES = (96, 768)
"""Least and most edge of that second look."""
SURE = 0.4
"""Probability from which a pixel belongs to a cell."""
LABELLING = ClassicalConfig(collar=0.2, opening=0.1)
"""Of nuclei and cells; the network's outlines need less of both than those of a threshold."""
FORMAT = "wsss-cells-1"


def make(options: BackendOptions) -> "CellUnet":
    """Make the backend, with the weights that come with the package or those of `--weights FILE`.

    Raises:
        ConfigError: there is no such file, or no such device.
        DataError: the file holds other weights.
    """
    options.need_roles("unet", "nucleus", "cell")
    return CellUnet(load_cell_unet(options.weights or UNET_WEIGHTS), choose_device(options.device, predicts=True))


def load_cell_unet(path: Path) -> Unet:
    """Build the network and fill it from a file of `scripts/train_segmenter.py`.

    Raises:
        ConfigError: the file is missing.
        DataError: it holds other weights.
    """
    if not path.is_file():
        raise ConfigError(f"--weights {path} is no file, expected one of scripts/train_segmenter.py.")
    check_seal(path, "Install wsss again, or choose another file.")
    try:
        about, state = read_recorded(path)
        if not isinstance(about, dict) or about.get("backbone") != BACKBONE:
            raise DataError(f"{path} does not name {BACKBONE} as its backbone: choose a file of train_segmenter.py.")
        check_format(path, about.get("format", FORMAT), FORMAT, "cell U-Net", "take another file")
        net = build_cell_unet()
        plain = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
        load_weights(net, plain, path)
    except (SafetensorError, RuntimeError, OSError) as error:
        raise DataError(f"{path} holds no weights of the cell U-Net ({one_line(error)}): take another file.") from error
    return net.eval()


class CellUnet:
    """The network on one device; a field passes through it once, or twice if its nuclei have an unusual size."""

    def __init__(self, net: Unet, device: Device) -> None:
        self.net = net.to(device.place).to(memory_format=torch.channels_last)
        self.device = device

    def segment_batch(self, fields: Sequence[Field]) -> list[Finish]:
        """Run the network on every field; the labelling is left to `label_field`."""
        planes = [stretch(_stains(field)) for field in fields]
        zooms = [EDGE / max(stains.shape[1:]) for stains in planes]
        maps = self._look(planes, zooms)
        again = {k: zoom for k, zoom in enumerate(map(_better_zoom, maps, planes, zooms)) if zoom is not None}
        second = self._look([planes[k] for k in again], list(again.values()))
        for k, better in zip(again, second, strict=True):
            maps[k] = better
        return [functools.partial(label_field, of[2:], _nucleus(field)) for of, field in zip(maps, fields, strict=True)]

    def _look(self, planes: Sequence[np.ndarray], zooms: Sequence[float]) -> list[np.ndarray]:
        """Return (4, h, w) uint8 maps of every field at its zoom; fields of one size pass together."""
        inputs = [np.stack([scaled(p, zoom) for p in stains]) for stains, zoom in zip(planes, zooms, strict=True)]
        maps: dict[int, np.ndarray] = {}
        for shape in dict.fromkeys(image.shape for image in inputs):
            same = [k for k, image in enumerate(inputs) if image.shape == shape]
            maps |= dict(zip(same, self._run(np.stack([inputs[k] for k in same])), strict=True))
        return [maps[k] for k in range(len(inputs))]

    @torch.inference_mode()
    def _run(self, images: np.ndarray) -> np.ndarray:
        def see(rows: slice) -> np.ndarray:
            batch = self.device.put(torch.from_numpy(images[rows])).to(memory_format=torch.channels_last)
            with self.device.autocast():
                logits = self.net(batch).logits
            return np.asarray((255 * logits.float().sigmoid()).round().byte().cpu().numpy())

        return np.concatenate(in_parts(self.net, images.shape, see))


def _stains(field: Field) -> np.ndarray:
    """Return a stain that fills the cells, the nuclei, and another such stain (the same if there is one), (3, h, w).

    The protein of interest would shape the masks.
    """
    return np.stack([field.cells[0], _nucleus(field), field.cells[-1]])


def _nucleus(field: Field) -> np.ndarray:
    assert field.nucleus is not None, "checked when the backend was made"
    return field.nucleus


def _better_zoom(maps: np.ndarray, planes: np.ndarray, zoom: float) -> float | None:
    """Return the zoom at which the nuclei have the size that the network knows; None if they nearly have it."""
    seeds = ((maps[0] > 127) & (maps[1] <= 127)).astype(np.uint8)
    count, _, stats, _ = cv2.connectedComponentsWithStats(seeds, connectivity=4)
    if count == 1:
        return None
    areas = np.sort(stats[1:, cv2.CC_STAT_AREA])
    typical = areas[np.searchsorted(np.cumsum(areas), areas.sum() / 2)]
    radius = float(np.sqrt(typical / np.pi))
    if LEAST_RADIUS <= radius <= MOST_RADIUS:
        return None
    longest = max(planes.shape[1:])
    better = float(np.clip(zoom * RADIUS / radius, EDGES[0] / longest, EDGES[1] / longest))
    return better if max(better / zoom, zoom / better) > 1.2 else None


def label_field(maps: np.ndarray, nucleus: np.ndarray) -> CellMaps:
    """Grow a cell around every nucleus over the network's maps of cells, with shared ids 1..N.

    Args:
        maps: (2, h, w) uint8: inside and border of cells.
        nucleus: (H, W) uint8, the nuclear stain. Nuclei are found in it as the classical backend does, which divides
            fewer of them than the network's maps do.

    Returns:
        Maps of (H, W).
    """
    config = LABELLING
    plane = reduced_root(nucleus, config)
    nuclei, radius = find_nuclei(plane, config)
    if not radius:
        return maps_of_shape(nuclei, nuclei, nucleus.shape)
    inside, border = (cv2.resize(of_cells, plane.shape[::-1]).astype(np.float32) / 255 for of_cells in maps)
    mask = fill_holes((np.maximum(inside, border) >= SURE) | (nuclei > 0), np.pi * radius**2)
    seeds = np.where(mask, expand_labels(nuclei, config.collar * radius), 0)
    cells = watershed(border - inside, seeds, mask=mask).astype(np.int32)
    return maps_of_shape(tidy_cells(cells, nuclei, config.opening * radius), nuclei, nucleus.shape)
