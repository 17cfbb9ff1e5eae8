"""Time and memory of what every stage does around its pixels, on catalogues of growing size.

python scripts/bench_scale.py [--images 10000 100000] [--cells 20] [--stages prepare open ...] [--folder DIR]

Draws small distinct images (64 px, one in a hundred a copy of another), repeats a few label maps by hard links, and
writes two tables of out-of-fold predictions of all cells and a table of their true classes. Each stage runs in a
process of its own; printed are its CPU seconds (user and system, all threads) and its peak of resident memory, pages of
mapped files included; and by what factor both grow from one catalogue to the next, what START images take left out:
growth in proportion to the images is a factor of 11 from 1,000 to 10,000 and of 10.1 from there to 100,000.
With --folder the files stay, and so do the figures (used.json beside them): the same command goes on where it was
stopped, with --again it measures the stages once more. 100,000 images take 12 GB and some hours.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from PIL import Image

from wsss.core import rle
from wsss.core.console import say
from wsss.core.files import digest_file, read_json, write_json
from wsss.core.labels import HPA, format_label
from wsss.core.runtime import versions
from wsss.data.build import read_extra
from wsss.data.catalog import TABLE, DataSet
from wsss.data.duplicates import find_duplicates
from wsss.data.folds import make_folds
from wsss.feature_classifier.train import Lessons, ensure_feature_classifier
from wsss.inference.tables import cells_frame, write_cells, write_images
from wsss.models.cam_net import build_cam_net
from wsss.options.recipe import ClassifyRecipe, FeatureClassifierConfig
from wsss.runs.record import RunRecord
from wsss.runs.run_folder import RunFolder
from wsss.training.loading import EpochBatches, draw_epoch, image_weights

EDGE, MAPS, CHUNK, START = 64, 16, 1000, 100
FIGURES = "used.json"
CHANNELS = ("red", "green", "blue")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--images", type=int, nargs="+", default=[10_000, 100_000], help="sizes of the catalogue, rising"
    )
    parser.add_argument("--cells", type=int, default=20, help="cells an image")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--folder", type=Path, help="where to write and leave the files")
    parser.add_argument("--again", action="store_true", help="measure stages again whose figures the folder has")
    parser.add_argument("--alone", help=argparse.SUPPRESS)  # the process of one stage
    args = parser.parse_args(argv)
    if args.alone:
        return FUNCTIONS[args.alone](args.folder)
    with tempfile.TemporaryDirectory() as made:
        compare(args.folder or Path(made), args)
    return 0


def compare(folder: Path, args: argparse.Namespace) -> None:
    """Print a line for each stage and catalogue."""
    sizes = [START, *args.images]
    for count in sizes:
        write_inputs(folder / str(count), count)
    say(f"{'stage':20}{'images':>9}{'CPU s':>9}{'MB':>8}{'x time':>9}{'x memory':>10}")
    for stage in ["prepare", *(name for name in args.stages if name != "prepare")]:
        used: list[tuple[float, float]] = []
        for count in sizes:
            home = folder / str(count)
            used.append(measured(stage, home, args.cells, again=args.again and stage in args.stages))
            say(line(stage, count, used))


def measured(stage: str, home: Path, cells: int, *, again: bool = False) -> tuple[float, float]:
    """Return what a stage took: from the figures in the folder, or from a run of it now, kept there."""
    figures = read_json(home / FIGURES) if (home / FIGURES).exists() else {}
    if again or stage not in figures:
        write_tables(home, stage, cells)
        figures[stage] = child(stage, home)
        write_json(home / FIGURES, figures)
    return tuple(figures[stage])


def line(stage: str, count: int, used: list[tuple[float, float]]) -> str:
    """Return what a stage took, and how much more than on the catalogue before, the start left out."""
    text = f"{stage:20}{count:9}{used[-1][0]:9.2f}{used[-1][1]:8.0f}"
    if len(used) > 2:
        grown, before = (np.subtract(one, used[0]) for one in used[-1:-3:-1])
        text += "{:9.1f}{:10.1f}".format(*grown / np.maximum(before, (0.1, 1)))
    return text


WATCH = """
import resource, subprocess, sys
with open(sys.argv[1], "wb") as log:
    code = subprocess.run(sys.argv[2:], stdout=log, stderr=log).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
sys.exit(code)
"""
"""A small process that starts a stage: a process begins with the peak of the one that starts it."""


def child(stage: str, home: Path) -> tuple[float, float]:
    """Run a stage in a process of its own; return its CPU seconds and its peak of resident memory in MB."""
    if stage in FUNCTIONS:
        words = [__file__, "--alone", stage, "--folder", str(home)]
    else:
        name, *options = COMMANDS[stage].replace("HOME", str(home)).split()
        words = ["-m", f"wsss.{name}", *options]
        if stage != "prepare again":
            remove(Path(options[options.index("--out") + 1]))
    log = home / f"{stage}.log"
    command = [sys.executable, "-c", WATCH, str(log), sys.executable, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{stage} failed, see {log}")
    seconds, megabytes = map(float, done.stdout.split())
    return seconds, megabytes


def remove(result: Path) -> None:
    """Remove what an earlier measurement has left: with it, there would be nothing to do."""
    if result.is_dir():
        shutil.rmtree(result)
    result.unlink(missing_ok=True)


def write_inputs(home: Path, count: int) -> None:
    """Draw the images and their labels."""
    if (home / "labels.csv").exists():
        return
    rng = np.random.default_rng(0)
    (home / "images").mkdir(parents=True)
    frequency = 1 / np.arange(1, len(HPA.names) + 1)
    labels = []
    image: np.ndarray = np.zeros((EDGE, EDGE, 3), np.uint8)
    for k in range(count):
        if k % 100:
            coarse = rng.integers(0, 256, (12, 12, 3), np.uint8)
            image = cv2.resize(coarse, (EDGE, EDGE), interpolation=cv2.INTER_CUBIC)
        else:
            image = np.roll(image, 2, axis=1)
        cv2.imwrite(str(home / f"images/{name_of(k)}.png"), image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
        labels.append(rng.choice(len(frequency), rng.integers(1, 4), replace=False, p=frequency / frequency.sum()))
    table = {"ID": map(name_of, range(count)), "Label": [format_label(sorted(classes.tolist())) for classes in labels]}
    pd.DataFrame(table).to_csv(home / "labels.csv", index=False)


def name_of(k: int) -> str:
    return f"im{k:06}"


def write_tables(home: Path, stage: str, cells: int) -> None:
    """Write what a stage reads and is not there yet: label maps, a run, predictions, the true classes of cells."""
    words = COMMANDS.get(stage, stage)
    maps = [draw_map(k, cells) for k in range(MAPS)]
    if stage in CELLS and not (home / "run").exists():
        write_maps(home, maps)
        write_run(home / "run")
    for number, name in enumerate(("a", "b")):
        folder = home / "tables" / name
        if f"tables/{name}" in words and not (folder / "provenance.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_predictions(folder, DataSet.open(home / "data"), maps, number)
    if "truth.csv" in words and not (home / "truth.csv").exists():
        write_truth(home / "truth.csv", DataSet.open(home / "data"), cells)


def write_maps(home: Path, maps: Sequence[np.ndarray]) -> None:
    """Write the label maps of all images: a few files, and links to them."""
    ids = DataSet.open(home / "data").ids
    for kind in ("cells", "nuclei"):
        (home / "data" / kind).mkdir(exist_ok=True)
        for k, name in enumerate(ids):
            path = home / "data" / kind / f"{name}.png"
            if k < MAPS:
                shown = maps[k].astype(np.uint16)
                Image.fromarray(shown if kind == "cells" else cv2.erode(shown, np.ones((3, 3)))).save(path)
            elif not path.exists():
                path.hardlink_to(home / "data" / kind / f"{name_of(k % MAPS)}.png")


def draw_map(seed: int, cells: int) -> np.ndarray:
    """Return a label map (EDGE, EDGE) of cells in rows."""
    side = int(np.ceil(np.sqrt(cells)))
    step, rng = EDGE / side, np.random.default_rng(seed)
    label_map = np.zeros((EDGE, EDGE), np.int32)
    for k in range(cells):
        middle = (int((k % side + 0.5) * step), int((k // side + 0.5) * step))
        cv2.circle(label_map, middle, int(rng.integers(int(step) // 3, int(step) // 2)), k + 1, -1)
    return label_map


def write_run(folder: Path) -> None:
    """Write a run whose network has random weights."""
    recipe = ClassifyRecipe(backbone="test_resnet", weights="none")
    torch.manual_seed(0)
    net = build_cam_net(recipe, channels=len(CHANNELS), classes=len(HPA.names), pretrained=False)
    folder.mkdir()
    record = RunRecord(recipe, None, "", (), CHANNELS, HPA.names, size=EDGE, versions=versions())
    run = RunFolder(folder)
    run.begin(record)
    run.save_best({f"net.{name}": tensor for name, tensor in net.state_dict().items()}, record.meta())


def write_predictions(folder: Path, data: DataSet, maps: Sequence[np.ndarray], seed: int) -> None:
    """Write the tables of a prediction out of fold, with scores that know a little of the image's labels."""
    rng = np.random.default_rng(seed)
    write_cells(folder, frames(data, maps, rng))
    cells = int(maps[0].max())
    shown = pd.DataFrame({"ID": data.ids, "fold": data.folds(), "n_cells": cells, "status": "ok"})
    scores = pd.DataFrame((data.labels + rng.random(data.labels.shape)).astype(np.float32) / 2, columns=HPA.columns)
    write_images(folder, pd.concat([shown, scores], axis=1))
    table = digest_file(data.folder / TABLE)
    write_json(folder / "provenance.json", {"oof": True, "data": str(data.folder.resolve()), "table": table})


def frames(data: DataSet, maps: Sequence[np.ndarray], rng: np.random.Generator) -> Iterator[pd.DataFrame]:
    """Yield the cells of CHUNK images after CHUNK images."""
    of_map = [cells_of(label_map) for label_map in maps]
    cells, folds = len(of_map[0]), data.folds()
    template = pd.concat(of_map, ignore_index=True)
    for start in range(0, len(data), CHUNK):
        images = np.arange(start, min(start + CHUNK, len(data)))
        rows = (images[:, None] % MAPS * cells + np.arange(cells)).ravel()
        frame = template.iloc[rows].reset_index(drop=True)
        frame["ID"] = np.repeat([data.ids[i] for i in images], cells)
        frame["fold"] = np.repeat(folds[images], cells)
        labels = np.repeat(data.labels[images], cells, axis=0)
        frame[HPA.columns] = (labels + rng.random(labels.shape, np.float32)) / 2
        yield frame


def cells_of(label_map: np.ndarray) -> pd.DataFrame:
    """Return the rows of the cells of one image."""
    masks = rle.encode_label_map(label_map)
    numbers = np.array(list(masks))
    y, x = np.divmod(np.arange(label_map.size), EDGE)
    of_cell = [np.flatnonzero(label_map.ravel() == k) for k in numbers]
    geometry = {"center_y": [y[at].mean() for at in of_cell], "center_x": [x[at].mean() for at in of_cell]}
    geometry |= {"y0": [y[at].min() for at in of_cell], "x0": [x[at].min() for at in of_cell]}
    geometry |= {"y1": [y[at].max() + 1 for at in of_cell], "x1": [x[at].max() + 1 for at in of_cell]}
    geometry |= {"area_px": [len(at) for at in of_cell], "touches_border": [False] * len(of_cell)}
    scores = np.zeros((len(numbers), len(HPA.names)), np.float32)
    masks_in_order = list(masks.values())
    return cells_frame(
        "", fold=-1, size=label_map.shape, cell_ids=numbers, geometry=geometry, scores=scores, rle=masks_in_order
    )


def write_truth(path: Path, data: DataSet, cells: int) -> None:
    """Write the true classes of all cells: one of the labels of its image each."""
    rng = np.random.default_rng(0)
    weights = data.labels * rng.random((cells, *data.labels.shape))  # (cells, images, classes)
    numbers = np.tile(np.arange(1, cells + 1), len(data))
    classes = weights.argmax(axis=2).T.ravel()
    pd.DataFrame({"ID": np.repeat(data.ids, cells), "cell_id": numbers, "Label": classes}).to_csv(path, index=False)


def open_data(home: Path) -> int:
    """Open the data set, and ask for all that other stages ask for."""
    data = DataSet.open(home / "data")
    return 0 * len((data.labels, data.twins, data.folds(), data.carried, data.image(0)))


def sample(home: Path) -> int:
    """Draw an epoch."""
    labels = DataSet.open(home / "data").labels
    batches = EpochBatches(32, seed=0)
    batches.set(draw_epoch(image_weights(labels), len(labels), seed=0, epoch=0), 0)
    return 0 * sum(len(batch) for batch in batches)


def duplicates(home: Path) -> int:
    """Look for near-duplicates, as prepare does."""
    data = DataSet.open(home / "data")
    return 0 * len(find_duplicates(read_extra(data.folder, "main", "thumbnails"), lambda i: np.array(data.image(i))))


def folds(home: Path) -> int:
    """Make folds, as prepare does."""
    labels = DataSet.open(home / "data").labels
    return 0 * len(make_folds(labels > 0, np.arange(len(labels)), n=5, seed=0))


def features(home: Path) -> int:
    """Fit a feature classifier on the images of all folds but one; it is the run's from then on."""
    data = DataSet.open(home / "data")
    lessons = Lessons(data, np.flatnonzero(data.folds() > 0), FeatureClassifierConfig(), seed=0)
    ensure_feature_classifier(RunFolder(home / "run"), lessons)
    return 0


FUNCTIONS: dict[str, Callable[[Path], int]] = {
    "near-duplicates": duplicates,
    "folds": folds,
    "open": open_data,
    "epoch": sample,
    "feature classifier": features,
}
"""Name -> what is done in the folder of a catalogue."""
PREPARE = (
    f"prepare --images HOME/images --labels HOME/labels.csv --out HOME/data --workers 0 --size {EDGE} "
    f"--channels {','.join(CHANNELS)}"
)
TRUTH = "--preds HOME/tables/a --truth HOME/truth.csv --join number"
COMMANDS = {
    "prepare": PREPARE,
    "prepare again": PREPARE,
    "infer": "infer --data HOME/data --run HOME/run --out HOME/infer --device cpu --score.crop_share 0 "
    "--embeddings true",
    "ensemble": "ensemble --preds HOME/tables/a HOME/tables/b --out HOME/blend",
    "ensemble auto": "ensemble --preds HOME/tables/a HOME/tables/b --out HOME/fitted --weights auto",
    "evaluate": f"evaluate {TRUTH} --out HOME/evaluated/scores.json",
    "calibrate": f"calibrate {TRUTH} --out HOME/calibrated/curves.json",
    "report": "report --preds HOME/tables/a --out HOME/report.html",
    "export csv": "export --preds HOME/tables/a --to csv --out HOME/cells.csv",
    "export parquet": "export --preds HOME/tables/a --to parquet --out HOME/cells.parquet",
    "export coco": "export --preds HOME/tables/a --to coco --out HOME/coco.json",
    "export kaggle": "export --preds HOME/tables/a --to kaggle --out HOME/kaggle.csv",
}
"""Name -> the command; HOME is the folder of a catalogue."""
CELLS = {"feature classifier", "infer", "report"}
"""Stages that look at label maps."""
STAGES = ["prepare", "prepare again", *FUNCTIONS, *list(COMMANDS)[2:]]


if __name__ == "__main__":
    sys.exit(main())
