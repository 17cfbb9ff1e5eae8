"""SIGKILL at random moments of prepare, segment, train and infer: started again, each must end with the same bytes.

A line per stage: kills, how many of them were followed by an ending equal to that of a run that nobody killed,
processes and names in shared memory left behind and, without workers, the most images that one kill made to be done
again. Exit code 1 if any ending differs or anything is left.
"""

import argparse
import collections
import hashlib
import importlib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from pathlib import Path

import psutil
from record import record
from small import SIZE, write_images

from wsss.core.files import digest_json
from wsss.runs.result_record import STATE
from wsss.runs.run_folder import load_checkpoint

NAMES = ["prepare", "segment", "train", "infer"]
IMAGES, EPOCHS, IN_A_ROW = 16, 3, 6
"""Images, epochs trained; kills before a run may come to its end and is compared."""
BEGINS: dict[str, tuple[str, str, Callable[..., int]]] = {
    "prepare": ("wsss.data.source", "ingest", lambda job: 1),
    "segment": ("wsss.segmenters.many", "_work", lambda task: 1),
    "infer": (
        "wsss.inference.pipeline",
        "_score_batch",
        lambda task, checkpoints, sources, samples, *rest: len(samples),
    ),
}
"""Stage -> module and name of the function that begins with images, and how many they are."""
PRELOAD = [
    "wsss.prepare",
    "wsss.segment",
    "wsss.train",
    "wsss.infer",
    "wsss.training.fit",
    "wsss.training.tasks.classify",
]
PRELOAD += [
    "wsss.training.loading",
    "wsss.inference.sources",
    "wsss.inference.pipeline",
    "wsss.data.source",
    "wsss.data.build",
]
PRELOAD += ["wsss.segmenters.many", "wsss.segmenters.classical", "wsss.inference.checkpoints", "wsss.inference.tables"]
PRELOAD += ["wsss.data.build", "iterstrat.ml_stratifiers", "pyarrow.parquet", "pyarrow.feather", "PIL.PngImagePlugin"]
PRELOAD += ["matplotlib.figure", "matplotlib.backends.backend_agg"]
"""What the stages import: read once, so that a process is at work as soon as it starts."""
CLOCK = {"segment.json"}
"""Files that tell times, and so differ."""


@dataclass(frozen=True)
class Stage:
    """A stage under fire."""

    name: str
    words: list[str]
    result: Callable[[], str]
    """Digest of what it has made."""
    reset: Callable[[], None]
    """Removes what it has made."""
    log: Path | None
    """Where it notes what it begins and ends; None where workers do the work."""


def start(stage: Stage) -> multiprocessing.process.BaseProcess:
    """Start a stage in a process of its own."""
    process = multiprocessing.get_context("forkserver").Process(target=run, args=(stage.name, stage.words, stage.log))
    process.start()
    return process


def run(name: str, words: list[str], log: Path | None) -> None:
    """Call a stage quietly; errors are shown."""
    sys.stdout = sys.stderr = open("/dev/null", "w")  # noqa: SIM115, PTH123 (as long as the process)
    multiprocessing.set_start_method("fork", force=True)  # as in a command of its own; a child of a server has another
    if log is not None and name in BEGINS:
        watch(name, log)
    try:
        sys.exit(importlib.import_module(f"wsss.{name}").main(words))
    except Exception as error:
        print(f"{name}: {error!r}", file=sys.__stderr__, flush=True)
        raise


def watch(name: str, log: Path) -> None:
    """Note every image that is begun, and every one that is safe."""
    from wsss.runs.journal import Journal

    place, function, count = BEGINS[name]
    module = importlib.import_module(place)
    work, add = getattr(module, function), Journal.add
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def begin(*arguments: object) -> object:
        os.write(handle, b"begun\n" * count(*arguments))
        return work(*arguments)

    def done(*arguments: object, **more: object) -> None:
        add(*arguments, **more)  # type: ignore[arg-type]
        os.write(handle, b"done\n")

    setattr(module, function, begin)
    Journal.add = done  # type: ignore[method-assign]


def lost(log: Path | None) -> int:
    """Return how many images a killed run had begun but not made safe; forget them."""
    if log is None or not log.exists():
        return 0
    counts = collections.Counter(line.split()[0] for line in log.read_text().splitlines())
    log.unlink()
    return counts["begun"] - counts["done"]


def finish(stage: Stage) -> str:
    """Let a stage come to its end; return the digest of its result."""
    process = start(stage)
    process.join()
    if process.exitcode != 0:
        raise SystemExit(f"{stage.name} ended with exit code {process.exitcode}, expected 0")
    return stage.result()


def fire(stage: Stage, kills: int, rng: random.Random) -> tuple[int, int, int, set[str]]:
    """Kill a stage so many times.

    Returns:
        the kills that ended well, processes that outlived their parent, the most images that one kill lost, and the
        numbers of all processes killed.
    """
    pids: set[str] = set()
    began = time.monotonic()
    wanted = finish(stage)
    span = time.monotonic() - began
    stage.reset()
    well = since = orphans = total = most = 0
    while total < kills:
        process, began = start(stage), time.monotonic()
        process.join(rng.uniform(0, span))
        if process.exitcode == 0:
            span = min(span, time.monotonic() - began)  # the machine is less busy than it was
        below = children(process.pid)
        pids |= {str(process.pid), *(str(one.pid) for one in below)}
        process.kill()
        process.join()
        most = max(most, lost(stage.log))
        if process.exitcode == -signal.SIGKILL:
            total, since = total + 1, since + 1
            orphans += len(psutil.wait_procs(below, timeout=15)[1])
        elif process.exitcode != 0:
            raise SystemExit(f"{stage.name} ended with exit code {process.exitcode} after {total} kills")
        if process.exitcode == 0 or since == IN_A_ROW or total == kills:
            well += since if finish(stage) == wanted else 0
            since = 0
            stage.reset()
            lost(stage.log)
    finish(stage)  # for the stages behind it
    return well, orphans, most, pids


def children(pid: int | None) -> list[psutil.Process]:
    """Return the processes below one that may just be ending."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


def files_digest(*places: Path) -> str:
    """Return the digest of names and bytes of all files below some places."""
    sha = hashlib.sha256()
    for place in places:
        for path in sorted([place] if place.is_file() else place.rglob("*")):
            if path.is_file() and path.name not in CLOCK and path.parent.name != STATE:
                sha.update(f"{path.relative_to(place)} {hashlib.sha256(path.read_bytes()).hexdigest()}".encode())
    return sha.hexdigest()


def state_digest(path: Path) -> str:
    """Return the digest of a checkpoint: weights, optimiser, progress; but for the seconds in its log."""
    tensors, meta = load_checkpoint(path)
    for row in meta["progress"]["history"]:
        row["seconds"] = row["images_per_s"] = 0
    digests = {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in tensors.items()}
    return digest_json([digests, meta])


def remove(*places: Path) -> None:
    """Remove files and folders that are there."""
    for place in places:
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)


def stages(home: Path, workers: str) -> list[Stage]:
    """Return the stages of the main job on drawn fields."""
    write_images(home / "fields", IMAGES)
    data, run_to, out = home / "data", home / "run", home / "preds"
    few = ["--workers", workers]
    prepare = f"--images {home}/fields/images --labels {home}/fields/train.csv --out {data} --size {SIZE}".split()
    train = (
        f"--data {data} --run {run_to} --backbone test_resnet --weights none --crop 64 --batch 4 --device cpu".split()
    )
    train += f"--epochs {EPOCHS} --save_every 1 --optim.ema 0.9".split()
    made = [data / name for name in ("cells", "nuclei", "segments.csv", "segment.json", "segment.journal")]
    made += [data / "segment.journal-wal", data / "segment.journal-shm"]
    log = home / "log" if workers == "0" else None
    last, best = (run_to / "fold0" / f"{name}.safetensors" for name in ("last", "best"))
    return [
        Stage("prepare", [*prepare, *few], lambda: files_digest(data), lambda: remove(data), log),
        Stage("segment", ["--data", str(data), *few], lambda: files_digest(*made[:3]), lambda: remove(*made), log),
        Stage("train", [*train, *few], lambda: state_digest(last) + state_digest(best), lambda: remove(run_to), None),
        Stage(
            "infer",
            f"--data {data} --run {run_to} --out {out} --device cpu --batch 1 --crops.size 32".split(),
            lambda: files_digest(out),
            lambda: remove(out),
            home / "log",
        ),
    ]


def main() -> int:
    """Kill every stage as often as asked; print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="kills of each stage; twice as many of train")
    parser.add_argument("--stages", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--workers", default="0", help="worker processes of prepare, segment and train")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOAD)
    rng = random.Random(options.seed)
    bad = 0
    with tempfile.TemporaryDirectory(prefix="wsss-stress-") as home:
        chain = stages(Path(home), options.workers)
        last = max(k for k, stage in enumerate(chain) if stage.name in options.stages)
        for stage in chain[: last + 1]:
            began = time.monotonic()
            if stage.name not in options.stages:
                finish(stage)
                continue
            kills = options.kills * (2 if stage.name == "train" else 1)
            well, orphans, most, pids = fire(stage, kills, rng)
            stop_servers()
            left = len(shared(pids))
            note = f"{orphans} processes and {left} names in shared memory left"
            note += f"; at most {most} images begun again" if stage.log else ""
            what = f"SIGKILL of {stage.name}, {options.workers} workers"
            row = 1 if stage.name == "train" else 2
            bad += record(row, what, kills, well, time.monotonic() - began, note) + orphans + left
    return 1 if bad else 0


def stop_servers() -> None:
    """End the server of processes and the tracker of shared memory, which clears away at its end what killed ones left.

    A stage that is a command of its own has a tracker of its own, which ends with it.
    """
    forkserver._forkserver._stop()  # type: ignore[attr-defined]
    resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]


def shared(pids: set[str]) -> list[str]:
    """Return the names in shared memory that carry the number of one of these processes."""
    folder = Path("/dev/shm")
    names = [path.name for path in folder.glob("*")] if folder.is_dir() else []
    return [name for name in names if pids & set(name.replace("-", "_").split("_"))]


if __name__ == "__main__":
    sys.exit(main())
