"""Compare figures of README.md and docs/quality.md with the measured ones: python scripts/check_readme_figures.py

docs/measured.json holds the figures of every seed, three at least, by the set of fields (the number of training fields,
or their kind), and the commands that give them (--commands prints them). A figure of a page is right if it is the
seeds' mean, least or largest, or that of one seed, as the page says, rounded as on the page. --scores FOLDER takes new
measurements instead, as `evaluate` writes them to FOLDER/SET-SEED/scores.json, and --write puts them into
docs/measured.json. Exit code 1 if a figure is wrong or not on record; of new measurements, sets that were not made are
named.
"""

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "docs/measured.json"
ON = "natural fields"
SEEDS = 3
"""Figures of fewer seeds are not shown."""
NUMBER = r"(\.\d+)"
AP, SEVERAL, IMAGES = "cells.mean_ap", "cells.mean_ap_of_several_classes", "images.mean_ap"
COPIED = "baselines.image_labels_copied.mean_ap"
KEYS = (AP, SEVERAL, IMAGES, COPIED)
"""Figures of scores.json that are kept."""
Measured = Mapping[str, Mapping[str, Sequence[float]]]
"""Set of fields -> key -> the figure of each seed."""


@dataclass(frozen=True)
class Claim:
    """A figure on a page."""

    page: str
    fields: str
    """Set of fields that it is measured on."""
    key: str
    pattern: str
    """Finds it; its one group is the figure."""
    how: str | int = "mean"
    """mean, min or max of the seeds; or the number of one of them."""

    def __str__(self) -> str:
        return f"{self.page}, fields {self.fields}, {self.key} ({self.how})"

    def value(self, values: Sequence[float]) -> Decimal:
        """Return what the page should say, not rounded yet."""
        exact = [Decimal(str(value)) for value in values]
        if isinstance(self.how, int):
            return exact[self.how]
        return {"mean": sum(exact, Decimal(0)) / len(exact), "min": min(exact), "max": max(exact)}[self.how]


def _claims() -> list[Claim]:
    row, seeds = r"\| \*\*wsss\*\*", r"three seeds \|[^|]*\| \*\*"
    readme = [
        Claim("README.md", "400", AP, rf"{row} \| \*\*{NUMBER}"),
        Claim("README.md", "400", SEVERAL, rf"{row} \|[^|]*\| \*\*{NUMBER}"),
        Claim("README.md", "200", IMAGES, rf"{row} \|[^|]*\|[^|]*\| \*\*{NUMBER}"),
        Claim("README.md", "400", COPIED, rf"copied to every cell \| {NUMBER}"),
        Claim("README.md", "400", AP, rf"three seeds \({NUMBER} to", "min"),
        Claim("README.md", "400", AP, rf"three seeds \(\.\d+ to {NUMBER}\)", "max"),
        *(
            Claim("README.md", str(n), AP, rf"[Ww]ith {n} (?:training fields it reaches )?{NUMBER}")
            for n in (25, 50, 100)
        ),
        Claim("README.md", "one-class", AP, rf"every cell shows one class it reaches {NUMBER}"),
        Claim("README.md", "hard", AP, rf"it reaches {NUMBER[1:-1]}, and\s+{NUMBER} where these are dim"),
    ]
    quality, place = [Claim("docs/quality.md", "400", COPIED, rf"three seeds \| {NUMBER}")], r"\.\d+, "
    for n in range(SEEDS):
        quality.append(Claim("docs/quality.md", "400", AP, rf"{seeds}{n * place}{NUMBER}", n))
        quality.append(Claim("docs/quality.md", "400", SEVERAL, rf"{seeds}[^|]*\| {n * place}{NUMBER}", n))
        rows = (("one-class", "one class a cell, three seeds"), ("hard", "shot noise; three seeds"))
        quality += [
            Claim("docs/quality.md", name, AP, rf"{row} \|[^|]*\| {n * place}{NUMBER}", n) for name, row in rows
        ]
    for fields in (25, 50, 100, 200, 400):
        line = rf"\n\| {fields} \| "
        quality += [
            Claim("docs/quality.md", str(fields), AP, rf"{line}{NUMBER}"),
            Claim("docs/quality.md", str(fields), AP, rf"{line}\.\d+ \({NUMBER}-", "min"),
            Claim("docs/quality.md", str(fields), AP, rf"{line}\.\d+ \(\.\d+-{NUMBER}\)", "max"),
            Claim("docs/quality.md", str(fields), SEVERAL, rf"{line}[^|]*\| {NUMBER}"),
        ]
    return [*readme, *quality]


CLAIMS = _claims()


def check(claim: Claim, page: str, measured: Measured) -> str:
    """Return what is wrong with a figure; '' if it is right."""
    match, values = re.search(claim.pattern, page), measured.get(claim.fields, {}).get(claim.key, ())
    if match is None:
        return f"{claim}: the page has no such figure"
    if len(values) < SEEDS:
        return f"{claim}: {len(values)} seeds were measured, expected {SEEDS} or more"
    value, said = claim.value(values), Decimal("0" + match[1])
    right = value.quantize(said, ROUND_HALF_UP) == said
    return "" if right else f"{claim}: the page says {match[1]}, {len(values)} seeds give {value:.4f}"


def look_up(scores: Any, key: str) -> float | None:
    """Return the figure with a dotted key; None where there is none, such as cells of several classes."""
    for part in key.split("."):
        scores = scores.get(part) if scores else None
    return None if scores is None else float(scores)


def read_scores(folder: Path) -> dict[str, dict[str, list[float]]]:
    """Return the figures of FOLDER/SET-SEED/scores.json, seeds in their order."""
    found: dict[str, dict[str, list[float]]] = {}
    named = (re.fullmatch(r"(.+)-(\d+)", path.parent.name) for path in folder.glob("*/scores.json"))
    for fields, seed in sorted((match[1], int(match[2])) for match in named if match):
        scores = json.loads((folder / f"{fields}-{seed}/scores.json").read_text())
        for key in KEYS:
            if (value := look_up(scores, key)) is not None:
                found.setdefault(fields, {}).setdefault(key, []).append(round(value, 4))
    return found


def write(record: dict[str, Any], measured: Measured) -> None:
    """Replace the figures of docs/measured.json for the sets that were measured."""
    record["figures"] |= measured
    text = json.dumps({ON: record}, indent=2, ensure_ascii=False)
    one_line = re.sub(r"\[\s+([\d.,\s]+?)\s+\]", lambda match: f"[{' '.join(match[1].split())}]", text)
    RECORD.write_text(one_line + "\n")


def main(words: Sequence[str] | None = None) -> int:
    """Print what is wrong; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=Path, default=ROOT, help="folder with README.md and docs/quality.md")
    parser.add_argument("--scores", type=Path, help="folder of new measurements")
    parser.add_argument("--write", action="store_true", help="keep them")
    parser.add_argument("--commands", action="store_true")
    given = parser.parse_args(words)
    record = json.loads(RECORD.read_text())[ON]
    if given.commands:
        print("\n".join([record["about"], *record["commands"]]))
        return 0
    measured, claims = record["figures"], CLAIMS
    if given.scores:
        measured = read_scores(given.scores)
        if given.write:
            write(record, measured)
        claims = [claim for claim in CLAIMS if claim.fields in measured]
        for fields in sorted({claim.fields for claim in CLAIMS} - set(measured)):
            print(f"fields {fields}: not measured, so their figures are not checked")
    wrong = list(filter(None, (check(claim, (given.pages / claim.page).read_text(), measured) for claim in claims)))
    print("\n".join(wrong) or f"{len(claims)} figures are those of the seeds")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
