"""Train the U-Net of `segment --backend unet` on composed and drawn fields, and write the weights that ship with wsss.

    python scripts/train_segmenter.py CELLS --work runs/segmenter --out wsss/segmenters/cell_unet.safetensors
        [--split train] [--scenes 240] [--drawn 30] [--steps 2400] [--batch 4] [--seed 0] [--minutes 10]

CELLS is a folder as of scripts/compose_cells.py; only cells of --split are used. The scenes are made once and kept in
--work; a run that was ended (by --minutes, or Ctrl-C) goes on from its last checkpoint with the same command. The same
arguments give the same pictures.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from composing.cells import CellBank
from composing.scenes import Scene, compose_scene, drawn_scene, photograph_scene
from safetensors.torch import save

from wsss import cli
from wsss.core.console import progress, say
from wsss.core.files import BLANK, sealed, write_bytes
from wsss.models.unet import BACKBONE, build_cell_unet
from wsss.options.masks import MaskLossConfig
from wsss.segmenters.cell_unet import FORMAT, stretch
from wsss.training.losses import MaskLoss

SAVE_EVERY = 20


def make_scenes(options: argparse.Namespace) -> list[Scene]:
    """Make the scenes, or read those that were made before."""
    folder = options.work / "scenes"
    folder.mkdir(parents=True, exist_ok=True)
    bank = CellBank(options.cells, options.split)
    scenes = []
    for k in progress(range(options.scenes + options.drawn), "scenes"):
        path = folder / f"{k:05d}.npy"
        if not path.exists():
            rng = np.random.default_rng([options.seed, k])
            scene = compose_scene(bank, rng) if k < options.scenes else drawn_scene(rng)
            np.save(path.with_suffix(".part.npy"), np.concatenate([scene.light, scene.target]))
            path.with_suffix(".part.npy").rename(path)
        both = np.load(path)
        scenes.append(Scene(both[:3], both[3:]))
    return scenes


def batch(scenes: list[Scene], step: int, options: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the images and targets of a step."""
    rng = np.random.default_rng([options.seed, 1, step])
    pairs = [photograph_scene(scenes[k], rng) for k in rng.choice(len(scenes), options.batch, replace=False)]
    images = np.stack([stretch(image) for image, _ in pairs])
    return torch.from_numpy(images), torch.from_numpy(np.stack([target for _, target in pairs]))


def rate(done: float) -> float:
    """Return the share of the full learning rate when a share of the steps is done: a ramp, then half a cosine."""
    return min(1.0, 10 * done + 0.01) if done < 0.1 else 0.5 + 0.5 * math.cos(math.pi * (done - 0.1) / 0.9)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--split", default="train", help="value of the column 'split' to draw cells from")
    parser.add_argument("--scenes", type=int, default=240, help="composed scenes")
    parser.add_argument("--drawn", type=int, default=30, help="scenes drawn by code")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after this long, to go on later")
    options = parser.parse_args()

    end = time.monotonic() + 60 * options.minutes
    cv2.setNumThreads(1)
    torch.manual_seed(options.seed)
    net = build_cell_unet().to(memory_format=torch.channels_last)
    optim = torch.optim.AdamW(net.parameters(), options.lr, weight_decay=1e-4)
    parts: dict[str, Any] = {"net": net, "optim": optim}
    last, first = options.work / "last.pt", 0
    if last.exists():
        saved = torch.load(last, weights_only=True)
        first = saved["step"]
        for name, part in parts.items():
            part.load_state_dict(saved[name])
    scenes = make_scenes(options)
    loss = MaskLoss(MaskLossConfig(terms={"bce": 1, "dice": 0.5}))
    recent: list[float] = []
    for step in range(first, options.steps):
        images, target = batch(scenes, step, options)
        logits = net(images.to(memory_format=torch.channels_last)).logits
        total = loss(logits, target)["loss"]
        for group in optim.param_groups:
            group["lr"] = options.lr * rate(step / options.steps)
        optim.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optim.step()
        recent.append(float(total.detach()))
        late = time.monotonic() > end
        if late or (step + 1) % SAVE_EVERY == 0 or step + 1 == options.steps:
            say(f"step {step + 1} of {options.steps}: loss {sum(recent) / len(recent):.4f}")
            recent.clear()
            state = {name: part.state_dict() for name, part in parts.items()} | {"step": step + 1}
            torch.save(state, last.with_suffix(".part"))
            last.with_suffix(".part").rename(last)
        if late:
            break
    export(net, options)
    return 0


def export(net: torch.nn.Module, options: argparse.Namespace) -> None:
    """Write the weights as float16."""
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in net.state_dict().items()}
    half = {name: tensor.contiguous() for name, tensor in half.items()}
    about = {
        "format": FORMAT,
        "backbone": BACKBONE,
        "split": options.split,
        "steps": options.steps,
        "seed": options.seed,
    }
    write_bytes(options.out, sealed(save(half, {"wsss": json.dumps({**about, "seal": BLANK})})))
    say(f"{options.out}: {options.out.stat().st_size / 2**20:.2f} MiB")


if __name__ == "__main__":
    cli.run(lambda _: main())
