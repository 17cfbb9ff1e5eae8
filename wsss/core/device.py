"""Where a network computes, and in which arithmetic."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from wsss.core.checks import ConfigError

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
        """Move a network there; on a GPU its weights lie channels last, and so will its maps: tensor cores want it."""
        import torch

        net = net.to(self.place)
        return net.to(memory_format=torch.channels_last) if self.is_cuda else net

    def searching(self) -> AbstractContextManager[object]:
        """Return the context in which a GPU's fastest convolutions are searched, once for each size of images."""
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
