"""This machine: where a network computes and in which arithmetic; packages, processor, memory, disks, GPUs."""

import importlib.metadata
import platform
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from wsss.core.checks import ConfigError
from wsss.core.runtime import cores, versions

if TYPE_CHECKING:
    import torch

Net = TypeVar("Net", bound="torch.nn.Module")


@dataclass(frozen=True)
class Device:
    """A device and the number type of its matrix products."""

    place: "torch.device"
    """The device."""
    half: "torch.dtype | None" = None
    """bfloat16, float16, or None for float32."""

    @property
    def is_cuda(self) -> bool:
        """Whether it is a GPU."""
        return self.place.type == "cuda"

    def put(self, tensor: "torch.Tensor") -> "torch.Tensor":
        """Move a tensor there, without waiting for it."""
        return tensor.to(self.place, non_blocking=self.is_cuda)

    def settle(self, net: "Net") -> "Net":
        """Move a network there; on a GPU in channels-last layout, which tensor cores prefer."""
        import torch

        net = net.to(self.place)
        return net.to(memory_format=torch.channels_last) if self.is_cuda else net

    def searching(self) -> AbstractContextManager[object]:
        """Return the context in which cuDNN searches for the fastest convolutions, once per image size."""
        import torch

        return torch.backends.cudnn.flags(benchmark=True, allow_tf32=True) if self.is_cuda else nullcontext()

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context that computes in half precision, where it is chosen."""
        import torch

        return nullcontext() if self.half is None else torch.autocast(self.place.type, self.half)


def choose_device(name: str = "auto", precision: str = "auto") -> Device:
    """Return the device called `name` ('auto' is a GPU where there is one, else the CPU) and its arithmetic.

    Raises:
        ConfigError: no such device, or it lacks the arithmetic.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device is '{name}', expected auto, cpu, cuda or cuda:N.") from error
    if device.type == "cuda":
        _check_gpu(device)
    natural = gpu_precision(device.index) if device.type == "cuda" else "fp32"
    if precision == "auto":
        precision = natural
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError("precision is fp16, which needs a GPU: choose fp32 or bf16 on the CPU.")
    if precision == "bf16" and device.type == "cuda" and natural != "bf16":
        raise ConfigError(
            f"precision is bf16, which the GPU only emulates: pass --precision {natural}, or leave it out."
        )
    return Device(device, {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision])


def gpu_precision(index: int | None = None) -> str:
    """Return the fastest arithmetic that a GPU computes in natively, bf16, fp16 or fp32; None is the current GPU.

    PyTorch's `is_bf16_supported` looks at the current GPU and counts emulation, so a T4 would pass for a bf16 GPU.
    """
    import torch

    if torch.version.hip:  # AMD's numbers mean something else, and all GPUs that PyTorch supports there have bf16
        return "bf16"
    capability = torch.cuda.get_device_capability(index)
    if capability >= (8, 0):  # Ampere and later
        return "bf16"
    # Volta and Turing have tensor cores for fp16. Of the older ones the P100 computes fp16 at twice the rate of fp32,
    # its siblings (6.1) at a 64th of it (throughput of arithmetic instructions, CUDA C++ Programming Guide).
    return "fp16" if capability >= (7, 0) or capability == (6, 0) else "fp32"


def _check_gpu(device: "torch.device") -> None:
    import torch

    if not torch.cuda.is_available():
        raise ConfigError(
            f"device is '{device}', but PyTorch sees no GPU: pass --device cpu, or install its CUDA build."
        )
    count = torch.cuda.device_count()
    if device.index is not None and device.index >= count:
        raise ConfigError(f"device is '{device}', but this machine has {count} GPUs, cuda:0 to cuda:{count - 1}.")


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
