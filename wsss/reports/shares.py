"""A picture of shares of cells per class and condition."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from wsss.core.files import write_atomic
from wsss.metrics.shares import GroupShares

LEAST = 0.005
"""Classes that no condition shows in this share of its cells are left out of the picture."""
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#7f7f7f", "#000000")
"""Colours of conditions that people with colour-blindness tell apart (Okabe and Ito)."""
MARKS = "os^Dv<>P"


def plot_shares(groups: Sequence[GroupShares], class_names: Sequence[str], by: str, what: str, path: Path) -> None:
    """Draw a row for each class, a point with its interval for each condition.

    Args:
        groups: the conditions.
        class_names: of the classes.
        by: what conditions are called.
        what: of which cells the shares are, for the axis.
        path: of the PNG.
    """
    largest = np.max([own.share for own in groups], axis=0)
    shown = [int(k) for k in np.argsort(-largest, kind="stable") if largest[k] >= LEAST] or [int(largest.argmax())]
    height = 1.4 + len(shown) * max(0.35, 0.16 * len(groups))
    figure = Figure(figsize=(9, height), layout="constrained", dpi=110)
    panel = figure.subplots()
    offsets = np.linspace(-0.32, 0.32, len(groups)) if len(groups) > 1 else np.zeros(1)
    for number, (own, offset) in enumerate(zip(groups, offsets, strict=True)):
        share, rows = 100 * own.share[shown], np.arange(len(shown)) + offset
        colour, mark = COLOURS[number % len(COLOURS)], MARKS[number // len(COLOURS) % len(MARKS)]
        label = f"{own.name} ({own.cells} cells, {own.images} images)"
        panel.plot(share, rows, linestyle="none", marker=mark, color=colour, markersize=5, label=label)
        if len(own.resampled):
            panel.hlines(rows, 100 * own.low[shown], 100 * own.high[shown], color=colour, linewidth=1.6)
    for row in range(0, len(shown), 2):
        panel.axhspan(row - 0.5, row + 0.5, color="0.95", zorder=0)
    panel.set_yticks(range(len(shown)), [class_names[k] for k in shown])
    panel.set(ylim=(len(shown) - 0.5, -0.5), xlabel=f"share of cells in % ({what}); lines: 95 % over images")
    panel.set_xlim(left=0)
    panel.grid(axis="x", alpha=0.3)
    panel.legend(title=by, fontsize=8, loc="lower right")
    write_atomic(path, lambda stream: figure.savefig(stream, format="png"))
