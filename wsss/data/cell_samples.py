"""Images with their cells as PyTorch samples."""

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from wsss.data.augment import Augment
from wsss.data.catalog import DataSet
from wsss.data.cell_maps import numbered_cells
from wsss.data.dataset import Key


class CellSamples(Dataset[tuple[Tensor, Tensor, int, Tensor]]):
    """Samples (image (C, h, w) uint8, labels (K,) float32, index, cells (h, w) int32) of a data set.

    The cells of a sample are numbered 1..N in random order, 0 is background: so the first few are a random choice.

    Args:
        data: the data set; images without a label map have no cells.
        augment: of images and label maps together; None for stored images as they are.
        min_visible: cells of which less is left by the augmentation are left out.
    """

    def __init__(self, data: DataSet, augment: Augment | None = None, *, min_visible: float = 0.0) -> None:
        self.data, self.augment, self.min_visible = data, augment, min_visible

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor, int, Tensor]:
        """Read one image; the same key always gives the same sample."""
        index, seed = key
        image, stored = self.data.image(index), numbered_cells(self.data, index)
        if self.augment is None:
            image, cells = np.array(image), stored
            order = np.random.default_rng(index)  # whatever batch or process the image comes in
        else:
            image, (cells,) = self.augment.with_masks(image, [stored], seed)
            order = np.random.default_rng([seed, index])
        cells = shuffle_cells(cells, np.bincount(stored.ravel()), self.min_visible, order)
        labels = torch.from_numpy(self.data.labels[index])
        return torch.from_numpy(np.ascontiguousarray(image)), labels, index, torch.from_numpy(cells)


def shuffle_cells(
    cells: np.ndarray, whole_px: np.ndarray, min_visible: float, order: np.random.Generator
) -> np.ndarray:
    """Number the cells that are left of an image 1..N in random order.

    Args:
        cells: (h, w) int32, numbered as in the whole image.
        whole_px: pixels of background and of each cell in the whole image.
        min_visible: cells that keep a smaller share of these pixels become background.
        order: draws the order.

    Returns:
        (h, w) int32.
    """
    left_px = np.bincount(cells.ravel(), minlength=len(whole_px))
    kept = np.flatnonzero(left_px[1:] >= np.maximum(1, min_visible * whole_px[1:])) + 1
    number = np.zeros(len(whole_px), np.int32)
    number[kept] = 1 + order.permutation(len(kept))
    found: np.ndarray = number[cells]
    return found
