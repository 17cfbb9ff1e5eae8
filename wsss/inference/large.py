"""Masks of images larger than memory: read part by part, written band by band."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from uuid import NAMESPACE_URL, uuid5

import numpy as np
import tifffile

from wsss.cells.mask_instances import mask_channel
from wsss.core.checks import DataError
from wsss.core.files import disk_errors
from wsss.core.run_length import Order, encode_parts
from wsss.data.large import LargeImage
from wsss.exports.annotations import cell_polygons, feature_text, geometry, write_feature_texts
from wsss.inference.large_objects import LargeObject, Settled, stream_objects
from wsss.inference.semantic import MaskPredictor
from wsss.inference.tiles import predict_tiles

EDGE = 512
"""Edge of the tiles of the TIFF that is written, px."""


class LargeResult(NamedTuple):
    """What was found in a large image."""

    area_px: int
    """Pixels of the mask."""
    n_objects: int
    """0 where objects are not told apart."""


def predict_large(predictor: MaskPredictor, image: LargeImage, out: Path, objects: Path | None = None) -> LargeResult:
    """Write the mask of a large image to `out`: a tiled TIFF, (H, W) uint8 of 0 and 255, there whole or not at all.

    With `objects`, that file gets the outlines of the objects as GeoJSON, numbered from 1 whatever the tiles, and the
    mask holds their pixels alone. Memory holds one band of tiles, whatever the image's height, and the rows of the
    highest connected part of the mask.

    Raises:
        DataError: the image has other channels than the network was trained with.
    """
    recipe, config = predictor.checkpoints[0].recipe, predictor.config
    if image.channels != recipe.masks.channels:
        raise DataError(
            f"{image.path} has {image.channels} channels, the network was trained with {recipe.masks.channels}."
        )
    bands = predict_tiles(image.read, predictor.part, image.size, tile=config.tile, overlap=config.overlap)
    probs = (band for _, band in bands)
    if objects is None:
        masks = (mask_channel(maps, predictor.target) >= config.threshold for maps in probs)
        return LargeResult(_write_mask(out, masks, image.size), 0)
    settled = stream_objects(probs, predictor.target, threshold=config.threshold, min_size=config.min_size)
    return write_objects(settled, image.size, out, objects)


def write_objects(settled: Iterator[Settled], size: tuple[int, int], out: Path, objects: Path) -> LargeResult:
    """Write the mask and the outlines of the objects of an image of `size` (H, W) as they come."""
    count = 0
    # The picture's writer asks for rows, the outlines come on the way: they wait in a file that is gone at the end.
    with tempfile.TemporaryFile("w+", encoding="utf-8") as spool:

        def masks() -> Iterator[np.ndarray]:
            nonlocal count
            for rows in settled:
                for item in rows.objects:
                    spool.write(feature_text(_feature(item, out.stem)) + "\n")
                count += len(rows.objects)
                yield rows.inside

        area = _write_mask(out, masks(), size)
        spool.seek(0)
        write_feature_texts(objects, (line.rstrip("\n") for line in spool))
    return LargeResult(area, count)


def _feature(item: LargeObject, name: str) -> dict[str, Any]:
    """Return an object as QuPath reads it."""
    pieces = cell_polygons(item.mask.astype(np.uint8))[1]
    moved = [[ring + np.array([item.x0, item.y0]) for ring in rings] for rings in pieces]
    measured = {"cell_id": item.number, "area_px": int(item.mask.sum())}
    return {
        "type": "Feature",
        "id": str(uuid5(NAMESPACE_URL, f"wsss:{name}:{item.number}")),
        "geometry": geometry(moved),
        "properties": {"objectType": "detection", "name": f"{name} {item.number}", "measurements": measured},
    }


def _write_mask(out: Path, masks: Iterator[np.ndarray], size: tuple[int, int]) -> int:
    """Write masks of full width, (h, W) bool from top to bottom, as one tiled TIFF; return their area."""
    area = [0]
    part = out.with_name(f".{out.name}.part")  # tifffile wants a path: a stream without a name will not do
    with disk_errors(out):
        part.parent.mkdir(parents=True, exist_ok=True)
        try:
            tifffile.imwrite(
                part,
                _tiles(masks, size[1], area),
                shape=size,
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
        part = band[:, x : x + EDGE]
        tile[: part.shape[0], : part.shape[1]] = part
        yield tile
