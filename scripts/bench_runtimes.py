"""Time the network alone in several runtimes on the CPU: PyTorch, torch.compile, ONNX Runtime, OpenVINO.

python scripts/bench_runtimes.py [--backbones tf_efficientnet_lite0 seresnext50] [--threads 1] [--rounds 5]

Stage 1 is one field of 512 px, stage 2 a batch of crops of 384 px (--edges, --crops). In every round the runtimes take
turns; printed are the median of the CPU seconds (all threads), how many times as fast as PyTorch each is (median of the
rounds' ratios, and their range), and the largest difference of a probability. Runtimes whose packages are missing are
left out, with a note.
"""

import argparse
import importlib.util
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from wsss import cli
from wsss.core.console import say
from wsss.core.labels import HPA
from wsss.models.cam_net import CamNet, InOpenVino, build_cam_net
from wsss.options.recipe import ClassifyRecipe

Infer = Callable[[np.ndarray], np.ndarray]
"""Images (B, 4, S, S) float32 in 0..255 -> probabilities (B, K)."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=["tf_efficientnet_lite0", "seresnext50"])
    parser.add_argument("--runtimes", nargs="+", choices=list(RUNTIMES), default=list(RUNTIMES))
    parser.add_argument("--edges", type=int, nargs=2, default=[512, 384], help="of the field and of the crops, pixels")
    parser.add_argument("--crops", type=int, default=2, help="crops at a time")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    rng = np.random.default_rng(0)
    shapes = {"stage 1": (1, args.edges[0]), "stage 2": (args.crops, args.edges[1])}
    say(f"{'':33}{'runtime':15}{'CPU s an image':>16}{'times as fast':>15}{'range':>13}{'differs by':>12}")
    for backbone in args.backbones:
        net = network(backbone)
        for stage, (count, edge) in shapes.items():
            images = rng.integers(0, 256, (count, 4, edge, edge)).astype(np.float32)
            for line in compare(net, images, args):
                say(f"{backbone:24}{stage:9}{line}")
    return 0


def network(backbone: str) -> "Probabilities":
    """Return a network with random weights, in evaluation mode."""
    torch.manual_seed(0)
    recipe = ClassifyRecipe(backbone=backbone, weights="none")
    return Probabilities(build_cam_net(recipe, channels=4, classes=len(HPA), pretrained=False)).eval()


class Probabilities(nn.Module):
    """The network with its image probabilities as the only output."""

    def __init__(self, net: CamNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, K) probabilities of (B, C, H, W) images in 0..255."""
        probs: Tensor = self.net(images).logits.sigmoid()
        return probs


def compare(net: Probabilities, images: np.ndarray, args: argparse.Namespace) -> list[str]:
    """Return a line for each runtime."""
    ways: dict[str, Infer] = {}
    for name in args.runtimes:
        lacking = [package for package in PACKAGES.get(name, ()) if importlib.util.find_spec(package) is None]
        if lacking:
            say(f"note: no {name}: {', '.join(lacking)} is not installed")
        else:
            ways[name] = RUNTIMES[name](net, images, args.threads)
    wanted = {name: way(images) for name, way in ways.items()}  # and the first call is over
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.rounds):
        for name, way in ways.items():
            began = time.process_time()
            way(images)
            seconds[name].append((time.process_time() - began) / len(images))
    first = next(iter(ways))
    lines = []
    for name, spent in seconds.items():
        ratios = np.divide(seconds[first], spent)
        apart = np.abs(wanted[name] - wanted[first]).max()
        span = f"{ratios.min():.2f}-{ratios.max():.2f}"
        lines.append(f"{name:15}{np.median(spent):16.3f}{np.median(ratios):15.2f}{span:>13}{apart:12.1g}")
    return lines


def eager(net: Probabilities, images: np.ndarray, threads: int) -> Infer:
    """Return the network as infer runs it."""
    return partial(_run, net, None)


def half(net: Probabilities, images: np.ndarray, threads: int) -> Infer:
    """Return the network as infer --precision bf16 runs it."""
    return partial(_run, net, torch.bfloat16)


def compiled(net: Probabilities, images: np.ndarray, threads: int) -> Infer:
    """Return the network as torch.compile makes it for images of one shape."""
    return partial(_run, torch.compile(net, dynamic=False), None)


@torch.no_grad()
def _run(net: Callable[[Tensor], Tensor], dtype: torch.dtype | None, images: np.ndarray) -> np.ndarray:
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        return net(torch.from_numpy(images)).float().numpy()


def onnx_bytes(net: Probabilities, images: np.ndarray) -> bytes:
    """Return the network in ONNX for images of one shape."""
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # the exporter warns of its internals
        path = Path(folder) / "network.onnx"
        torch.onnx.export(net, (torch.from_numpy(images),), str(path), input_names=["images"], dynamo=False)
        return path.read_bytes()


def onnxruntime(net: Probabilities, images: np.ndarray, threads: int) -> Infer:
    """Return the network in ONNX Runtime."""
    import onnxruntime as runtime  # only where it is asked for

    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    session = runtime.InferenceSession(onnx_bytes(net, images), options, providers=["CPUExecutionProvider"])
    return lambda given: np.asarray(session.run(None, {"images": given})[0])


def openvino(net: Probabilities, images: np.ndarray, threads: int) -> Infer:
    """Return the network as infer --runtime openvino runs it."""
    model = InOpenVino(net.net)
    return lambda given: model(torch.from_numpy(given.astype(np.uint8))).logits.sigmoid().numpy()


RUNTIMES: dict[str, Callable[[Probabilities, np.ndarray, int], Infer]] = {
    "eager": eager,
    "bf16": half,
    "compile": compiled,
    "onnx": onnxruntime,
    "openvino": openvino,
}
"""Name -> what makes the network ready for images of one shape; the first is what the others are compared with."""
PACKAGES = {"onnx": ("onnx", "onnxruntime"), "openvino": ("openvino",)}


if __name__ == "__main__":
    cli.run(main)
