"""True cell masks of an image next to the true labels, ready to be compared with predicted masks."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from wsss.core import rle
from wsss.core.checks import DataError
from wsss.core.label_maps import find_label_map, read_label_map
from wsss.metrics.truth import CellTruth


class TrueImage(NamedTuple):
    """The true cells of one image: first those of the truth table, then those that only the label map has."""

    size: tuple[int, int]
    """(H, W) of the label map."""
    masks: list[bytes]
    """T masks as COCO counts; empty for a cell of the table that the map does not show."""
    rows: np.ndarray
    """(n,) rows of the first n of the T cells in the truth table."""
    labels: np.ndarray
    """(T, K) float32 of 0/1; zeros for cells outside the table."""
    known: np.ndarray
    """(T,) bool, whether the cell is in the table."""

    def iou(self, masks: list[bytes], size: tuple[int, int], where: str) -> np.ndarray:
        """Return the (len(masks), T) IoU of other masks of `size` with the true ones.

        Raises:
            DataError: the sizes differ.
        """
        if masks and size != self.size:
            raise DataError(
                f"{where} has masks of {size[0]} x {size[1]}, the true label map is {self.size[0]} x {self.size[1]}: "
                "give true masks at the size of the original image."
            )
        return rle.iou(masks, self.masks, self.size)


class TrueMasks:
    """A folder of true label maps, one file per image, and the table that labels their cells."""

    def __init__(self, folder: Path, truth: CellTruth) -> None:
        self.folder = folder
        self.truth = truth
        self._rows = truth.rows()

    @property
    def image_ids(self) -> list[str]:
        """The images of the truth table, in its order."""
        return list(self._rows)

    def read(self, image_id: str) -> TrueImage:
        """Read the true cells of an image.

        Raises:
            DataError: its label map is missing or broken.
        """
        label_map = read_label_map(find_label_map(self.folder, image_id))
        rows = self._rows[image_id]
        listed = self.truth.cells[rows].tolist()
        found = rle.encode_label_map(label_map)
        extra = sorted(set(found) - set(listed))
        none = rle.encode_label_map(label_map, ids=[-1])[-1]
        labels = np.zeros((len(listed) + len(extra), self.truth.labels.shape[1]), np.float32)
        labels[: len(listed)] = self.truth.labels[rows]
        size = (label_map.shape[0], label_map.shape[1])
        masks = [found.get(k, none) for k in [*listed, *extra]]
        return TrueImage(size, masks, rows, labels, np.arange(len(masks)) < len(listed))
