"""Masks of images larger than memory: read part by part, written band by band."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile

from wsss.cells.mask_instances import mask_channel
from wsss.core.checks import DataError
from wsss.core.files import disk_errors
from wsss.core.run_length import Order, encode_parts
from wsss.data.large import LargeImage
from wsss.inference.semantic import MaskPredictor
from wsss.inference.tiles import predict_tiles

EDGE = 512
"""Edge of the tiles of the TIFF that is written, px."""


def predict_large(predictor: MaskPredictor, image: LargeImage, out: Path) -> int:
    """Write the mask of a large image to `out`: a tiled TIFF, (H, W) uint8 of 0 and 255, there whole or not at all.

    Memory holds one band of tiles, whatever the image's height.

    Returns:
        the pixels of the mask.

    Raises:
        DataError: the image has other channels than the network was trained with.
    """
    recipe, config = predictor.checkpoints[0].recipe, predictor.config
    if image.channels != recipe.masks.channels:
        raise DataError(
            f"{image.path} has {image.channels} channels, the network was trained with {recipe.masks.channels}."
        )
    bands = predict_tiles(image.read, predictor.part, image.size, tile=config.tile, overlap=config.overlap)
    masks = (mask_channel(probs, predictor.target) >= config.threshold for _, probs in bands)
    area = [0]
    part = out.with_name(f".{out.name}.part")  # tifffile wants a path: a stream without a name will not do
    with disk_errors(out):
        part.parent.mkdir(parents=True, exist_ok=True)
        try:
            tifffile.imwrite(
                part,
                _tiles(masks, image.size[1], area),
                shape=image.size,
                dtype=np.uint8,
                tile=(EDGE, EDGE),
                compression="zlib",
                bigtiff=True,
            )
            part.replace(out)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    return area[0]


def large_runs(mask: Path, order: Order) -> str:
    """Return the run-length text of a mask that `predict_large` has written, read part by part."""
    image = LargeImage(mask)
    height, width = image.size
    if order == "rows":
        return encode_parts(image.read(y, min(y + EDGE, height), 0, width).ravel() for y in range(0, height, EDGE))
    parts = (image.read(0, height, x, min(x + EDGE, width))[0] for x in range(0, width, EDGE))
    return encode_parts(part.ravel(order="F") for part in parts)


def _tiles(masks: Iterator[np.ndarray], width: int, area: list[int]) -> Iterator[np.ndarray]:
    """Cut masks of full width, (h, W) bool from top to bottom, into the tiles of a TIFF; add up their area."""
    band, filled = np.zeros((EDGE, width), np.uint8), 0
    for mask in masks:
        area[0] += int(mask.sum())
        while len(mask):
            fits = min(EDGE - filled, len(mask))
            band[filled : filled + fits] = mask[:fits].astype(np.uint8) * 255
            mask, filled = mask[fits:], filled + fits
            if filled == EDGE:
                yield from _cut(band)
                filled = 0
    if filled:
        yield from _cut(band[:filled])


def _cut(band: np.ndarray) -> Iterator[np.ndarray]:
    for x in range(0, band.shape[1], EDGE):
        tile = np.zeros((EDGE, EDGE), np.uint8)
        own = band[:, x : x + EDGE]
        tile[: own.shape[0], : own.shape[1]] = own
        yield tile
