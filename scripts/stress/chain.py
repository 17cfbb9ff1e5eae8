"""A small job with all commands: images, given masks, a truth table, a run of two folds; what rows 17 and 18 change."""

import contextlib
import csv
import functools
import http.server
import io
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image
from small import SIZE, image

from wsss.cli import run_stage
from wsss.core.checks import UserError
from wsss.core.label_maps import write_label_map

COUNT = 8
CHANNELS = ("red", "green", "blue", "yellow")


CODED = "red=A,green=B,blue=C,yellow=D"
NAMED = ("A", "B", "C", "D")
"""What files call their channels where these are named by `--channels`."""


def names() -> list[str]:
    """Return the IDs."""
    return [f"i{k:02d}" for k in range(COUNT)]


def write_inputs(home: Path) -> None:
    """Write images (OME-TIFF, channels named), labels, given masks, a truth table and an image of each channel."""
    rng = np.random.default_rng(0)
    for folder in ("images", "given", "site"):
        (home / folder).mkdir(parents=True)
    truth = [["ID", "cell_id", "Label"]]
    for k, name in enumerate(names()):
        write_image(home, name, image(rng).transpose(2, 0, 1))
        label_map = np.zeros((SIZE, SIZE), np.int32)
        label_map[4:28, 4:28], label_map[36:60, 8:40] = 1, 2
        write_label_map(home / "given" / name, label_map)
        truth += [[name, "1", str(k % 2)], [name, "2", str(k % 2)]]
    write_table(home / "truth.csv", truth)
    write_table(home / "train.csv", [["ID", "Label"], *([name, str(k % 2)] for k, name in enumerate(names()))])
    write_mask_set(home / "salt", rng)
    (home / "coded").mkdir()
    for name in names()[:4]:
        write_image(home, name, image(rng).transpose(2, 0, 1), "coded", NAMED)
    for k in range(2):
        (home / "site" / str(k)).mkdir()
        for channel in CHANNELS:
            Image.fromarray(rng.integers(0, 255, (16, 16), np.uint8)).save(
                home / "site" / str(k) / f"1_A_1_{channel}.jpg"
            )


def write_image(
    home: Path, name: str, planes: np.ndarray, folder: str = "images", channels: tuple[str, ...] = CHANNELS
) -> None:
    """Write an image as OME-TIFF without compression: of equal size, whatever it shows."""
    path = home / folder / f"{name}.ome.tif"
    tifffile.imwrite(path, planes, ome=True, metadata={"axes": "CYX", "Channel": {"Name": list(channels)}})


def write_mask_set(folder: Path, rng: np.random.Generator) -> None:
    """Write images and binary masks for the task `masks`, uncompressed."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for name in names():
        write_plane(folder / "images" / f"{name}.bmp", rng.integers(0, 255, (32, 32), np.uint8))
        write_plane(folder / "masks" / f"{name}.bmp", 255 * np.eye(32, dtype=np.uint8))


def write_plane(path: Path, plane: np.ndarray) -> None:
    """Write a grey picture; a BMP is of equal size, whatever it shows."""
    Image.fromarray(plane).save(path)


def write_table(path: Path, rows: list[list[str]]) -> None:
    """Write a CSV table."""
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)


def words(home: Path) -> dict[str, list[str]]:
    """Return the words of the twelve commands, and of a second prediction."""
    data, run, truth = f"--data {home}/data", f"--run {home}/run", f"--truth {home}/truth.csv"
    oof, net = (
        f"--preds {home}/oof",
        "--backbone test_resnet --weights none --crop 64 --batch 4 --workers 0 --device cpu",
    )
    masks, images = f"--masks {home}/given", f"--images {home}/images --labels {home}/train.csv --out {home}/data"
    infer = f"{data} {run} --oof true --device cpu --crops.size 32"
    texts = {
        "prepare": f"{images} --size {SIZE} --folds 2 --workers 0",
        "segment": f"{data} --backend masks {masks} --workers 0",
        "train": f"{data} {run} --fold all --epochs 1 {net} --feature_classifier.enabled false",
        "infer": f"{infer} --out {home}/oof",
        "infer-2": f"{infer} --out {home}/second --score.region topk",
        "pseudo": f"{data} {run} --out {home}/pseudo --device cpu --tta.views none --tta.scales [1.0]",
        "ensemble": f"{oof} {home}/second --out {home}/blend --weights auto {data}",
        "calibrate": f"{oof} --out {home}/curves.json",
        "evaluate": f"{oof} {truth} {masks} {data}",
        "export": f"{oof} --to geojson --out {home}/geojson",
        "report": f"{oof} --out {home}/report.html --most 4 --crops 2",
        "overlay": f"{oof} {data} --out {home}/pictures --most 3 --max-size 96",
        "prepare-coded": f"--images {home}/coded --out {home}/recoded --size {SIZE} --workers 0 --channels {CODED}",
        "train-features": f"{data} --run {home}/features --fold 0 --epochs 1 {net} --feature_classifier.enabled true "
        "--feature_classifier.copies 0 --feature_classifier.weak.trees 5",
        "train-masks": f"--task masks --data {home}/salt --run {home}/saltrun --fold 0 --epochs 1 --backbone resnet10t "
        "--weights none --unet.channels [8,8,8,8,8] --crop 32 --batch 4 --workers 0 --device cpu",
        "infer-masks": f"--data {home}/salt --run {home}/saltrun --out {home}/saltpreds --device cpu",
        "evaluate-masks": f"--preds {home}/saltpreds --truth {home}/salt",
        "prepare-two": f"--images {home}/images --out {home}/two --size {SIZE} --workers 0",
        "infer-segment": f"--data {home}/two {run} --segment classical --out {home}/found --device cpu --crops.size 32",
        "download": f"--ids 0/1_A_1,1/1_A_1 --out {home}/fetched --base BASE --rate 100 --retries 0",
    }
    return {name: text.split() for name, text in texts.items()}


OUT = {
    "prepare": ["data"],
    "segment": ["data"],
    "train": ["run"],
    "infer": ["oof"],
    "pseudo": ["pseudo"],
    "ensemble": ["blend"],
    "calibrate": ["curves.json", "curves.png"],
    "evaluate": ["oof"],
    "export": ["geojson"],
    "report": ["report.html"],
    "overlay": ["pictures"],
    "download": ["fetched"],
}
"""Command -> what it writes into, in the order of the job."""


def call(name: str, arguments: list[str]) -> tuple[int, str]:
    """Run a command in this process; return its exit code (2 for a mistake) and all it said."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(io.StringIO()):
        try:
            code = run_stage(name.partition("-")[0], arguments)
        except UserError as error:
            return 2, f"{text.getvalue()}error: {error}"
    return code, text.getvalue()


@contextlib.contextmanager
def site(home: Path, chain: dict[str, list[str]]):  # type: ignore[no-untyped-def]
    """Serve the pictures that download fetches, and put the address into its words."""
    handler: Callable[..., http.server.BaseHTTPRequestHandler] = functools.partial(_Quiet, directory=str(home / "site"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_address[1]}"
    chain["download"] = [base if word == "BASE" else word for word in chain["download"]]
    try:
        yield
    finally:
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""
