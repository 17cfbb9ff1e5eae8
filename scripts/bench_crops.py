"""How large must the crops of stage 2 be: average precision of their scores alone, and CPU seconds of an image.

python scripts/bench_crops.py --data data/val --run runs/mine --truth cells_truth.csv [--sizes 96 128 192 256 384]

The network sees every cell in crops of each size, and once without any crop: RoIAlign reads the cell's square from the
features of the whole field, which stage 1 has computed anyway. The true cells are joined by their numbers. The time is
that of the network and of the cutting, without stage 1; for RoIAlign it is what comes after stage 1.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import roi_align

from wsss import cli
from wsss.cells.instances import crop_batches
from wsss.cells.regions import cell_ids, describe_cells
from wsss.core.console import progress, say
from wsss.data.catalog import DataSet
from wsss.inference.checkpoints import load_run
from wsss.metrics.cells import CellTruth, join_by_number, read_cell_truth
from wsss.metrics.classify import average_precision, mean_of_classes
from wsss.models.cam_net import CamNet, crop_outputs, see_images
from wsss.models.device import Device, choose_device

BINS = 7
"""RoIAlign's points a side."""
ALIKE = 0.005
"""Average precision that a faster way may lose."""


@dataclass
class Way:
    """One way of scoring cells, and what came of it."""

    score: Callable[[np.ndarray, np.ndarray, Tensor], np.ndarray]
    """Image (C, S, S), label map (S, S), features of the field (1, D, h, w) -> (N, K) scores."""
    scores: list[np.ndarray] = field(default_factory=list)
    seconds: float = 0.0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="data set with segmented cells")
    parser.add_argument("--run", type=Path, required=True, help="run that never saw it; its first network is taken")
    parser.add_argument("--truth", type=Path, required=True, help="table of true cells")
    parser.add_argument("--sizes", type=int, nargs="+", default=[384, 256, 192, 128, 96], help="the recipe's first")
    parser.add_argument("--most", type=int, default=10**6, help="images at most")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(argv)
    device, data = choose_device(args.device), DataSet.open(args.data)
    checkpoint = load_run(args.run, device)[0]
    net, crops = checkpoint.net.eval(), checkpoint.recipe.crops

    def by_crops(size: int) -> Callable[[np.ndarray, np.ndarray, Tensor], np.ndarray]:
        config = replace(crops, mode="fit", size=size)
        return lambda image, label_map, _: crop_outputs(net, crop_batches([(image, label_map)], config), device)[0]

    ways = {f"crops of {size} px": Way(by_crops(size)) for size in args.sizes}
    ways["RoIAlign"] = Way(lambda image, label_map, features: roi_probs(net, label_map, features))
    truth, images = read_cell_truth(args.truth, data.classes), np.flatnonzero(data.ok)[: args.most]
    names, numbers = see(data, images, ways, net, device)
    report(ways, join_truth(truth, names, numbers), len(images))
    return 0


def see(
    data: DataSet, images: np.ndarray, ways: dict[str, Way], net: CamNet, device: Device
) -> tuple[np.ndarray, np.ndarray]:
    """Let every way score the cells of every image; return the cells' images and numbers."""
    names, numbers = [], []
    for i in progress(images.tolist(), "cells"):
        image, label_map = np.array(data.image(i)), data.geometry(i).labels_to_store(data.cells(i))
        ids = cell_ids(label_map)
        names += [data.ids[i]] * len(ids)
        numbers += ids.tolist()
        with torch.no_grad():
            features = see_images(net, device.put(torch.from_numpy(image[None])), device).features.float()
        for way in ways.values():
            began = time.process_time()
            way.scores.append(way.score(image, label_map, features))
            way.seconds += time.process_time() - began
    return np.array(names), np.array(numbers)


@torch.no_grad()
def roi_probs(net: CamNet, label_map: np.ndarray, features: Tensor) -> np.ndarray:
    """Return (N, K) probabilities of the cells, read from the features of the whole field."""
    cells = describe_cells(label_map)
    y0, x0, y1, x1 = cells[["y0", "x0", "y1", "x1"]].to_numpy(np.float32).T
    half, y, x = np.maximum(y1 - y0, x1 - x0) / 2, (y0 + y1) / 2, (x0 + x1) / 2
    squares = torch.from_numpy(np.stack([x - half, y - half, x + half, y + half], axis=1)).to(features.device)
    scale = features.shape[-1] / label_map.shape[-1]
    pooled = roi_align(features, [squares], BINS, scale, sampling_ratio=2, aligned=True).mean((2, 3), keepdim=True)
    probs: np.ndarray = net.classifier(pooled)[:, :, 0, 0].float().sigmoid().cpu().numpy()
    return probs


def join_truth(truth: CellTruth, names: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of the cells that are in the table, and their (n, K) true classes."""
    rows = join_by_number(truth, names, numbers).rows
    return rows[rows >= 0], truth.labels[rows >= 0]


def report(ways: dict[str, Way], joined: tuple[np.ndarray, np.ndarray], images: int) -> None:
    """Print a line for each way."""
    rows, labels = joined
    say(f"{len(rows)} cells in {images} images")
    say(f"{'':18}{'mean AP':>9}{'lost':>8}{'CPU s an image':>16}{'times as fast':>15}")
    first = next(iter(ways))
    ap = {
        name: mean_of_classes(average_precision(labels, np.concatenate(way.scores)[rows])) for name, way in ways.items()
    }
    for name, way in ways.items():
        lost, faster = ap[first] - ap[name], ways[first].seconds / way.seconds
        note = "  alike" if lost < ALIKE else ""
        say(f"{name:18}{ap[name]:9.3f}{lost:8.3f}{way.seconds / images:16.3f}{faster:15.1f}{note}")


if __name__ == "__main__":
    cli.run(main)
