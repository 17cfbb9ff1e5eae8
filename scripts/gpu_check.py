"""Everything that only a GPU can show, in one run of at most nine minutes; called by gpu_check.sh.

The parts run one after another, the most telling first; each result is written at once to DIR/gpu_check.json, and a
part whose result is there is not run again: start the same command again to do the rest. A part that fails is recorded
with its error, and tried again the next time. DIR/gpu_check.txt is the table.
"""

import argparse
import itertools
import json
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from wsss.core.checks import ConfigError
from wsss.core.runtime import versions
from wsss.models.augment import Drawn
from wsss.models.cam_net import build_cam_net, class_maps, crop_outputs
from wsss.models.device import Device, choose_device, gpu_precision
from wsss.options.recipe import ClassifyRecipe, OptimConfig, PuzzleConfig
from wsss.options.scoring import TtaConfig
from wsss.runs.record import RunRecord
from wsss.runs.run_folder import RunFolder
from wsss.training.fit import Learner
from wsss.training.loading import Batch
from wsss.training.state import Job, TrainState
from wsss.training.tasks.classify import ClassifyLearner

PEAKS = {
    "H100": {"fp32": 494.7e12, "half": 989.4e12},
    "H200": {"fp32": 494.7e12, "half": 989.4e12},
    "A100": {"fp32": 156e12, "half": 312e12},
    "L4": {"fp32": 60e12, "half": 121e12},
    "T4": {"fp32": 8.1e12, "half": 65e12},
}
"""Operations a second without sparsity, of NVIDIA's data sheets; fp32 is TF32 where there is such a thing."""
LEARN_STEPS, LEARN_LOSS, TOLERANCE = 60, 0.3, 0.05
"""After so many steps on two easy classes the validation loss must be below the second, and within the third of the
CPU's."""


class Check:
    """The settings of a run, and the parts that it has done.

    Args:
        device: name of the device.
        out: folder of the results.
        quick: tiny sizes, for a rehearsal.
    """

    def __init__(self, device: str, out: Path, quick: bool) -> None:
        self.name, self.out, self.quick = device, out, quick
        self.device = choose_device(device)
        self.place = self.device.place
        self.backbones = ["test_resnet"] if quick else ["seresnext50", "tf_efficientnet_lite0"]
        self.crop, self.batch, self.timed = (64, 4, 2) if quick else (384, 32, 10)
        native = self.place.type == "cpu" or gpu_precision(self.place.index) == "bf16"
        self.halves = ["fp32", *(["bf16"] if native else []), *(["fp16"] if self.place.type == "cuda" else [])]

    def parts(self) -> dict[str, Callable[[], dict[str, Any]]]:
        """Return what there is to do, the most telling first."""
        parts: dict[str, Callable[[], dict[str, Any]]] = {"machine": self.machine}
        for half in self.halves:
            parts[f"learn {half}"] = lambda half=half: self.learn(half)  # type: ignore[misc]
        parts["memory"] = self.memory
        parts["resume"] = self.resume
        for name, kind, half in itertools.product(self.backbones, ("plain", "puzzle"), self.halves):
            parts[f"step {name} {kind} {half} eager"] = lambda key=(name, kind, half): self.step(*key)  # type: ignore[misc]
        for half in self.halves:
            parts[f"infer {self.backbones[0]} {half}"] = lambda half=half: self.infer(half)  # type: ignore[misc]
        parts["loader"] = self.loader
        parts["augment"] = self.augment
        parts["tests"] = self.tests
        for name, kind in itertools.product(self.backbones, ("plain", "puzzle")):
            key = (name, kind, self.halves[1])
            if not self.quick:  # a minute each
                parts[f"step {' '.join(key)} compiled"] = lambda key=key: self.step(*key, compiled=True)  # type: ignore[misc]
        return parts

    def machine(self) -> dict[str, Any]:
        """Say what is measured."""
        machine: dict[str, Any] = {
            **versions(),
            "device": self.place.type,
            "precision": str(self.device.half),
        }
        if self.place.type == "cuda":
            properties = torch.cuda.get_device_properties(self.place)
            machine |= {
                "device": properties.name,
                "capability": f"{properties.major}.{properties.minor}",
                "bytes": properties.total_memory,
            }
        return machine

    def learner(self, recipe: ClassifyRecipe, device: Device, *, compiled: bool = False, classes: int = 19) -> Learner:
        """Build what takes steps."""
        torch.manual_seed(0)
        net = build_cam_net(recipe, channels=4, classes=classes)
        job = Job(recipe, device, RunFolder(self.out), RunRecord(recipe, 0, "", (), ()), [], compiled=compiled)
        return ClassifyLearner(job, TrainState(net, recipe, device), [])

    def learn(self, half: str) -> dict[str, Any]:
        """Train on squares, on the CPU and here; the validation losses must agree."""
        recipe = ClassifyRecipe(backbone="test_resnet", weights="none", crop=64, batch=16, optim=OptimConfig(lr=3e-3))
        losses = {}
        for name, device in (("cpu", choose_device("cpu")), ("here", choose_device(self.name, half))):
            learner = self.learner(recipe, device, classes=2)
            for number in range(LEARN_STEPS):
                learner.step(squares(16, number), 1.0, LEARN_STEPS)
            learner.net.eval()
            with torch.no_grad():
                losses[name] = float(learner.losses(learner.net, squares(64, 10**6).on(device), 1.0)["full"])
        if losses["here"] > LEARN_LOSS or abs(losses["here"] - losses["cpu"]) > TOLERANCE:
            raise AssertionError(f"validation losses {losses}, expected below {LEARN_LOSS} and {TOLERANCE} apart")
        return losses

    def step(self, name: str, kind: str, half: str, *, compiled: bool = False) -> dict[str, Any]:
        """Measure a step: its time, its memory, and the share of the GPU's peak that it reaches."""
        puzzle = PuzzleConfig(side=1) if kind == "plain" else PuzzleConfig()
        recipe = ClassifyRecipe(backbone=name, weights="none", crop=self.crop, batch=self.batch, puzzle=puzzle)
        learner, batch = self.learner(recipe, choose_device(self.name, half), compiled=compiled), self.images()
        with FlopCounterMode(display=False) as counter:
            learner.rehearse(batch)
        for _ in range(3):
            learner.step(batch, 1.0, 1000)
        cuda = self.place.type == "cuda"
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        seconds = self.seconds(lambda: learner.step(batch, 1.0, 1000))
        figures = {"ms": 1000 * seconds, "images_per_s": self.batch / seconds, "flop": counter.get_total_flops()}
        if cuda:
            gpu_name = torch.cuda.get_device_name()
            peaks = next((speed for gpu, speed in PEAKS.items() if gpu in re.split(r"[ -]", gpu_name)), None)
            figures["GiB"] = torch.cuda.max_memory_allocated() / 2**30
            if peaks:
                figures["share_of_peak"] = figures["flop"] / seconds / peaks["fp32" if half == "fp32" else "half"]
        return figures

    def images(self) -> Batch:
        """Return noise, in memory that a GPU can fetch."""
        images = torch.randint(0, 256, (self.batch, 4, self.crop, self.crop), dtype=torch.uint8)
        batch = Batch(images, torch.randint(0, 2, (self.batch, 19)).float(), torch.arange(self.batch))
        if self.place.type != "cuda":
            return batch
        return batch._replace(images=batch.images.pin_memory(), labels=batch.labels.pin_memory())

    def seconds(self, call: Callable[[], object]) -> float:
        """Return the mean time of a call."""
        self.wait()
        began = time.perf_counter()
        for _ in range(self.timed):
            call()
        self.wait()
        return (time.perf_counter() - began) / self.timed

    def wait(self) -> None:
        """Wait for the GPU."""
        if self.place.type == "cuda":
            torch.cuda.synchronize()

    def infer(self, half: str) -> dict[str, Any]:
        """Measure both stages, 15 cells an image."""
        device, count, cells = choose_device(self.name, half), self.batch // 2, 15
        recipe = ClassifyRecipe(backbone=self.backbones[0], weights="none")
        net = device.settle(build_cam_net(recipe, channels=4, classes=19)).eval()
        rng = np.random.default_rng(0)
        edge = 64 if self.quick else 512
        fields = rng.integers(0, 255, (count, 4, edge, edge), np.uint8)
        crops = rng.integers(0, 255, (count * cells, 4, self.crop, self.crop), np.uint8)
        batches = np.array_split(crops, max(1, len(crops) // 64))

        def both() -> None:
            class_maps(net, fields, device, TtaConfig())
            crop_outputs(net, batches, device)

        both()
        seconds = self.seconds(both)
        return {"ms": 1000 * seconds, "images_per_s": count / seconds}

    def memory(self) -> dict[str, Any]:
        """Take a step that does not fit; the batch that is advised must."""
        if self.place.type != "cuda":
            return {"skipped": "the CPU's memory is the system's"}
        device, recipe = (
            self.device,
            ClassifyRecipe(backbone="resnet18", weights="none", crop=256, batch=256),
        )
        learner = self.learner(recipe, device)
        images = torch.zeros(256, 4, 256, 256, dtype=torch.uint8)
        batch = Batch(images, torch.zeros(256, 19), torch.arange(256))
        share = 3 * 2**30 / torch.cuda.get_device_properties(self.place).total_memory
        torch.cuda.set_per_process_memory_fraction(share, self.place)
        try:
            try:
                learner.step(batch, 1.0, 1)
            except ConfigError as error:
                said = str(error)
            else:
                raise AssertionError("256 images fitted into 3 GiB: the check needs more")
            fits = int(said.split("--batch ")[1].split()[0])
            small = self.learner(recipe, device)
            for _ in range(2):
                small.step(batch.first(fits), 1.0, 1)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, self.place)
        return {"said": said, "fits": fits}

    def resume(self) -> dict[str, Any]:
        """Train two epochs, and one, and then the other: the losses must agree."""
        data = self.data("resume", 12, 64)
        losses = []
        for name, epochs in (("whole", [2]), ("parts", [1, 2])):
            for count in epochs:
                self.train(data, self.out / "runs" / name, count)
            (log,) = (self.out / "runs" / name).glob("*/log.csv")
            losses.append(float(pd.read_csv(log)["val_loss"].iloc[-1]))
        if abs(losses[0] - losses[1]) > 0.02:
            raise AssertionError(f"validation losses {losses}: a resumed run is another one")
        return {"whole": losses[0], "resumed": losses[1]}

    def train(self, data: Path, run: Path, epochs: int) -> None:
        """Train in a process of its own, to an epoch of two; a constant rate, so that one epoch is half of two."""
        words = ["--data", data, "--run", run, "--backbone", "test_resnet", "--weights", "none", "--crop", "64"]
        words += ["--batch", "4", "--epochs", "2", "--workers", "0", "--device", self.name, "--optim.warmup", "0"]
        code = (
            "import sys, wsss.training.fit as fit; from wsss.train import main; close = fit._close_epoch\n"
            "def stop(job, state, row):\n"
            "    close(job, state, row)\n"
            f"    if state.progress.epoch == {epochs}: sys.exit(0)\n"
            "fit._close_epoch = stop; main(sys.argv[1:])"
        )
        subprocess.run([sys.executable, "-c", code, *map(str, words)], check=True, stdout=subprocess.DEVNULL)

    def data(self, name: str, count: int, edge: int) -> Path:
        """Return a data set of squares."""
        from wsss.data.build import Spec, create_dataset  # the other parts run without the readers of images

        folder = self.out / "data" / name
        if not (folder / "dataset.json").exists():
            batch = squares(count, 7, edge)
            ids = [f"im{n:04}" for n in range(count)]
            labels = [np.flatnonzero(row.numpy()).tolist() for row in batch.labels]
            pairs = dict(zip(ids, batch.images.numpy(), strict=True)), dict(zip(ids, labels, strict=True))
            create_dataset(folder, *pairs, Spec(size=edge))
        return folder

    def loader(self) -> dict[str, Any]:
        """Measure the images a second that the loader processes bring; the step must not wait for them."""
        from wsss.core.runtime import cores  # as above
        from wsss.data.catalog import DataSet
        from wsss.training.tasks.classify import train_loader

        count = 16 if self.quick else 512
        data = DataSet.open(self.data("loader", count, 64 if self.quick else 512))
        recipe = ClassifyRecipe(batch=self.batch, crop=self.crop, weights="none")
        workers = max(1, min(8, cores() - 1))
        loader = train_loader(data, np.arange(count), recipe, workers=workers, pinned=self.place.type == "cuda")
        for _ in loader.epoch(0):
            pass
        began = time.perf_counter()
        for batch in loader.epoch(1):
            batch.on(self.device)
        self.wait()
        return {"workers": workers, "images_per_s": count / (time.perf_counter() - began)}

    def augment(self) -> dict[str, Any]:
        """Augment batches here and on the CPU, with the same draws: the levels must agree; and measure."""
        from wsss.data.augment import build_augment  # as above
        from wsss.training.drawing import DrawnAugment, together

        drawn = DrawnAugment(build_augment("hard", self.crop))
        field = squares(1, 0, self.crop).images[0].numpy()

        def draw(augment: DrawnAugment) -> list[Drawn]:
            return together([augment(field, seed)[1] for seed in range(self.batch)])

        batch = self.images()._replace(drawn=draw(drawn))
        apart = batch.on(self.device).images.cpu().int() - batch.on(choose_device("cpu")).images.int()
        share = float((apart.abs() > 1).float().mean())
        if share > 0.001:
            raise AssertionError(f"{share:.2%} of the levels are more than one apart from the CPU's")
        figures = {"apart": share, "draws_per_s": self.batch / self.seconds(lambda: draw(drawn))}
        for recipe in ("hpa", "hard"):
            batch = self.images()._replace(drawn=draw(DrawnAugment(build_augment(recipe, self.crop))))
            batch.on(self.device)
            rate = self.batch / self.seconds(lambda batch=batch: batch.on(self.device))  # type: ignore[misc]
            figures[f"{recipe}_images_per_s"] = rate
        return figures

    def tests(self) -> dict[str, Any]:
        """Run the tests of the suite that need a GPU."""
        words = [sys.executable, "-m", "pytest", "tests/training/test_on_gpu.py", "-p", "no:cacheprovider"]
        words += ["--noconftest"]  # which needs more packages
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise AssertionError((done.stdout + done.stderr)[-3000:])
        return {"pytest": done.stdout.strip().splitlines()[-1]}


def squares(count: int, seed: int, edge: int = 64) -> Batch:
    """Return images in which a bright square of channel 0 or 1 is the class."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 40, (count, 4, edge, edge)).astype(np.uint8)
    labels = np.zeros((count, 2), np.float32)
    for n in range(count):
        y, x = rng.integers(0, edge - 24, 2)
        images[n, n % 2, y : y + 24, x : x + 24], labels[n, n % 2] = 230, 1
    return Batch(torch.from_numpy(images), torch.from_numpy(labels), torch.arange(count))


def run(check: Check, minutes: float) -> int:
    """Do what is not done yet, as long as there is time; return the parts that are missing or failed."""
    path, deadline = check.out / "gpu_check.json", time.monotonic() + 60 * minutes
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    parts = check.parts()
    for name, part in parts.items():
        if "error" not in results.get(name, {"error": ""}) or time.monotonic() > deadline:
            continue
        began = time.perf_counter()
        try:
            result = part()
        except Exception as error:  # whatever it is, it is a result of the day, and the other parts must go on
            result = {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
        results[name] = {**result, "seconds": round(time.perf_counter() - began, 2)}
        path.write_text(json.dumps(results, indent=1))
        print(row(name, results[name]), flush=True)
        if check.place.type == "cuda":
            torch.cuda.empty_cache()
    table = [row(name, results[name]) for name in parts if name in results]
    (check.out / "gpu_check.txt").write_text("\n".join([*table, ""]))
    missing = [name for name in parts if "error" in results.get(name, {"error": ""})]
    print(f"{len(parts) - len(missing)} of {len(parts)} parts are done; {path}")
    return len(missing)


def row(name: str, result: dict[str, Any]) -> str:
    """Return a line of the table."""
    kept = {key: value for key, value in result.items() if key != "trace"}
    shown = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in kept.items()}
    return f"{name:46}" + "  ".join(f"{key} {value}" for key, value in shown.items())


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("gpu_check"), help="folder of the results")
    parser.add_argument("--minutes", type=float, default=8.5, help="no part begins after them")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to rehearse it")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    return 1 if run(Check(args.device, args.out.resolve(), args.quick), args.minutes) else 0


if __name__ == "__main__":
    sys.exit(main())
