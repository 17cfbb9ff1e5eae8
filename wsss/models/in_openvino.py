"""Classifiers computed by OpenVINO on the CPU: the same numbers but for rounding, sooner."""

import warnings

import torch
from torch import Tensor, nn

from wsss.core.checks import ConfigError, install
from wsss.models.cam_net import CamNet, CamOutput
from wsss.models.device import Device


class InOpenVino(nn.Module):
    """A `CamNet` for inference, computed by OpenVINO in float32.

    Args:
        net: in evaluation mode, on the CPU.

    Raises:
        ConfigError: openvino is not installed.
    """

    def __init__(self, net: CamNet) -> None:
        super().__init__()
        try:
            import openvino  # an extra
        except ImportError as error:
            raise ConfigError(f"--runtime openvino needs openvino: {install('openvino')}.") from error
        self.classifier = net.classifier
        example = torch.zeros(2, net.mean.shape[0], 64, 96, dtype=torch.uint8)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's tracer warns of sizes that it takes for fixed; no output is
            model = openvino.convert_model(net, example_input=example)
        hints = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
        self._compiled = openvino.Core().compile_model(model, "CPU", hints)

    def forward(self, images: Tensor) -> CamOutput:
        """Classify (B, channels, H, W) uint8 images of any size."""
        found = self._compiled(images.contiguous().numpy())
        return CamOutput(*(torch.from_numpy(found[k]) for k in range(3)))


def check_runtime(device: Device) -> None:
    """Refuse a device, or an arithmetic, that OpenVINO is not for.

    Raises:
        ConfigError: it is a GPU, or in half precision.
    """
    if device.is_cuda or device.half is not None:
        raise ConfigError("--runtime openvino computes on the CPU in fp32: pass --device cpu, leave --precision out.")
