"""One channel saved as a tinted colour picture, as the public Human Protein Atlas does: which samples hold it."""

import numpy as np

from wsss.core.checks import DataError

TINTS = {"red": (0,), "green": (1,), "blue": (2,), "yellow": (0, 1)}
"""Channel -> the samples of an RGB picture that carry its signal."""

BLEED, LEAST = 0.1, 2.0
"""Other samples may hold, on average, this share of the signal plus this many of 255 levels: what JPEG leaves there."""


def signal_of(samples: np.ndarray, channel: str, name: str) -> np.ndarray:
    """Return the one plane that an RGB picture of a single channel holds.

    Three equal samples are grey, and any of them is the plane. Else the channel's name says which samples carry the
    signal: red R, green G, blue B, yellow the mean of R and G. The other samples must be dark, and R and G of yellow
    alike: a composite picture is not taken for a channel.

    Args:
        samples: (H, W, 3) of any integer or float type.
        channel: name of the channel, '' if unknown.
        name: of the file, for messages.

    Returns:
        (H, W) of the same type.

    Raises:
        DataError: it is a colour picture.
    """
    if np.array_equal(samples[..., 0], samples[..., 1]) and np.array_equal(samples[..., 0], samples[..., 2]):
        return np.ascontiguousarray(samples[..., 0])
    carriers = TINTS.get(channel.lower())
    if carriers is None:
        raise DataError(f"{name} is a colour image, expected one grey plane: save the channel as grey.")
    planes = [samples[..., k] for k in carriers]
    signal = planes[0] if len(planes) == 1 else np.mean(planes, axis=0, dtype=np.float64)
    top = 1 if samples.dtype.kind == "f" else np.iinfo(samples.dtype).max
    allowed = BLEED * float(signal.mean()) + LEAST / 255 * top
    others = [samples[..., k] for k in range(3) if k not in carriers]
    apart = float(np.abs(planes[0].astype(np.float64) - planes[-1]).mean())
    if max(float(plane.mean()) for plane in others) > allowed or apart > allowed:
        raise DataError(
            f"{name} is a colour image that is not {channel} alone, expected one plane: save the channel as grey."
        )
    if samples.dtype.kind != "f":
        signal = np.rint(signal)
    return np.ascontiguousarray(signal.astype(samples.dtype))
