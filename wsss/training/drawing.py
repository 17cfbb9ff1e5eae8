"""Augmentation of which the loader cuts the crop and draws the rest, for `wsss.models.augment` to do in batches.

Ops, probabilities and parameters are drawn by the transforms of the recipe themselves, from the same random numbers as
on the CPU. So a seed has the same result there and here, but for the pixels of noise, and for what follows an elastic
transform, whose noise is drawn by its seed alone.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import albumentations as A
import cv2
import numpy as np
from albumentations.augmentations.blur.functional import create_gaussian_kernel_1d

from wsss.core.checks import ConfigError
from wsss.data import photometric
from wsss.data.augment import BORDERS, Augment, PlainOp
from wsss.models.augment import BORDERS as DEVICE_BORDERS
from wsss.models.augment import Drawn

Values = dict[str, Any]
Shape = tuple[int, int, int]
"""(H, W, C) of the crop."""


class Draw(NamedTuple):
    """One op that an image is to undergo."""

    number: int
    """Its place in the recipe, members of a OneOf counted too."""
    op: str
    """What it is called in `wsss.models.augment`."""
    fixed: tuple[Any, ...]
    """Values that images must share to be done together."""
    values: Values
    """Its other values, numbers and arrays."""


class DrawnAugment:
    """A recipe whose crop is cut here and whose other ops are drawn here. Not for several threads at once.

    Raises:
        ConfigError: the recipe does not begin with RandomCrop, or has an op that is done on the CPU alone.
    """

    def __init__(self, augment: Augment) -> None:
        self.augment, self.crop = augment, augment.crop
        self.first, *self.rest = augment.steps
        edges = tuple(getattr(self.first, edge, None) for edge in ("height", "width"))
        if type(self.first) is not A.RandomCrop or edges != (self.crop, self.crop) or self.first.p < 1:
            raise _refusal("a recipe that does not begin with RandomCrop, height: crop, width: crop")
        leaves = [op for step in self.rest for op in getattr(step, "transforms", [step])]
        for op in leaves:
            if _name(op) not in DRAWS:
                raise _refusal(f"the op {_name(op)}")
        for op in (self.first, *leaves):
            _check(op)
        self.numbers = {id(op): number for number, op in enumerate(leaves)}

    def __getstate__(self) -> dict[str, Any]:
        """Be pickled without the numbers, which go by identity."""
        return {"augment": self.augment}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["augment"])  # type: ignore[misc]

    def __call__(self, image: np.ndarray, seed: int) -> tuple[np.ndarray, list[Draw]]:
        """Cut the crop from an image (C, H, W) uint8, and draw what is to happen to it.

        Returns:
            (C, crop, crop) uint8, never a view of `image`; the ops in order.
        """
        self.augment.reseed(seed)
        shape = (*image.shape[1:], len(image))
        self.first.py_random.random()  # whether the recipe is used at all, which it always is
        cut = self.first.get_params_dependent_on_data({"shape": shape}, {})
        crop = (self.crop, self.crop, len(image))
        return _cut(image, cut["crop_coords"], cut["pad_params"]), [d for s in self.rest for d in self._draw(s, crop)]

    def _draw(self, step: Any, shape: Shape, chosen: bool = False) -> Iterator[Draw]:
        if isinstance(step, A.OneOf):
            if step.py_random.random() < step.p:
                member = step.random_generator.choice(len(step.transforms), p=step.transforms_ps)
                yield from self._draw(step.transforms[member], shape, chosen=True)
        elif step.should_apply(force_apply=chosen):
            op, draw = DRAWS[_name(step)]
            fixed, values = draw(step, shape)
            yield Draw(self.numbers[id(step)], op, fixed, values)


def together(draws: Sequence[Sequence[Draw]]) -> list[Drawn]:
    """Return the ops of a batch, those of images that undergo the same one together.

    Args:
        draws: of each image, in the order of the batch.
    """
    groups: dict[tuple[Any, ...], list[tuple[int, Values]]] = {}
    for row, of_image in enumerate(draws):
        for draw in of_image:
            groups.setdefault((draw.number, draw.op, draw.fixed), []).append((row, draw.values))
    drawn = []
    for (_, op, fixed), members in sorted(groups.items(), key=lambda group: group[0][0]):
        values = {name: np.stack([np.asarray(own[name]) for _, own in members]) for name in members[0][1]}
        narrow = {name: v.astype(np.float32) if v.dtype == np.float64 else v for name, v in values.items()}
        drawn.append(Drawn(op, fixed, np.array([row for row, _ in members]), narrow))
    return drawn


def _cut(image: np.ndarray, coords: tuple[int, int, int, int], pad: dict[str, int] | None) -> np.ndarray:
    """Cut (x0, y0, x1, y1) from a (C, H, W) image, in black if `pad` says how much."""
    if pad is not None:
        sides = ((0, 0), (pad["pad_top"], pad["pad_bottom"]), (pad["pad_left"], pad["pad_right"]))
        image = np.pad(image, sides)
    x0, y0, x1, y1 = coords
    return image[:, y0:y1, x0:x1].copy()


def _name(op: Any) -> str:
    """Return what a recipe calls an op."""
    return op.name if isinstance(op, PlainOp) else type(op).__name__


def _params(op: Any, shape: Shape) -> Values:
    """Return the parameters that a transform draws, of an image that it need not see."""
    params: Values = op.get_params()
    return params | op.get_params_dependent_on_data({"shape": shape, **params}, {})


def _border(op: Any) -> str:
    return next(name for name, number in BORDERS.items() if number == op.border_mode)


def _draw_turn(op: Any, shape: Shape) -> tuple[tuple[int], Values]:
    return (op.get_params()["factor"],), {}


def _draw_affine(op: Any, shape: Shape) -> tuple[tuple[str], Values]:
    return (_border(op),), {"back": np.linalg.inv(_params(op, shape)["matrix"])[:2]}


def _draw_stretch(op: Any, shape: Shape) -> tuple[tuple[str], Values]:
    maps = _params(op, shape)
    return (_border(op),), {"x": maps["map_x"][0].copy(), "y": maps["map_y"][:, 0].copy()}


def _draw_bend(op: Any, shape: Shape) -> tuple[tuple[str], Values]:
    return (_border(op),), {"k": op.py_random.uniform(*op.distort_limit)}


def _draw_crumple(op: Any, shape: Shape) -> tuple[tuple[float, float, bool, str], Values]:
    return (op.alpha, op.sigma, op.same_dxdy, _border(op)), {"seed": op.random_generator.integers(2**31)}


def _draw_noise(op: Any, shape: Shape) -> tuple[tuple[()], Values]:
    std, mean = op.py_random.uniform(*op.std_range), op.py_random.uniform(*op.mean_range)
    return (), {"std": std, "mean": mean, "seed": op.random_generator.integers(0, 2**16)}


def _draw_additive(op: Any, shape: Shape) -> tuple[tuple[()], Values]:
    rng = op.random_generator
    seed = rng.integers(0, 2**16)
    ranges = [op.noise_params[f"{name}_range"] for name in ("mean", "std")]
    mean, std = (low if low == high else rng.uniform(low, high) for low, high in ranges)
    return (), {"std": std, "mean": mean, "seed": seed}


def _draw_holes(op: Any, shape: Shape) -> tuple[tuple[int], Values]:
    holes = _params(op, shape)["holes"]
    return (int(op.fill),), {"holes": np.pad(holes, ((0, op.num_holes_range[1] - len(holes)), (0, 0)))}


def _draw_blur(op: Any, shape: Shape) -> tuple[tuple[()], Values]:
    most = len(create_gaussian_kernel_1d(op.sigma_limit[1], 0)) if op.blur_limit[0] == 0 else 1
    return (), {"kernel": _framed(_params(op, shape)["kernel"], max(most, op.blur_limit[1] | 1))}


def _draw_motion(op: Any, shape: Shape) -> tuple[tuple[()], Values]:
    return (), {"kernel": _framed(op.get_params()["kernel"], op.blur_limit[1] | 1)}


def _framed(kernel: np.ndarray, edge: int) -> np.ndarray:
    """Put a kernel of odd edge into the middle of zeros."""
    return np.pad(kernel, (edge - len(kernel)) // 2)


def _draw_median(op: Any, shape: Shape) -> tuple[tuple[int], Values]:
    return (op.get_params()["kernel"],), {}


def _draw_gamma(op: Any, shape: Shape) -> tuple[tuple[()], Values]:
    gamma = _params(op, shape)["gamma"]
    return (), {"table": ((np.arange(256) / 255) ** gamma * 255).astype(np.uint8)[None]}


def _draw_brightness(op: Any, shape: Shape) -> tuple[tuple[bool], Values]:
    alpha = 1 + op.py_random.uniform(*op.contrast_limit)
    return (op.brightness_by_max,), {"alpha": alpha, "beta": op.py_random.uniform(*op.brightness_limit)}


def _draw_gains(op: PlainOp, shape: Shape) -> tuple[tuple[()], Values]:
    table = np.tile(np.arange(256, dtype=np.uint8), (shape[2], 1))
    gains = photometric.draw_gains(shape[2], op.random_generator, **_given(photometric.protein_gain, op))
    for channel, levels in gains.items():
        table[channel] = levels
    return (), {"table": table}


def _draw_light(op: PlainOp, shape: Shape) -> tuple[tuple[()], Values]:
    given = _given(photometric.uneven_light, op)
    strength, coarse = photometric.draw_light(op.random_generator, **given)
    return (), {"strength": strength, "coarse": coarse}


def _draw_haze(op: PlainOp, shape: Shape) -> tuple[tuple[int, float, float], Values]:
    given = _given(photometric.haze, op)
    amount = photometric.draw_amount(op.random_generator, given["amount_range"])
    return (photometric.BLUR_SHRINK, given["veil"], given["sigma"]), {"amount": amount}


def _draw_photons(op: PlainOp, shape: Shape) -> tuple[tuple[()], Values]:
    photons, seed = photometric.draw_photons(op.random_generator, **_given(photometric.photon_noise, op))
    return (), {"photons": photons, "seed": seed}


def _given(function: Callable[..., np.ndarray], op: PlainOp) -> Values:
    """Return the parameters of a function of wsss.data.photometric, those of the recipe before its defaults."""
    defaults = function.__defaults__ or ()
    names = function.__code__.co_varnames[: function.__code__.co_argcount][-len(defaults) :]
    return dict(zip(names, defaults, strict=True)) | op.values


DRAWS: dict[str, tuple[str, Callable[[Any, Shape], tuple[tuple[Any, ...], Values]]]] = {
    "HorizontalFlip": ("flip", lambda op, shape: ((), {})),
    "VerticalFlip": ("turn over", lambda op, shape: ((), {})),
    "RandomRotate90": ("turn", _draw_turn),
    "Affine": ("affine", _draw_affine),
    "GridDistortion": ("stretch", _draw_stretch),
    "OpticalDistortion": ("bend", _draw_bend),
    "ElasticTransform": ("crumple", _draw_crumple),
    "GaussNoise": ("add noise", _draw_noise),
    "AdditiveNoise": ("add noise", _draw_additive),
    "CoarseDropout": ("drop", _draw_holes),
    "GaussianBlur": ("blur", _draw_blur),
    "MotionBlur": ("convolve", _draw_motion),
    "MedianBlur": ("median", _draw_median),
    "RandomGamma": ("look up", _draw_gamma),
    "RandomBrightnessContrast": ("brighten", _draw_brightness),
    "ProteinGain": ("look up", _draw_gains),
    "UnevenLight": ("light unevenly", _draw_light),
    "Haze": ("haze", _draw_haze),
    "PhotonNoise": ("add photons", _draw_photons),
}
"""Op of a recipe -> what it is called on the device, and what draws its values."""

_WARPS = {
    "interpolation": (cv2.INTER_LINEAR,),
    "fill": (0,),
    "border_mode": tuple(BORDERS[name] for name in DEVICE_BORDERS),
}
LIMITS: dict[str, dict[str, tuple[Any, ...]]] = {
    "RandomCrop": {"border_mode": (cv2.BORDER_CONSTANT,), "fill": (0,)},
    "Affine": {**_WARPS, "fit_output": (False,)},
    "GridDistortion": _WARPS,
    "OpticalDistortion": {**_WARPS, "mode": ("camera",)},
    "ElasticTransform": {**_WARPS, "approximate": (False,), "noise_distribution": ("gaussian",)},
    "CoarseDropout": {"fill": tuple(range(256))},
    "GaussNoise": {"per_channel": (True,), "noise_scale_factor": (1,)},
    "AdditiveNoise": {"noise_type": ("gaussian",), "spatial_mode": ("per_pixel",), "approximation": (1,)},
    "RandomBrightnessContrast": {"ensure_safe_range": (False,)},
}
"""Op -> parameter -> the values that a device can do."""


def _check(op: Any) -> None:
    for key, possible in LIMITS.get(_name(op), {}).items():
        if getattr(op, key) not in possible:
            raise _refusal(f"{_name(op)} with {key}: {getattr(op, key)}")


def _refusal(what: str) -> ConfigError:
    return ConfigError(
        f"augment_device is device, which cannot do {what}: pass --augment_device cpu, or change the --augment recipe "
        f"(the device knows RandomCrop, OneOf, {', '.join(DRAWS)})."
    )
