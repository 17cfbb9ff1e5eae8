"""Draw the packages of wsss and the imports between them: python scripts/make_architecture.py [--out FILE]

Rows are the layers: a package imports rows below it only. An arrow's width grows with the number of imports. Arrows to
core and options, which everything imports, are left out.
"""

import argparse
import ast
from collections import Counter
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

ROOT = Path(__file__).parents[1]
ROWS = [
    ["commands"],
    ["stages"],
    ["training", "inference", "reviewing"],
    ["segmenters", "feature_classifier"],
    ["models"],
    ["data", "metrics", "reports", "exports"],
    ["runs", "cells"],
    ["options"],
    ["core"],
]
ABOUT = {
    "commands": "python -m wsss.STAGE: the registry",
    "stages": "what each command does",
    "training": "loop, step, tasks, losses",
    "inference": "from checkpoints to tables",
    "reviewing": "labelling by hand",
    "segmenters": "ways to find cells",
    "feature_classifier": "cell labels from features",
    "models": "networks",
    "data": "images, tables, store",
    "cells": "regions, crops, scores",
    "metrics": "figures of merit",
    "reports": "pictures, pages",
    "exports": "other tools' files",
    "runs": "result folders, checkpoints",
    "options": "every option",
    "core": "files, checks, classes",
}


def package_of(module: str) -> str:
    """Return the package of a module of wsss; what lies at the top is a command."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ABOUT else "commands"


def imports() -> Counter[tuple[str, str]]:
    """Count the imports from one package to another."""
    counts: Counter[tuple[str, str]] = Counter()
    for path in sorted((ROOT / "wsss").rglob("*.py")):
        here = package_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "wsss":
                there = package_of(node.module or "")
                if there != here:
                    counts[here, there] += 1
    return counts


def sizes() -> dict[str, tuple[int, int]]:
    """Return (files, lines) of every package."""
    packages: dict[str, tuple[int, int]] = {}
    for path in (ROOT / "wsss").rglob("*.py"):
        name = package_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
        files, lines = packages.get(name, (0, 0))
        packages[name] = files + 1, lines + len(path.read_text().splitlines())
    return packages


def draw(out: Path) -> None:
    """Draw the packages as boxes in their rows, and the imports as arrows."""
    figure = Figure(figsize=(11, 11))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, 11)
    axes.set_ylim(-0.3, len(ROWS) * 1.2)
    axes.axis("off")
    place: dict[str, tuple[float, float]] = {}
    extent = sizes()
    width, height = 1.9, 0.72
    for k, row in enumerate(ROWS):
        for j, name in enumerate(row):
            x, y = 11 * (j + 0.5) / len(row), (len(ROWS) - 1 - k) * 1.2 + 0.3
            place[name] = x, y
            box = FancyBboxPatch(
                (x - width / 2, y), width, height, "round,pad=0.04", fc="#eef3f8", ec="#31506b", zorder=3
            )
            axes.add_patch(box)
            files, lines = extent.get(name, (0, 0))
            axes.text(x, y + 0.53, name, ha="center", va="center", fontsize=11, weight="bold", zorder=4)
            axes.text(x, y + 0.3, ABOUT[name], ha="center", va="center", fontsize=7.5, zorder=4)
            axes.text(
                x,
                y + 0.1,
                f"{files} files, {lines:,} lines",
                ha="center",
                va="center",
                fontsize=7,
                zorder=4,
                color="#555",
            )
    for (here, there), count in imports().items():
        if there in ("core", "options"):
            continue
        (x0, y0), (x1, y1) = place[here], place[there]
        bend = 0.0 if abs(y0 - y1) < 1.3 else 0.12 * (1 if x0 <= x1 else -1)
        arrow = FancyArrowPatch(
            (x0, y0), (x1, y1 + height), arrowstyle="-|>", mutation_scale=8, lw=0.4 + count / 14, color="#31506b",
            alpha=0.35, connectionstyle=f"arc3,rad={bend}", zorder=2,
        )  # fmt: skip
        axes.add_patch(arrow)
    figure.savefig(out, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/architecture.png")
    draw(parser.parse_args().out)


if __name__ == "__main__":
    main()
