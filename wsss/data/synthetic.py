"""Synthetic fields of view with known labels of each cell, and data sets of them: for the demo and for tests."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd
from PIL import Image
from scipy import ndimage

from wsss.core.checks import check_range
from wsss.core.console import progress
from wsss.core.csv_text import write_csv
from wsss.core.files import write_atomic
from wsss.core.labels import HPA_CHANNELS, HPA_NAMES, format_label
from wsss.core.runtime import parallel
from wsss.data.synthetic_cells import (
    MITOTIC,
    NEGATIVE,
    PATTERNS,
    Cell,
    boxes,
    make_outline,
    make_seed,
    scatter,
    settle,
    stain,
)


@dataclass(frozen=True)
class Look:
    """How synthetic fields look."""

    cell: float = 0.26
    """Diameter of a typical cell, as a part of the field's edge; 0.26 gives 8 to 18 cells."""
    lost: float = 0.1
    """Part of the cells that have lost their signal: Negative, though the image's label does not say so."""
    several: float = 0.47
    """Mean part of the other cells that show both of the field's classes, where it has two; where it has three, half of
    this part show all three and half two of them. It differs from field to field."""
    photons: float = 1.2
    """Photons per grey level: fewer are noisier."""

    def __post_init__(self) -> None:
        check_range("cell", self.cell, 0.05, 0.6)
        check_range("lost", self.lost, 0, 1)
        check_range("several", self.several, 0, 0.95)
        check_range("photons", self.photons, 0.05, 1000)


@dataclass(frozen=True)
class Field:
    """A drawn field of view and all that is true of it."""

    image: np.ndarray
    """(4, S, S) uint8, red green blue yellow."""
    label_map: np.ndarray
    """(S, S) int32, 0 background, cells 1..N."""
    nuclei: np.ndarray
    """(S, S) int32, the nuclei with the ids of their cells."""
    cell_labels: list[list[int]]
    """Class ids of cell i + 1."""
    image_labels: list[int]
    """All classes that some cell shows; Negative only where no cell shows another."""


def draw_field(rng: np.random.Generator, size: int, classes: Sequence[int], look: Look | None = None) -> Field:
    """Draw one field of view.

    Args:
        rng: source of all chance: the same state gives the same field.
        size: edge of the field in px, at least 48.
        classes: class ids that the field shows, each by at least one cell; [18] for Negative cells only.
        look: size of cells, share of lost signals, noise.

    Returns:
        The field. Cells touch, and some are cut by the border.
    """
    look = look or Look()
    check_range("size", size, 48)
    cell_px = look.cell * size
    unit = cell_px / 64
    pad = int(1.3 * cell_px)  # room for the parts of cells that the border cuts off
    edge = size + 2 * pad
    centres = scatter(size, cell_px, rng.uniform(0.7, 1.0), rng) + pad
    labels = assign(len(centres), classes, look, rng)
    seeds = [make_seed(c, cell_px, MITOTIC in ids, rng) for c, ids in zip(centres, labels, strict=True)]
    owner = settle(edge, seeds, unit, rng)
    canvas = np.zeros((4, edge, edge), np.float32)
    label_map = np.zeros((edge, edge), np.int32)
    nuclei = np.zeros((edge, edge), np.int32)
    for number, (seed, ids, box) in enumerate(zip(seeds, labels, boxes(owner), strict=True), start=1):
        cell = stain(make_outline(owner[box] == number, box, seed, unit, rng), rng)
        label_map[cell.box][cell.body] = number
        nuclei[cell.box][cell.nucleus] = number
        canvas[(slice(None), *cell.box)] += paint(cell, ids, rng)
    inner = (slice(pad, pad + size), slice(pad, pad + size))
    image = photograph(canvas, unit, look.photons, rng)[(slice(None), *inner)]
    shown = {k for ids in labels for k in ids} - {NEGATIVE}
    return Field(image.copy(), label_map[inner].copy(), nuclei[inner].copy(), labels, sorted(shown) or [NEGATIVE])


def assign(count: int, classes: Sequence[int], look: Look, rng: np.random.Generator) -> list[list[int]]:
    """Choose the classes of `count` cells from those of the field.

    Every class has a cell if there are enough cells. Dividing cells are rare: in a field of Mitotic spindle a
    third of the cells show it, the others other classes of the field, or nothing.

    Source: of 5,090 cells of the Human Protein Atlas that were labelled by hand, 32 % bear several classes; in images
    with two labels 39 % of the cells show both, in those with three 23 % all of them.
    """
    wanted = list(dict.fromkeys(int(k) for k in classes))
    resting = [k for k in wanted if k != MITOTIC] or [NEGATIVE]
    several = rng.beta(4 * look.several, 4 * (1 - look.several)) if look.several else 0.0
    labels: list[list[int]] = []
    for number in range(count):
        first = number < len(wanted)
        dividing = MITOTIC in wanted and rng.random() < 0.33
        label = wanted[number] if first else MITOTIC if dividing else int(rng.choice(resting))
        ids = {label}
        if label != MITOTIC and len(resting) > 1 and rng.random() < several:
            others = [k for k in resting if k != label]
            rng.shuffle(others)
            ids |= set(others if rng.random() < 0.5 else others[:1])
        if not first and rng.random() < look.lost:
            ids = {NEGATIVE}
        labels.append(sorted(ids - {NEGATIVE}) or [NEGATIVE])
    rng.shuffle(labels)
    return labels


def paint(cell: Cell, ids: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Return (4, h, w) grey levels of one cell, dimmer or brighter as a whole and per channel."""
    green = sum((PATTERNS[k](cell, rng) for k in ids), np.zeros(cell.shape, np.float32))
    glow = (0.03 + 0.03 * cell.reticulum) * cell.body
    planes = np.stack([cell.microtubules, green, cell.chromatin, cell.reticulum])
    gains = np.array([150, 190, 150, 130]) * rng.uniform([0.7, 0.6, 0.7, 0.7], [1.2, 1.15, 1.25, 1.2])
    planes = planes * gains[:, None, None]
    planes[1] += 150 * glow * rng.uniform(0.5, 1.0)
    return planes.astype(np.float32)


def photograph(canvas: np.ndarray, unit: float, photons: float, rng: np.random.Generator) -> np.ndarray:
    """Put the microscope on the drawing: blur, uneven light and background, shot and read noise, 8 bits.

    Args:
        canvas: (4, H, W) float32 grey levels.
        unit: length unit of the drawing in px.
        photons: photons per grey level.
        rng: source of noise and light.

    Returns:
        (4, H, W) uint8.
    """
    y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in canvas.shape[1:])
    out = np.empty(canvas.shape, np.uint8)
    for plane, target in zip(canvas, out, strict=True):
        sharp = ndimage.gaussian_filter(plane, 0.75 * unit, truncate=3)
        oy, ox, slope_y, slope_x = rng.uniform(-0.5, 0.5, 4)
        light = 1 - 0.12 * ((y[:, None] - oy) ** 2 + (x[None, :] - ox) ** 2)
        ground = rng.uniform(1.5, 5) * (1 + slope_y * y[:, None] + slope_x * x[None, :])
        grey = rng.poisson(np.maximum(sharp * light + ground, 0) * photons) / photons
        grey += rng.standard_normal(grey.shape, np.float32)
        np.clip(np.rint(grey - 1), 0, 255, out=grey)
        target[:] = grey
    return out


JOINED = (0.33, 0.48, 0.19)
"""How often 0, 1 or 2 other classes join the leading one of a field, as in hand-labelled fields of the Atlas."""


@dataclass(frozen=True)
class _Job:
    """What a worker needs to draw any field of the set."""

    out: Path
    size: int
    seed: int
    pool: tuple[int, ...]
    prefix: str
    look: Look

    def name(self, index: int) -> str:
        return f"{self.prefix}{self.seed:02d}_{index:05d}"


def write_fields(
    out: Path,
    fields: int,
    size: int,
    seed: int,
    *,
    classes: Sequence[int] = tuple(range(len(HPA_NAMES))),
    prefix: str = "train",
    look: Look | None = None,
    workers: int | None = None,
) -> pd.DataFrame:
    """Draw `fields` fields and write them with their weak labels and their hidden truth.

    `out` receives images/<ID>_{red,green,blue,yellow}.png, masks/<ID>.png (uint16 label map), train.csv (ID,
    Label: all that training may see) and cells_truth.csv (ID, cell, Label: for scoring only). Field i depends
    on (seed, i) alone, so the first fields of a longer set are the same.

    Args:
        out: folder to write to, made if missing.
        fields: how many.
        size: edge in px.
        seed: also part of the IDs.
        classes: class ids to choose from; each leads a field equally often, and 0 to 2 others join it.
        prefix: first part of the IDs, such as 'train' or 'val'.
        look: size of cells, share of lost signals, noise.
        workers: processes; None for one a core, 0 for none.

    Returns:
        The table of cells_truth.csv.
    """
    check_range("fields", fields, 1)
    check_range("seed", seed, 0)
    job = _Job(out, size, seed, tuple(classes), prefix, look or Look())
    drawn: dict[int, tuple[list[list[int]], list[int]]] = {}
    work = parallel(partial(_write_field, job), range(fields), workers)
    for index, result in progress(work, f"draw {prefix}", total=fields):
        if isinstance(result, Exception):
            raise result
        drawn[index] = result
    weak = [(job.name(i), format_label(drawn[i][1])) for i in range(fields)]
    rows = [
        (job.name(i), number, format_label(ids))
        for i in range(fields)
        for number, ids in enumerate(drawn[i][0], start=1)
    ]
    truth = pd.DataFrame(rows, columns=["ID", "cell", "Label"])
    write_csv(out / "train.csv", pd.DataFrame(weak, columns=["ID", "Label"]))
    write_csv(out / "cells_truth.csv", truth)
    return truth


def choose_classes(index: int, seed: int, pool: Sequence[int], rng: np.random.Generator) -> list[int]:
    """Choose the 1 to 3 classes of field `index`; a field led by Negative shows nothing else."""
    turn, place = divmod(index, len(pool))
    lead = int(np.random.default_rng([seed, turn]).permutation(np.asarray(pool))[place])
    others = [k for k in pool if k not in (lead, NEGATIVE)]
    if lead == NEGATIVE:
        return [NEGATIVE]
    joined = rng.choice(others, min(int(rng.choice(3, p=JOINED)), len(others)), replace=False)
    return [lead, *(int(k) for k in joined)]


def _write_field(job: _Job, index: int) -> tuple[list[list[int]], list[int]]:
    rng = np.random.default_rng([job.seed, index, 1])
    field = draw_field(rng, job.size, choose_classes(index, job.seed, job.pool, rng), job.look)
    for channel, plane in zip(HPA_CHANNELS, field.image, strict=True):
        write_atomic(job.out / "images" / f"{job.name(index)}_{channel}.png", _png(plane))
    write_atomic(job.out / "masks" / f"{job.name(index)}.png", _png(field.label_map.astype(np.uint16)))
    return field.cell_labels, field.image_labels


def _png(plane: np.ndarray) -> Callable[[IO[bytes]], None]:
    return lambda stream: Image.fromarray(plane).save(stream, format="PNG", compress_level=1)


__all__ = ["Field", "Look", "draw_field", "write_fields"]
