"""Training augmentation: a recipe as one function of image and seed, without any state of its own.

The training loop makes the seed of every image from the run's seed, the epoch and the image's place in it, so a
resumed run repeats itself to the bit, however many workers load the images.
"""

import random
from collections.abc import Sequence
from pathlib import Path

import albumentations as A
import cv2
import numpy as np

from wsss.core.checks import ConfigError
from wsss.data.augment_recipe import Step, build_steps, load_recipe, with_signals


class Augment:
    """A recipe ready to use. Not for several threads at once; worker processes get a copy each.

    Worker processes should call `cv2.setNumThreads(0)`: OpenCV's threads cost more than they give here.

    Args:
        steps: transforms in order, from wsss.data.augment_recipe.build_steps.
        crop: edge of the images it must return, pixels.
    """

    def __init__(self, steps: Sequence[A.BasicTransform | A.OneOf], crop: int) -> None:
        self.crop = crop
        self._compose = A.Compose(list(steps))

    def __call__(self, image: np.ndarray, seed: int) -> np.ndarray:
        """Augment one image.

        Args:
            image: (C, H, W) uint8, of any size; padded where it is smaller than the crop.
            seed: all randomness comes from it; at least 0.

        Returns:
            (C, crop, crop) uint8, contiguous, never a view of `image`.
        """
        return self.with_masks(image, (), seed)[0]

    def with_masks(
        self, image: np.ndarray, masks: Sequence[np.ndarray], seed: int
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Augment one image and move its masks along with it, by nearest neighbour.

        Args:
            image: (C, H, W) uint8.
            masks: (H, W) each: label maps (int32), bool or other masks. Noise, blur and colour leave them
                alone; beyond the image's edge they are filled as the image is (0, mirrored, ...).
            seed: as in a plain call, and with the same image for the same seed.

        Returns:
            the (C, crop, crop) image, and (crop, crop) masks of the dtypes they came in.

        Raises:
            ConfigError: the recipe does not end at the crop's size.
        """
        if image.dtype != np.uint8 or image.ndim != 3:
            raise ValueError(f"image is {image.dtype} {image.shape}, expected uint8 (C, H, W).")
        planes = list(image)
        planes += planes[-1:] * (_carried(len(image)) - len(image))
        data = {"image": cv2.merge(planes).reshape(*image.shape[1:], len(planes))}
        if masks:
            common = np.result_type(np.uint8, *(mask.dtype for mask in masks))
            data["masks"] = np.stack(masks).astype(common, copy=False)
        self._reseed(seed)
        out = self._compose(**data)
        moved = [
            np.ascontiguousarray(mask, dtype=old.dtype) for mask, old in zip(out.get("masks", ()), masks, strict=True)
        ]
        return self._planes(out["image"])[: len(image)], moved

    def _reseed(self, seed: int) -> None:
        # Not Compose.set_random_seed: it starts every transform at the same number, so that an image that is
        # flipped is always blurred too. One generator handed to all keeps their choices independent.
        self._compose.set_random_state(np.random.default_rng(seed), random.Random(seed))

    def _planes(self, image: np.ndarray) -> np.ndarray:
        if image.shape[:2] != (self.crop, self.crop):
            raise ConfigError(
                f"the augmentation recipe gives {image.shape[0]} x {image.shape[1]} pixels, "
                f"expected {self.crop} x {self.crop}: begin it with RandomCrop, "
                "height: crop, width: crop, pad_if_needed: true."
            )
        return np.stack(cv2.split(image))


def build_augment(
    recipe: str | Path | Sequence[Step], crop: int, *, channels: int = 4, signals: Sequence[int] = ()
) -> Augment:
    """Build the augmentation of a recipe.

    Args:
        recipe: 'hpa', 'none', another name or file that load_recipe takes; or a list of ops.
        crop: edge of the images wanted, pixels; stands for the word 'crop' in the recipe.
        channels: channels of the images; every op is tried on such an image.
        signals: the channels that show a protein, for ops that change it alone; () for green of RGBY, else for all.

    Raises:
        ConfigError: an unknown op or parameter, with the nearest name; an op that does not take such images.
    """
    steps = load_recipe(recipe) if isinstance(recipe, str | Path) else recipe
    if not steps:
        raise ConfigError("the augmentation recipe is empty: it needs at least a crop.")
    signals = signals or ((1,) if channels == 4 else range(channels))
    return Augment(build_steps(with_signals(steps, signals), crop, _carried(channels)), crop)


def _carried(channels: int) -> int:
    """Return how many planes the transforms see: OpenCV's median takes 1, 3 or more, so 2 get a spare one."""
    return 3 if channels == 2 else channels
