"""Images and pseudo-masks of their classes as PyTorch samples."""

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from wsss.data.augment import Augment
from wsss.data.catalog import DataSet
from wsss.data.dataset import Key
from wsss.data.pseudo import PseudoSet
from wsss.options.masks import IGNORE


class MapSamples(Dataset[tuple[Tensor, Tensor, int]]):
    """Samples (image (C, h, w) uint8, target (K, h, w) uint8 of 0, 1 and 255, index), augmented by the seed of the key.

    Pixels beyond the image's edge are ignored.
    """

    def __init__(self, data: DataSet, pseudo: PseudoSet, augment: Augment) -> None:
        self.data, self.pseudo, self.augment = data, pseudo, augment

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor, int]:
        """Read one image; the same key always gives the same sample."""
        index, seed = key
        classes, masks = self.pseudo.masks(self.data.ids[index])
        beside = [*masks, np.ones(masks.shape[1:], np.uint8)]
        image, moved = self.augment.with_masks(self.data.image(index), beside, seed)
        *own, inside = moved
        target = np.zeros((len(self.data.classes), *inside.shape), np.uint8)
        for k, mask in zip(classes, own, strict=True):
            target[k] = mask
        target[:, inside == 0] = IGNORE
        return torch.from_numpy(image), torch.from_numpy(target), index
