"""Time the cell score against a plain loop over cells and classes, and compare their results.

python scripts/bench_score_cells.py [--size 512] [--classes 19] [--cells 200] [--repeats 5]

Prints one row per rule: milliseconds an image for both by the wall clock (median, and the spread of the repeats),
their ratio, that of the processor's time (all threads together: what other work on the machine does not move) and the
largest difference of a score. Both have one thread, start from raw 16 x 16 class maps and end at r, the value of each
map in each cell.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
from scipy.spatial import cKDTree
from threadpoolctl import threadpool_limits

from wsss.cells.scoring import cell_values, normalise, resize
from wsss.core.score_config import ScoreConfig


def draw_cells(size: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw `count` round cells that touch, as an (size, size) int32 label map."""
    rows, columns = np.mgrid[:size, :size]
    seeds = rng.uniform(0, size, (count, 2))
    distance, nearest = cKDTree(seeds).query(np.column_stack([rows.ravel(), columns.ravel()]))
    radius = 0.62 * size / np.sqrt(count)
    return np.where(distance < radius, nearest + 1, 0).reshape(size, size).astype(np.int32)


def plain_region(pixels: np.ndarray, config: ScoreConfig) -> float:
    match config.region:
        case "quantile":
            return float(np.quantile(pixels, config.quantile))
        case "mean":
            return float(pixels.mean(dtype=np.float64))
        case "topk":
            most = max(1, int(np.ceil(config.top_share * pixels.size)))
            return float(np.sort(pixels)[-most:].mean(dtype=np.float64))
        case "lse":
            s = config.sharpness
            return float(np.log(np.exp(s * pixels.astype(np.float64)).mean()) / s)
        case _:
            return float(pixels.max())


def plain_values(cam: np.ndarray, label_map: np.ndarray, config: ScoreConfig) -> np.ndarray:
    maps = resize(normalise(cam), label_map.shape)
    image = [plain_region(one.ravel(), config) if config.relative else 1.0 for one in maps]
    rows = []
    for cell in np.unique(label_map[label_map > 0]):
        mask = label_map == cell
        row = []
        for one, whole in zip(maps, image, strict=True):
            value = plain_region(one[mask], config)
            row.append(min(value / whole, 1.0) if whole > 0 else 0.0)
        rows.append(row)
    return np.array(rows)


def timed(function: Callable[[], np.ndarray], repeats: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the result, the milliseconds on the wall of each repeat, and the median of those of the processor."""
    result, wall, spent = function(), [], []
    for _ in range(repeats):
        start, used = time.perf_counter(), time.process_time()
        result = function()
        wall.append(time.perf_counter() - start)
        spent.append(time.process_time() - used)
    return result, 1000 * np.array(wall), 1000 * float(np.median(spent))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--classes", type=int, default=19)
    parser.add_argument("--cells", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    label_map = draw_cells(options.size, options.cells, rng)
    cam = rng.normal(size=(options.classes, 16, 16)).astype(np.float32)
    threadpool_limits(1)
    print(f"{'rule':20}{'loop ms':>20}{'ours ms':>20}{'ratio':>8}{'processor':>11}{'largest difference':>22}")
    for region in ("quantile", "mean", "topk", "lse", "max"):
        for relative in (True, False):
            config = ScoreConfig(region=region, relative=relative)
            plain, slow, loop_spent = timed(lambda c=config: plain_values(cam, label_map, c), options.repeats)  # type: ignore[misc]
            ours, fast, spent = timed(lambda c=config: cell_values(normalise(cam), label_map, c), 4 * options.repeats)  # type: ignore[misc]
            name = f"{region}{' / image' if relative else ''}"
            difference = np.abs(plain - ours).max()
            print(
                f"{name:20}{np.median(slow):9.1f} ({slow.min():.0f}-{slow.max():.0f})".ljust(40)
                + f"{np.median(fast):9.1f} ({fast.min():.0f}-{fast.max():.0f})".rjust(18)
                + f"{np.median(slow) / np.median(fast):8.1f}{loop_spent / spent:11.1f}{difference:22.1e}"
            )


if __name__ == "__main__":
    main()
