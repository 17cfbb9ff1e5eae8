"""Time the augmentation recipe on one core: each op alone, the whole recipe, and the whole recipe with a late crop.

python scripts/bench_augment.py [--recipe hpa] [--size 512] [--crop 384] [--images 300] [--device cpu]

At last the two ways of `train --augment_device` take turns: cpu, one image after another, and device, of which the
loader cuts and draws, and --device changes a batch: images a CPU second, of a GPU a second of the clock.
"""

import argparse
import time
from collections.abc import Sequence

import cv2
import numpy as np
import torch

from wsss import cli
from wsss.core.console import say
from wsss.data.augment import Augment, Step, alone, build_augment, load_recipe
from wsss.models.augment import augment_batch
from wsss.models.device import choose_device
from wsss.training.drawing import DrawnAugment, together

TARGET_MS = 15.0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="hpa", help="name of a shipped recipe, or a YAML file")
    parser.add_argument("--size", type=int, default=512, help="edge of the stored image, pixels")
    parser.add_argument("--crop", type=int, default=384, help="edge of the crop, pixels")
    parser.add_argument("--images", type=int, default=300, help="images per measurement")
    parser.add_argument("--device", default="cpu", help="of --augment_device device")
    parser.add_argument("--batch", type=int, default=32)
    args = parser.parse_args(argv)
    cv2.setNumThreads(0)  # as in a worker of the training
    torch.set_num_threads(1)

    recipe = load_recipe(args.recipe)
    image = make_image(args.size)
    ops = {name: time_op(steps, image, args.crop, args.images) for name, steps in alone(recipe)}
    shares = use_shares(recipe)
    base = ops[next(iter(ops))][0]
    say(f"{args.size} -> {args.crop} px, 4 channels, {args.images} images, CPU milliseconds an image")
    say(f"{'op':26}{'mean':>8}{'95 %':>8}{'used':>8}{'share':>8}")
    for (name, (mean, high)), used in sorted(zip(ops.items(), shares, strict=True), key=lambda row: -row[0][1][0]):
        cost = mean if name == next(iter(ops)) else max(0.0, mean - base)
        costly = "  costly" if cost > TARGET_MS / 2 else ""
        say(f"{name:26}{cost:8.2f}{high:8.2f}{used:8.1%}{cost * used:8.2f}{costly}")
    mean, high = time_augment(build_augment(recipe, args.crop), image, args.images)
    # the naive order: every op works on the stored size, the crop comes last
    late, late_high = time_augment(build_augment([*recipe[1:], recipe[0]], args.crop), image, args.images)
    verdict = "within" if mean <= TARGET_MS else "above"
    say(f"{'whole recipe':26}{mean:8.2f}{high:8.2f}  {verdict} the target of {TARGET_MS:g} ms")
    say(f"{'the same, crop last':26}{late:8.2f}{late_high:8.2f}  {late / mean:.1f} x")
    for name, rates in compare_places(recipe, image, args).items():
        say(f"{name:42}{np.median(rates):8.1f} images/s ({min(rates):.1f}-{max(rates):.1f})")
    return 0


def compare_places(recipe: Sequence[Step], image: np.ndarray, args: argparse.Namespace) -> dict[str, list[float]]:
    """Return the images a second of each part of both ways, in five rounds."""
    augment = build_augment(recipe, args.crop)
    drawn, device = DrawnAugment(augment), choose_device(args.device)
    rates: dict[str, list[float]] = {"cpu": [], "device: crop and draws, in the loader": [], "device: the batch": []}
    cpu, draw, change = rates.values()
    clock = time.perf_counter if device.is_cuda else time.process_time
    for number in range(6):  # the first round is not counted
        seeds = range(number * args.batch, (number + 1) * args.batch)
        began = time.process_time()
        for seed in seeds:
            augment(image, seed)
        turned = time.process_time()
        samples = [drawn(image, seed) for seed in seeds]
        steps = together([draws for _, draws in samples])
        read, put = time.process_time(), clock()
        images = device.put(torch.from_numpy(np.stack([crop for crop, _ in samples])))
        augment_batch(images, steps)[0, 0, 0, 0].item()
        ended = clock()
        for rate, seconds in ((cpu, turned - began), (draw, read - turned), (change, ended - put)):
            rate += [len(seeds) / seconds] if number else []
    return rates


def make_image(size: int) -> np.ndarray:
    """Draw (4, size, size) uint8 with smooth content, as fields have."""
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 4), np.uint8)
    return np.ascontiguousarray(cv2.GaussianBlur(noise, (0, 0), 3).transpose(2, 0, 1))


def time_op(steps: Sequence[Step], image: np.ndarray, crop: int, images: int) -> tuple[float, float]:
    """Return mean and 95 % milliseconds of the crop together with one op."""
    return time_augment(build_augment(steps, crop), image, max(20, images // 5))


def time_augment(augment: Augment, image: np.ndarray, images: int) -> tuple[float, float]:
    """Return mean and 95 % milliseconds over `images` seeds."""
    spent = []
    for seed in range(images):
        begin = time.process_time()
        augment(image, seed)
        spent.append(1000 * (time.process_time() - begin))
    return float(np.mean(spent)), float(np.quantile(spent, 0.95))


def use_shares(recipe: Sequence[Step]) -> list[float]:
    """Return in which share of the images each op is used, in the order of `alone`."""
    shares = []
    for step in recipe:
        transforms = step.get("of", [step])
        weights = np.array([transform.get("weight", 1.0) for transform in transforms])
        shares += list(step.get("p", 1.0) * weights / weights.sum())
    return shares


if __name__ == "__main__":
    cli.run(main)
