"""Work side by side: between processes of this machine or of a Ray cluster, and of a stage that another one waits for.

And the versions of what runs.
"""

import importlib.metadata
import logging
import multiprocessing
import os
import platform
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import cache
from itertools import islice
from pathlib import Path
from threading import Event
from typing import Any, Literal, TypeVar

from wsss.core.checks import ConfigError, DataError, install

In = TypeVar("In")
Out = TypeVar("Out")
Workers = int | Literal["ray"] | None
"""Worker processes: how many of this machine, None for one a core; or those of a Ray cluster."""

PACKAGES = (
    "wsss",
    "torch",
    "timm",
    "numpy",
    "pandas",
    "albumentations",
    "scikit-image",
    "opencv-python-headless",
)


def cores() -> int:
    """Return the number of CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that shape a result."""
    return {"python": platform.python_version()} | {name: version_of(name) or "not installed" for name in PACKAGES}


def version_of(package: str) -> str:
    """Return the version of a package, '' where it is not installed."""
    try:
        return _installed(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


@cache  # to look takes longer than many a step of a stage; a package that is missing is looked for again
def _installed(package: str) -> str:
    return importlib.metadata.version(package)


def parallel(
    function: Callable[[In], Out], items: Iterable[In], workers: Workers = None
) -> Iterator[tuple[In, Out | Exception]]:
    """Call `function` on every item in worker processes; yield (item, result or its exception) as they finish.

    At most 2 items per worker are in progress, so memory use does not grow with the number of items. With workers = 0
    everything runs in this process.

    Args:
        function: a module-level function; an exception it raises is yielded, not raised.
        items: what to call it on.
        workers: processes; None for one a core, 0 for none; 'ray' for the cores of a Ray cluster.

    Raises:
        DataError: a worker was killed.
    """
    if workers == "ray":
        yield from parallel_on_ray(function, items)
        return
    count = cores() if workers is None else workers
    if count == 0:
        for item in items:
            yield item, _call(function, item)
        return
    todo = iter(items)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=context, initializer=_live_with_parent) as pool:
        running: dict[Future[Out | Exception], In] = {}
        try:
            while True:
                for item in islice(todo, 2 * count - len(running)):
                    running[pool.submit(_call, function, item)] = item
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        except BrokenProcessPool as error:
            raise DataError(
                "a worker process was killed (out of memory?); what was done is kept: "
                "start the same command again, with fewer --workers."
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _live_with_parent() -> None:
    """Leave Ctrl-C to the main process, and end with it: a worker whose parent was killed would wait forever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: "multiprocessing.process.BaseProcess") -> None:
    parent.join()
    os._exit(1)


def _call(function: Callable[[In], Out], item: In, place: Path | None = None) -> Out | Exception:
    """Return what a function makes of an item, in a folder if one is given, or its exception."""
    try:
        if place is not None:
            go_to(place)
        return function(item)
    except Exception as error:  # the caller decides: a broken image is recorded, a bug is raised
        return error


ENGINES = ("local", "ray")
MOST_LOSSES = 3
"""Machines or processes that may be lost with the same piece of work before the work is taken for the cause."""


def connect() -> Any:
    """Join the cluster and return the module `ray`.

    Raises:
        ConfigError: Ray is not installed, or the cluster does not answer.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone
    try:
        import ray
    except ImportError as error:
        raise ConfigError(f"--engine ray needs Ray: {install('ray')}.") from error
    if not ray.is_initialized():
        try:
            ray.init(log_to_driver=False, logging_level=logging.WARNING)
        except (ConnectionError, RuntimeError) as error:
            raise ConfigError(
                f"the Ray cluster does not answer ({' '.join(str(error).split())[:200]}): start it with "
                "ray start --head, or unset RAY_ADDRESS to use this machine alone."
            ) from error
    return ray


def go_to(place: Path) -> None:
    """Change to a folder, so that relative paths mean the same as where the command was started.

    Raises:
        ConfigError: there is none of that name.
    """
    try:
        os.chdir(place)
    except OSError as error:
        raise ConfigError(
            f"{os.uname().nodename} has no folder {place}: the machines of a Ray cluster need the same folders."
        ) from error


def parallel_on_ray(function: Callable[[In], Out], items: Iterable[In]) -> Iterator[tuple[In, Out | Exception]]:
    """Call `function` on every item, one a core of the cluster; yield (item, result or its exception) as they finish.

    The items of a lost machine or process are done again elsewhere. At most 2 items per core are in progress.

    Raises:
        DataError: an item was lost again and again.
    """
    ray = connect()
    remote = ray.remote(num_cpus=1, max_retries=MOST_LOSSES)(_call)
    place, todo = Path.cwd(), iter(items)
    running: dict[Any, In] = {}
    while True:
        most = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
        for item in islice(todo, max(0, most - len(running))):
            running[remote.remote(function, item, place)] = item
        if not running:
            return
        (done,), _ = ray.wait(list(running), num_returns=1)
        try:
            result = ray.get(done)
        except ray.exceptions.RayError as error:
            raise DataError(
                f"the Ray cluster lost the same piece of work {MOST_LOSSES + 1} times ({type(error).__name__}); what "
                "was done is kept: start the same command again."
            ) from error
        yield running.pop(done), result


class Stopped(Exception):
    """The waiting stage has ended early: stop too."""


class Overlap:
    """What a stage that runs at the same time has finished; every method may be called from any thread.

    Args:
        order: the images' IDs as the waiting stage will ask for them; the reporting stage may work in this order.
    """

    def __init__(self, order: Sequence[str]) -> None:
        self._made: dict[str, Future[None]] = {name: Future() for name in order}
        self._stopped = Event()

    def begin(self, todo: Iterable[str]) -> list[str]:
        """Report what is still to be made; everything else is there. Return it in the order in which it is wanted."""
        rank = {name: k for k, name in enumerate(self._made)}
        names = sorted(todo, key=lambda name: rank.get(name, len(rank)))
        for name in set(rank).difference(names):
            self._made[name].set_result(None)
        return names

    def done(self, name: str) -> None:
        """Report that `name` is made, or has failed for good.

        Raises:
            Stopped: the waiting stage has ended and needs no more.
        """
        if name in self._made:
            self._made[name].set_result(None)
        if self._stopped.is_set():
            raise Stopped

    def wait(self, name: str) -> None:
        """Return when `name` is made.

        Raises:
            DataError: the reporting stage has ended without it; or whatever ended it.
        """
        self._made[name].result()

    def stop(self) -> None:
        """Ask the reporting stage to end."""
        self._stopped.set()

    def end(self, error: BaseException | None = None) -> None:
        """Report that the stage has ended, and with what error."""
        for name, made in self._made.items():
            if not made.done():
                lost = DataError(f"the cells of {name} were not made: start the same command again.")
                made.set_exception(error or lost)


@contextmanager
def running(work: Callable[[Overlap], object], overlap: Overlap) -> Iterator[Overlap]:
    """Run a stage in a thread while the block lasts, and wait for its end.

    Args:
        work: the stage; it calls `begin` and `done` of what it is given.
        overlap: what it reports to, and the block waits for.

    Raises (at the end of the block):
        whatever ended the stage.
    """
    with ThreadPoolExecutor(1, "overlap") as pool:
        stage = pool.submit(_work, work, overlap)
        try:
            yield overlap
        except BaseException:
            overlap.stop()
            raise
        stage.result()


def _work(work: Callable[[Overlap], object], overlap: Overlap) -> None:
    error: BaseException | None = None
    try:
        work(overlap)
    except Stopped:
        pass
    except BaseException as raised:
        error = raised
        raise
    finally:
        overlap.end(error)
