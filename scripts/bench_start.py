"""Time `python -m wsss.STAGE --help` of every stage, each in a fresh process.

python scripts/bench_start.py [--repeats 5] [--limit 1.5]

Prints the median and the spread of the wall seconds, and of the CPU seconds, which other work on the machine does not
change much. The first row is Python with nothing but numpy and pandas imported, for comparison.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np

from wsss import cli
from wsss.cli import STAGES
from wsss.core.console import say


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--limit", type=float, default=1.5, help="seconds a start may take")
    args = parser.parse_args(argv)
    commands = {"numpy + pandas": ["-c", "import numpy, pandas"]}
    commands |= {f"wsss.{stage}": ["-m", f"wsss.{stage}", "--help"] for stage in STAGES}
    say(f"{'':18}{'wall s':>22}{'CPU s':>8}")
    for name, words in commands.items():
        wall, spent = zip(*(start(words) for _ in range(args.repeats + 1)), strict=True)
        wall, spent = wall[1:], spent[1:]  # the first start reads the files from the disk
        late = f"  above {args.limit} s" if np.median(wall) > args.limit else ""
        spread = f"{np.median(wall):.2f} ({min(wall):.2f}-{max(wall):.2f})"
        say(f"{name:18}{spread:>22}{np.median(spent):8.2f}{late}")
    return 0


def start(words: list[str]) -> tuple[float, float]:
    """Run Python once; return its wall and CPU seconds."""
    before, begin = os.times(), time.perf_counter()
    subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, check=True)
    wall, after = time.perf_counter() - begin, os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, spent


if __name__ == "__main__":
    cli.run(main)
