"""Masks of images larger than memory: read part by part, written band by band."""

from pathlib import Path

import numpy as np

from wsss.cells.mask_instances import mask_channel
from wsss.core.checks import DataError
from wsss.data.large import LargeImage
from wsss.predict.semantic import MaskPredictor
from wsss.predict.tiles import predict_tiles


def predict_large(predictor: MaskPredictor, image: LargeImage, out: Path) -> None:
    """Write the mask of a large image to `out`: a .npy file, (H, W) uint8 of 0 and 255.

    Memory holds one band of tiles, whatever the image's height. The file is filled beside `out` and renamed when done.

    Raises:
        DataError: the image has other channels than the network was trained with.
    """
    recipe, config = predictor.members[0].recipe, predictor.config
    if image.channels != recipe.masks.channels:
        raise DataError(
            f"{image.path} has {image.channels} channels, the network was trained with {recipe.masks.channels}."
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.part")
    mask = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=image.size)
    bands = predict_tiles(image.read, predictor.part, image.size, tile=config.tile, overlap=config.overlap)
    for y, probs in bands:
        inside = mask_channel(probs, predictor.target) >= config.threshold
        mask[y : y + inside.shape[0]] = inside.astype(np.uint8) * 255
    mask.flush()
    del mask
    part.replace(out)
