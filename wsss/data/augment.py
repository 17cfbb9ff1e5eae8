"""Training augmentation: a recipe as one stateless function of image and seed.

The training loop makes the seed of every image from the run's seed, the epoch and the image's place in it, so a
resumed run repeats itself to the bit, however many workers load the images.
"""

import inspect
import random
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np

from wsss.core.checks import ConfigError, check_choice, check_range, nearest
from wsss.core.reading import one_line, read_yaml
from wsss.data import photometric
from wsss.options.configs import augmentations

Step = Mapping[str, Any]
"""One entry of a recipe: `op`, `p` or `weight`, and the op's own parameters (or `of`, for OneOf)."""

CROP_ALONE: Step = {"op": "RandomCrop", "height": "crop", "width": "crop", "pad_if_needed": True}

BORDERS = {
    "constant": cv2.BORDER_CONSTANT,
    "replicate": cv2.BORDER_REPLICATE,
    "reflect": cv2.BORDER_REFLECT,
    "reflect_101": cv2.BORDER_REFLECT_101,
    "wrap": cv2.BORDER_WRAP,
}
INTERPOLATIONS = {
    "nearest": cv2.INTER_NEAREST,
    "linear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
}
WORDS = {"border_mode": BORDERS, "interpolation": INTERPOLATIONS, "mask_interpolation": INTERPOLATIONS}

_BASES = ("BasicTransform", "DualTransform", "ImageOnlyTransform", "Transform3D")
TRANSFORMS: dict[str, Any] = {
    name: kind
    for name, kind in vars(A).items()
    if inspect.isclass(kind) and issubclass(kind, A.BasicTransform) and name not in _BASES
}
"""Every transform of albumentations by name."""

FAILURES = (
    TypeError,
    ValueError,
    KeyError,
    IndexError,
    AttributeError,
    Warning,
    NotImplementedError,
    cv2.error,
)
"""What albumentations raises for parameters or images a transform does not take."""


class PlainOp(A.ImageOnlyTransform):
    """A function of wsss.data.photometric as a transform: it gets (C, H, W) and the shared generator."""

    def __init__(self, name: str, params: dict[str, Any], p: float) -> None:
        super().__init__(p=p)
        self.name = name
        self.values = params

    def apply(self, img: np.ndarray, **params: Any) -> np.ndarray:
        """Return the changed (H, W, C) uint8 image."""
        out = photometric.OPS[self.name](img.transpose(2, 0, 1), self.random_generator, **self.values)
        return np.ascontiguousarray(out.transpose(1, 2, 0))


def load_recipe(source: str | Path) -> list[Step]:
    """Read a recipe.

    Args:
        source: a YAML file with a list of ops (configs/augment_hpa.yaml shows the form); the name of a shipped one,
            'hpa' for configs/augment_hpa.yaml; or 'none' for the random crop alone.

    Raises:
        ConfigError: the file or name does not exist, or is no YAML list. The ops are checked by build_augment.
    """
    if source == "none":
        return [CROP_ALONE]
    path = Path(source)
    if not path.suffix:
        shipped = augmentations()
        check_choice("augment", str(source), ["none", *sorted(shipped), "a YAML file"])
        path = shipped[str(source)]
    steps = read_yaml(path, ConfigError)
    if not isinstance(steps, list):
        raise ConfigError(f"{path} holds a {type(steps).__name__}, expected a list of '- op: ...' entries.")
    return steps


def build_steps(steps: Sequence[Step], crop: int, channels: int) -> list[A.BasicTransform | A.OneOf]:
    """Turn the entries of a recipe into transforms, each tried once on an image with `channels` channels.

    Raises:
        ConfigError: an unknown op or parameter (the nearest name is given), a bad value, or an op that does
            not take such images.
    """
    return [_build(step, f"step {i}", crop, channels) for i, step in enumerate(steps, 1)]


def alone(steps: Sequence[Step]) -> list[tuple[str, list[Step]]]:
    """Split a recipe into its ops: (name, recipe of the first step and that op at p = 1), for sheets and timings.

    The first step, the crop, comes with every op, and stands alone in the first entry. Names that occur twice are
    numbered ('Affine', 'Affine 2').
    """
    first = {**steps[0], "p": 1.0}
    out: list[tuple[str, list[Step]]] = [(str(first["op"]), [first])]
    seen = [out[0][0]]
    for step in steps[1:]:
        for member in step.get("of", [step]):
            name = str(member["op"])
            seen.append(name)
            label = name if seen.count(name) == 1 else f"{name} {seen.count(name)}"
            out.append((label, [first, {k: v for k, v in member.items() if k not in ("p", "weight")}]))
    return out


def with_signals(steps: Sequence[Step], signals: Sequence[int]) -> list[Step]:
    """Return a recipe whose ops on the protein name its channels, where they do not name one themselves."""
    out: list[Step] = []
    for step in steps:
        if isinstance(step, Mapping):  # else it is refused when it is built
            if isinstance(step.get("of"), list):
                step = {**step, "of": with_signals(step["of"], signals)}
            if step.get("op") == "ProteinGain":
                step = {"channel": list(signals), **step}
        out.append(step)
    return out


def _build(step: Step, where: str, crop: int, channels: int) -> A.BasicTransform | A.OneOf:
    values, name, p = _read(step, where, "p")
    where = f"{where} ({name})"
    if name != "OneOf":
        return _build_op(name, values, p, where, crop, channels)
    choices = values.pop("of", None)
    if values:
        raise ConfigError(f"augmentation {where}: unknown key '{next(iter(values))}', expected p and of.")
    if not isinstance(choices, list) or not choices:
        raise ConfigError(f"augmentation {where}: 'of' is {choices!r}, expected a list of ops.")
    built = []
    for i, choice in enumerate(choices, 1):
        inner, kind, weight = _read(choice, f"{where}, member {i}", "weight")
        built.append(_build_op(kind, inner, weight, f"{where}, member {i} ({kind})", crop, channels))
    total = sum(op.p for op in built)
    if total == 0:
        raise ConfigError(f"augmentation {where}: all weights are 0.")
    return A.OneOf(built, p=p)


def _read(step: Step, where: str, share: str) -> tuple[dict[str, Any], str, float]:
    """Split an entry into its parameters, the op's name and its p or weight (`share` says which)."""
    if not isinstance(step, Mapping) or "op" not in step:
        raise ConfigError(f"augmentation {where} is {step!r}, expected a mapping with the key 'op'.")
    values = dict(step)
    name, chance = str(values.pop("op")), values.pop(share, 1.0)
    other = {"p": "weight", "weight": "p"}[share]
    if other in values:
        raise ConfigError(f"augmentation {where} ({name}): '{other}' has no meaning here, use '{share}'.")
    if not isinstance(chance, int | float):
        raise ConfigError(f"augmentation {where} ({name}): {share} is {chance!r}, expected 0 to 1.")
    check_range(f"augmentation {where} ({name}): {share}", chance, 0, 1)
    return values, name, float(chance)


def _build_op(name: str, values: dict[str, Any], p: float, where: str, crop: int, channels: int) -> A.BasicTransform:
    known = [*TRANSFORMS, *photometric.OPS]
    if name not in known:
        raise ConfigError(f"augmentation {where}: unknown op.{nearest(name, [*known, 'OneOf'])}")
    allowed = _parameters(name)
    for key in values:
        if key not in allowed:
            hint = nearest(key, allowed) or f" Expected {', '.join(allowed) or 'none'}."
            raise ConfigError(f"augmentation {where}: unknown parameter '{key}'.{hint}")
    params = {key: _value(key, value, where, crop) for key, value in values.items()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # albumentations warns, then ignores the parameter
            op = PlainOp(name, params, p) if name in photometric.OPS else TRANSFORMS[name](**params, p=p)
            _try_out(op, crop, channels)
    except FAILURES as error:
        raise ConfigError(f"augmentation {where}: {one_line(error)}") from error
    return op


def _parameters(name: str) -> list[str]:
    target = photometric.OPS.get(name) or TRANSFORMS[name]
    return [key for key in inspect.signature(target).parameters if key not in ("p", "image", "rng")]


def _value(key: str, value: Any, where: str, crop: int) -> Any:
    """Put the crop edge for 'crop', and OpenCV's number for the name of a border or an interpolation."""
    if value == "crop":
        return crop
    if key in WORDS and isinstance(value, str):
        check_choice(f"augmentation {where}: {key}", value, WORDS[key])
        return WORDS[key][value]
    return value


def _try_out(op: A.BasicTransform, crop: int, channels: int) -> None:
    """Use the op once, so that one made for RGB only is refused now and not hours into a run."""
    ramp = np.linspace(0, 255, (crop + 1) ** 2 * channels).astype(np.uint8)
    image = ramp.reshape(crop + 1, crop + 1, channels)
    out = op(image=image, mask=image[..., 0].astype(np.int32), force_apply=True)["image"]
    if out.dtype != np.uint8 or out.ndim != 3 or out.shape[2] != channels:
        raise ValueError(
            f"makes {out.dtype} {out.shape} of uint8 {image.shape}, expected uint8 and {channels} channels."
        )


class Augment:
    """A recipe ready to use. Not for several threads at once; worker processes get a copy each.

    Worker processes should call `cv2.setNumThreads(0)`: OpenCV's threads cost more than they give here.

    Args:
        steps: transforms in order, from wsss.data.augment.build_steps.
        crop: edge of the images it must return, pixels.
    """

    def __init__(self, steps: Sequence[A.BasicTransform | A.OneOf], crop: int) -> None:
        self.crop, self.steps = crop, list(steps)
        self._compose = A.Compose(self.steps)

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
        self.reseed(seed)
        out = self._compose(**data)
        moved = [
            np.ascontiguousarray(mask, dtype=old.dtype) for mask, old in zip(out.get("masks", ()), masks, strict=True)
        ]
        return self._planes(out["image"])[: len(image)], moved

    def reseed(self, seed: int) -> None:
        """Let all that the steps draw next come from a seed."""
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
