"""The stages, read from top to bottom: what each command does."""

import numpy as np


def spread_evenly(count: int, most: int) -> list[int]:
    """Return at most `most` of the numbers below `count`, spread evenly, the first and the last among them."""
    return np.rint(np.linspace(0, count - 1, min(most, count))).astype(int).tolist()
