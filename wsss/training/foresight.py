"""The memory that training will take, measured by a small step before the first one."""

import threading
from collections.abc import Callable
from functools import partial

import psutil
import torch

from wsss.core.console import say
from wsss.core.device import GIB, Device, free_memory
from wsss.core.runtime import return_freed_memory
from wsss.models.memory import MemoryFull, attempt
from wsss.training.loading import Batch
from wsss.training.step import Learner

SMALL = 2
"""Images of the larger of the two small steps."""
PAUSE_S = 0.002
"""Between two looks at the memory of this process."""
ROOM = 0.9
"""Share of the free memory that a step may take: the system and the loader processes need some too."""


def foresee(learner: Learner, batch: Batch) -> None:
    """Say what memory a step will take, and the batch that fits where this one does not.

    On a CPU the system kills a process that takes too much, without a word. Two small steps, of one image and of two,
    tell what an image takes and what the rest does. They learn nothing.
    """
    images, world = len(batch.images), learner.job.world
    device, small = learner.job.device, min(SMALL, images)
    free = free_bytes(device) // (1 if device.is_cuda else world.local_size)
    try:
        one = peak_bytes(partial(attempt, partial(learner.rehearse, batch.first(1))), device)
        more = peak_bytes(partial(attempt, partial(learner.rehearse, batch.first(small))), device) if small > 1 else one
    except MemoryFull:
        return  # the step itself will say what fits
    # The second small step finds some of what the first one has taken still there: it cannot need less.
    each = max(0, more - one) / max(1, small - 1)
    need = one + each * (images - 1)
    if not world.leads:
        return
    text = f"memory: a step of {images} images takes about {_gib(need)}, {_gib(free)} are free on {device.place}"
    fits = images if need <= ROOM * free or not each else max(0, int((ROOM * free - one) // each) + 1)
    facts = {"images": images, "need_bytes": int(need), "free_bytes": free, "fits": min(fits, images)}
    if fits >= images:
        say(text, "memory", **facts)
    elif fits:
        more_steps = learner.job.recipe.optim.accumulate * -(-images // fits)
        advice = f"pass --batch {fits * world.size} --optim.accumulate {more_steps}, or lower --crop"
        say(f"{text}: too much. {fits} would fit: {advice}", "memory", **facts)
    else:
        say(f"{text}: too much, even for one image: lower --crop, or choose a smaller --backbone", "memory", **facts)


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"


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
