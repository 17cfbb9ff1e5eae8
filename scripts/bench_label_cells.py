"""Compare three ways from probability maps to cells: plain at full size, plain at 512, and the hpacellseg backend.

    python scripts/bench_label_cells.py [--cells 30 300] [--edge 2048] [--repeats 5] [--masks FOLDER]

Draws fields of touching cells, with the soft edges and the border maps that a network gives, labels them in each way,
and prints seconds, the number of cells, and mean IoU against the plain full-size labels. With --masks the cells are
those of a folder's label maps (composed or real fields), scaled to --edge.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.measure import label, regionprops
from skimage.morphology import closing, disk, remove_small_holes, remove_small_objects
from skimage.segmentation import watershed

from wsss.core.label_maps import read_label_map
from wsss.segmenters import packages as ours


def draw(edge: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw probability maps (edge, edge, 3) uint8 of nuclei and cells; most cells touch, and some nuclei."""
    rng = np.random.default_rng(seed)
    pitch = edge / np.sqrt(count * 1.6)
    points: list[np.ndarray] = []
    while len(points) < count:
        point = rng.uniform(0.3 * pitch, edge - 0.3 * pitch, 2)
        if all(np.hypot(*(point - other)) > 0.5 * pitch for other in points):
            points.append(point)
    seeds = np.zeros((edge, edge), np.uint8)
    nuclei = np.zeros((edge, edge), np.int32)
    for k, (y, x) in enumerate(points):
        axes = (rng.uniform(0.18, 0.34, 2) * pitch).astype(int).tolist()
        cv2.ellipse(nuclei, (int(x), int(y)), axes, rng.uniform(0, 180), 0, 360, k + 1, -1)
    seeds[nuclei > 0] = 1
    wobble = cv2.GaussianBlur(rng.standard_normal((edge, edge)).astype(np.float32), (0, 0), pitch / 12)
    away = cv2.distanceTransform(1 - seeds, cv2.DIST_L2, 5) + wobble / wobble.std() * 0.08 * pitch
    cells = watershed(away, nuclei, mask=away < 0.42 * pitch)
    return _soften(nuclei, 3, edge), _soften(cells, 4, edge)


def from_masks(label_map: np.ndarray, edge: int) -> tuple[np.ndarray, np.ndarray]:
    """Make the maps of a given label map; the nucleus of a cell is what lies deeper than half of its deepest pixel."""
    cells = cv2.resize(label_map.astype(np.float32), (edge, edge), interpolation=cv2.INTER_NEAREST).astype(np.int32)
    nuclei = np.zeros_like(cells)
    for region in regionprops(cells):
        depth = cv2.distanceTransform(np.pad(region.image, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
        nuclei[region.slice][depth > 0.5 * depth.max()] = region.label
    return _soften(nuclei, 3, edge), _soften(cells, 4, edge)


def _soften(labels: np.ndarray, sigma: float, edge: int) -> np.ndarray:
    sigma *= edge / 2048
    edges = np.zeros(labels.shape, np.uint8)
    edges[:-1] |= ((labels[:-1] != labels[1:]) & (labels[:-1] > 0) & (labels[1:] > 0)).astype(np.uint8)
    edges[:, :-1] |= ((labels[:, :-1] != labels[:, 1:]) & (labels[:, :-1] > 0) & (labels[:, 1:] > 0)).astype(np.uint8)
    width = max(1, round(5 * edge / 2048))
    lines = cv2.dilate(edges, np.ones((width, width), np.uint8)).astype(np.float32)
    border = cv2.GaussianBlur(lines, (0, 0), sigma)
    body = cv2.GaussianBlur((labels > 0).astype(np.float32) * (1 - 0.85 * lines), (0, 0), sigma)
    return np.round(255 * np.stack([np.zeros_like(body), border, body], axis=-1)).astype(np.uint8)


def plain(nuclei: np.ndarray, cells: np.ndarray, scale: float) -> np.ndarray:
    """Take the steps of label_cell with scikit-image on every pixel; `scale` as in label_cells."""
    area = scale**2
    edge, core = nuclei[..., 1] / 255, nuclei[..., 2] / 255
    seeds = (core > ours.SEED_LEVEL) & (edge <= ours.BORDER_LEVEL)
    seeds = label(remove_small_objects(seeds, max_size=int(ours.SEED_AREA * area) - 1), connectivity=1)
    mask = remove_small_holes(core > ours.NUCLEUS_LEVEL, max_size=int(ours.NUCLEUS_HOLE * area))
    bodies = remove_small_objects(watershed(-core, seeds, mask=mask), max_size=int(ours.NUCLEUS_AREA * area) - 1)
    border, body = cells[..., 1] / 255, cells[..., 2] / 255
    level = max(ours.CELL_LEVEL, threshold_otsu(body) / 2)
    most = int(ours.CELL_AREA * area) - 1
    cells = remove_small_objects(watershed(-body, bodies, mask=(body > level) | (bodies > 0)), max_size=most)
    closed = closing(cells, disk(max(1, round(ours.CLOSING_RADIUS * scale))))
    cells = _fill(np.where(cells > 0, cells, closed))
    cells = watershed(-(body + border), cells, mask=(border > ours.BORDER_LEVEL) | (cells > 0))
    return remove_small_objects(_fill(cells), max_size=most)


def _fill(labels: np.ndarray) -> np.ndarray:
    out = labels.copy()
    for region in regionprops(labels):
        inside = ndimage.binary_fill_holes(region.image) & (out[region.slice] == 0)
        out[region.slice][inside] = region.label
    return out


def reduced(nuclei: np.ndarray, cells: np.ndarray, scale: float) -> np.ndarray:
    """Shrink to 512, label with scaled constants, enlarge: the recipe's way."""
    edge = nuclei.shape[0]
    nuclei, cells = (cv2.resize(m, (512, 512), interpolation=cv2.INTER_AREA) for m in (nuclei, cells))
    cells = plain(nuclei, cells, scale * 512 / edge)
    return cv2.resize(cells.astype(np.float32), (edge, edge), interpolation=cv2.INTER_NEAREST).astype(np.int32)


def mean_iou(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Return the mean over true cells of the best IoU with a found one."""
    ids = np.unique(truth[truth > 0])
    scores = []
    for k in ids:
        mask = truth == k
        other = np.bincount(predicted[mask], minlength=1)
        other[0] = 0
        best = int(other.argmax())
        scores.append(other[best] / (mask | (predicted == best)).sum() if other[best] else 0.0)
    return float(np.mean(scores))


def timed(call: Callable[[], np.ndarray], repeats: int) -> tuple[np.ndarray, float]:
    """Return the result and the median time of `repeats` calls."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - start)
    return result, float(np.median(seconds))


def main() -> None:
    """Read the options and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="+", default=[30])
    parser.add_argument("--edge", type=int, nargs="+", default=[2048])
    parser.add_argument("--fields", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--masks", type=Path, help="folder of label maps to take instead of drawn cells")
    args = parser.parse_args()
    print(f"{'edge':>5} {'cells':>6} {'way':<10} {'seconds':>8} {'found':>6} {'mean IoU':>9}")
    for edge in args.edge:
        if args.masks:
            paths = sorted(args.masks.glob("*.png"))[: args.fields]
            compare(
                edge, "given", ((*from_masks(read_label_map(path), edge), edge / 2048) for path in paths), args.repeats
            )
            continue
        for count in args.cells:
            # areas follow the resolution: a field with more cells is one photographed at less magnification
            scale = edge / 2048 * min(1.0, np.sqrt(30 / count))
            compare(edge, str(count), ((*draw(edge, count, seed), scale) for seed in range(args.fields)), args.repeats)


def compare(edge: int, what: str, fields: Iterator[tuple[np.ndarray, np.ndarray, float]], repeats: int) -> None:
    """Label fields (nuclei map, cell map, scale) in three ways and print one line for each way."""
    rows: dict[str, list[tuple[float, int, float]]] = {"plain": [], "reduced": [], "ours": []}
    for nuclei, cells, scale in fields:
        truth, seconds = timed(lambda: plain(nuclei, cells, scale), 1)  # noqa: B023
        rows["plain"].append((seconds, len(np.unique(truth)) - 1, 1.0))
        for name, call in (
            ("reduced", lambda: reduced(nuclei, cells, scale)),  # noqa: B023
            ("ours", lambda: ours.label_cells(nuclei, cells, scale=scale)[1]),  # noqa: B023
        ):
            labelled, seconds = timed(call, repeats)
            rows[name].append((seconds, len(np.unique(labelled)) - 1, mean_iou(truth, labelled)))
    for name, values in rows.items():
        seconds, count, iou = np.mean(values, axis=0)
        print(f"{edge:>5} {what:>6} {name:<10} {seconds:>8.3f} {count:>6.1f} {iou:>9.4f}", flush=True)


if __name__ == "__main__":
    main()
