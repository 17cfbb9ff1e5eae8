"""How often scores are right, before and after calibration, as a picture."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from wsss.core.files import write_atomic

Bins = tuple[np.ndarray, np.ndarray, np.ndarray, float]
"""Count, mean score and share that is true of each bin (NaN where it is empty), and the calibration error."""


def plot_reliability(panels: Mapping[str, tuple[Bins, Bins]], path: Path, truth: str) -> None:
    """Draw reliability diagrams side by side as a PNG.

    Args:
        panels: title -> bins before and after.
        path: of the PNG.
        truth: what the scores are compared with, for the axis.
    """
    figure = Figure(figsize=(4.8 * len(panels), 5.4), layout="constrained", dpi=110)
    axes = figure.subplots(2, len(panels), sharex=True, squeeze=False, height_ratios=(3, 1))
    for (title, pair), upper, lower in zip(panels.items(), axes[0], axes[1], strict=True):
        upper.plot([0, 1], [0, 1], ":", color="0.4", label="scores mean what they say")
        for (count, score, share, error), name, colour in zip(pair, ("before", "after"), ("C1", "C0"), strict=True):
            there = count > 0
            upper.plot(score[there], share[there], "o-", color=colour, ms=4, label=f"{name}: error {error:.3f}")
            edges = np.arange(len(count) + 1) / len(count)
            lower.stairs(count, edges, color=colour, label=name)
        upper.set(title=title, ylabel=truth, ylim=(-0.03, 1.03), xlim=(-0.03, 1.03))
        upper.legend(fontsize=8, loc="upper left")
        lower.set(xlabel="score", ylabel="scores", yscale="log")
        for panel in (upper, lower):
            panel.grid(alpha=0.3)
    write_atomic(path, lambda stream: figure.savefig(stream, format="png"))
