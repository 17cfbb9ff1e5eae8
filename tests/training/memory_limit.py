"""A memory that is too small, simulated: it counts the bytes of live tensors, whatever the batch."""

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class MemoryLimit(TorchDispatchMode):
    """Raise PyTorch's error as soon as the storages made inside the block, and still alive, exceed `limit` bytes."""

    def __init__(self, limit: float = float("inf")) -> None:
        super().__init__()
        self.limit = limit
        self.live = self.peak = self.refusals = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves((args, kwargs)) if self._real(leaf)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if self._real(leaf) and leaf.untyped_storage().data_ptr() not in before:
                self._count(leaf.untyped_storage())
        if self.live > self.limit:
            self.refusals += 1
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate.")
        self.peak = max(self.peak, self.live)
        return result

    @staticmethod
    def _real(leaf: object) -> bool:
        return isinstance(leaf, torch.Tensor) and leaf.untyped_storage().nbytes() > 0

    def _count(self, storage: torch.UntypedStorage) -> None:
        place, size = storage.data_ptr(), storage.nbytes()
        if place in self._known:
            return
        self._known.add(place)
        self.live += size
        weakref.finalize(storage, self._free, place, size)

    def _free(self, place: int, size: int) -> None:
        self._known.discard(place)
        self.live -= size
