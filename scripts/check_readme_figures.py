"""Compare the figures of README.md with the measured ones: python scripts/check_readme_figures.py [--scores FILE ...]

docs/measured.json holds the figures of every seed, three at least, and the commands that give them. A figure of the
page is right if it is their mean, rounded as on the page. With --scores it is compared with new measurements instead:
the scores.json that `evaluate` wrote for each seed. --commands prints the commands. Exit code 1 if a figure is wrong.
"""

import argparse
import json
import re
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FIELDS = "natural fields"
SEEDS = 3
"""Means of fewer seeds are not shown."""
NUMBER = r"(\.\d+)"
ROW = r"\| \*\*wsss\*\*"
CLAIMS = {
    "cells.mean_ap": rf"{ROW} \| \*\*{NUMBER}",
    "cells.mean_ap_of_several_classes": rf"{ROW} \|[^|]*\| \*\*{NUMBER}",
    "images.mean_ap": rf"{ROW} \|[^|]*\|[^|]*\| \*\*{NUMBER}",
    "baselines.image_labels_copied.mean_ap": rf"copied to every cell \| {NUMBER}",
}
"""Key in scores.json -> what finds the figure on the page."""


def check(page: str, measured: dict[str, Sequence[float]]) -> list[str]:
    """Return a line for each figure of the page that is not the mean of the measured ones.

    Args:
        page: the text.
        measured: key of CLAIMS -> the figure of each seed.
    """
    wrong = []
    for key, pattern in CLAIMS.items():
        match, values = re.search(pattern, page), measured.get(key, ())
        if match is None:
            wrong.append(f"{key}: the page has no such figure")
        elif len(values) < SEEDS:
            wrong.append(f"{key}: {len(values)} seeds were measured, expected {SEEDS} or more")
        else:
            mean = sum(map(Decimal, map(str, values))) / len(values)
            rounded = mean.quantize(Decimal("0" + match[1]), ROUND_HALF_UP)
            if rounded != Decimal("0" + match[1]):
                wrong.append(f"{key}: the page says {match[1]}, the mean of {len(values)} seeds is {mean:.4f}")
    return wrong


def look_up(scores: dict[str, Any], key: str) -> float:
    """Return the figure with a dotted key."""
    for part in key.split("."):
        scores = scores[part]
    return float(scores)  # type: ignore[arg-type]


def main(words: Sequence[str] | None = None) -> int:
    """Print what is wrong; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", type=Path, default=ROOT / "README.md")
    parser.add_argument("--scores", type=Path, nargs="+", help="scores.json of each seed")
    parser.add_argument("--commands", action="store_true")
    given = parser.parse_args(words)
    record = json.loads((ROOT / "docs/measured.json").read_text())[FIELDS]
    if given.commands:
        print("\n".join(record["commands"]))
        return 0
    measured = record["figures"]
    if given.scores:
        tables = [json.loads(path.read_text()) for path in given.scores]
        measured = {key: [look_up(table, key) for table in tables] for key in CLAIMS}
    wrong = check(given.page.read_text(), measured)
    print("\n".join(wrong) or f"{len(CLAIMS)} figures of {given.page.name} are means of the measured seeds")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
