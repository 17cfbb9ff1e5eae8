"""Time the encoding of 300 cells at 2048 x 2048, ours next to pycocotools on one full-size mask per cell.

    python scripts/bench_rle.py [--cells 300] [--size 2048] [--repeats 5]

Goal: at most 0.4 s, byte for byte the same text.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
from pycocotools import mask as coco

from wsss.core import rle


def draw_cells(cells: int, size: int) -> np.ndarray:
    """Draw cells as wavy discs on a jittered grid, (size, size) int32, touching here and there."""
    rng = np.random.default_rng(0)
    side = int(np.ceil(cells**0.5))
    pitch = size / side
    label_map = np.zeros((size, size), np.int32)
    rows, columns = np.indices((size, size), dtype=np.float32)
    for k in range(cells):
        y, x = (np.array(divmod(k, side)) + 0.5 + rng.uniform(-0.2, 0.2, 2)) * pitch
        window = tuple(slice(max(0, int(c - pitch)), int(c + pitch)) for c in (y, x))
        dy, dx = rows[window] - y, columns[window] - x
        radius = pitch * (0.48 + 0.08 * np.sin(5 * np.arctan2(dy, dx) + k))
        label_map[window][np.hypot(dy, dx) < radius] = k + 1
    return label_map


def encode_plainly(label_map: np.ndarray) -> dict[int, bytes]:
    """Encode every cell from its own full-size mask, the way of the recipe."""
    ids = np.unique(label_map)
    return {int(k): coco.encode(np.asfortranarray(label_map == k, dtype=np.uint8))["counts"] for k in ids[ids > 0]}


def seconds(work: Callable[[], object], repeats: int) -> list[float]:
    """Time `work` several times."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=300)
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    label_map = draw_cells(given.cells, given.size)
    ours, plain = rle.encode_label_map(label_map), encode_plainly(label_map)
    if ours != plain:
        raise SystemExit("the texts differ from those of pycocotools")
    print(f"{len(ours)} cells at {given.size} x {given.size}, texts identical, seconds of {given.repeats} runs")
    print(f"{'':34} {'median':>8} {'fastest':>8} {'slowest':>8}")
    ways: dict[str, Callable[[], object]] = {
        "pycocotools, one mask a cell": lambda: encode_plainly(label_map),
        "wsss, one pass": lambda: rle.encode_label_map(label_map),
        "wsss, one pass + submission text": lambda: [
            rle.to_submission(counts) for counts in rle.encode_label_map(label_map).values()
        ],
    }
    medians = {}
    for name, work in ways.items():
        times = seconds(work, given.repeats)
        medians[name] = statistics.median(times)
        print(f"{name:34} {medians[name]:8.4f} {min(times):8.4f} {max(times):8.4f}")
    first, second = list(medians)[:2]
    print(f"one pass is {medians[first] / medians[second]:.0f} times faster")


if __name__ == "__main__":
    main()
