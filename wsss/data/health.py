"""Whether a prepared data set is fit for use: whole, labelled, with cells, no dark channels."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from wsss.core.checks import DataError, some
from wsss.core.device import Finding
from wsss.data.catalog import DataSet
from wsss.data.cell_maps import without_cells

SAMPLES = 64
"""Images that are read, spread over the set."""
DARK = 2
"""A channel whose brightest pixel is below this holds nothing."""


def examine_data(folder: Path) -> Iterator[Finding]:
    """Yield what is found of the data set in `folder`; reads SAMPLES images whole."""
    try:
        data = DataSet.open(folder)
    except DataError as error:
        yield Finding("bad", str(folder), str(error))
        return
    topic = str(folder)
    failed = [name for name, ok in zip(data.ids, data.ok, strict=True) if not ok]
    text = f"{len(data)} images of {len(data.channels)} channels at {data.size} px, {len(data.classes)} classes"
    more = f"; {len(failed)} could not be prepared ({some(failed)}): see reason in images.parquet" if failed else ""
    yield Finding("note" if failed else "ok", topic, text + more)
    for finding in (*_pixels(data), _labels(data), _folds(data), _cells(data)):
        yield Finding(finding.level, topic, finding.text)


def _pixels(data: DataSet) -> Iterator[Finding]:
    good = np.flatnonzero(data.ok)
    if not len(good):
        yield Finding("bad", "", "no image has pixels: prepare it again")
        return
    chosen = [int(i) for i in good[np.rint(np.linspace(0, len(good) - 1, min(SAMPLES, len(good)))).astype(int)]]
    damaged = data.damaged(chosen)
    if damaged:
        text = f"{len(damaged)} of {len(chosen)} images differ from what was prepared: {some(damaged)}"
        yield Finding("bad", "", text)
        return
    brightest = np.stack([data.image(i).max(axis=(1, 2)) for i in chosen])
    dark = (brightest < DARK).sum(axis=0)
    told = [f"{name} is dark in {n}" for name, n in zip(data.channels, dark.tolist(), strict=True) if n]
    text = f"{len(chosen)} images read, bytes as prepared"
    yield Finding("note" if told else "ok", "", f"{text}; {', '.join(told)} of them" if told else text)


def _labels(data: DataSet) -> Finding:
    count = int(data.has_labels.sum())
    if not count:
        return Finding("ok", "", "no labels: fit for infer, not for train")
    without = [name for name, n in zip(data.classes.names, data.labels.sum(axis=0), strict=True) if n == 0]
    if without:
        return Finding("note", "", f"{count} images labelled; no image of {some(without)}: such classes are not learnt")
    return Finding("ok", "", f"{count} images labelled, every class has some")


def _folds(data: DataSet) -> Finding:
    if not data.has_labels.any() or not data.manifest["folds"]:
        return Finding("ok", "", "no folds")
    try:
        folds = data.folds()
    except DataError as error:
        return Finding("bad", "", str(error))
    sizes = np.bincount(folds[folds >= 0])
    return Finding("ok", "", f"{len(sizes)} folds of {sizes.min()} to {sizes.max()} images")


def _cells(data: DataSet) -> Finding:
    usable = np.flatnonzero(data.ok)
    missing = without_cells(data, usable)
    if len(missing) == len(usable):
        return Finding("note", "", f"no cells yet: python -m wsss.segment --data {data.folder}")
    if missing:
        return Finding("note", "", f"{len(missing)} images have no label map ({some(missing)}): run segment again")
    return Finding("ok", "", "every image has a label map of its cells")
