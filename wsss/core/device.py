"""Where a network computes, and in which arithmetic."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wsss.core.checks import ConfigError

if TYPE_CHECKING:
    import torch


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
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device is '{name}', but PyTorch sees no GPU: pass --device cpu, or install its CUDA build.")
    if precision == "auto":
        precision = ("bf16" if torch.cuda.is_bf16_supported() else "fp16") if device.type == "cuda" else "fp32"
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError("precision is fp16, which needs a GPU: choose fp32 or bf16 on the CPU.")
    return Device(device, {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision])
