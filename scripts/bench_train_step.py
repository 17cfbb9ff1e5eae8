"""Time and memory of a training step: plain CAM, Puzzle-CAM, and DRS after stages or activations, as ratios.

python scripts/bench_train_step.py [--backbone test_resnet] [--crop 128] [--batch 4] [--steps 5] [--device cpu]
python scripts/bench_train_step.py --backbone seresnext50 --crop 384 --batch 32 --device cuda --precision fp16
python scripts/bench_train_step.py --backbone vgg16 --stride 8 --variants plain drs
python scripts/bench_train_step.py --backbone seresnext50 --crop 384 --variants plain puzzle --profile

The variants take turns, so that a busy machine slows all of them alike; the median of the steps counts. On the CPU the
time is that of the processor, all threads together, which other work on the machine hardly changes. Memory is the peak
of the GPU, or on the CPU the bytes that the backward pass keeps of the forward one.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from wsss import cli
from wsss.core.console import say
from wsss.models.cam_net import build_cam_net
from wsss.models.device import Device, choose_device
from wsss.options.recipe import ClassifyRecipe, DrsConfig, PuzzleConfig
from wsss.runs.record import RunRecord
from wsss.runs.run_folder import RunFolder
from wsss.training.fit import Learner
from wsss.training.loading import Batch
from wsss.training.state import Job, TrainState
from wsss.training.tasks.classify import ClassifyLearner

VARIANTS = ("plain", "puzzle", "drs")


def variants(base: ClassifyRecipe, wanted: Sequence[str]) -> dict[str, ClassifyRecipe]:
    """Return the recipes to compare; the first is what the others are measured against."""
    plain = replace(base, puzzle=PuzzleConfig(side=1))
    recipes = {"plain CAM": plain}
    if "puzzle" in wanted:
        recipes["Puzzle-CAM 2 x 2"] = base
    if "drs" not in wanted:
        return recipes
    for after in ("stages", "activations"):
        for mode in ("fixed", "learned"):
            recipes[f"plain, DRS {mode} after {after}"] = replace(plain, drs=DrsConfig(mode=mode, after=after))
    return recipes


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="test_resnet")
    parser.add_argument("--crop", type=int, default=128, help="edge of the images, px")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each variant")
    parser.add_argument("--classes", type=int, default=19)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--stride", type=int, default=32, help="output stride")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS, help="plain is always there")
    parser.add_argument("--profile", action="store_true", help="list the costliest operators of the last variant")
    args = parser.parse_args(argv)
    base = ClassifyRecipe(
        backbone=args.backbone, weights="none", crop=args.crop, batch=args.batch, output_stride=args.stride
    )
    device = choose_device(args.device, args.precision)
    images = torch.randint(0, 256, (args.batch, 4, args.crop, args.crop), dtype=torch.uint8)
    labels = torch.randint(0, 2, (args.batch, args.classes)).float()
    batch = Batch(images, labels, torch.arange(args.batch))
    recipes = variants(base, args.variants)
    memory: dict[str, float] = {}
    learners: dict[str, Learner] = {}
    for name, recipe in recipes.items():
        learners[name] = make_learner(recipe, device, args.classes)
        memory[name] = measure_memory(learners[name], batch, device)
    spent: dict[str, list[float]] = {name: [] for name in recipes}
    for _ in range(args.steps):
        for name, learner in learners.items():
            spent[name].append(time_step(learner, batch, device))
    report(spent, memory, args)
    if args.profile:
        profile(learners[name], batch, device)
    return 0


def make_learner(recipe: ClassifyRecipe, device: Device, classes: int) -> Learner:
    net = build_cam_net(recipe, channels=4, classes=classes)
    job = Job(recipe, device, RunFolder(Path()), RunRecord(recipe, None, "", (), ()), [])
    return ClassifyLearner(job, TrainState(net, recipe, device), [])


def measure_memory(learner: Learner, batch: Batch, device: Device) -> float:
    """Return MiB: the peak of one step after a first one on a GPU, what autograd keeps on the CPU."""
    if device.is_cuda:
        learner.step(batch, 1.0, 100)
        torch.cuda.reset_peak_memory_stats()
        learner.step(batch, 1.0, 100)
        return torch.cuda.max_memory_allocated() / 2**20
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    weights = {p.untyped_storage().data_ptr() for p in learner.state.net.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        learner.step(batch, 1.0, 100)
    return sum(size for place, size in kept.items() if place not in weights) / 2**20


def time_step(learner: Learner, batch: Batch, device: Device) -> float:
    """Return the seconds of one step, on the CPU those of the processor."""
    if not device.is_cuda:
        began = time.process_time()
        learner.step(batch, 1.0, 100)
        return time.process_time() - began
    torch.cuda.synchronize()
    began = time.perf_counter()
    learner.step(batch, 1.0, 100)
    torch.cuda.synchronize()
    return time.perf_counter() - began


def profile(learner: Learner, batch: Batch, device: Device) -> None:
    """Print the operators in which one step spends most of its own time, and how often it calls them."""
    kinds = [torch.profiler.ProfilerActivity.CPU, *([torch.profiler.ProfilerActivity.CUDA] if device.is_cuda else [])]
    with torch.profiler.profile(activities=kinds) as profiler:
        learner.step(batch, 1.0, 100)
    place = "self_device_time_total" if device.is_cuda else "self_cpu_time_total"
    rows = sorted(profiler.key_averages(), key=lambda row: -getattr(row, place))
    total = sum(getattr(row, place) for row in rows)
    for row in rows[:12]:
        say(f"{getattr(row, place) / total:7.1%}{row.count:7}  {row.key}")


def report(spent: dict[str, list[float]], memory: dict[str, float], args: argparse.Namespace) -> None:
    first = next(iter(spent))
    base = statistics.median(spent[first])
    say(f"{args.backbone}, {args.batch} x {args.crop} px, stride {args.stride}, {args.steps} steps each")
    say(f"{'variant':34}{'ms':>9}{'time':>7}{'MiB':>9}{'memory':>8}{'images/s':>10}")
    for name, times in spent.items():
        middle = statistics.median(times)
        ratios = f"{middle / base:6.2f}x{memory[name]:9.0f}{memory[name] / memory[first]:7.2f}x"
        say(f"{name:34}{1000 * middle:9.1f}{ratios}{args.batch / middle:10.1f}")


if __name__ == "__main__":
    cli.run(main)
