"""Masks of images larger than memory: peak memory and time by edge, and seams by overlap.

    python scripts/bench_large.py [--edges 5000 10000 20000] [--work bench_large]

Draws TIFFs of that edge (grey discs, 512 px tiles, deflated), trains a tiny network on drawn images for a moment, and
runs `infer --large` on each picture in a process of its own. The seams are those of 2048 x 2048 px of it: the mean step
of the probability across the columns where tiles begin or end, over the mean step elsewhere; beside it the same figure,
at the same columns, of the picture predicted in one piece, which has no seams.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
from bench_unet import write_salt

from wsss import train
from wsss.data.large import LargeImage
from wsss.inference.checkpoints import load_unets
from wsss.inference.semantic import MaskPredictor, predict_tiles, tile_starts
from wsss.models.device import choose_device
from wsss.options.masks import MaskInferConfig
from wsss.runs.run_folder import RunFolder

TILE = 512
CUT = 2048
PITCH = 460
PROCESS = "from wsss import cli; cli.run(cli.command('infer'))"


def draw_large(path: Path, edge: int) -> None:
    """Write a grey TIFF of discs on noise, tile by tile; nothing in the picture knows where its tiles end."""

    def tiles() -> Iterator[np.ndarray]:
        noise = np.random.default_rng(3).integers(40, 90, (TILE, TILE)).astype(np.uint8)
        for y0 in range(0, edge, TILE):
            for x0 in range(0, edge, TILE):
                yield noise + np.uint8(90) * _discs(y0, x0)

    tifffile.imwrite(path, tiles(), shape=(edge, edge), dtype=np.uint8, tile=(TILE, TILE), compression="zlib")


def _discs(y0: int, x0: int) -> np.ndarray:
    """Return where discs are in the tile that begins at a place: one in each square of PITCH px."""
    y, x = np.mgrid[y0 : y0 + TILE, x0 : x0 + TILE]
    inside = np.zeros((TILE, TILE), bool)
    for row in range(y0 // PITCH, (y0 + TILE) // PITCH + 1):
        for column in range(x0 // PITCH, (x0 + TILE) // PITCH + 1):
            dy, dx, radius = np.random.default_rng((3, row, column)).uniform((0.4, 0.4, 0), (0.6, 0.6, 0.4)) * PITCH
            inside |= (y - row * PITCH - dy) ** 2 + (x - column * PITCH - dx) ** 2 < radius**2
    return inside


def small_run(work: Path) -> Path:
    """Train a tiny network on drawn images, if it is not there yet."""
    if not (work / "salt").exists():
        write_salt(work / "salt", 0, 24)
    run = work / "run"
    words = ["--task", "masks", "--data", str(work / "salt"), "--run", str(run), "--fold", "none", "--device", "cpu"]
    words += [
        "--backbone",
        "test_resnet",
        "--weights",
        "none",
        "--masks.channels",
        "1",
        "--unet.channels",
        "[8,4]",
    ]
    train.main([*words, "--crop", "0", "--augment", "none", "--epochs", "10", "--batch", "8", "--optim.lr", "1e-2"])
    return run


def measure(run: Path, image: Path, work: Path) -> tuple[float, float]:
    """Return the CPU seconds and the peak memory in MB of `infer --large` on an image."""
    words = ["--run", str(run), "--large", str(image), "--out", str(work / "preds" / image.stem), "--overwrite"]
    words += ["--device", "cpu", "--segmentation.overlap", "0.1", "--quiet"]
    child = subprocess.Popen([sys.executable, "-c", PROCESS, *words])
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if status:
        raise SystemExit(f"infer ended with {status}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def seams(run: Path, image: Path) -> None:
    """Print how visible the borders of tiles are at several overlaps."""
    device = choose_device("cpu")
    checkpoints = load_unets(RunFolder(run / "full"), device, "masks")
    pixels = LargeImage(image).read(0, CUT, 0, CUT)
    predictor = MaskPredictor(checkpoints, MaskInferConfig(), device)

    def maps_of(tile: int, overlap: float) -> np.ndarray:
        bands = predict_tiles(
            lambda y0, y1, x0, x1: pixels[:, y0:y1, x0:x1], predictor.part, (CUT, CUT), tile=tile, overlap=overlap
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
    parser.add_argument("--edges", type=int, nargs="+", default=[5000, 10000, 20000])
    parser.add_argument("--work", type=Path, default=Path("bench_large"), help="where pictures and masks go")
    given = parser.parse_args()
    run = small_run(given.work)
    for edge in given.edges:
        image = given.work / f"edge{edge}.tif"
        if not image.exists():
            draw_large(image, edge)
        seconds, peak = measure(run, image, given.work)
        print(f"{edge:6} x {edge:6}: {seconds:7.0f} s of CPU, peak {peak:6.0f} MB", flush=True)
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
