"""Synthetic data sets on disk, in the layout of the Kaggle competition."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd
from PIL import Image

from wsss.core.checks import check_range
from wsss.core.files import write_atomic, write_csv
from wsss.core.labels import HPA_CHANNELS, HPA_NAMES, format_label
from wsss.core.runtime import parallel, progress
from wsss.data.synthetic.fields import Look, draw_field
from wsss.data.synthetic.patterns import NEGATIVE

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
    found: dict[int, tuple[list[list[int]], list[int]]] = {}
    work = parallel(partial(_write_field, job), range(fields), workers)
    for index, result in progress(work, f"draw {prefix}", total=fields):
        if isinstance(result, Exception):
            raise result
        found[index] = result
    weak = [(job.name(i), format_label(found[i][1])) for i in range(fields)]
    rows = [
        (job.name(i), number, format_label(ids))
        for i in range(fields)
        for number, ids in enumerate(found[i][0], start=1)
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
