"""Faults of real fields as training transforms: dim or bright protein, uneven light, haze, photon noise.

Each is a function of an image (C, H, W) uint8 and a numpy Generator, gives a new image of the same shape, and
can stand in a recipe by its name in OPS.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from wsss.core.channels import HPA_STAINS, Stains
from wsss.core.checks import MOST, check_range

BLUR_SHRINK = 8  # haze is so smooth that an eighth of the pixels carries it


def protein_gain(
    image: np.ndarray,
    rng: np.random.Generator,
    gain_range: tuple[float, float] = (0.12, 1.3),
    channel: int | Sequence[int] = 1,
) -> np.ndarray:
    """Make the protein dimmer or brighter by one factor, drawn evenly on a log scale.

    Args:
        image: (C, H, W) uint8.
        gain_range: lowest and highest factor, above 0.
        channel: which channel shows the protein, or several, each with a separate factor; green of RGBY by default.
    """
    out = image.copy()
    for k, table in draw_gains(len(image), rng, gain_range, channel).items():
        out[k] = cv2.LUT(np.ascontiguousarray(image[k]), table)
    return out


def draw_gains(
    channels: int, rng: np.random.Generator, gain_range: tuple[float, float], channel: int | Sequence[int]
) -> dict[int, np.ndarray]:
    """Return what `protein_gain` makes of the levels 0..255 of each channel that shows the protein, (256,) uint8."""
    low, high = _pair("gain_range", gain_range, 0.001, 255)
    tables = {}
    for k in [channel] if isinstance(channel, int) else channel:
        check_range("channel", k, 0, channels - 1)
        gain = float(np.exp(rng.uniform(np.log(low), np.log(high))))
        tables[k] = np.clip(np.rint(np.arange(256) * gain), 0, 255).astype(np.uint8)
    return tables


def uneven_light(
    image: np.ndarray,
    rng: np.random.Generator,
    strength_range: tuple[float, float] = (0.1, 0.5),
    knots: int = 3,
) -> np.ndarray:
    """Multiply all channels by one smooth field between 1 - strength and 1 + strength.

    Args:
        image: (C, H, W) uint8.
        strength_range: lowest and highest strength, 0 to 1.
        knots: the field is drawn on knots x knots points and interpolated.
    """
    strength, coarse = draw_light(rng, strength_range, knots)
    field = cv2.resize(coarse, image.shape[:0:-1], interpolation=cv2.INTER_CUBIC).clip(-1, 1)
    field = 1 + np.float32(strength) * field
    # cv2.multiply rounds and saturates, and does so in one pass
    return np.stack([cv2.multiply(plane, field, dtype=cv2.CV_8U) for plane in image])


def draw_light(rng: np.random.Generator, strength_range: tuple[float, float], knots: int) -> tuple[float, np.ndarray]:
    """Return the strength of `uneven_light`, and its field at (knots, knots) points, float32 in -1..1."""
    strength = rng.uniform(*_pair("strength_range", strength_range, 0, 1))
    coarse = rng.uniform(-1, 1, (knots, knots)).astype(np.float32)
    return strength, coarse / np.abs(coarse).max()


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
        amount_range: lowest and highest share of haze in the mix, 0 to 1.
        veil: brightness added to the blurred light, 0..255.
        sigma: of the blur, pixels.
    """
    amount = draw_amount(rng, amount_range)
    height, width = image.shape[1:]
    small = (max(1, width // BLUR_SHRINK), max(1, height // BLUR_SHRINK))
    out = []
    for plane in image:
        coarse = cv2.resize(plane, small, interpolation=cv2.INTER_AREA)
        coarse = cv2.GaussianBlur(coarse, (0, 0), sigma / BLUR_SHRINK)
        blurred = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
        out.append(cv2.addWeighted(plane, 1 - amount, blurred, amount, amount * veil))
    return np.stack(out)


def draw_amount(rng: np.random.Generator, amount_range: tuple[float, float]) -> float:
    """Return the share of haze in the mix."""
    return rng.uniform(*_pair("amount_range", amount_range, 0, 1))


def photon_noise(
    image: np.ndarray, rng: np.random.Generator, photons_range: tuple[float, float] = (20, 120)
) -> np.ndarray:
    """Add shot noise as if a pixel of 255 had caught `photons` photons: variance = value * 255 / photons.

    The noise is Gaussian with the Poisson variance, which costs a tenth of true Poisson draws.

    Args:
        image: (C, H, W) uint8.
        photons_range: fewest and most photons at 255, above 0; drawn evenly on a log scale.
    """
    photons, seed = draw_photons(rng, photons_range)
    spread = np.sqrt(np.arange(256) * 255 / photons).astype(np.float32)
    noise = np.empty(image.shape, np.float32)
    cv2.setRNGSeed(seed)
    cv2.randn(noise.reshape(-1), np.zeros(1), np.ones(1))
    noise *= spread[image]
    return np.stack([cv2.add(plane, part, dtype=cv2.CV_8U) for plane, part in zip(image, noise, strict=True)])


def draw_photons(rng: np.random.Generator, photons_range: tuple[float, float]) -> tuple[float, int]:
    """Return the photons of a pixel of 255, and the seed of the noise."""
    low, high = _pair("photons_range", photons_range, 1, 1e6)
    return float(np.exp(rng.uniform(np.log(low), np.log(high)))), int(rng.integers(2**31))


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


@dataclass(frozen=True)
class Faults:
    """How strongly and how often a copy of a field is changed."""

    gain: tuple[float, float] = (0.12, 1.3)
    """Lowest and highest brightness of a cell's protein, drawn evenly on a log scale."""
    negatives: float = 0.2
    """Share of the cells that lose their protein."""
    left: tuple[float, float] = (0.0, 0.08)
    """How much of its protein such a cell keeps."""
    glow: tuple[float, float] = (0.0, 0.12)
    """Autofluorescence of such a cell, as a share of the brightness of other stains and of an even level."""
    level: float = 40.0
    """The even level, 0..255."""
    often: float = 0.7
    """Probability of uneven light, of haze, and of shot noise, each."""
    photons: tuple[float, float] = (60, 600)
    """Fewest and most photons of a pixel of 255 (shot noise)."""

    def __post_init__(self) -> None:
        for name in ("gain", "left", "glow", "photons"):
            _pair(f"faults.{name}", getattr(self, name), 0, MOST)
        check_range("lower end of faults.gain", self.gain[0], 1e-3)
        check_range("faults.negatives", self.negatives, 0, 1)
        check_range("faults.often", self.often, 0, 1)
        check_range("faults.level", self.level, 0, 255)


def faulty_copy(
    image: np.ndarray,
    label_map: np.ndarray,
    rng: np.random.Generator,
    faults: Faults | None = None,
    views: Sequence[Stains] = HPA_STAINS,
) -> tuple[np.ndarray, np.ndarray]:
    """Return a copy of a field that looks badly stained and badly imaged.

    Args:
        image: (C, H, W) uint8.
        label_map: (H, W) int, 0 background; ids may have gaps.
        views: what the channels show: autofluorescence resembles the other stains of each view, except the nucleus.

    Returns:
        The copy (C, H, W) uint8, and (N,) bool: which cells, by rising id, have lost their protein.
    """
    faults = faults or Faults()
    out, emptied = restain(image, label_map, rng, faults, views)
    for change in (uneven_light, haze):
        if rng.random() < faults.often:
            out = change(out, rng)
    if rng.random() < faults.often:
        out = photon_noise(out, rng, faults.photons)
    return out, emptied


def restain(
    image: np.ndarray,
    label_map: np.ndarray,
    rng: np.random.Generator,
    faults: Faults,
    views: Sequence[Stains] = HPA_STAINS,
) -> tuple[np.ndarray, np.ndarray]:
    """Change the protein's brightness in each cell, and take it from some; background stays as it is.

    Args:
        image, label_map, rng, faults, views: as in `faulty_copy`.

    Returns:
        The copy (C, H, W) uint8, and (N,) bool: which cells have lost their protein.
    """
    ids = np.unique(label_map)
    ids = ids[ids != 0]
    emptied = rng.random(len(ids)) < faults.negatives
    low, high = np.log(faults.gain)
    inside = label_map > 0
    row = np.searchsorted(ids, label_map[inside])
    out = image.copy()
    for stains in views:
        glow_like = [stain.channel for stain in stains.others]
        gain = np.where(emptied, rng.uniform(*faults.left, len(ids)), np.exp(rng.uniform(low, high, len(ids))))
        glow = np.where(emptied, rng.uniform(*faults.glow, len(ids)), 0)
        # like which stain the autofluorescence looks, cell by cell: weights of the channels and of the even level
        shares = rng.dirichlet(np.ones(len(glow_like) + 1), len(ids)) * glow[:, None]
        signal = image[stains.signal][inside] * gain[row].astype(np.float32)
        for k, channel in enumerate(glow_like):
            signal += image[channel][inside] * shares[row, k].astype(np.float32)
        signal += (faults.level * shares[row, -1]).astype(np.float32)
        out[stains.signal][inside] = np.clip(np.rint(signal), 0, 255).astype(np.uint8)
    return out, emptied
