"""Memory: how much a call takes, attempts that leave nothing behind, and batches seen in parts that fit."""

import gc
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import TypeVar
from weakref import WeakKeyDictionary

import psutil
import torch
from torch import nn

from wsss.core.checks import ConfigError
from wsss.core.console import say
from wsss.core.device import Device, free_memory
from wsss.core.runtime import return_freed_memory

T = TypeVar("T")

PAUSE_S = 0.002
"""Between two looks at the memory of this process."""

SIGNS = ("ALLOC_FAILED", "can't allocate memory")
"""What cuBLAS, cuDNN and PyTorch's CPU allocator say, whose errors are plain RuntimeErrors."""


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
        if not _is_full(error):
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


def _is_full(error: RuntimeError) -> bool:
    return isinstance(error, torch.cuda.OutOfMemoryError) or any(sign in str(error) for sign in SIGNS)


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
