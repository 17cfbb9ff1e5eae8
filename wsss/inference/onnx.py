"""The class map network as ONNX, compared with PyTorch before it is handed over."""

import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wsss.core.checks import ConfigError, DataError
from wsss.core.files import write_bytes
from wsss.core.runtime import waiting
from wsss.inference.checkpoints import CamCheckpoint
from wsss.models.cam_net import CamNet

TOLERANCE = 1e-3
"""Largest difference from PyTorch: of probabilities, and of class maps relative to their largest value."""
SAMPLES = ((1, 128, 128), (3, 192, 256))
"""Images, height and width of what is compared."""


class _Outputs(nn.Module):
    """The network with the two outputs that are exported."""

    def __init__(self, net: CamNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        output = self.net(images)
        return output.logits.sigmoid(), output.cam


def export_onnx(members: list[CamCheckpoint], out: Path) -> list[tuple[Path, float]]:
    """Write <out>/fold<k>.onnx for every network; return each file with its largest difference from PyTorch.

    Input `images`: (B, C, H, W) float32, 0..255, H and W multiples of 32. Outputs `probs` (B, K) and `cam`
    (B, K, h, w), raw class maps. B, H and W are free.

    Raises:
        ConfigError: the ONNX packages are not installed.
        DataError: the exported network does not agree with PyTorch.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"--to onnx needs {error.name}: pip install 'wsss[onnx]'.") from error
    done = []
    for member in members:
        name = "full" if member.fold is None else f"fold{member.fold}"
        net = _Outputs(member.net).eval()
        with waiting(f"export {name}"):
            content = _convert(net, channels=len(member.record.channels))
            worst = _compare(content, net, len(member.record.channels))
        if not worst <= TOLERANCE:
            raise DataError(f"{member.path}: as ONNX it differs from PyTorch by {worst:.2g}, allowed is {TOLERANCE:g}.")
        write_bytes(out / f"{name}.onnx", content)
        done.append((out / f"{name}.onnx", worst))
    return done


def _convert(net: nn.Module, channels: int) -> bytes:
    free = torch.export.Dim.DYNAMIC
    example = torch.zeros(2, channels, 128, 160)
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # the exporter speaks of its own internals
        program: Any = torch.onnx.export(
            net,
            (example,),
            dynamo=True,
            input_names=["images"],
            output_names=["probs", "cam"],
            dynamic_shapes={"images": {0: free, 2: free, 3: free}},
            verbose=False,
        )
        path = Path(folder) / "network.onnx"
        program.save(str(path))
        return path.read_bytes()


def _compare(content: bytes, net: nn.Module, channels: int) -> float:
    """Return the largest difference of both outputs over images of several sizes."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    random, worst = np.random.default_rng(0), 0.0
    for count, height, width in SAMPLES:
        images = random.random((count, channels, height, width), np.float32) * 255
        with torch.no_grad():
            probs, cam = (output.numpy() for output in net(torch.from_numpy(images)))
        found_probs, found_cam = session.run(None, {"images": images})
        scale = max(float(np.abs(cam).max()), 1e-6)
        worst = max(worst, float(np.abs(found_probs - probs).max()), float(np.abs(found_cam - cam).max()) / scale)
    return worst
