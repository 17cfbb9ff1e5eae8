"""Faults of single cells in a field: dim or bright protein, lost protein that leaves autofluorescence.

What a cell has lost is known here, so changed copies of real images teach what no image label says.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wsss.core.channels import HPA_STAINS, Stains
from wsss.core.checks import check_range
from wsss.data.photometric import haze, photon_noise, uneven_light


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
            low, high = getattr(self, name)
            check_range(f"lower end of faults.{name}", low, 0)
            check_range(f"upper end of faults.{name}", high, low)
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
    """Return a copy of a field that looks as if it had been stained and photographed badly.

    Args:
        image: (C, H, W) uint8.
        label_map: (H, W) int, 0 background; ids may have gaps.
        rng: source of everything drawn.
        faults: what may happen.
        views: what the channels show: autofluorescence resembles the stains beside each signal, but for the nucleus.

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
        glow_like = [own.channel for own in stains.others]
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
