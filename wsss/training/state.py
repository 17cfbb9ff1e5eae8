"""What a training works with: its processes, and everything it is as tensors and JSON, so that it resumes bit by bit.

The recipe means the same for any number of processes: `batch` is the batch of all of them together, each takes every
`size`-th image of it, and gradients are weighted so that their average is that of the whole batch.
"""

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from wsss.core.checks import ConfigError, DataError, UserError, some
from wsss.models.cam_net import CamNet
from wsss.models.device import Device
from wsss.models.weights import load_weights, strip
from wsss.options.recipe import OptimConfig, Recipe
from wsss.runs.output import hold
from wsss.runs.record import RunRecord
from wsss.runs.run_folder import RunFolder, check_free

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


def build_optimizer(model: nn.Module, head: set[nn.Parameter], config: OptimConfig) -> torch.optim.Optimizer:
    """Build the optimiser of a recipe; biases and norms get no weight decay, `head` its own learning rate."""
    head_ids = {id(p) for p in head}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for p in model.parameters():
        # Those that are frozen too: they keep their places in the optimiser's state, in which checkpoints number them.
        groups.setdefault((id(p) in head_ids, p.ndim > 1), []).append(p)
    settings = [
        {
            "params": params,
            "lr_factor": config.head_lr_factor if is_head else 1.0,
            "lr": config.lr * (config.head_lr_factor if is_head else 1.0),
            "weight_decay": config.weight_decay if decays else 0.0,
        }
        for (is_head, decays), params in sorted(groups.items(), key=lambda item: item[0])
    ]
    # One kernel for many weights; it also leaves out infinite gradients of fp16 without asking the CPU.
    fused = all(p.is_cuda for params in groups.values() for p in params) or None
    if config.name == "sgd":
        return torch.optim.SGD(settings, lr=config.lr, momentum=config.beta1, fused=fused)
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    return kind(settings, lr=config.lr, betas=(config.beta1, 0.999), fused=fused)


class LearningRate:
    """The learning rate over a run: a function of progress, and of the epochs' losses for 'plateau'."""

    def __init__(self, config: OptimConfig) -> None:
        self.config = config
        self.scale = 1.0
        self.best = math.inf
        self.waited = 0

    def at(self, progress: float) -> float:
        """Return the rate when `progress` (0..1) of the training is done."""
        config = self.config
        warmup = config.warmup or (0.3 if config.schedule == "onecycle" else 0.0)
        floor = min(config.floor, config.lr)
        if progress < warmup:
            return max(floor, config.lr * (progress / warmup))
        rest = (progress - warmup) / (1 - warmup) if warmup < 1 else 1.0
        if config.schedule in ("cosine", "onecycle"):
            factor = 0.5 * (1 + math.cos(math.pi * _within(rest, config)))
        elif config.schedule == "cyclic":
            factor = 1 - (1 - config.cycle_low) * abs(2 * _within(rest, config) - 1)
        else:
            factor = self.scale
        return max(floor, config.lr * factor)

    def cycle_ended(self, epoch: int, epochs: int) -> int:
        """Return the number (from 1) of the cycle whose last epoch is `epoch` (from 1), else 0.

        Only where there are several; the recipe makes sure that they end with an epoch.
        """
        config = self.config
        if config.schedule not in ("cosine", "cyclic") or config.cycles == 1:
            return 0
        ends = config.cycle_ends(epochs)
        return ends.index(epoch) + 1 if epoch in ends else 0

    def after_epoch(self, loss: float) -> None:
        """Lower the rate of 'plateau' after `patience` epochs without a loss below the best."""
        if self.config.schedule != "plateau":
            return
        if loss < self.best * (1 - 1e-4):
            self.best, self.waited = loss, 0
            return
        self.waited += 1
        if self.waited > self.config.patience:
            self.scale, self.waited = self.scale * self.config.factor, 0

    def apply(self, optimizer: torch.optim.Optimizer, progress: float) -> None:
        """Set the rate of every group."""
        rate = self.at(progress)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["lr_factor"]

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {"scale": self.scale, "best": self.best if math.isfinite(self.best) else None, "waited": self.waited}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over the result of `state`."""
        self.scale, self.waited = state["scale"], state["waited"]
        self.best = math.inf if state["best"] is None else state["best"]


def _within(rest: float, config: OptimConfig) -> float:
    """Return which share of the cycle under way is done, when `rest` (0..1) of all cycles is."""
    cycles = 1 if config.schedule == "onecycle" else config.cycles
    return 1.0 if rest >= 1 else rest * cycles % 1.0


@dataclass(frozen=True)
class Job:
    """What a fit works with, beside the state that it changes."""

    recipe: Recipe
    device: Device
    folder: RunFolder
    record: RunRecord
    """What the checkpoints say of the run."""
    names: list[str]
    """ID of every image of the data set, for naming those of a bad batch."""
    save_every: int = 0
    """Steps between saves within an epoch; 0 for none."""
    bad_batches: int = 0
    """Batches with a loss that is not finite that are skipped before the run stops."""
    world: World = field(default_factory=World)
    """This process among all."""
    teacher: CamNet | None = None
    """The first network of a refinement, in evaluation mode."""
    compiled: bool = False
    """Whether torch.compile makes the network faster."""


@dataclass
class Progress:
    """Where a run is, and what it has seen so far; all JSON."""

    epoch: int = 0
    """Finished epochs."""
    step: int = 0
    """Finished batches of the epoch under way."""
    bad: int = 0
    """Those of them that were skipped."""
    sums: dict[str, float] = field(default_factory=dict)
    """Sums of the loss parts over the others."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """One row an epoch: what log.csv shows."""
    best: float | None = None
    """Lowest validation loss so far."""
    since_best: int = 0
    """Epochs since then."""
    skipped: int = 0
    """Batches of all epochs skipped because their loss was not finite."""

    def means(self) -> dict[str, float]:
        """Return the loss parts of the epoch under way, means over the batches that were learnt."""
        return {name: value / (self.step - self.bad) for name, value in self.sums.items()}


Net = Any
"""What is trained, a CamNet or a Unet: of it the loop knows weights and new parameters."""


class TrainState:
    """A network in training with its optimiser, rate, average and progress."""

    def __init__(self, net: Net, recipe: Recipe, device: Device) -> None:
        self.net = device.settle(net)
        self.optimizer = build_optimizer(net, net.new_parameters(), recipe.optim)
        self.rate = LearningRate(recipe.optim)
        self.decay = recipe.optim.ema
        self.ema = AveragedModel(net, use_buffers=True) if self.decay else None
        self.scaler = torch.amp.GradScaler(device.place.type, enabled=device.half is torch.float16)
        self.progress = Progress()

    @property
    def inference_net(self) -> Net:
        """The weights that validation and inference use: the moving average where there is one."""
        return self.net if self.ema is None else self.ema.module

    @torch.no_grad()
    def average(self) -> None:
        """Move the average of the weights, if there is one, towards the weights.

        `AveragedModel.update_parameters` does the same, but copies its counter to the GPU each time, and waits for it.
        """
        if self.ema is None:
            return
        share = 1 - self.decay if self.ema.n_averaged > 0 else 1.0
        self.ema.n_averaged += 1
        pairs = zip(self.ema.module.state_dict().values(), self.net.state_dict().values(), strict=True)
        real: tuple[list[Tensor], list[Tensor]] = [], []
        counters: tuple[list[Tensor], list[Tensor]] = [], []
        for averaged, now in pairs:
            for into, tensor in zip(real if averaged.is_floating_point() else counters, (averaged, now), strict=True):
                into.append(tensor)
        torch._foreach_lerp_(*real, share)
        if counters[0]:
            torch._foreach_copy_(*counters)

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor of the run by name: 'net.', 'ema.' and 'optim.'."""
        tensors = {f"net.{name}": tensor for name, tensor in self.net.state_dict().items()}
        if self.ema is not None:
            tensors |= {f"ema.{name}": tensor for name, tensor in self.ema.state_dict().items()}
        for index, slots in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optim.{index}.{name}": value for name, value in slots.items() if value is not None}
        return tensors

    def inference_tensors(self) -> dict[str, Tensor]:
        """Return the weights that inference uses, by name: 'net.'."""
        return {f"net.{name}": tensor for name, tensor in self.inference_net.state_dict().items()}

    def meta(self) -> dict[str, Any]:
        """Return the rest of the run as JSON."""
        return {"progress": vars(self.progress), "rate": self.rate.state(), "scaler": self.scaler.state_dict()}

    def restore(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Take over what `tensors` and `meta` gave.

        Raises:
            DataError: tensors are missing, extra, or of another shape; they are named.
        """
        load_weights(self.net, strip(tensors, "net."))
        if self.ema is not None:
            load_weights(self.ema, strip(tensors, "ema."))
        slots: dict[int, dict[str, Tensor]] = {}
        for name, tensor in strip(tensors, "optim.").items():
            index, slot = name.split(".", 1)
            slots.setdefault(int(index), {})[slot] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        weights = [p for group in self.optimizer.param_groups for p in group["params"]]
        _check_slots(slots, weights)
        for k, own in slots.items():  # laid out in memory as its weight, which fused optimisers insist on
            own |= {name: torch.empty_like(weights[k]).copy_(tensor) for name, tensor in own.items() if tensor.ndim}
        self.optimizer.load_state_dict({"state": slots, "param_groups": groups})
        self.rate.restore(meta["rate"])
        if meta["scaler"]:
            self.scaler.load_state_dict(meta["scaler"])
        self.progress = Progress(**meta["progress"])


def _check_slots(slots: dict[int, dict[str, Tensor]], weights: list[Tensor]) -> None:
    """Refuse an optimiser's tensors that do not belong to these weights; a weight never used has none."""
    kinds = {name for tensors in slots.values() for name in tensors}
    wanted = {f"{k}.{name}" for k in slots if k < len(weights) for name in kinds}
    given = {f"{k}.{name}": tensor for k, tensors in slots.items() for name, tensor in tensors.items()}
    missing, extra = sorted(wanted - set(given)), sorted(set(given) - wanted)
    shapes = [
        f"optim.{name} {tuple(tensor.shape)}"
        for name, tensor in given.items()
        if name in wanted and tensor.ndim and tensor.shape != weights[int(name.split(".")[0])].shape
    ]
    if missing or extra or shapes:
        raise DataError(
            f"the checkpoint does not fit the optimiser: missing {some(missing) or 'none'}; extra "
            f"{some(extra) or 'none'}; of another shape {some(shapes) or 'none'}."
        )
