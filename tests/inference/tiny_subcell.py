"""A tiny SubCell with known weights, by the names of its authors' files."""

import zlib
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

WIDTH, HIDDEN, SIZE = 128, 192, 64


@cache
def formula(name: str, shape: tuple[int, ...], factor: float = 2.0) -> torch.Tensor:
    """Return the weights of that name that the known numbers below were computed from."""
    x = np.sin(0.7 * np.arange(int(np.prod(shape))) + zlib.crc32(name.encode()) % 1000).reshape(shape)
    kind = name.split(".")[-1]
    if kind == "running_var":
        x = 1 + 0.5 * x**2
    elif kind == "weight":
        x = 1 + 0.1 * x if len(shape) == 1 else factor * x / np.sqrt(np.prod(shape[1:]))
    else:
        x = 0.1 * x
    return torch.from_numpy(x.astype(np.float32))


def linear(name: str, outputs: int, inputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def encoder(channels: int = 4) -> dict[str, torch.Tensor]:
    """Return a tiny SubCell's encoder with its pooling, by the names of the authors' files."""
    stem = "encoder.embeddings."
    shapes: dict[str, tuple[int, ...]] = {
        f"{stem}cls_token": (1, 1, WIDTH),
        f"{stem}position_embeddings": (1, (SIZE // 16) ** 2 + 1, WIDTH),
        f"{stem}patch_embeddings.projection.weight": (WIDTH, channels, 16, 16),
        f"{stem}patch_embeddings.projection.bias": (WIDTH,),
    }
    for n in range(2):
        layer = f"encoder.encoder.layer.{n}"
        for name in ("query", "key", "value"):
            shapes |= linear(f"{layer}.attention.attention.{name}", WIDTH, WIDTH)
        shapes |= linear(f"{layer}.attention.output.dense", WIDTH, WIDTH)
        shapes |= linear(f"{layer}.intermediate.dense", HIDDEN, WIDTH) | linear(f"{layer}.output.dense", WIDTH, HIDDEN)
        for norm in ("before", "after"):
            shapes |= {f"{layer}.layernorm_{norm}.{kind}": (WIDTH,) for kind in ("weight", "bias")}
    shapes |= {f"encoder.layernorm.{kind}": (WIDTH,) for kind in ("weight", "bias")}
    for gate in ("v", "u"):
        shapes |= linear(f"pool_model.attention_{gate}.1", 32, WIDTH)
    shapes |= linear("pool_model.attention", 2, 32)
    return {name: formula(name, shape) for name, shape in shapes.items()}


def classifier(seed: int) -> dict[str, torch.Tensor]:
    shapes = linear("0", 512, 2 * WIDTH) | linear("3", 256, 512) | linear("6", 31, 256)
    return {name: formula(f"{seed}:{name}", shape) for name, shape in shapes.items()}


def write_subcell(folder: Path) -> list[Path]:
    """Write an encoder and two classifiers into a folder; return their paths."""
    paths = [folder / "encoder.pth", folder / "classifier_0.pth", folder / "classifier_1.safetensors"]
    torch.save(encoder(), paths[0])
    torch.save(classifier(0), paths[1])
    save_file(classifier(1), paths[2])
    return paths
