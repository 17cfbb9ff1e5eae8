"""One prediction spread over a Ray cluster: the same batches and threads as on one machine, so the same numbers.

Every worker opens data and networks itself and scores chunks of whole batches. The chunk of a worker that is lost goes
to another one.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from wsss.core.checks import ConfigError, DataError
from wsss.core.console import say
from wsss.core.runtime import MOST_LOSSES, connect, go_to
from wsss.inference.checkpoints import Plan
from wsss.inference.pipeline import Scored, predict
from wsss.inference.sources import Task, batches_of
from wsss.models.device import keep_freed_memory

BATCHES = 4
"""Of a chunk: within it reading, network and scoring overlap; it is what a lost worker costs."""

PATIENCE = 60.0
"""Seconds without news after which the wait for the cluster is reported."""

Build = Callable[[str], tuple[Task, Plan, str]]
"""From a device to what is to be predicted, and its fingerprint."""


@dataclass
class Chunk:
    """Batches of one entry of the plan."""

    entry: int
    fold: int
    indices: list[int]
    losses: int = 0
    """Workers that were lost with it."""


def make_chunks(plan: Plan, folds: list[int], batch: int, done: set[int]) -> list[Chunk]:
    """Cut a plan into chunks of its batches, without those whose images are all done.

    `folds` are what the tables say of the images of each entry of the plan.
    """
    chunks = []
    for entry, ((_, indices), fold) in enumerate(zip(plan, folds, strict=True)):
        todo = batches_of(indices, batch, done)
        for start in range(0, len(todo), BATCHES):
            chunks.append(Chunk(entry, fold, [index for images in todo[start : start + BATCHES] for index in images]))
    return chunks


class Worker:
    """A process of the cluster that scores chunks.

    Args:
        place: the folder that relative paths start from.
        build: makes task and plan.
        device: cpu or cuda.
        fingerprint: what they must be.
        threads: of the network; the last digits of its results depend on their number.
    """

    def __init__(self, place: Path, build: Build, device: str, fingerprint: str, threads: int) -> None:
        self.words = place, build, device, fingerprint, threads

    def begin(self) -> list[Scored]:
        """Open data and networks.

        Raises:
            DataError: they are not those of the machine that gave the command.
        """
        place, build, device, fingerprint, threads = self.words
        go_to(place)
        torch.set_num_threads(threads)
        keep_freed_memory()
        self.task, self.plan, local_fingerprint = build(device)
        if local_fingerprint != fingerprint:
            raise DataError(
                "a machine of the Ray cluster has other data, weights or versions than this one: give all of them "
                "the same environment and folders."
            )
        return []

    def score(self, chunk: Chunk) -> list[Scored]:
        """Score the images of a chunk."""
        checkpoints, _ = self.plan[chunk.entry]
        return list(predict(self.task, checkpoints, chunk.indices, set(), chunk.fold))


def predict_on_ray(build: Build, fingerprint: str, chunks: list[Chunk], device: str) -> Iterator[Scored]:
    """Score chunks on the cluster's GPUs, or on its cores where it has none or `device` is cpu; in any order.

    Args:
        build: makes task and plan in each worker; pickled, so a function of a module with plain arguments.
        fingerprint: of what it must make.
        device: auto, cpu or cuda.

    Raises:
        ConfigError: the cluster has no such device.
        DataError: the same chunk was lost again and again; or what scoring it raised.
    """
    crew = _Crew(connect(), build, fingerprint, device)
    waiting = deque(chunks)
    try:
        crew.hire(len(chunks))
        while waiting or crew.at_work():
            crew.assign(waiting)
            yield from crew.next_result(waiting)
    finally:
        crew.dismiss()


class _Crew:
    """The workers, and what each is at."""

    def __init__(self, ray: Any, build: Build, fingerprint: str, device: str) -> None:
        self.ray = ray
        threads = torch.get_num_threads()
        self.most, self.needs = _room(ray, device, threads)
        self.words = Path.cwd(), build, "cuda" if self.needs["num_gpus"] else "cpu", fingerprint, threads
        self.idle: list[Any] = []
        self.busy: dict[Any, tuple[Any, Chunk | None]] = {}

    def hire(self, wanted: int) -> None:
        """Start workers, at most one for each of `wanted` chunks; one begins when the cluster has room for it."""
        for _ in range(min(wanted, self.most)):
            make = self.ray.remote(Worker).options(scheduling_strategy="SPREAD", **self.needs)
            worker = make.remote(*self.words)
            self.busy[worker.begin.remote()] = worker, None

    def at_work(self) -> bool:
        """Whether a chunk is being scored."""
        return any(chunk is not None for _, chunk in self.busy.values())

    def assign(self, waiting: deque[Chunk]) -> None:
        """Give the idle workers something to do."""
        while self.idle and waiting:
            worker, chunk = self.idle.pop(), waiting.popleft()
            self.busy[worker.score.remote(chunk)] = worker, chunk

    def next_result(self, waiting: deque[Chunk]) -> list[Scored]:
        """Wait for a worker and return what it has scored; a lost one's chunk goes back to `waiting`."""
        ready, _ = self.ray.wait(list(self.busy), num_returns=1, timeout=PATIENCE)
        if not ready:
            say("note: waiting for the Ray cluster.")
            return []
        worker, chunk = self.busy.pop(ready[0])
        try:
            scored: list[Scored] = self.ray.get(ready[0])
        except self.ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except self.ray.exceptions.RayError as error:
            self._replace(worker, chunk, waiting, error)
            return []
        self.idle.append(worker)
        return scored

    def _replace(self, worker: Any, chunk: Chunk | None, waiting: deque[Chunk], error: Exception) -> None:
        say(f"note: a worker of the Ray cluster was lost ({type(error).__name__}), its images are done again.")
        if chunk is not None:
            chunk.losses += 1
            if chunk.losses > MOST_LOSSES:
                raise DataError(
                    f"{chunk.losses} workers of the Ray cluster were lost with the same {len(chunk.indices)} images "
                    "(out of memory?): lower --batch, then start again; what was done is kept."
                ) from error
            waiting.appendleft(chunk)
        self.ray.kill(worker)
        self.hire(1)

    def dismiss(self) -> None:
        """Let all workers go."""
        for worker in [*self.idle, *(worker for worker, _ in self.busy.values())]:
            self.ray.kill(worker)


def _room(ray: Any, device: str, threads: int) -> tuple[int, dict[str, Any]]:
    """Return how many workers the cluster has room for, and what each needs: a GPU, or a core a thread."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    if device.startswith("cuda") and not gpus:
        raise ConfigError(f"device is '{device}', but the Ray cluster has no GPU: pass --device cpu.")
    if gpus and device != "cpu":
        return gpus, {"num_gpus": 1, "num_cpus": 1}
    cores = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
    if not cores:
        raise ConfigError("the Ray cluster has no CPU cores to work on: start machines that have some.")
    each = min(threads, *cores)
    return sum(count // each for count in cores), {"num_gpus": 0, "num_cpus": each}
