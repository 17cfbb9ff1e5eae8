"""Crops of single cells as training shows them: turned, and with light and protein as in hard fields."""

from dataclasses import replace

import cv2
import numpy as np

from wsss.data.cell_photometric import Faults, faulty_copy

ZOOM = (0.9, 1.1)
"""Lowest and highest scale."""


def change_crop(
    crop: np.ndarray, rng: np.random.Generator, share: float, *, negatives: bool
) -> tuple[np.ndarray, bool]:
    """Turn, flip and scale a crop, and sometimes change its light and protein.

    Args:
        crop: (4, H, W) uint8, RGBY, black outside the cell.
        rng: source of everything drawn.
        share: probability of a change of light and protein.
        negatives: whether a change may take the protein away.

    Returns:
        The crop (4, H, W) uint8, black outside the cell, and whether it has lost its protein.
    """
    turned = _turn(crop, rng)
    if rng.random() >= share:
        return turned, False
    cell = np.asarray(turned.any(axis=0))
    faults = Faults() if negatives else replace(Faults(), negatives=0)
    faulty, emptied = faulty_copy(turned, np.asarray(cell, np.int32), rng, faults)
    return faulty * cell, bool(emptied.any())


def _turn(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn by any angle around the middle, scale, flip."""
    height, width = crop.shape[1:]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), rng.uniform(0, 360), rng.uniform(*ZOOM))
    planes = crop[:, :, ::-1] if rng.random() < 0.5 else crop
    turned = cv2.warpAffine(np.ascontiguousarray(planes.transpose(1, 2, 0)), matrix, (width, height))
    return np.ascontiguousarray(np.asarray(turned, np.uint8).transpose(2, 0, 1))
