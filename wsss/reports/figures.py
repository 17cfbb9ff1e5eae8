"""Figures by matplotlib: training curves, calibration, confusions, shares of cells; as PNG or as SVG in a data URI."""

import base64
import colorsys
import io
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from wsss.core.csv_text import write_csv
from wsss.core.files import write_atomic
from wsss.core.labels import HPA_NAMES
from wsss.metrics.classify import Reliability
from wsss.metrics.weighted import GroupShares


def data_uri(content: bytes, kind: str) -> str:
    """Return a file's content as the address of an image in a page, kind being such as 'image/webp'."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def training_svg(rows: Sequence[Mapping[str, Any]]) -> str:
    """Draw the log of one fold's training: loss, validation figures, learning rate."""
    return _svg(draw_curves(rows))


def calibration_svg(curve: Reliability) -> str:
    """Draw how often a score of each height is right, over how many scores have it."""
    figure = _figure((4.6, 4.8), dpi=100)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], ":", color="0.4", label="scores mean what they say")
    upper.plot(*_observed(curve), "o-", color="C0", label="observed")
    bins = len(curve.count)
    lower.bar(np.arange(bins) / bins, curve.count, width=1 / bins, align="edge", color="C0", alpha=0.6)
    _frame_reliability(upper, lower, "share that is true")
    return _svg(figure)


def _observed(curve: Reliability) -> tuple[np.ndarray, np.ndarray]:
    """Return mean score and share that is true of the bins that hold scores."""
    return curve.score[curve.count > 0], curve.truth[curve.count > 0]


def _frame_reliability(upper: Any, lower: Any, truth: str) -> None:
    """Give the two panels of a reliability diagram their axes, with what the scores are compared with."""
    upper.set(ylabel=truth, ylim=(-0.03, 1.03), xlim=(-0.03, 1.03))
    upper.legend(fontsize=8)
    lower.set(xlabel="score", ylabel="number of scores", yscale="log" if lower.dataLim.y1 > 0 else "linear")
    for panel in (upper, lower):
        panel.grid(alpha=0.3)


def confusion_svg(rows: Sequence[Mapping[str, Any]]) -> str:
    """Draw the confusions of classes; rows as `evaluate` returns them."""
    return _svg(draw_confusion(*confusion_table(rows)))


def threshold_svg(thresholds: np.ndarray, curves: Mapping[str, np.ndarray]) -> str:
    """Draw figures over IoU thresholds.

    Args:
        thresholds: (T,).
        curves: name -> (T,) in [0, 1].
    """
    figure = _figure((5.4, 4.2), dpi=100)
    panel = figure.subplots()
    for (name, values), colour in zip(curves.items(), CONDITION_COLOURS, strict=False):  # there are more colours
        panel.plot(thresholds, values, "o-", ms=4, color=colour, label=name)
    panel.set(xlabel="IoU above which a pair counts", ylim=(-0.03, 1.03))
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
    return _svg(figure)


def sizes_svg(areas: Mapping[str, np.ndarray]) -> str:
    """Draw how many objects have which area, of each kind of object; areas in px, at least one in all."""
    figure = _figure((5.4, 4.2), dpi=100)
    panel = figure.subplots()
    every = np.concatenate(list(areas.values()))
    edges = np.geomspace(every.min() * 0.999, every.max() * 1.001, SIZE_BINS + 1)
    for (name, own), colour in zip(areas.items(), CONDITION_COLOURS, strict=False):
        panel.stairs(np.histogram(own, edges)[0], edges, color=colour, label=f"{name} ({len(own):,})", linewidth=1.6)
    panel.set(xscale="log", xlabel="area in px²", ylabel="objects")
    ticks = sorted({float(f"{edge:.2g}") for edge in edges[:: SIZE_BINS // 5]})
    panel.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
    panel.minorticks_off()  # whose labels overlap
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
    return _svg(figure)


def _svg(figure: Any) -> str:
    stream = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "wsss"}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return data_uri(stream.getvalue(), "image/svg+xml")


Colour = tuple[int, int, int]

_HPA = (
    ("Nucpl", (60, 150, 255)),
    ("NucMem", (255, 230, 0)),
    ("Nucleoli", (255, 60, 60)),
    ("FibCen", (255, 165, 165)),
    ("Speckle", (176, 128, 255)),
    ("NucBod", (255, 110, 235)),
    ("ER", (0, 225, 255)),
    ("Golgi", (255, 135, 0)),
    ("IntFil", (185, 255, 90)),
    ("Actin", (0, 190, 60)),
    ("Microt", (190, 115, 50)),
    ("Spindle", (190, 60, 230)),
    ("Centro", (110, 80, 255)),
    ("PlasMem", (0, 255, 165)),
    ("Mito", (225, 0, 140)),
    ("Aggre", (150, 165, 0)),
    ("Cytosol", (255, 210, 150)),
    ("Vesicle", (0, 150, 150)),
    ("Neg", (150, 150, 150)),
)
_SHORT = {name: short for name, (short, _) in zip(HPA_NAMES, _HPA, strict=True)}

NO_CLASS: Colour = (235, 235, 235)
"""Outline of a cell of which nothing is known."""


def colour(k: int) -> Colour:
    """Return the RGB colour of class `k`: fixed by hand for the first 19, the first of them far apart, then by hue."""
    if k < len(_HPA):
        return _HPA[k][1]
    red, green, blue = colorsys.hsv_to_rgb((k * 0.618034) % 1, 0.55, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def ink_on(plate: Colour) -> Colour:
    """Return black or white, whichever is easier to read on `plate`."""
    red, green, blue = plate
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 115 else (255, 255, 255)


LONGEST = 8


@cache
def short_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return class names short enough to stand on a cell, at most 8 letters each, and different from each other.

    Names that begin alike are told apart by their next words, else by their ends.

    Example:
        >>> short_names(("spots in nuclei", "spots in the cytosol", "membrane", "phenotype 1"))
        ('nuclei', 'the cyto', 'membrane', 'phenotyp')
    """
    short = [_SHORT.get(name) or _cut(name) for name in names]
    for text in {text for text in short if short.count(text) > 1}:
        alike = [k for k, other in enumerate(short) if other == text]
        words = [names[k].split() for k in alike]
        common = sum(1 for _ in takewhile(lambda column: len({*column}) == 1, zip(*words, strict=False)))
        for k, own in zip(alike, words, strict=True):
            short[k] = " ".join(own[common:])[:LONGEST].rstrip() or text
    for k, text in enumerate(short):
        if short.count(text) > 1 or not text:
            short[k] = f"{names[k][:4]}…{names[k][-3:]}"
    return tuple(text if short.count(text) == 1 else f"class {k}" for k, text in enumerate(short))


def _cut(name: str) -> str:
    """Return the words at the beginning of a name that are short enough together, else the beginning of the first."""
    if len(name) <= LONGEST:
        return name
    return name[: LONGEST + 1].rpartition(" ")[0].rstrip() or name[:LONGEST]


def plot_reliability(panels: Mapping[str, tuple[Reliability, Reliability]], path: Path, truth: str) -> None:
    """Draw reliability diagrams side by side as a PNG.

    Args:
        panels: title -> before and after.
        truth: what the scores are compared with, for the axis.
    """
    figure = _figure((4.8 * len(panels), 5.4))
    axes = figure.subplots(2, len(panels), sharex=True, squeeze=False, height_ratios=(3, 1))
    for (title, pair), upper, lower in zip(panels.items(), axes[0], axes[1], strict=True):
        upper.plot([0, 1], [0, 1], ":", color="0.4", label="scores mean what they say")
        for curve, name, colour in zip(pair, ("before", "after"), ("C1", "C0"), strict=True):
            upper.plot(*_observed(curve), "o-", color=colour, ms=4, label=f"{name}: error {curve.error:.3f}")
            edges = np.arange(len(curve.count) + 1) / len(curve.count)
            lower.stairs(curve.count, edges, color=colour, label=name)
        upper.set_title(title)
        _frame_reliability(upper, lower, truth)
    _save(figure, path)


def write_confusion(rows: Sequence[Mapping[str, Any]], csv: Path, picture: Path) -> None:
    """Write the confusions of classes: one row per true class, one column per predicted class.

    Args:
        rows: as for `confusion_table`.
        csv: receives numbers of cells, fractional where a cell has several true classes.
        picture: receives shares of the true class's cells, as PNG.
    """
    table, true, predicted = confusion_table(rows)
    frame = pd.DataFrame(table, columns=predicted)
    frame.insert(0, "true class", true)
    write_csv(csv, frame)
    _save(draw_confusion(table, true, predicted), picture)


def confusion_table(rows: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, list[str], list[str]]:
    """Return the numbers of cells (T, F), the names of the T true and of the F predicted classes.

    Args:
        rows: entries that are not 0: true and predicted (ids, -1 for no score), true_name, predicted_name, cells.
    """
    names = {int(row[side]): str(row[f"{side}_name"]) for row in rows for side in ("true", "predicted")}
    true = sorted({int(row["true"]) for row in rows})
    # a class that does not occur has no row; what no cell is taken for and none is has no column
    predicted = sorted(names, key=lambda k: (k < 0, k))
    table = np.zeros((len(true), len(predicted)))
    for row in rows:
        table[true.index(int(row["true"])), predicted.index(int(row["predicted"]))] = row["cells"]
    return table, [names[k] for k in true], [names[k] for k in predicted]


def draw_confusion(table: np.ndarray, true: Sequence[str], predicted: Sequence[str]) -> Any:
    """Draw (T, F) numbers of cells as a matplotlib figure; fields show per cent of their row."""
    cells = table.sum(axis=1)
    shares = table / np.maximum(cells, 1e-9)[:, None]
    figure = _figure((3.5 + 0.42 * len(predicted), 2.6 + 0.36 * len(true)))
    panel = figure.subplots()
    panel.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (y, x), share in np.ndenumerate(shares):
        if share >= 0.01:
            colour = "white" if share > 0.6 else "black"
            panel.text(x, y, f"{100 * share:.0f}", ha="center", va="center", fontsize=8, color=colour)
    panel.set_xticks(range(len(predicted)), [_short(name) for name in predicted], rotation=50, ha="right", fontsize=8)
    labels = [f"{_short(name)} ({count:.0f})" for name, count in zip(true, cells, strict=True)]
    panel.set_yticks(range(len(true)), labels, fontsize=8)
    panel.set(xlabel="class with the highest score", ylabel="true class (cells counted for it)")
    panel.set_title("Per cent of the cells of each true class", fontsize=10)
    return figure


def _short(name: str) -> str:
    return name if len(name) <= 26 else f"{name[:24].rstrip()}…"


def plot_curves(rows: Sequence[Mapping[str, Any]], path: Path, title: str = "") -> None:
    """Draw the rows of a run's log as a PNG.

    Args:
        rows: one an epoch: epoch, lr, train_* and, with validation, val_* figures.
    """
    _save(draw_curves(rows, title), path)


_CURVES = {
    "loss": "loss",
    "full": "loss of whole images",
    "tiles": "loss of tiles",
    "agreement": "difference of whole images and tiles",
    "refine": "loss of refined maps",
    "f1": "F1",
    "map": "mean average precision",
    "dice": "Dice",
    "iou": "IoU",
    "threshold_mean": "mean over IoU .5 to .95",
    "instance_ap": "instance AP",
    "lr": "learning rate",
}


def curve_name(column: str) -> str:
    """Return a column of log.csv in words, such as 'validation loss'; a column that is not drawn stays as it is."""
    words = {"train_": "training ", "val_": "validation ", "": ""}
    prefix = next(prefix for prefix in words if column.startswith(prefix))
    name = column.removeprefix(prefix)
    return words[prefix] + _CURVES[name] if name in _CURVES else column


def draw_curves(rows: Sequence[Mapping[str, Any]], title: str = "") -> Any:
    """Draw the rows of a run's log as a matplotlib figure of three panels; see `plot_curves`."""
    figure = _figure((13, 4.6))
    panels = figure.subplots(1, 3)
    shown = {
        "loss and its parts": ("loss", "full", "tiles", "agreement", "refine"),
        "validation": ("f1", "map", "dice", "iou", "threshold_mean", "instance_ap"),
        "learning rate": ("lr",),
    }
    for panel, (heading, names) in zip(panels, shown.items(), strict=True):
        for number, name in enumerate(names):
            if heading != "validation":  # the training's 'dice' and 'map' are losses
                _line(panel, rows, f"train_{name}", f"C{number}", "--")
            for prefix in ("val_", ""):
                _line(panel, rows, f"{prefix}{name}", f"C{number}", "-")
        panel.set(title=heading, xlabel="epoch")
        panel.grid(alpha=0.3)
        panel.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        panel.set_xlim(0.5, max((row["epoch"] for row in rows), default=1) + 0.5)
        if panel.lines:
            panel.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.13))  # below, off the lines
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


def _figure(size: tuple[float, float], dpi: int = 110) -> Any:
    return Figure(figsize=size, layout="constrained", dpi=dpi)


def _line(panel: Any, rows: Sequence[Mapping[str, Any]], name: str, colour: str, style: str) -> None:
    points = [(row["epoch"], row[name]) for row in rows if name in row]
    if points:
        x, y = zip(*points, strict=True)
        panel.plot(x, y, style, color=colour, label=curve_name(name), marker="." if len(points) < 30 else None)


def _save(figure: Any, path: Path) -> None:
    write_atomic(path, lambda stream: figure.savefig(stream, format="png"))


LEAST_SHARE = 0.005
"""Classes that no condition shows in this share of its cells are left out of the picture."""
CONDITION_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#7f7f7f", "#000000")
"""Colours of conditions that people with colour-blindness can distinguish (Okabe and Ito)."""
CONDITION_MARKS = "os^Dv<>P"
SIZE_BINS = 30


def plot_shares(groups: Sequence[GroupShares], class_names: Sequence[str], by: str, what: str, path: Path) -> None:
    """Draw a row for each class, a point with its interval for each condition.

    Args:
        by: what conditions are called.
        what: of which cells the shares are, for the axis.
    """
    largest = np.max([group.share for group in groups], axis=0)
    order = np.argsort(-largest, kind="stable").tolist()
    shown = [k for k in order if largest[k] >= LEAST_SHARE] or order[:1]
    figure = _figure((11, 1.4 + len(shown) * max(0.35, 0.16 * len(groups))))
    panel = figure.subplots()
    offsets = np.linspace(-0.32, 0.32, len(groups)) if len(groups) > 1 else np.zeros(1)
    for number, (group, offset) in enumerate(zip(groups, offsets, strict=True)):
        share, rows = 100 * group.share[shown], np.arange(len(shown)) + offset
        turn, place = divmod(number, len(CONDITION_COLOURS))
        colour, mark = CONDITION_COLOURS[place], CONDITION_MARKS[turn % len(CONDITION_MARKS)]
        label = f"{group.name} ({group.cells} cells, {group.images} images)"
        panel.plot(share, rows, linestyle="none", marker=mark, color=colour, markersize=5, label=label)
        if len(group.resampled):
            panel.hlines(rows, 100 * group.low[shown], 100 * group.high[shown], color=colour, linewidth=1.6)
    for row in range(0, len(shown), 2):
        panel.axhspan(row - 0.5, row + 0.5, color="0.95", zorder=0)
    panel.set_yticks(range(len(shown)), [class_names[k] for k in shown])
    panel.set(ylim=(len(shown) - 0.5, -0.5), xlabel=f"share of cells in % ({what}); lines: 95 % over images")
    panel.set_xlim(left=0)
    panel.grid(axis="x", alpha=0.3)
    panel.legend(title=by, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))  # beside, off the intervals
    _save(figure, path)
