"""The published recipe written down plainly: one image after another, loops over cells and classes, crop by crop.

It reads the channel files and the given masks, and ends with the rows of a submission. bench_infer.py measures the
package against it and compares their scores.
"""

import base64
import zlib
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from pycocotools import mask as coco

from wsss.core.labels import HPA, HPA_CHANNELS
from wsss.models.cam_net import CamNet

SIZE, CROP = 512, 384


def predict_image(net: CamNet, folder: Path, name: str) -> tuple[pd.DataFrame, str]:
    """Predict one image; return the scores of its cells (columns '0' ... and cell_id) and its submission row."""
    planes = [cv2.imread(str(folder / f"images/{name}_{c}.png"), cv2.IMREAD_GRAYSCALE) for c in HPA_CHANNELS]
    masks = cv2.imread(str(folder / f"masks/{name}.png"), cv2.IMREAD_UNCHANGED)
    assert masks is not None
    image = np.stack([cv2.resize(p, (SIZE, SIZE), interpolation=cv2.INTER_AREA) for p in planes if p is not None])
    small = cv2.resize(masks, (SIZE, SIZE), interpolation=cv2.INTER_NEAREST_EXACT)
    cam, probs = forward(net, image)
    cam = np.maximum(cam, 0)
    cam = cam / (cam.max(axis=(1, 2), keepdims=True) + 1e-5)
    maps = [cv2.resize(one, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR) for one in cam]
    cells = np.unique(masks[masks > 0])
    rows = []
    for cell in cells:
        mask = small == cell
        cam_scores = score_cell(maps, probs, mask)
        _, crop_scores = forward(net, crop_cell(image, mask))
        rows.append((cam_scores + crop_scores) / 2)
    words = []
    for cell, row in zip(cells, rows, strict=True):
        text = encode(masks == cell)
        words += [f"{k} {row[k]:.5f} {text}" for k in range(len(row)) if row[k] >= 0.01]
    table = pd.DataFrame(rows, columns=[str(k) for k in range(len(probs))]).assign(ID=name, cell_id=cells)
    return table, f"{name},{masks.shape[1]},{masks.shape[0]},{' '.join(words)}"


def forward(net: CamNet, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with torch.no_grad():
        output = net(torch.from_numpy(image[None]))
    return output.cam[0].numpy(), output.logits[0].sigmoid().numpy()


def score_cell(maps: list[np.ndarray], probs: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Score a cell by 'overlap + magnitude', class after class."""
    scores, kept = np.zeros(len(probs), np.float32), np.zeros(len(probs), np.float32)
    for k, p in enumerate(probs):
        whole = np.quantile(maps[k], 0.99)
        if p <= 0.01 or whole <= 0:
            continue
        r = min(np.quantile(maps[k][mask], 0.99) / whole, 1)
        scores[k] = p * r
        kept[k] = p * r if r > 0.02 else 0
    if not kept.any():
        kept[HPA.negative] = 1 - np.delete(scores, HPA.negative or 0).max()
    return kept


def crop_cell(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Cut a cell out, black around it, and scale it to CROP px with its longer side."""
    rows, columns = np.where(mask)
    box = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
    cut = (image * mask)[:, box[0], box[1]]
    scale = CROP / max(cut.shape[1:])
    height, width = (max(1, min(CROP, round(edge * scale))) for edge in cut.shape[1:])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    out = np.zeros((len(image), CROP, CROP), np.uint8)
    y, x = (CROP - height) // 2, (CROP - width) // 2
    for plane, target in zip(cut, out, strict=True):
        target[y : y + height, x : x + width] = cv2.resize(plane, (width, height), interpolation=method)
    return out


def encode(mask: np.ndarray) -> str:
    packed = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    return base64.b64encode(zlib.compress(packed, 9)).decode()
