"""A Ray cluster to work on: the one that RAY_ADDRESS names or that this machine belongs to, else this machine alone.

Its machines need this package, and the folders of the command under the same paths (a shared disk).
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from wsss.core.checks import ConfigError, DataError

In = TypeVar("In")
Out = TypeVar("Out")

ENGINES = ("local", "ray")
MOST_LOSSES = 3
"""Machines or processes that may be lost with the same piece of work before the work itself is to blame."""


def connect() -> Any:
    """Join the cluster and return the module `ray`.

    Raises:
        ConfigError: Ray is not installed, or the cluster does not answer.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone
    try:
        import ray
    except ImportError as error:
        raise ConfigError("--engine ray needs Ray: pip install 'wsss[ray]'.") from error
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
    """Work in a folder, so that relative paths mean there what they mean where the command was given.

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

    The items of a machine or process that is lost are done again elsewhere. At most 2 items a core are under way.

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
            running[remote.remote(place, function, item)] = item
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


def _call(place: Path, function: Callable[[In], Out], item: In) -> Out | Exception:
    try:
        go_to(place)
        return function(item)
    except Exception as error:  # the caller decides: a broken image is recorded, a bug is raised
        return error
