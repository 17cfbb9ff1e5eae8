"""Masks and objects of images larger than memory: peak memory and time by edge, objects in one piece, seams by overlap.

    python scripts/bench_large.py [--edges 2500 5000 10000] [--work bench_large]

Draws TIFFs of that edge (grey discs, 512 px tiles, deflated), trains a tiny network on such discs for a moment, and
runs `infer --large` on each picture in processes of its own, without objects and with them. The objects in the GeoJSON
of the smallest picture are compared with those of its whole map in one piece. The seams are those of 2048 x 2048 px of
the last picture: the mean step of the probability across the columns where tiles begin or end, over the mean step
elsewhere; beside it the same figure, at the same columns, of the picture predicted in one piece, which has no seams.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from wsss import train
from wsss.cells.instances import objects_of
from wsss.core.csv_text import read_numbers
from wsss.core.outlines import read_outlines
from wsss.data.large import LargeImage
from wsss.inference.checkpoints import load_unets
from wsss.inference.semantic import MaskPredictor, predict_tiles, tile_starts
from wsss.metrics.instances import overlap as overlap_of
from wsss.models.device import choose_device
from wsss.options.masks import MaskInferConfig
from wsss.segmenters.annotations import paint_outlines

TILE = 512
OVERLAP = 0.1
"""Of the tiles that `infer` predicts."""
CUT = 2048
PITCH = 115
"""Discs lie on a grid of this spacing, shifted at random: some touch, and many are cut by the borders of tiles."""
PROCESS = """
import atexit, pathlib, sys
from wsss import cli
status = pathlib.Path("/proc/self/status")  # what os.wait4 tells includes the memory of the process that started it
atexit.register(lambda: pathlib.Path(sys.argv.pop(1)).write_text(status.read_text()))
cli.run(cli.command("infer"), sys.argv[2:])
"""


def draw_large(path: Path, edge: int) -> None:
    """Write a grey TIFF of discs on noise, tile by tile; nothing in the picture knows where its tiles end."""

    def tiles() -> Iterator[np.ndarray]:
        for y0 in range(0, edge, TILE):
            for x0 in range(0, edge, TILE):
                yield _picture(_discs(y0, x0))

    tifffile.imwrite(path, tiles(), shape=(edge, edge), dtype=np.uint8, tile=(TILE, TILE), compression="zlib")


def _picture(inside: np.ndarray) -> np.ndarray:
    """Return the (TILE, TILE) picture of discs."""
    noise = np.random.default_rng(3).integers(40, 90, inside.shape).astype(np.uint8)
    return noise + np.uint8(90) * inside


def _discs(y0: int, x0: int, seed: int = 3) -> np.ndarray:
    """Return where discs are in the tile that begins at a place: one in each square of PITCH px."""
    y, x = np.mgrid[y0 : y0 + TILE, x0 : x0 + TILE]
    inside = np.zeros((TILE, TILE), bool)
    for row in range(y0 // PITCH, (y0 + TILE) // PITCH + 1):
        for column in range(x0 // PITCH, (x0 + TILE) // PITCH + 1):
            rng = np.random.default_rng((seed, row, column))
            dy, dx, radius = rng.uniform((0.35, 0.35, 0.1), (0.65, 0.65, 0.45)) * PITCH
            inside |= (y - row * PITCH - dy) ** 2 + (x - column * PITCH - dx) ** 2 < radius**2
    return inside


def write_discs(folder: Path, count: int = 8) -> None:
    """Write pictures of other discs with their masks."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for k in range(count):
        inside = _discs(0, 0, seed=100 + k)
        for kind, pixels in (("images", _picture(inside)), ("masks", np.uint8(255) * inside)):
            Image.fromarray(pixels).save(folder / kind / f"discs{k}.png")


def small_run(work: Path) -> Path:
    """Train a tiny network on drawn discs, if it is not there yet."""
    if not (work / "discs").exists():
        write_discs(work / "discs")
    run = work / "run"
    words = ["--task", "masks", "--data", str(work / "discs"), "--run", str(run), "--fold", "none", "--device", "cpu"]
    words += ["--backbone", "test_resnet", "--weights", "none", "--masks.channels", "1", "--unet.channels", "[8,4]"]
    words += ["--crop", "128", "--augment", "none", "--epochs", "40", "--batch", "8", "--optim.lr", "1e-2"]
    train.main([*words, "--workers", "0"])
    return run


def measure(run: Path, image: Path, out: Path, *, objects: bool) -> tuple[float, float]:
    """Return the CPU seconds and the peak memory in MB of `infer --large` on an image."""
    words = ["--run", str(run), "--large", str(image), "--out", str(out), "--overwrite", "--device", "cpu"]
    words += ["--segmentation.overlap", str(OVERLAP), "--segmentation.objects", str(objects).lower(), "--quiet"]
    told = out.with_suffix(".status")
    child = subprocess.Popen([sys.executable, "-c", PROCESS, str(told), *words])
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if status:
        raise SystemExit(f"infer ended with {status}")
    peak = next(line for line in told.read_text().splitlines() if line.startswith("VmHWM"))
    return usage.ru_utime + usage.ru_stime, int(peak.split()[1]) / 1024


def predictor_of(run: Path) -> MaskPredictor:
    device = choose_device("cpu")
    return MaskPredictor(load_unets(run / "full", device, "masks"), MaskInferConfig(overlap=OVERLAP), device)


def compare(run: Path, image: Path, out: Path) -> None:
    """Print how the streamed objects of an image compare with those of its map in one piece."""
    large = LargeImage(image)
    outlines = read_outlines(out / "objects" / f"{image.stem}.geojson")
    streamed = paint_outlines(outlines.ids, outlines.cells, large.size, image)
    predictor = predictor_of(run)
    whole = objects_of(predictor(large.read(0, large.size[0], 0, large.size[1])), predictor.target)
    pairs = overlap_of(streamed, whole)
    least = min(pairs.iou.max(axis=axis, initial=0).min(initial=1) for axis in (0, 1))
    print(f"{image.stem}: {len(pairs.ids_a)} objects streamed, {len(pairs.ids_b)} in one piece, lowest IoU {least:g}")


def seams(run: Path, image: Path) -> None:
    """Print how visible the borders of tiles are at several overlaps."""
    pixels = LargeImage(image).read(0, CUT, 0, CUT)
    predictor = predictor_of(run)

    def maps_of(tile: int, overlap: float) -> np.ndarray:
        bands = predict_tiles(
            lambda y0, y1, x0, x1: pixels[:, y0:y1, x0:x1], predictor.parts, (CUT, CUT), tile=tile, overlap=overlap
        )
        return np.concatenate([band for _, band in bands], axis=1)

    whole = maps_of(CUT, 0.0)
    for overlap in (0.0, 0.25, 0.5):
        maps, starts = maps_of(TILE, overlap), tile_starts(CUT, TILE, overlap)
        borders = sorted({*starts, *(start + TILE for start in starts)} - {0, CUT})
        tiled, plain = seam_ratio(maps, borders), seam_ratio(whole, borders)
        print(f"overlap {overlap:4.2f}: step at borders / elsewhere = {tiled:.3f}, in one piece {plain:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edges", type=int, nargs="+", default=[2500, 5000, 10000])
    parser.add_argument("--work", type=Path, default=Path("bench_large"), help="where pictures and masks go")
    parser.add_argument("--no-seams", action="store_true", help="leave the seams out")
    given = parser.parse_args()
    run = small_run(given.work)
    for edge in given.edges:
        image = given.work / f"edge{edge}.tif"
        if not image.exists():
            draw_large(image, edge)
        for objects in (False, True):
            out = given.work / "preds" / f"{edge}{'-objects' if objects else ''}"
            seconds, peak = measure(run, image, out, objects=objects)
            count = f"{read_numbers(out / 'images.csv').n_objects.iloc[0]:.0f}" if objects else "no"
            print(f"{edge:6} x {edge:6}: {seconds:7.0f} s of CPU, peak {peak:6.0f} MB, {count} objects", flush=True)
        if edge == min(given.edges):
            compare(run, image, out)
    if not given.no_seams:
        seams(run, image)


def seam_ratio(maps: np.ndarray, borders: list[int]) -> float:
    """Return how much larger steps across the columns `borders` are than steps elsewhere; 1 means no seam is seen.

    Args:
        maps: (K, H, W).
        borders: columns x whose step from x - 1 to x may show a seam.
    """
    steps = np.abs(np.diff(maps, axis=2)).mean(axis=(0, 1))
    at = np.zeros(len(steps), bool)
    at[[x - 1 for x in borders]] = True
    return float(steps[at].mean() / max(1e-12, float(steps[~at].mean())))


if __name__ == "__main__":
    main()
