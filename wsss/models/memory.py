"""Too little memory: an attempt that leaves nothing behind, and batches processed in parts that fit."""

import gc
import traceback
from collections.abc import Callable, Sequence
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import nn

from wsss.core.checks import ConfigError
from wsss.core.console import say

T = TypeVar("T")

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
