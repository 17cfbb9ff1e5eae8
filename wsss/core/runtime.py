"""Processes, progress and versions: what every stage needs to run and to report how it ran."""

import ctypes
import importlib.metadata
import multiprocessing
import os
import platform
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from itertools import islice
from typing import Literal, TypeVar

from wsss.core.checks import DataError
from wsss.core.progress import progress

__all__ = ["cores", "keep_freed_memory", "parallel", "progress", "return_freed_memory", "versions"]

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


def keep_freed_memory() -> None:
    """Let the C library keep freed memory for the next step, instead of giving it back to the system.

    A step on the CPU frees and allocates gigabytes; without this, half of its time goes into new empty pages from the
    system. Call it before the first large array. Does nothing without glibc.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    no_mmap, never_trim, one_arena, grow_by = (-4, 0), (-1, -1), (-8, 1), (-2, 256 << 20)
    for option, value in (no_mmap, never_trim, one_arena, grow_by):
        mallopt(option, value)


def return_freed_memory() -> None:
    """Hand back to the system what `keep_freed_memory` has kept so far; does nothing without glibc.

    Call it before forking processes: each would end up with a copy of the kept memory once this one writes there again.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that shape a result."""
    installed = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed[name] = "not installed"
    return installed


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
        from wsss.core.ray_cluster import parallel_on_ray

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
    """Leave Ctrl-C to the main process, and end with it: a worker whose parent was killed would wait for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: "multiprocessing.process.BaseProcess") -> None:
    parent.join()
    os._exit(1)


def _call(function: Callable[[In], Out], item: In) -> Out | Exception:
    try:
        return function(item)
    except Exception as error:  # the caller decides: a broken image is recorded, a bug is raised
        return error
