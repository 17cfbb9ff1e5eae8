"""Time the cell score against loops over cells and classes, and compare their results.

python scripts/bench_score_cells.py [--size 512] [--classes 19] [--cells 200] [--repeats 5]

Two loops: the short one, `region(maps[k][label_map == cell])` for every cell and class, and the careful one, which
makes the mask of a cell once for all classes. Both know the statistics of the whole image beforehand. Prints one row a
rule: milliseconds an image (the processor's, all threads together, which other work on the machine hardly moves; median
of the repeats, and of ours their spread), how many times faster ours is than each loop, and the largest difference of a
score. All have one thread, start from raw 16 x 16 class maps and end at r, the value of each map in each cell.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.spatial import cKDTree
from threadpoolctl import threadpool_limits

from wsss.cells.scoring import cell_values, normalise, resize
from wsss.options.scoring import ScoreConfig


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


def plain_values(cam: np.ndarray, label_map: np.ndarray, config: ScoreConfig, *, careful: bool) -> np.ndarray:
    maps = resize(normalise(cam), label_map.shape)
    image = [plain_region(one.ravel(), config) if config.relative else 1.0 for one in maps]
    rows = []
    for cell in np.unique(label_map[label_map > 0]):
        mask = label_map == cell if careful else None
        row = []
        for one, whole in zip(maps, image, strict=True):
            value = plain_region(one[label_map == cell if mask is None else mask], config)
            row.append(min(value / whole, 1.0) if whole > 0 else 0.0)
        rows.append(row)
    return np.array(rows)


def timed(function: Callable[[], np.ndarray], repeats: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the result, and the processor's milliseconds of each repeat."""
    result, spent = function(), []
    for _ in range(repeats):
        used = time.process_time()
        result = function()
        spent.append(time.process_time() - used)
    return result, 1000 * np.array(spent)


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
    print(
        f"{'rule':20}{'short ms':>10}{'careful ms':>12}{'ours ms':>20}{'x short':>9}{'x careful':>11}{'difference':>12}"
    )
    for region in ("quantile", "mean", "topk", "lse", "max"):
        for relative in (True, False):
            compare(f"{region}{' / image' if relative else ''}", cam, label_map, region, relative, options.repeats)


def compare(name: str, cam: np.ndarray, label_map: np.ndarray, region: Any, relative: bool, repeats: int) -> None:
    """Print one row."""
    config = ScoreConfig(region=region, relative=relative)
    plain, short = timed(lambda: plain_values(cam, label_map, config, careful=False), repeats)
    _, careful = timed(lambda: plain_values(cam, label_map, config, careful=True), repeats)
    ours, fast = timed(lambda: cell_values(normalise(cam), label_map, config), 4 * repeats)
    mine = np.median(fast)
    print(
        f"{name:20}{np.median(short):10.0f}{np.median(careful):12.0f}"
        + f"{mine:9.1f} ({fast.min():.1f}-{fast.max():.1f})".rjust(20)
        + f"{np.median(short) / mine:9.1f}{np.median(careful) / mine:11.1f}{np.abs(plain - ours).max():12.1e}"
    )


if __name__ == "__main__":
    main()
