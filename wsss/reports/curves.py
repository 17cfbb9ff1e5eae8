"""Curves of a training: loss, figures and learning rate over epochs; loss over the rate of a range test."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from wsss.core.files import write_atomic


def plot_curves(rows: Sequence[Mapping[str, Any]], path: Path, title: str = "") -> None:
    """Draw the rows of a run's log as a PNG.

    Args:
        rows: one an epoch: epoch, lr, train_* and, with validation, val_* figures.
        path: of the PNG.
        title: above it.
    """
    _save(draw_curves(rows, title), path)


def draw_curves(rows: Sequence[Mapping[str, Any]], title: str = "") -> Any:
    """Draw the rows of a run's log as a matplotlib figure of three panels; see `plot_curves`."""
    figure = _figure((13, 4))
    panels = figure.subplots(1, 3)
    shown = [("loss", "full", "tiles", "agreement", "refine"), ("f1", "map"), ("lr",)]
    for panel, names, heading in zip(panels, shown, ("loss and its parts", "validation", "learning rate"), strict=True):
        for number, name in enumerate(names):
            for prefix, style in (("train_", "--"), ("val_", "-"), ("", "-")):
                _line(panel, rows, f"{prefix}{name}", f"C{number}", style)
        panel.set(title=heading, xlabel="epoch")
        panel.grid(alpha=0.3)
        panel.xaxis.get_major_locator().set_params(integer=True)
        if panel.lines:
            panel.legend(fontsize=8)
    if any(row["lr"] > 0 for row in rows):
        panels[2].set_yscale("log")
    figure.suptitle(title)
    return figure


def plot_range_test(rows: Sequence[Mapping[str, float]], suggestion: float, path: Path) -> None:
    """Draw the loss over the learning rate, with the suggested rate marked, as a PNG."""
    figure = _figure((7, 4.5))
    panel = figure.subplots()
    rates = [row["lr"] for row in rows]
    panel.plot(rates, [row["loss"] for row in rows], color="0.75", label="loss")
    panel.plot(rates, [row["smoothed"] for row in rows], color="C0", label="smoothed")
    panel.axvline(suggestion, color="C3", linestyle=":", label=f"suggestion {suggestion:.2g}")
    top = max(row["smoothed"] for row in rows)
    panel.set(xscale="log", xlabel="learning rate", ylabel="loss", ylim=(0, 1.2 * top), title="range test")
    panel.grid(alpha=0.3)
    panel.legend()
    _save(figure, path)


def _figure(size: tuple[float, float]) -> Any:

    return Figure(figsize=size, layout="constrained", dpi=110)


def _line(panel: Any, rows: Sequence[Mapping[str, Any]], name: str, colour: str, style: str) -> None:
    found = [(row["epoch"], row[name]) for row in rows if name in row]
    if found:
        x, y = zip(*found, strict=True)
        panel.plot(x, y, style, color=colour, label=name, marker="." if len(found) < 30 else None)


def _save(figure: Any, path: Path) -> None:
    write_atomic(path, lambda stream: figure.savefig(stream, format="png"))
