"""The processes that train together, which torchrun starts, and what travels between them.

The recipe means the same for any number of processes: `batch` is the batch of all of them together, each takes every
`size`-th image of it, and gradients are weighted so that their average is that of the whole batch.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from wsss.core.checks import ConfigError, UserError
from wsss.runs.lock import hold
from wsss.runs.run_folder import check_free

TIMEOUT = timedelta(minutes=10)
"""How long a process waits for the others within a step before it gives up."""
PATIENCE = timedelta(days=30)
"""How long it waits for process 0 to do alone what only one can do: fetch weights, fit the classifier on cell features,
train the network of single cells, draw. A process that dies ends the others at once all the same."""
HEAD_START_S = 10
"""How long the other processes hold back an error, so that process 0 reports it."""


@dataclass(frozen=True)
class World:
    """This process among all; the default is the only one."""

    rank: int = 0
    """Number of this process."""
    size: int = 1
    """Number of processes."""
    local_rank: int = 0
    """Number of this process on its machine."""
    local_size: int = 1
    """Number of processes on its machine."""
    place: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Where tensors must be to travel between processes."""
    patient: "dist.ProcessGroup | None" = None
    """The same processes, with patience."""

    @property
    def leads(self) -> bool:
        """Whether this process alone writes and prints."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model with gradients averaged over the processes."""
        return model if self.size == 1 else DistributedDataParallel(model)

    def total(self, values: list[float]) -> list[float]:
        """Add up each value over the processes; the same numbers come back to all."""
        if self.size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self.place)
        dist.all_reduce(tensor)
        return cast(list[float], tensor.tolist())

    def add(self, values: torch.Tensor) -> torch.Tensor:
        """Add up a tensor over the processes, in place, without waiting for the GPU."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def share(self, rows: np.ndarray) -> np.ndarray:
        """Return this process's part of rows that are the same in all: every `size`-th."""
        return rows[self.rank :: self.size]

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Undo `share`: return all rows (N, K) float in their order, from each process's part."""
        if self.size == 1:
            return rows
        count = int(self.total([len(rows)])[0])
        most = -(-count // self.size)
        padded = np.zeros((most, *rows.shape[1:]), rows.dtype)
        padded[: len(rows)] = rows
        shard = torch.from_numpy(padded).to(self.place)
        parts = [torch.empty_like(shard) for _ in range(self.size)]
        dist.all_gather(parts, shard)
        return torch.stack(parts, dim=1).flatten(0, 1)[:count].cpu().numpy()

    def spread(self, net: nn.Module) -> None:
        """Give the weights and buffers of process 0 to all, as soon as it has them."""
        if self.size > 1:
            self.wait()
            for tensor in net.state_dict().values():
                dist.broadcast(tensor, src=0)

    @contextmanager
    def hold(self, folder: Path) -> Iterator[None]:
        """Keep other runs out of a folder; process 0 does it for all."""
        with hold(folder, "preview") if self.leads else nullcontext():
            if self.leads:
                check_free(folder)
            yield

    def wait(self) -> None:
        """Wait until every process is here, however long it takes."""
        if self.size > 1:
            dist.barrier(self.patient)


@contextmanager
def join_processes(device: str = "auto") -> Iterator[World]:
    """Join the processes that torchrun started; without torchrun, be alone.

    Process 0 comes first: an error that all processes meet is shown once, by it.

    Raises:
        ConfigError: a machine has more processes than GPUs, or a GPU was named by number.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or not dist.is_torchelastic_launched():
        yield World()
        return
    rank, local = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    place = _place(device, local)
    # Loader processes are forks, made when the threads of NCCL are alive. That is safe here: a fork has none of these
    # threads, its loader touches neither GPU nor NCCL, and it ends without their clean-up (os._exit). What is left is
    # memory registered with InfiniBand, which a fork must not take over: these variables, read by its library, see to
    # that on kernels before 5.12. Started afresh ("spawn") they would hold the data set once more each, and outlive a
    # killed training.
    os.environ.setdefault("IBV_FORK_SAFE", "1")
    os.environ.setdefault("RDMAV_FORK_SAFE", "1")
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        patient = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=PATIENCE))
        yield World(rank, size, local, int(os.environ["LOCAL_WORLD_SIZE"]), place, patient)
    except (UserError, KeyboardInterrupt):
        if rank > 0:
            time.sleep(HEAD_START_S)  # torchrun ends this process before, if process 0 met the same error
        raise
    with suppress(RuntimeError):  # process 0 failed, and reports it
        dist.barrier(patient)  # it may have work of its own left, and NCCL is to be ended by all together
    dist.destroy_process_group()


def _place(device: str, local_rank: int) -> torch.device:
    """Return the device of a process, and make it the default one where it is a GPU."""
    if ":" in device:
        raise ConfigError(f"device is '{device}', but torchrun gives each process its own: pass --device cuda.")
    if device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"torchrun started more processes than this machine's {torch.cuda.device_count()} GPUs: "
            "lower --nproc_per_node, or pass --device cpu."
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)
