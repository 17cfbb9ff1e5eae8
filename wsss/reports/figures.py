"""Figures of the report as SVG files in data URIs: training curves, calibration."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from wsss.reports.confusion import confusion_table, draw_confusion
from wsss.reports.curves import draw_curves


def data_uri(content: bytes, kind: str) -> str:
    """Return a file's content as the address of an image in a page, kind being such as 'image/webp'."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def training_svg(rows: Sequence[Mapping[str, Any]]) -> str:
    """Draw the log of one fold's training: loss, validation figures, learning rate."""
    return _svg(draw_curves(rows))


def calibration_svg(count: np.ndarray, score: np.ndarray, truth: np.ndarray) -> str:
    """Draw how often a score of each height is right, over how many scores have it.

    Args:
        count: (bins,) scores in the bin.
        score: (bins,) their mean, NaN where the bin is empty.
        truth: (bins,) the share of them that is true, NaN where the bin is empty.
    """
    figure = Figure(figsize=(4.6, 4.8), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], ":", color="0.4", label="scores mean what they say")
    there = count > 0
    upper.plot(score[there], truth[there], "o-", color="C0", label="found")
    upper.set(ylabel="share that is true", ylim=(-0.03, 1.03), xlim=(-0.03, 1.03))
    upper.legend(fontsize=8, loc="upper left")
    edges = np.arange(len(count)) / len(count)
    lower.bar(edges, count, width=1 / len(count), align="edge", color="C0", alpha=0.6)
    lower.set(xlabel="score", ylabel="scores", yscale="log")
    for panel in (upper, lower):
        panel.grid(alpha=0.3)
    return _svg(figure)


def confusion_svg(rows: Sequence[Mapping[str, Any]]) -> str:
    """Draw who is mistaken for whom; rows as evaluate tells them."""
    return _svg(draw_confusion(*confusion_table(rows)))


def _svg(figure: Any) -> str:

    stream = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "wsss"}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return data_uri(stream.getvalue(), "image/svg+xml")
