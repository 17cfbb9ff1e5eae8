"""SIGKILL at random moments of prepare, segment, train and infer: started again, each must end with the same bytes.

A line per stage: kills, how many of them were followed by an ending equal to that of a run that nobody killed, and
processes left behind. Exit code 1 if any ending differs or any process is left.
"""

import argparse
import hashlib
import importlib
import multiprocessing
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from wsss.core.checkpoint import load_checkpoint
from wsss.core.files import digest_json
from wsss.data.synthetic import write_fields

FIELDS, SIZE, EPOCHS, IN_A_ROW = 24, 128, 8, 4
"""Fields drawn, their edge, epochs trained; kills before a run may come to its end and is compared."""
PRELOAD = ["wsss.prepare", "wsss.segment", "wsss.train", "wsss.infer", "wsss.engine.fit", "wsss.engine.validate"]
PRELOAD += ["wsss.engine.loading", "wsss.predict.task", "wsss.predict.pipeline", "wsss.data.source", "wsss.data.past"]
PRELOAD += ["wsss.predict.segmenting", "wsss.cells.backends.classical", "wsss.predict.members", "wsss.predict.tables"]
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


def start(stage: Stage) -> multiprocessing.process.BaseProcess:
    """Start a stage in a process of its own."""
    process = multiprocessing.get_context("forkserver").Process(target=run, args=(stage.name, stage.words))
    process.start()
    return process


def run(name: str, words: list[str]) -> None:
    """Call a stage quietly; what it says on stderr is shown."""
    sys.stdout = open("/dev/null", "w")  # noqa: SIM115, PTH123 (as long as the process)
    sys.exit(importlib.import_module(f"wsss.{name}").main(words))


def finish(stage: Stage) -> str:
    """Let a stage come to its end; return the digest of its result."""
    process = start(stage)
    process.join()
    if process.exitcode != 0:
        raise SystemExit(f"{stage.name} ended with exit code {process.exitcode}, expected 0")
    return stage.result()


def fire(stage: Stage, kills: int, rng: random.Random) -> tuple[int, int]:
    """Kill a stage so many times; return the kills that ended well, and processes that outlived their parent."""
    began = time.monotonic()
    wanted = finish(stage)
    span = time.monotonic() - began
    stage.reset()
    well = since = orphans = total = 0
    while total < kills:
        process = start(stage)
        time.sleep(rng.uniform(0, span))
        below = psutil.Process(process.pid).children(recursive=True) if process.is_alive() else []
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            total, since = total + 1, since + 1
            orphans += len(psutil.wait_procs(below, timeout=15)[1])
        elif process.exitcode != 0:
            raise SystemExit(f"{stage.name} ended with exit code {process.exitcode} after {total} kills")
        if process.exitcode == 0 or since == IN_A_ROW or total == kills:
            well += since if finish(stage) == wanted else 0
            since = 0
            stage.reset()
    finish(stage)  # for the stages behind it
    return well, orphans


def files_digest(*places: Path) -> str:
    """Return the digest of names and bytes of all files below some places."""
    sha = hashlib.sha256()
    for place in places:
        for path in sorted([place] if place.is_file() else place.rglob("*")):
            if path.is_file() and path.name not in CLOCK:
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
    write_fields(home / "fields", FIELDS, SIZE, 1, prefix="f")
    data, run_to, out = home / "data", home / "run", home / "preds"
    few = ["--workers", workers]
    prepare = f"--images {home}/fields/images --labels {home}/fields/train.csv --out {data} --size {SIZE}".split()
    train = (
        f"--data {data} --run {run_to} --backbone test_resnet --weights none --crop 64 --batch 4 --device cpu".split()
    )
    train += f"--epochs {EPOCHS} --save_every 1 --optim.ema 0.9".split()
    made = [data / name for name in ("cells", "nuclei", "segments.csv", "segment.json", "segment.journal")]
    made += [data / "segment.journal-wal", data / "segment.journal-shm"]
    last, best = (run_to / "fold0" / f"{name}.safetensors" for name in ("last", "best"))
    return [
        Stage("prepare", [*prepare, *few], lambda: files_digest(data), lambda: remove(data)),
        Stage("segment", ["--data", str(data), *few], lambda: files_digest(*made[:3]), lambda: remove(*made)),
        Stage("train", [*train, *few], lambda: state_digest(last) + state_digest(best), lambda: remove(run_to)),
        Stage(
            "infer",
            f"--data {data} --run {run_to} --out {out} --device cpu --batch 2 --crops.size 32".split(),
            lambda: files_digest(out),
            lambda: remove(out),
        ),
    ]


def main() -> int:
    """Kill every stage as often as asked; print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="kills of each stage; twice as many of train")
    parser.add_argument("--stages", nargs="+", default=["prepare", "segment", "train", "infer"])
    parser.add_argument("--workers", default="0", help="worker processes of prepare, segment and train")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOAD)
    rng = random.Random(options.seed)
    bad = 0
    with tempfile.TemporaryDirectory(prefix="wsss-stress-") as home:
        for stage in stages(Path(home), options.workers):
            began = time.monotonic()
            if stage.name not in options.stages:
                finish(stage)
                continue
            kills = options.kills * (2 if stage.name == "train" else 1)
            well, orphans = fire(stage, kills, rng)
            seconds = time.monotonic() - began
            print(
                f"{stage.name:8} killed {kills}, ended alike {well}, orphans {orphans}  ({seconds:.0f} s)", flush=True
            )
            bad += kills - well + orphans
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
