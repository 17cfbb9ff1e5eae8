"""Check evaluate on real masks against calculations that share no code with it.

    python scripts/check_ground_truth.py FOLDER

FOLDER holds masks/ (true label maps), predicted_masks/ (another tool's) and cells.csv (the classes of the true cells).
Predictions are made up: each predicted map is shifted a little, its cells get noisy scores around the truth, and go
through the real tables and submission. Then the competition's AP is compared with pycocotools' COCOeval, the per-cell
AP with scikit-learn on cells matched through scikit-image. Exit code 1 if any figure differs by more than 1e-6.
"""

import argparse
import contextlib
import io
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from skimage.measure import regionprops_table
from skimage.metrics import contingency_table
from sklearn.metrics import average_precision_score

from wsss.core import rle
from wsss.inference import tables
from wsss.options.evaluate import EvaluateOptions
from wsss.stages.evaluate import evaluate

CLASSES = 19
LOWEST = 0.01


def read_map(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(np.int32)


def predicted_map(folder: Path, name: str) -> np.ndarray:
    """Return a predicted label map, shifted by up to 50 pixels so that some cells miss their match."""
    shift = np.random.default_rng(zlib.crc32(name.encode())).integers(-50, 51, 2)
    return np.roll(read_map(folder / "predicted_masks" / f"{name}.png"), shift, (0, 1))


def labels_of(text: str) -> list[int]:
    return [int(part) for part in text.split(";")]


def best_iou(true: np.ndarray, other: np.ndarray) -> pd.DataFrame:
    """Return rows `true, other, iou` of all overlapping cells, by scikit-image's contingency table."""
    both = contingency_table(true, other).tocoo()
    rows = pd.DataFrame({"true": both.row, "other": both.col, "both": both.data * true.size})
    area_true, area_other = rows.groupby("true").both.sum(), rows.groupby("other").both.sum()
    rows["iou"] = rows.both / (rows.true.map(area_true) + rows.other.map(area_other) - rows.both)
    return rows[(rows.true > 0) & (rows.other > 0)]


def make_scores(ids: np.ndarray, pairs: pd.DataFrame, truth: pd.Series, rng: np.random.Generator) -> np.ndarray:
    """Draw (N, 19) scores: noise, and something more for the classes of the true cell that overlaps most."""
    scores = rng.beta(1, 6, (len(ids), CLASSES))
    best = pairs.sort_values("iou").groupby("other").true.last()
    for row, k in enumerate(ids):
        for label in labels_of(truth.get(best.get(k, 0), "18")):
            scores[row, label] = 0.5 * scores[row, label] + rng.uniform(0, 0.6)
    return scores.astype(np.float32)


def make_predictions(folder: Path, truth: pd.DataFrame, out: Path) -> None:
    """Write a folder of predictions."""
    rng = np.random.default_rng(0)
    frames, images = [], []
    for name, cells in truth.groupby("ID", sort=False):
        true = read_map(folder / "masks" / f"{name}.png")
        shifted = predicted_map(folder, str(name))
        masks = rle.encode_label_map(shifted)
        ids = np.array(list(masks))
        scores = make_scores(ids, best_iou(true, shifted), cells.set_index("cell").Cell_Label, rng)
        boxes = regionprops_table(shifted, properties=("bbox", "centroid", "area"))
        names = ("y0", "x0", "y1", "x1", "center_y", "center_x", "area_px")
        geometry = dict(zip(names, boxes.values(), strict=True)) | {"touches_border": np.zeros(len(ids), bool)}
        frames.append(
            tables.cells_frame(
                str(name), fold=-1, size=true.shape, cell_ids=ids, geometry=geometry, scores=scores,
                rle=list(masks.values()),
            )
        )  # fmt: skip
        images.append(
            {"ID": name, "fold": -1, "n_cells": len(ids), "status": "ok"}
            | {str(k): scores[:, k].max() for k in range(CLASSES)}
            | {"ImageHeight": true.shape[0], "ImageWidth": true.shape[1]}
        )
    tables.write_cells(out, frames)
    table = pd.DataFrame(images)
    tables.write_images(out, table.drop(columns=["ImageHeight", "ImageWidth"]))
    tables.write_submission(out / "submission.csv", table, tables.iter_cells(out), min_score=LOWEST)


def encode(mask: np.ndarray) -> dict[str, Any]:
    return coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))


def coco_ap(folder: Path, truth: pd.DataFrame, cells: pd.DataFrame) -> np.ndarray:
    """Return COCOeval's (19,) AP at IoU 0.6, from the maps themselves."""
    by_image = cells.groupby("ID")
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    detections: list[dict[str, Any]] = []
    for at, (name, true_cells) in enumerate(truth.groupby("ID", sort=False), 1):
        true = read_map(folder / "masks" / f"{name}.png")
        images.append({"id": at, "height": true.shape[0], "width": true.shape[1]})
        for cell, text in zip(true_cells.cell, true_cells.Cell_Label, strict=True):
            mask = encode(true == cell)
            area = float(coco_mask.area(mask))
            for k in labels_of(text):
                new = {"id": len(annotations) + 1, "image_id": at, "category_id": k + 1, "iscrowd": 0}
                annotations.append(new | {"segmentation": mask, "area": area})
        shifted = predicted_map(folder, str(name))
        for _, row in by_image.get_group(name).iterrows():
            mask = encode(shifted == row.cell_id)
            scores = [(k, float(f"{row[str(k)]:.6g}")) for k in range(CLASSES) if row[str(k)] >= LOWEST]
            detections += [
                {"image_id": at, "category_id": k + 1, "score": score, "segmentation": mask} for k, score in scores
            ]
    with contextlib.redirect_stdout(io.StringIO()):
        true_set = COCO()
        categories = [{"id": k + 1, "name": str(k)} for k in range(CLASSES)]
        true_set.dataset = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
        true_set.createIndex()
        scorer = COCOeval(true_set, true_set.loadRes(detections), "segm")
        scorer.params.iouThrs = np.array([0.6])
        scorer.params.maxDets = [1_000_000]
        scorer.params.areaRng, scorer.params.areaRngLbl = [[0, 1e10]], ["all"]
        scorer.evaluate()
        scorer.accumulate()
    precision = scorer.eval["precision"][0, :, :, 0, 0]  # (101, 19), -1 for classes without true cells
    return np.where(precision[0] < 0, np.nan, precision.mean(axis=0))


def cell_ap(folder: Path, truth: pd.DataFrame, cells: pd.DataFrame) -> np.ndarray:
    """Return scikit-learn's (19,) AP of cells matched at IoU 0.5 by scikit-image's contingency table."""
    parts = []
    for name, true_cells in truth.groupby("ID", sort=False):
        pairs = best_iou(read_map(folder / "masks" / f"{name}.png"), predicted_map(folder, str(name)))
        found = pairs[pairs.iou >= 0.5].set_index("true").other
        predicted = cells.groupby("ID").get_group(name).set_index("cell_id")
        parts.append(predicted.reindex(true_cells.cell.map(found)).assign(truth=true_cells.Cell_Label.to_numpy()))
    joined = pd.concat(parts)
    out = np.full(CLASSES, np.nan)
    for k in range(CLASSES):
        right = joined.truth.map(lambda text, k=k: k in labels_of(text)).to_numpy(bool)
        if right.any():
            out[k] = average_precision_score(right, joined[str(k)].fillna(0).to_numpy(np.float32))
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    truth = pd.read_csv(folder / "cells.csv", dtype={"ID": str, "Cell_Label": str, "Label": str})
    truth = truth.assign(cell=truth.Cell_index.astype(int))
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary)
        make_predictions(folder, truth, out)
        options = EvaluateOptions(preds=out, truth=folder / "cells.csv", masks=folder / "masks")
        report = evaluate(options).report
        cells = tables.read_cells(out)
    ours = np.array([row["coco"] for row in report["instances"]["per_class"]], float)
    cell_aps = np.array([row["ap"] for row in report["cells"]["per_class"]], float)
    theirs, sklearn = coco_ap(folder, truth, cells), cell_ap(folder, truth, cells)
    print(f"{truth.ID.nunique()} images, {len(truth)} true cells, {len(cells)} predicted cells")
    print(f"{'class':>5} {'wsss mask AP':>13} {'COCOeval':>13} {'wsss cell AP':>13} {'scikit-learn':>13}")
    for k, row in enumerate(zip(ours, theirs, cell_aps, sklearn, strict=True)):
        print(f"{k:5} " + " ".join(f"{value:13.9f}" for value in row))
    means = [np.nanmean(values) for values in (ours, theirs, cell_aps, sklearn)]
    print(f"{'mean':>5} " + " ".join(f"{value:13.9f}" for value in means))
    print(f"mask AP with the exact area (the competition's): {report['instances']['mean_ap']:.6f}")
    print(f"true cells without an overlapping prediction: {report['cells']['missing']}")
    copied = report["baselines"]["image_labels_copied"]
    print(f"image labels copied: precision {copied['precision']:.3f}, recall {copied['recall']:.3f}")
    worst = np.nanmax(np.abs(np.concatenate([ours - theirs, cell_aps - sklearn])))
    same_classes = (np.isnan(ours) == np.isnan(theirs)).all() and (np.isnan(cell_aps) == np.isnan(sklearn)).all()
    print(f"largest difference {worst:.2e}")
    return 0 if same_classes and worst <= 1e-6 else 1


if __name__ == "__main__":
    sys.exit(main())
