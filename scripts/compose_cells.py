"""Compose fields from single real cells, in the layout that `prepare` reads, with the truth of every cell.

    python scripts/compose_cells.py CELLS OUT --split train --fields 400 --seed 1 [--size 512] [--hard | --natural]

CELLS holds cells.csv (cell, label, split) and cells/<cell>.png: red, green, blue, yellow and mask side by side.
OUT gets images/, masks/, train.csv (image labels) and cells_truth.csv. The same arguments give the same fields.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from composing.cells import CLEAN, EDGE, HARD, NATURAL, CellBank, Composed, compose_field

from wsss import cli
from wsss.core.console import progress, say
from wsss.core.csv_text import write_csv
from wsss.core.label_maps import write_label_map

CHANNELS = ("red", "green", "blue", "yellow")
NEGATIVE = 18


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--split", required=True, help="value of the column 'split' to draw cells from")
    parser.add_argument("--fields", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--size", type=int, default=512, help="edge of the pictures in pixels")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--hard", action="store_true", help="dim proteins, autofluorescence, packed cells, haze, noise")
    how.add_argument("--natural", action="store_true", help="cells of several classes, as often as hand-labelled ones")
    options = parser.parse_args()

    bank = CellBank(options.cells, options.split)
    style, mark = (HARD, "h") if options.hard else (NATURAL, "n") if options.natural else (CLEAN, "")
    weak, truth = [], []
    for k in progress(range(options.fields), "compose"):
        name = f"{options.split}{options.seed:02d}{mark}_{k:05d}"
        field = compose_field(bank, style, NEGATIVE, np.random.default_rng([options.seed, k]))
        save(field, options.out, name, options.size)
        weak.append((name, "|".join(map(str, field.labels))))
        truth += [(name, cell, "|".join(map(str, labels))) for cell, labels in enumerate(field.truth, 1)]
    write_csv(options.out / "train.csv", pd.DataFrame(weak, columns=["ID", "Label"]))
    write_csv(options.out / "cells_truth.csv", pd.DataFrame(truth, columns=["ID", "cell", "Label"]))
    say(f"{options.out}: {len(weak)} fields, {len(truth)} cells")
    return 0


def save(field: Composed, folder: Path, name: str, size: int) -> None:
    """Write one field's planes and label map, scaled to `size`."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for plane, channel in zip(field.image, CHANNELS, strict=True):
        small = cv2.resize(plane, (size, size), interpolation=cv2.INTER_AREA) if size != EDGE else plane
        cv2.imwrite(str(folder / "images" / f"{name}_{channel}.png"), small)
    step = (np.arange(size) * EDGE + EDGE // 2) // size
    write_label_map(folder / "masks" / name, field.label_map[np.ix_(step, step)])


if __name__ == "__main__":
    cli.run(lambda _: main())
