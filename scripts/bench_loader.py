"""Time the training loader on one core: images a second with the recipe's augmentation, and the start of an epoch.

python scripts/bench_loader.py [--images 400] [--size 512] [--crop 384] [--set 100000] [--repeats 5]

The first rows time samples in this process, without and with augmentation: on several cores every loader process does
as much. The next times what comes before the first batch of an epoch of a set of --set images: drawing its order and
its seeds. The last tells how much memory of its own a loader process takes for images that another one has read.
"""

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import psutil
import torch

from wsss import cli
from wsss.core.console import say
from wsss.data.augment import build_augment
from wsss.data.build import Spec, create_dataset
from wsss.data.catalog import DataSet
from wsss.data.synthetic import draw_field
from wsss.training.loading import EpochBatches, ImageSamples, draw_epoch, image_weights

DRAWN, MANY = 8, 100


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=400, help="samples of each repeat")
    parser.add_argument("--size", type=int, default=512, help="edge of the stored images, pixels")
    parser.add_argument("--crop", type=int, default=384, help="edge of the crop, pixels")
    parser.add_argument("--set", type=int, default=100_000, help="images of the epoch that is started")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args(argv)
    cv2.setNumThreads(0)  # as in a loader process
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        images = {f"im{k:02}": draw_field(rng, args.size, [k % 18]).image for k in range(DRAWN)}
        create_dataset(Path(folder), images, {name: [0] for name in images}, Spec(size=args.size))
        data = DataSet.open(folder)
        recipes = {"as stored": None, "hpa recipe": build_augment("hpa", args.crop)}
        say(f"{'':14}{'images a CPU second':>24}{'a wall second':>16}")
        for name, augment in recipes.items():
            rates = [sample_rate(ImageSamples(data, augment), args.images) for _ in range(args.repeats)]
            cpu, wall = np.array(rates).T
            spread = f"{np.median(cpu):.0f} ({cpu.min():.0f}-{cpu.max():.0f})"
            say(f"{name:14}{spread:>24}{np.median(wall):16.0f}")
        create_dataset(
            Path(folder) / "many", dict.fromkeys(map(str, range(MANY)), images["im00"]), spec=Spec(size=args.size)
        )
        seen, private = memory_of_second_reader(DataSet.open(Path(folder) / "many"))
        shared = (
            f"a second process that reads {MANY} images sees {seen:.0f} MB more, of which its own are {private:.1f} MB"
        )
    spent = [start_epoch(args.set, epoch) for epoch in range(args.repeats)]
    say(f"start of an epoch of {args.set} images: {np.median(spent):.3f} s ({min(spent):.3f}-{max(spent):.3f})")
    say(shared)
    return 0


def sample_rate(samples: ImageSamples, count: int) -> tuple[float, float]:
    """Return the samples made in a CPU second and in a wall second."""
    wall, spent = time.perf_counter(), time.process_time()
    for k in range(count):
        samples[k % DRAWN, k]
    return count / (time.process_time() - spent), count / (time.perf_counter() - wall)


def start_epoch(count: int, epoch: int) -> float:
    """Return the seconds from an epoch's number to the keys of its first batch."""
    labels = (np.random.default_rng(0).random((count, 19)) < 0.1).astype(np.float32)
    weights = image_weights(labels)
    batches = EpochBatches(32, seed=0)
    begin = time.perf_counter()
    batches.set(draw_epoch(weights, count, seed=0, epoch=epoch), epoch)
    next(iter(batches))
    return time.perf_counter() - begin


def memory_of_second_reader(data: DataSet) -> tuple[float, float]:
    """Return the MB that a loader process's memory grows by when it reads all images, and those that it alone holds."""
    read_all(data)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=lambda: queue.put(growth(data)))
    child.start()
    child.join()
    seen, private = queue.get()
    return seen, private


def growth(data: DataSet) -> tuple[float, float]:
    process = psutil.Process()
    before = process.memory_full_info()
    read_all(data)
    after = process.memory_full_info()
    return (after.rss - before.rss) / 1e6, (after.uss - before.uss) / 1e6


def read_all(data: DataSet) -> None:
    for k in range(len(data)):
        data.image(k).max()


if __name__ == "__main__":
    cli.run(main)
