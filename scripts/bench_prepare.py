"""Time prepare against decoding its files and doing nothing else, both with a process for each core.

python scripts/bench_prepare.py [--images 48] [--edge 2048] [--size 512] [--repeats 3]

The fields are drawn (48 at most: larger sets repeat them), four PNG files each, in the page cache. Prints the seconds
an image by the clock (median of the repeats and their spread) and of the processor, and the cores that were busy. The
start of the processes is counted in both.
"""

import argparse
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path

import cv2

from wsss import cli
from wsss.core.console import say
from wsss.core.runtime import cores, parallel
from wsss.prepare import main as prepare


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--edge", type=int, default=2048, help="edge of the fields, pixels")
    parser.add_argument("--size", type=int, default=512, help="edge of the stored images, pixels")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to write (default: the folder for temporary files)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=args.folder) as made:
        compare(Path(made), args)
    return 0


def compare(folder: Path, args: argparse.Namespace) -> None:
    """Print the table."""
    from bench_infer import write_fields  # not above: worker processes import this file too, and need no network

    write_fields(folder / "fields", args.images, args.edge)
    files = sorted((folder / "fields" / "images").iterdir())
    megabytes = sum(path.stat().st_size for path in files) / args.images / 1e6
    say(f"{args.images} fields of {args.edge} px, {megabytes:.1f} MB of PNG each, {cores()} cores")
    say(f"{'':14}{'s an image':>22}{'CPU s':>9}{'cores busy':>12}")
    out = folder / "data"
    words = ["--images", f"{folder}/fields/images", "--size", str(args.size)]
    ways: dict[str, Callable[[int], object]] = {
        "decode alone": lambda _: decode_all(files),
        "prepare": lambda k: prepare_silently([*words, "--out", f"{out}{k}"]),
    }
    took = {name: measure(name, way, args) for name, way in ways.items()}
    say(f"prepare takes {took['prepare'] / took['decode alone']:.2f} times the decoding")


def prepare_silently(words: list[str]) -> None:
    """Run the stage without its lines."""
    with redirect_stdout(io.StringIO()):
        prepare(words)


def decode_all(files: list[Path]) -> None:
    """Decode every file in as many processes as prepare has."""
    chunks = [files[k : k + 4] for k in range(0, len(files), 4)]
    for _ in parallel(decode, chunks, None):
        pass


def decode(paths: list[Path]) -> int:
    """Decode some files as prepare does; return the number of pixels."""
    cv2.setNumThreads(1)
    planes = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in paths]
    return sum(plane.size for plane in planes if plane is not None)


def measure(name: str, way: Callable[[int], object], args: argparse.Namespace) -> float:
    """Print one row; return the seconds an image."""
    clock, spent = [], []
    for k in range(args.repeats):
        begin, used = time.perf_counter(), os.times()
        way(k)
        now = os.times()
        clock.append((time.perf_counter() - begin) / args.images)
        spent.append(sum(getattr(now, part) - getattr(used, part) for part in TIMES) / args.images)
    middle, work = statistics.median(clock), statistics.median(spent)
    shown = f"{middle:.3f} ({min(clock):.3f}-{max(clock):.3f})"
    say(f"{name:14}{shown:>22}{work:9.3f}{work / middle:12.1f}")
    return middle


TIMES = ("user", "system", "children_user", "children_system")
"""Of os.times(): this process's own, and that of processes it has waited for."""

if __name__ == "__main__":
    cli.run(main)
