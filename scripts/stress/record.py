"""The figures of the stress parts: printed as they come, kept in a table that later runs replace line by line."""

import csv
import os
import sys
from pathlib import Path

from wsss.core.files import write_text

COLUMNS = ("row", "what", "tried", "survived", "seconds", "note")
FOLDER = Path(os.environ.get("STRESS_OUT", "runs/stress"))


def record(row: int, what: str, tried: int, survived: int, seconds: float, note: str = "") -> int:
    """Print and keep one line; return how many did not survive.

    Args:
        row: of the table in docs/reliability.md.
        what: was done; a later run of the same thing takes the place of an earlier one.
        tried: kills, files, examples.
        survived: those after which everything promised held.
        seconds: it took.
        note: further figures.
    """
    path = FOLDER / "figures.csv"
    lines = {(int(line["row"]), line["what"]): line for line in _read(path)}
    new = (row, what, tried, survived, f"{seconds:.0f}", note)
    lines[row, what] = dict(zip(COLUMNS, map(str, new), strict=True))
    text = [",".join(COLUMNS)]
    for _, line in sorted(lines.items()):
        text.append(",".join('"' + line[name].replace('"', "'") + '"' for name in COLUMNS))
    write_text(path, "\n".join(text) + "\n")
    print(f"row {row:2}  {what}: {survived} of {tried} survived  ({seconds:.0f} s)  {note}", flush=True)
    return tried - survived


def _read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def main() -> int:
    """Print what is kept as a Markdown table; return 1 if anything did not survive."""
    lines = _read(FOLDER / "figures.csv")
    print("| row | what | tried | survived | seconds | |\n|---|---|---|---|---|---|")
    for line in lines:
        print("| " + " | ".join(line[name] for name in COLUMNS) + " |")
    return int(any(line["tried"] != line["survived"] for line in lines))


if __name__ == "__main__":
    sys.exit(main())
