"""What this machine offers a run: packages, processor, memory, disks, GPUs."""

import importlib.metadata
import platform
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsss.core.device import gpu_precision
from wsss.core.runtime import cores, versions

GIB = 1024**3
LITTLE_DISK, LITTLE_MEMORY, LITTLE_SHARED = 5.0, 6.0, 1.0
"""GiB below which training a usual recipe is likely to end early."""
SHARED = Path("/dev/shm")
DRIVER = Path("/proc/driver/nvidia/version")
MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))

MEMORY_USED = (Path("/sys/fs/cgroup/memory.current"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"))


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    level: str
    """ok, note (works, but look at it) or bad (something to fix)."""
    topic: str
    text: str


def examine_machine(folders: Sequence[Path]) -> Iterator[Finding]:
    """Yield findings on packages, processor, memory, disks and GPUs.

    Args:
        folders: whose disks are checked; a missing folder stands for the nearest existing one above it.
    """
    yield Finding("ok", "versions", ", ".join(f"{name} {version}" for name, version in versions().items()))
    yield Finding("ok", "system", f"{platform.system()} {platform.release()}, {platform.machine()}")
    yield Finding("ok", "processor", f"{cores()} cores for this process")
    yield _memory()
    yield from _shared_memory()
    yield from _disks(folders)
    yield from _gpus()
    yield from _extras()


def free_memory() -> int:
    """Return the bytes of main memory that this process can still get: of the machine, and of its container."""
    import psutil

    free = int(psutil.virtual_memory().available)
    for limit, used in zip(MEMORY_LIMITS, MEMORY_USED, strict=True):
        most, now = (path.read_text().strip() if path.exists() else "" for path in (limit, used))
        if most.isdecimal() and now.isdecimal():
            free = min(free, max(0, int(most) - int(now)))
    return free


def _memory() -> Finding:
    import psutil

    memory = psutil.virtual_memory()
    limits = [path.read_text().strip() for path in MEMORY_LIMITS if path.exists()]
    limit = min([memory.total, *(int(text) for text in limits if text.isdecimal())])
    text = f"{limit / GIB:.1f} GiB, {free_memory() / GIB:.1f} GiB free"
    if limit < LITTLE_MEMORY * GIB:
        return Finding("note", "memory", f"{text}: train with a small --batch and --crop")
    return Finding("ok", "memory", text)


def _shared_memory() -> Iterator[Finding]:
    if not SHARED.is_dir():
        return
    usage = shutil.disk_usage(SHARED)
    text = f"{usage.free / GIB:.1f} of {usage.total / GIB:.1f} GiB free in {SHARED}"
    little = usage.free < LITTLE_SHARED * GIB
    more = ": pass --workers 0 to train, or start the container with --shm-size 8g" if little else ""
    yield Finding("note" if little else "ok", "shared memory", text + more)


def _disks(folders: Sequence[Path]) -> Iterator[Finding]:
    homes = [next(p for p in (f.absolute(), *f.absolute().parents) if p.is_dir()) for f in folders]
    for home in {home.stat().st_dev: home for home in reversed(homes)}.values():
        free = shutil.disk_usage(home).free / GIB
        little = free < LITTLE_DISK
        more = ": make room, a data set takes 1 MiB an image of 512 px and 4 channels" if little else ""
        yield Finding("note" if little else "ok", "disk", f"{free:.1f} GiB free in {home}{more}")


def _gpus() -> Iterator[Finding]:
    import torch

    if not torch.cuda.is_available():
        if DRIVER.exists():
            yield Finding("bad", "GPU", "there is a driver, but PyTorch sees no GPU: install PyTorch's CUDA build")
        else:
            yield Finding("ok", "GPU", "none: the CPU is used")
        return
    for k in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(k)
        free, total = torch.cuda.mem_get_info(k)
        text = (
            f"cuda:{k} {properties.name}, {free / GIB:.0f} of {total / GIB:.0f} GiB free, precision {gpu_precision(k)}"
        )
        yield Finding("ok", "GPU", text)


def _extras() -> Iterator[Finding]:
    """Report for each extra of wsss whether its packages are installed."""
    wanted: dict[str, list[str]] = {}
    for text in importlib.metadata.requires("wsss") or []:
        match = re.match(r"""([\w.-]+).*;.*extra *== *["']([\w-]+)["']""", text)
        if match and match[2] != "dev":
            wanted.setdefault(match[2], []).append(match[1])
    for extra, names in wanted.items():
        there = {name: _version(name) for name in names}
        missing = [name for name, version in there.items() if not version]
        installed = ", ".join(f"{name} {version}" for name, version in there.items() if version)
        text = f"{extra}: " + (
            f"not there ({', '.join(missing)}), pip install 'wsss[{extra}]'" if missing else installed
        )
        yield Finding("ok", "extra", text)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
