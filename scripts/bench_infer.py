"""Time the whole chain on large synthetic fields with given masks, against a plain rendering of the recipe.

python scripts/bench_infer.py [--images 8 24] [--edge 2048] [--backbone test_resnet] [--plain 8]

Draws fields small and enlarges them (48 at most: larger sets repeat them), writes the channel files and masks, then
runs prepare, segment --backend masks and infer, and the plain rendering (plain_recipe.py), each in a process of its
own. The network has random weights, so every class passes the recipe's threshold and no loop is spared. Prints for an
image the seconds on the clock and those of the processor (all processes and threads; other work on the machine hardly
changes them), the share of the time that is not spent in the network, the peak of the memory for each number of images,
and the largest difference of a score.
Start-up (Python, imports) is not counted.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from PIL import Image

from wsss import cli
from wsss.core.console import say
from wsss.core.labels import HPA, HPA_CHANNELS
from wsss.core.runtime import versions
from wsss.data.synthetic import draw_field
from wsss.inference.checkpoints import load_classifier
from wsss.models.cam_net import CamNet, build_cam_net
from wsss.models.device import choose_device
from wsss.options.recipe import ClassifyRecipe
from wsss.runs.record import RunRecord
from wsss.runs.run_folder import RunFolder

DIFFERENT = 48
"""Fields that are drawn; larger sets repeat them."""
STAGES = ("prepare", "segment", "infer")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[8, 24], help="sizes of the set to predict")
    parser.add_argument("--edge", type=int, default=2048, help="edge of the fields, pixels")
    parser.add_argument("--backbone", default="test_resnet")
    parser.add_argument("--precision", default="fp32", help="fp32, or bf16, of infer; the plain rendering keeps fp32")
    parser.add_argument("--plain", type=int, default=8, help="images that the plain rendering predicts; 0 to skip it")
    parser.add_argument("--folder", type=Path, help="where to write (default: the folder for temporary files)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        compare(Path(folder), args)
    return 0


def compare(folder: Path, args: argparse.Namespace) -> None:
    """Print the table."""
    make_run(folder / "run", args.backbone)
    say(f"{args.backbone}, {args.precision}, {torch.get_num_threads()} threads, fields of {args.edge} px")
    say(f"{'':10}{'images':>8}{'cells':>8}{'s an image':>12}{'CPU s':>8}{'not network':>13}{'peak MB':>9}")
    ours = {}
    for count in args.images:
        cells = write_fields(folder / str(count), count, args.edge)
        for stage, words in commands(folder, str(count), args.precision).items():
            usage = child(stage, words)
            ours[stage] = report(stage, count, cells, usage)
    if args.plain:
        count = min(args.plain, args.images[-1])
        usage = child("plain", [str(folder), str(args.images[-1]), str(count)])
        plain = report("plain", count, 0, usage)
        for k, what in enumerate(("s an image", "CPU s")):
            whole = sum(spent[k] for spent in ours.values())
            ratio = plain[k] / ours["infer"][k]
            say(f"{what}: plain / infer {ratio:.1f}, plain / (prepare + segment + infer) {plain[k] / whole:.1f}")
        say(f"largest difference of a score {difference(folder, str(args.images[-1])):.1e}")


def commands(folder: Path, name: str, precision: str) -> dict[str, list[str]]:
    """Return the words of each stage."""
    fields, data = folder / name, folder / f"data{name}"
    chosen = ["--device", "cpu", "--precision", precision]
    return {
        "prepare": ["--images", f"{fields}/images", "--out", str(data)],
        "segment": ["--data", str(data), "--backend", "masks", "--masks", f"{fields}/masks"],
        "infer": ["--data", str(data), "--run", f"{folder}/run", "--out", f"{folder}/preds{name}", *chosen],
    }


def report(name: str, count: int, cells: int, usage: dict[str, float]) -> tuple[float, float]:
    """Print one row; return the seconds an image, by the clock and of the processor."""
    each, spent = usage["seconds"] / count, usage["processor"] / count
    outside = f"{1 - usage['network'] / usage['seconds']:.1%}" if usage["network"] else "-"
    peak = f"{usage['peak'] / 1024:.0f}"
    say(f"{name:10}{count:8}{cells or '':>8}{each:12.3f}{spent:8.3f}{outside:>13}{peak:>9}")
    return each, spent


def child(part: str, words: list[str]) -> dict[str, float]:
    """Run one measurement in a process of its own."""
    place = str(Path(__file__).parent)
    # not this file itself: the workers of a stage would import it, with all that it imports
    code = f"import sys; sys.path.insert(0, {place!r}); import bench_infer; bench_infer.measure({part!r}, {words!r})"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{part} failed: {done.stdout}")
    usage: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return usage


def measure(part: str, words: list[str]) -> None:
    """Run a stage, or the plain rendering; print its seconds, those in the network, and its peak memory in kB."""
    importlib.import_module("wsss.inference.pipeline")
    network = [0.0]
    CamNet.forward = timed(CamNet.forward, network)  # type: ignore[method-assign]
    begin, spent = time.perf_counter(), processor()
    peak = follow_memory()
    if part == "plain":
        run_plain(Path(words[0]), words[1], int(words[2]))
    else:
        importlib.import_module(f"wsss.{part}").main(words)
    seconds, spent = time.perf_counter() - begin, processor() - spent
    print(json.dumps({"seconds": seconds, "processor": spent, "network": network[0], "peak": peak[0]}))


def follow_memory() -> list[int]:
    """Return a list whose one entry becomes, as time goes on, the peak of this process's own memory in kB.

    Pages of files, such as the store's, are left out: the system can take them back.
    """
    peak = [0]

    def follow() -> None:
        while True:
            lines = Path("/proc/self/status").read_text().splitlines()
            peak[0] = max(peak[0], *(int(line.split()[1]) for line in lines if line.startswith("RssAnon")))
            time.sleep(0.02)

    threading.Thread(target=follow, daemon=True).start()
    return peak


def processor() -> float:
    """Return the processor's seconds of this process and of those it has waited for."""
    now = os.times()
    return now.user + now.system + now.children_user + now.children_system


def timed(function: Callable[..., Any], total: list[float]) -> Callable[..., Any]:
    """Add the seconds that calls of `function` take to `total`."""

    def call(*words: Any) -> Any:
        begin = time.perf_counter()
        result = function(*words)
        total[0] += time.perf_counter() - begin
        return result

    return call


def run_plain(folder: Path, name: str, count: int) -> None:
    """Predict the first images plainly, and write their scores and submission."""
    from plain_recipe import predict_image

    net = load_classifier(RunFolder(folder / "run"), choose_device("cpu")).net
    names = sorted(path.stem for path in (folder / name / "masks").iterdir())[:count]
    tables, lines = zip(*(predict_image(net, folder / name, one) for one in names), strict=True)
    pd.concat(tables).to_parquet(folder / "plain.parquet")
    (folder / "plain.csv").write_text("\n".join(lines))


def difference(folder: Path, name: str) -> float:
    """Return the largest difference between the plain scores and ours."""
    plain = pd.read_parquet(folder / "plain.parquet").set_index(["ID", "cell_id"])
    ours = pd.read_parquet(folder / f"preds{name}" / "cells.parquet").set_index(["ID", "cell_id"]).loc[plain.index]
    columns = [str(k) for k in range(len(HPA.names))]
    return float(np.abs(plain[columns].to_numpy() - ours[columns].to_numpy()).max())


def make_run(folder: Path, backbone: str) -> None:
    """Write a run whose network has random weights."""
    torch.manual_seed(0)
    recipe = ClassifyRecipe(backbone=backbone, weights="none")
    net = build_cam_net(recipe, channels=len(HPA_CHANNELS), classes=len(HPA.names), pretrained=False)
    run = RunFolder(folder)
    folder.mkdir()
    record = RunRecord(recipe, None, "", (), HPA_CHANNELS, HPA.names, size=512, versions=versions())
    run.begin(record)
    run.save_best({f"net.{name}": tensor for name, tensor in net.state_dict().items()}, record.meta())


def write_fields(folder: Path, count: int, edge: int) -> int:
    """Draw fields at a quarter of their edge and write them enlarged; return the number of cells.

    Only the first DIFFERENT are drawn; the others are further names of the same files.
    """
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    cells = []
    for k in range(min(count, DIFFERENT)):
        field = draw_field(np.random.default_rng([7, k]), edge // 4, [k % 18])
        cells.append(int(field.label_map.max()))
        for channel, plane in zip(HPA_CHANNELS, field.image, strict=True):
            large = cv2.resize(plane, (edge, edge), interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(folder / f"images/im{k:05}_{channel}.png"), large, [cv2.IMWRITE_PNG_COMPRESSION, 1])
        mask = cv2.resize(field.label_map.astype(np.uint16), (edge, edge), interpolation=cv2.INTER_NEAREST)
        Image.fromarray(mask).save(folder / f"masks/im{k:05}.png", compress_level=1)
    for k in range(DIFFERENT, count):
        for path in (*(f"images/im{{:05}}_{channel}.png" for channel in HPA_CHANNELS), "masks/im{:05}.png"):
            (folder / path.format(k)).hardlink_to(folder / path.format(k % DIFFERENT))
    return sum(cells[k % DIFFERENT] for k in range(count))


if __name__ == "__main__":
    cli.run(main)
