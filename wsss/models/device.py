"""Where a network computes: the device, its arithmetic and its memory; batches in parts that fit, and their outputs."""

import ctypes
import gc
import re
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import psutil
import torch
from torch import nn

from wsss.core.checks import ConfigError, DataError, check_choice, says_no_memory
from wsss.core.console import say

Net = TypeVar("Net", bound=nn.Module)
T = TypeVar("T")

GIB = 1024**3
MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
MEMORY_USED = (Path("/sys/fs/cgroup/memory.current"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"))


PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Device:
    """A device and the number type of its matrix products."""

    place: torch.device
    """The device."""
    half: torch.dtype | None = None
    """bfloat16, float16, or None for float32."""

    @property
    def is_cuda(self) -> bool:
        """Whether it is a GPU."""
        return self.place.type == "cuda"

    @property
    def precision(self) -> str:
        """What its arithmetic is called: fp32, bf16 or fp16."""
        return next(name for name, half in PRECISIONS.items() if half is self.half)

    def put(self, tensor: torch.Tensor) -> torch.Tensor:
        """Move a tensor there, without waiting for it."""
        return tensor.to(self.place, non_blocking=self.is_cuda)

    def settle(self, net: Net) -> Net:
        """Move a network there; on a GPU in channels-last layout, which tensor cores prefer."""
        net = net.to(self.place)
        return net.to(memory_format=torch.channels_last) if self.is_cuda else net

    def searching(self) -> AbstractContextManager[object]:
        """Return the context in which cuDNN searches for the fastest convolutions, once per image size."""
        if not self.is_cuda:
            return nullcontext()
        return torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=True)  # the default is without cuDNN

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context that computes in half precision, where it is chosen."""
        return nullcontext() if self.half is None else torch.autocast(self.place.type, self.half)


def choose_device(name: str = "auto", precision: str = "auto", *, predicts: bool = False) -> Device:
    """Return the device called `name` ('auto' is a GPU where there is one, else the CPU) and its arithmetic.

    A GPU becomes the current one: pinned memory and compilers go by that.

    Args:
        name: auto, cpu, cuda or cuda:N.
        precision: auto, fp32, bf16 or fp16; auto is fp32 on the CPU, on a GPU what it computes in natively.
        predicts: nothing is learnt there. Then auto is fp16 where it would be bf16: as fast, and nearer to fp32 (in the
            last features of a trained lite0 by a factor of ten). It has no room for the gradients of training.

    Raises:
        ConfigError: no such device or arithmetic, it does not compute, or it lacks the arithmetic.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    check_choice("precision", precision, ["auto", *PRECISIONS])
    if not re.fullmatch(r"cpu|cuda(:\d{1,3})?", name):
        raise ConfigError(f"device is '{name}', expected auto, cpu, cuda or cuda:N.")
    device = torch.device(name)
    if device.type == "cuda":
        device = _take_gpu(device)
    natural = gpu_precision(device.index) if device.type == "cuda" else "fp32"
    if precision == "auto":
        precision = "fp16" if predicts and natural == "bf16" else natural
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError("precision is fp16, which needs a GPU: choose fp32 or bf16 on the CPU.")
    if precision == "bf16" and device.type == "cuda" and natural != "bf16":
        raise ConfigError(
            f"precision is bf16, which the GPU only emulates: pass --precision {natural}, or leave it out."
        )
    return Device(device, PRECISIONS[precision])


CPU_FLAGS = Path("/proc/cpuinfo")


def computes_half(device: Device) -> bool:
    """Whether it is a CPU that says that it computes in bfloat16 natively; other systems than Linux are not asked."""
    if device.is_cuda or not CPU_FLAGS.exists():
        return False
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(CPU_FLAGS.read_text().split())


def gpu_precision(index: int | None = None) -> str:
    """Return the fastest arithmetic that a GPU computes in natively, bf16, fp16 or fp32; None is the current GPU.

    PyTorch's `is_bf16_supported` looks at the current GPU and counts emulation, so a T4 would pass for a bf16 GPU.
    """
    if torch.version.hip:  # AMD's numbers mean something else, and all GPUs that PyTorch supports there have bf16
        return "bf16"
    capability = torch.cuda.get_device_capability(index)
    if capability >= (8, 0):  # Ampere and later
        return "bf16"
    # Volta and Turing have tensor cores for fp16. Of the older ones the P100 computes fp16 at twice the rate of fp32,
    # its siblings (6.1) at a 64th of it (throughput of arithmetic instructions, CUDA C++ Programming Guide).
    return "fp16" if capability >= (7, 0) or capability == (6, 0) else "fp32"


def _take_gpu(device: torch.device) -> torch.device:
    """Return the GPU with its number, once it has computed something."""
    if not torch.cuda.is_available():
        raise ConfigError(
            f"device is '{device}', but PyTorch sees no GPU: pass --device cpu, or install its CUDA build."
        )
    count = torch.cuda.device_count()
    if device.index is not None and device.index >= count:
        raise ConfigError(f"device is '{device}', but this machine has {count} GPUs, cuda:0 to cuda:{count - 1}.")
    try:
        gpu = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
        torch.cuda.set_device(gpu)
        _compute_on(gpu)
    except RuntimeError as error:  # the build of PyTorch is not for this GPU, or another program has it for itself
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"device is '{device}', which does not compute ({reason}): pass --device cpu, or make it work "
            "(python -m wsss.doctor)."
        ) from error
    return gpu


def _compute_on(device: torch.device) -> None:
    torch.zeros(1, device=device).add_(1).cpu()


PAUSE_S = 0.002
"""Between two looks at the memory of this process."""

NO_ALGORITHM = ("unable to find an engine", "find a valid cuDNN algorithm")
"""What cuDNN's search for the fastest convolution says where memory is full."""


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


class MemoryFull(Exception):
    """An attempt needed more memory than there was; what it had allocated is free again."""


def attempt(call: Callable[[], T]) -> T:
    """Return what `call` returns.

    Raises:
        MemoryFull: the memory was too small. The traceback of PyTorch's error keeps every frame of the call alive, and
            with them the activations of a step. So the frames are cleared, the error is dropped, and the allocator's
            cache is emptied before this is raised: the caller can try something smaller.
    """
    try:
        return call()
    except RuntimeError as error:
        if not says_no_memory(str(error)) and not any(sign in str(error) for sign in NO_ALGORITHM):
            raise
        reason = str(error).partition("\n")[0]
        chain: BaseException | None = error
        while chain is not None:
            traceback.clear_frames(chain.__traceback__)
            chain = chain.__context__
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    raise MemoryFull(reason)


_fitting: "WeakKeyDictionary[nn.Module, dict[tuple[int, ...], int]]" = WeakKeyDictionary()
"""Number of images of a size that fit, for networks for which a whole batch did not."""


def in_parts(net: nn.Module, shape: Sequence[int], call: Callable[[slice], T]) -> list[T]:
    """Process a batch as a whole if it fits into memory, else in the largest parts that fit; print a note once.

    Args:
        net: the network, for which the size of the parts is remembered.
        shape: (B, C, H, W) of the batch.
        call: processes the images of a slice of the batch.

    Returns:
        what `call` returned for each part, in order.

    Raises:
        ConfigError: memory does not hold a single image.
    """
    count, size = shape[0], tuple(shape[1:])
    fits = _fitting.get(net, {}).get(size, count)
    results: list[T] = []
    first = 0
    while first < count:
        rows = slice(first, min(first + fits, count))
        try:
            results.append(attempt(lambda rows=rows: call(rows)))  # type: ignore[misc]
        except MemoryFull as full:
            fits = _halved(rows.stop - first, size, full)
            _fitting.setdefault(net, {})[size] = fits
        else:
            first = rows.stop
    return results


def _halved(tried: int, size: tuple[int, ...], full: MemoryFull) -> int:
    small = f"memory is too small for {tried} images of {' x '.join(map(str, size[1:]))} px at a time"
    if tried == 1:
        raise ConfigError(
            f"{small} ({full}): close other programs that use it, pass --precision bf16 (fp16 on older GPUs), "
            "smaller crops or tiles, or --device cpu."
        )
    say(f"{small}: going on with {tried // 2}", "memory", tried=tried, fits=tried // 2)
    return tried // 2


def check_outputs(*outputs: torch.Tensor | np.ndarray) -> None:
    """Refuse outputs of a network that are no numbers; tensors are on the CPU.

    Raises:
        DataError: some are.
    """
    finite = (np.isfinite(one) if isinstance(one, np.ndarray) else one.isfinite() for one in outputs)
    if not all(bool(each.all()) for each in finite):
        raise DataError(
            "the network gives values that are no numbers (NaN or infinite): pass --precision fp32, and if that does "
            "not help, train again, with a lower --optim.lr."
        )


def free_memory() -> int:
    """Return the bytes of main memory that this process can still get: of the machine, and of its container."""
    free = int(psutil.virtual_memory().available)
    for limit, used in zip(MEMORY_LIMITS, MEMORY_USED, strict=True):
        most, now = (path.read_text().strip() if path.exists() else "" for path in (limit, used))
        if most.isdecimal() and now.isdecimal():
            free = min(free, max(0, int(most) - int(now)))
    return free


def free_bytes(device: Device) -> int:
    """Return what is free for tensors on a device; what PyTorch keeps there for the next ones counts too."""
    if not device.is_cuda:
        return free_memory()
    free, _ = torch.cuda.mem_get_info(device.place)
    return int(free + torch.cuda.memory_reserved(device.place) - torch.cuda.memory_allocated(device.place))


def peak_bytes(call: Callable[[], None], device: Device) -> int:
    """Return the most memory that a call takes beside what was taken before."""
    if device.is_cuda:
        before = torch.cuda.memory_allocated(device.place)
        torch.cuda.reset_peak_memory_stats(device.place)
        call()
        return int(torch.cuda.max_memory_allocated(device.place) - before)
    return_freed_memory()  # so that what comes is new
    with ResidentPeak() as resident:
        call()
    return resident.peak - resident.before


class ResidentPeak:
    """The highest resident memory of this process within a block, by looking again and again."""

    def __enter__(self) -> "ResidentPeak":
        self.process, self.over = psutil.Process(), threading.Event()
        self.before = self.peak = self._look()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.over.set()
        self.thread.join()

    def _look(self) -> int:
        return int(self.process.memory_info().rss)

    def _watch(self) -> None:
        while not self.over.wait(PAUSE_S):
            self.peak = max(self.peak, self._look())
