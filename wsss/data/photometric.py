"""Faults of real fields as training transforms: dim or bright protein, uneven light, haze, photon noise.

Each is a function of an image (C, H, W) uint8 and a numpy Generator, gives a new image of the same shape, and
can stand in a recipe by its name in OPS.
"""

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from wsss.core.checks import check_range

_BLUR_SHRINK = 8  # haze is so smooth that an eighth of the pixels carries it


def protein_gain(
    image: np.ndarray,
    rng: np.random.Generator,
    gain_range: tuple[float, float] = (0.12, 1.3),
    channel: int | Sequence[int] = 1,
) -> np.ndarray:
    """Make the protein dimmer or brighter by one factor, drawn evenly on a log scale.

    Args:
        image: (C, H, W) uint8.
        rng: source of the factor.
        gain_range: lowest and highest factor, above 0.
        channel: which channel shows the protein, or several, each with a factor of its own; green of RGBY by default.
    """
    low, high = _pair("gain_range", gain_range, 0.001, 255)
    out = image.copy()
    for own in [channel] if isinstance(channel, int) else channel:
        check_range("channel", own, 0, len(image) - 1)
        gain = float(np.exp(rng.uniform(np.log(low), np.log(high))))
        table = np.clip(np.rint(np.arange(256) * gain), 0, 255).astype(np.uint8)
        out[own] = cv2.LUT(np.ascontiguousarray(image[own]), table)
    return out


def uneven_light(
    image: np.ndarray,
    rng: np.random.Generator,
    strength_range: tuple[float, float] = (0.1, 0.5),
    knots: int = 3,
) -> np.ndarray:
    """Multiply all channels by one smooth field between 1 - strength and 1 + strength.

    Args:
        image: (C, H, W) uint8.
        rng: source of the field.
        strength_range: lowest and highest strength, 0 to 1.
        knots: the field is drawn on knots x knots points and interpolated.
    """
    strength = rng.uniform(*_pair("strength_range", strength_range, 0, 1))
    coarse = rng.uniform(-1, 1, (knots, knots)).astype(np.float32)
    coarse = coarse / np.abs(coarse).max()
    field = cv2.resize(coarse, image.shape[:0:-1], interpolation=cv2.INTER_CUBIC).clip(-1, 1)
    field = 1 + np.float32(strength) * field
    # cv2.multiply rounds and saturates, and does so in one pass
    return np.stack([cv2.multiply(plane, field, dtype=cv2.CV_8U) for plane in image])


def haze(
    image: np.ndarray,
    rng: np.random.Generator,
    amount_range: tuple[float, float] = (0.1, 0.5),
    veil: float = 40.0,
    sigma: float = 24.0,
) -> np.ndarray:
    """Mix each channel with its own blurred light and an even veil, as from out-of-focus planes.

    Args:
        image: (C, H, W) uint8.
        rng: source of the amount.
        amount_range: lowest and highest share of haze in the mix, 0 to 1.
        veil: brightness added to the blurred light, 0..255.
        sigma: of the blur, pixels.
    """
    amount = rng.uniform(*_pair("amount_range", amount_range, 0, 1))
    height, width = image.shape[1:]
    small = (max(1, width // _BLUR_SHRINK), max(1, height // _BLUR_SHRINK))
    out = []
    for plane in image:
        coarse = cv2.resize(plane, small, interpolation=cv2.INTER_AREA)
        coarse = cv2.GaussianBlur(coarse, (0, 0), sigma / _BLUR_SHRINK)
        blurred = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
        out.append(cv2.addWeighted(plane, 1 - amount, blurred, amount, amount * veil))
    return np.stack(out)


def photon_noise(
    image: np.ndarray, rng: np.random.Generator, photons_range: tuple[float, float] = (20, 120)
) -> np.ndarray:
    """Add shot noise as if a pixel of 255 had caught so many photons: variance = value * 255 / photons.

    The noise is Gaussian with the Poisson variance, which costs a tenth of true Poisson draws.

    Args:
        image: (C, H, W) uint8.
        rng: source of the noise.
        photons_range: fewest and most photons at 255, above 0; drawn evenly on a log scale.
    """
    low, high = _pair("photons_range", photons_range, 1, 1e6)
    photons = np.exp(rng.uniform(np.log(low), np.log(high)))
    spread = np.sqrt(np.arange(256) * 255 / photons).astype(np.float32)
    noise = np.empty(image.shape, np.float32)
    cv2.setRNGSeed(int(rng.integers(2**31)))
    cv2.randn(noise.reshape(-1), np.zeros(1), np.ones(1))
    noise *= spread[image]
    return np.stack([cv2.add(plane, part, dtype=cv2.CV_8U) for plane, part in zip(image, noise, strict=True)])


OPS: dict[str, Callable[..., np.ndarray]] = {
    "ProteinGain": protein_gain,
    "UnevenLight": uneven_light,
    "Haze": haze,
    "PhotonNoise": photon_noise,
}
"""The functions by the names they have in a recipe."""


def _pair(name: str, values: tuple[float, float], lowest: float, highest: float) -> tuple[float, float]:
    """Return (low, high), or raise ConfigError unless lowest <= low <= high <= highest."""
    low, high = values
    check_range(f"lower end of {name}", low, lowest, highest)
    check_range(f"upper end of {name}", high, low, highest)
    return low, high
