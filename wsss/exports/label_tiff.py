"""Label maps as TIFF files that Fiji, napari and QuPath open, every cell keeping its number."""

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import tifffile

from wsss.core import rle
from wsss.core.checks import DataError
from wsss.core.files import write_bytes

MOST_IN_16_BITS = 65535


def label_map_of(ids: Iterable[int], masks: Iterable[str], size: tuple[int, int], where: str) -> np.ndarray:
    """Put cells back into one label map.

    Args:
        ids: number of each cell.
        masks: its COCO counts at `size`.
        size: (H, W) of the original image.
        where: file and image, for messages.

    Returns:
        (H, W) int32, 0 background.

    Raises:
        DataError: a mask is broken or of another size, or two cells share a pixel, which a label map cannot hold.
    """
    flat = np.zeros(size[0] * size[1], np.int32)  # column after column, as the masks are
    for number, mask in zip(ids, masks, strict=True):
        try:
            runs = rle.check(mask.encode("ascii"), size)
        except (DataError, UnicodeEncodeError) as error:
            raise DataError(f"{where}, cell {number}: {error}") from None
        ends = np.cumsum(runs)
        for start, stop in zip(ends[0::2], ends[1::2], strict=False):
            if flat[start:stop].any():
                other = flat[start:stop].max()
                raise DataError(f"{where}: the cells {other} and {number} share pixels: export them --to coco.")
            flat[start:stop] = number
    return flat.reshape(size, order="F")


def write_label_tiff(path: Path, label_map: np.ndarray) -> None:
    """Write a label map losslessly: 16 bit in ImageJ's own form, or plain 32 bit where ids exceed 65535."""
    stream = io.BytesIO()
    top = int(label_map.max(initial=0))
    if top <= MOST_IN_16_BITS:
        shown = {"axes": "YX", "min": 0, "max": max(top, 1)}
        tifffile.imwrite(stream, label_map.astype(np.uint16), imagej=True, compression="zlib", metadata=shown)
    else:
        tifffile.imwrite(stream, label_map.astype(np.uint32), compression="zlib", photometric="minisblack")
    write_bytes(path, stream.getvalue())
