"""Write a contact sheet of the 19 synthetic protein patterns: python scripts/synthetic_sheet.py sheet.png.

Each tile shows one cell of a class: the green channel above, all channels below.
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np

from wsss.core.labels import HPA_NAMES
from wsss.data.synthetic import Look, draw_field
from wsss.reports.figures import short_names

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def central_cell(image: np.ndarray, label_map: np.ndarray, wanted: list[int]) -> np.ndarray:
    """Cut the wanted cell nearest to the middle out of the field, with a little of its surroundings."""
    middle = np.array(label_map.shape) / 2
    centres = {k: np.argwhere(label_map == k).mean(axis=0) for k in wanted}
    y, x = min(centres.values(), key=lambda c: float(np.sum((c - middle) ** 2)))
    half = label_map.shape[0] // 6
    y, x = (int(np.clip(v, half, label_map.shape[0] - half)) for v in (y, x))
    return image[:, y - half : y + half, x - half : x + half]


def composite(image: np.ndarray) -> np.ndarray:
    red, green, blue, yellow = image.astype(np.float32) / 255
    rgb = np.stack([red + 0.3 * yellow, green + 0.3 * yellow, blue], axis=-1)
    return np.clip(1.3 * rgb, 0, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=int, default=512, help="edge of the fields in pixels")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    figure, axes = plt.subplots(4, 10, figsize=(20, 9), facecolor="black")
    for axis in axes.flat:
        axis.set_axis_off()
    short = short_names(tuple(HPA_NAMES))
    for k, name in enumerate(HPA_NAMES):
        rng = np.random.default_rng([options.seed, k])
        field = draw_field(rng, options.size, [k], Look(lost=0))
        wanted = [i for i, ids in enumerate(field.cell_labels, start=1) if k in ids]
        tile = central_cell(field.image, field.label_map, wanted)
        row, column = 2 * (k // 10), k % 10
        axes[row, column].imshow(tile[1], cmap="gray", vmin=0, vmax=220)
        axes[row, column].set_title(f"{k} {name}" if len(name) < 26 else f"{k} {short[k]}", color="white", fontsize=11)
        axes[row + 1, column].imshow(composite(tile))
    figure.tight_layout(pad=0.4)
    figure.savefig(options.out, dpi=80, facecolor="black")


if __name__ == "__main__":
    main()
