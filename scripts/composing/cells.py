"""Fields of view put together from single real cells, with image labels to train on and cell labels to check with.

The cells folder holds cells.csv (columns cell, label, split) and cells/<cell>.png: five grey panels side by side, red,
green, blue, yellow and the cell's mask, 1024 pixels of a field wide at most. Every one of them shows one class; fields
of the style NATURAL join the proteins of several in one cell.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from scipy import ndimage

from composing.several import join, lend
from wsss.core.checks import DataError, check_range
from wsss.core.csv_text import check_columns, read_text
from wsss.data.masks import read_picture
from wsss.data.synthetic import JOINED, Look, assign

EDGE = 1024
"""Edge of a field in pixels, at the scale of the cells."""
COARSE = 8
"""Places for a cell are looked for in a map that is so many times smaller."""
VISIBLE = 0.6
"""Share of a cell that must lie within the field."""
GREEN = 1


@dataclass(frozen=True)
class Style:
    """How fields look. The defaults are clean; `HARD` takes the easy parts away."""

    cells: tuple[int, int] = (14, 26)
    """Fewest and most cells of a field; fewer where no more fit."""
    classes: tuple[int, int] = (1, 3)
    """Fewest and most classes of a field."""
    several: bool = False
    """Cells may show several classes, as often as hand-labelled ones do (`assign`), fields 1 to 3 classes as often."""
    gain: tuple[float, float] = (0.75, 1.25)
    """Brightness of the protein, cell by cell."""
    lost: float = 0.125
    """Share of the cells that have lost their protein: class Negative, which the image label does not tell."""
    empty: float = 0.06
    """Share of the fields in which all cells have lost it: the image label is Negative."""
    glow: tuple[float, float] = (0.0, 0.0)
    """Autofluorescence of such cells, as a share of the other stains in the cytoplasm."""
    packing: float = 0.0
    """0 strews the cells; above, they are drawn towards places where they touch others."""
    cover: float = 0.02
    """Most of a cell that may be hidden by those laid before it; with more, fields grow together without gaps."""
    tilt: float = 0.0
    """Most by which light falls off from the field's middle to each side."""
    haze: tuple[float, float] = (0.0, 0.0)
    """Out-of-focus light, as a share of the blurred field."""
    offset: float = 0.0
    """Most light of an empty camera pixel, 0..255."""
    photons: tuple[float, float] = (0.0, 0.0)
    """Photons of a grey level (shot noise); 0 for none."""

    def __post_init__(self) -> None:
        for name in ("cells", "classes", "gain", "glow", "haze", "photons"):
            low, high = getattr(self, name)
            check_range(f"lower end of {name}", low, 0)
            check_range(f"upper end of {name}", high, low)
        for name in ("lost", "empty", "cover", "tilt"):
            check_range(name, getattr(self, name), 0, 1)
        check_range("packing", self.packing, 0)
        check_range("offset", self.offset, 0, 255)


CLEAN = Style(photons=(4.0, 4.0))
HARD = Style(
    cells=(26, 44),
    gain=(0.12, 1.3),
    glow=(0.03, 0.12),
    packing=4.0,
    tilt=0.35,
    haze=(0.05, 0.25),
    offset=8.0,
    photons=(0.15, 0.6),
)


NATURAL = Style(
    cells=(18, 34),
    several=True,
    gain=(0.3, 1.3),
    glow=(0.02, 0.08),
    packing=3.0,
    tilt=0.25,
    haze=(0.0, 0.15),
    offset=5.0,
    photons=(0.5, 3.0),
)


@dataclass(frozen=True)
class Composed:
    """One field."""

    image: np.ndarray
    """(4, EDGE, EDGE) uint8, RGBY."""
    label_map: np.ndarray
    """(EDGE, EDGE) int32, cells 1..N."""
    truth: list[list[int]]
    """The classes of each cell, N."""
    labels: list[int]
    """The image label: the classes shown, or Negative alone."""


class Bank(Protocol):
    """Where cells come from."""

    @property
    def by_class(self) -> dict[int, list[str]]:
        """Return the names of the cells of each class."""
        ...

    def draw(self, label: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return a cell of a class, (4, h, w) float32 of 0..255, and its mask (h, w) bool."""
        ...


class CellBank:
    """The cells of one split, by class."""

    def __init__(self, folder: Path, split: str) -> None:
        path = folder / "cells.csv"
        table = read_text(path, ["cell", "label", "split"])
        check_columns(table, ["cell", "label", "split"], path)
        table = table[table["split"] == split]
        if table.empty:
            raise DataError(f"{path} has no cell of the split '{split}': choose another --split.")
        self._folder = folder / "cells"
        self.by_class = {int(str(k)): cells["cell"].tolist() for k, cells in table.groupby("label")}

    def draw(self, label: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return a cell of a class, turned and flipped by chance: (4, h, w) float32 of 0..255 and (h, w) bool.

        Raises:
            DataError: its file is missing or has not five panels.
        """
        path = self._folder / f"{rng.choice(self.by_class[label])}.png"
        strip = read_picture(path, 1)[0]
        if strip.shape[1] % 5:
            raise DataError(f"{path} is no picture of five panels side by side.")
        panels = np.stack(np.split(strip, 5, axis=1))
        panels = np.rot90(panels, int(rng.integers(4)), (1, 2))
        panels = panels[:, :, ::-1] if rng.random() < 0.5 else panels
        return panels[:4].astype(np.float32), panels[4] > 127


def compose_field(bank: Bank, style: Style, negative: int, rng: np.random.Generator) -> Composed:
    """Put one field together.

    Args:
        bank: where cells come from.
        style: how the field looks.
        negative: the class of cells that have lost their protein.
        rng: source of everything drawn.
    """
    few, many = style.classes
    known = sorted(bank.by_class)
    count = 1 + int(rng.choice(3, p=JOINED)) if style.several else int(rng.integers(few, many + 1))
    chosen = rng.choice(known, min(len(known), count), replace=False)
    empty = rng.random() < style.empty
    light = np.zeros((4, EDGE, EDGE), np.float32)
    label_map = np.zeros((EDGE, EDGE), np.int32)
    truth: list[list[int]] = []
    turns = int(rng.integers(style.cells[0], style.cells[1] + 1))
    shown = assign(turns, chosen.tolist(), Look(lost=0), rng) if style.several else None
    for turn in range(turns):
        # each class is shown by one cell that keeps its protein
        first, lost = turn < len(chosen), empty
        if shown is not None:
            labels = shown[turn]
            lost = lost or rng.random() < style.lost
        else:
            labels = [int(chosen[turn]) if first else int(rng.choice(chosen))]
            lost = lost or (not first and rng.random() < style.lost)
        cell, mask = draw(bank, labels, rng)
        if _place(light, label_map, stain(cell, style, lost, rng), mask, style, rng):
            truth.append([negative] if lost else labels)
    image_labels = sorted({label for labels in truth for label in labels} - {negative}) or [negative]
    return Composed(photograph(light, style, rng), label_map, truth, image_labels)


def draw(bank: Bank, labels: Sequence[int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return a cell that shows some classes, (4, h, w) float32 of 0..255, and its mask (h, w) bool."""
    first, *others = rng.permutation(labels).tolist() if len(labels) > 1 else labels
    cell, mask = bank.draw(first, rng)
    if not others:
        return cell, mask
    lent = [lend(cell, mask, *bank.draw(label, rng)) for label in others]
    return join(cell, mask, lent, rng), mask


def stain(cell: np.ndarray, style: Style, lost: bool, rng: np.random.Generator) -> np.ndarray:
    """Return a cell (4, h, w) with each channel brighter or dimmer by chance, and its protein kept or lost."""
    out = cell * rng.uniform(0.75, 1.25, (4, 1, 1)).astype(np.float32)
    if lost:
        cytoplasm = cv2.GaussianBlur(0.4 * cell[0] + 0.6 * cell[3], (0, 0), 2)
        out[GREEN] = cell[GREEN] * rng.uniform(0, 0.08) + rng.uniform(*style.glow) * (cytoplasm + 20)
    else:
        out[GREEN] = cell[GREEN] * rng.uniform(*style.gain)
    return np.minimum(out, 255)


def photograph(light: np.ndarray, style: Style, rng: np.random.Generator) -> np.ndarray:
    """Return light (4, H, W) of 0..255 as a camera sees it, uint8: tilt, haze, offset, shot noise."""
    height, width = light.shape[1:]
    slope = rng.uniform(-style.tilt, style.tilt, 2)
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
    seen = light * (1 + slope[0] * y + slope[1] * x).astype(np.float32)
    amount = rng.uniform(*style.haze)
    if amount > 0:
        seen += amount * np.stack([cv2.GaussianBlur(plane, (0, 0), 30) for plane in seen])
    seen = np.clip(seen + rng.uniform(0, 1) * style.offset, 0, 400)
    photons = rng.uniform(*style.photons)
    if photons > 0:
        seen = rng.poisson(seen * photons + 1) / photons
    return np.clip(seen, 0, 255).astype(np.uint8)


def _place(
    light: np.ndarray,
    label_map: np.ndarray,
    cell: np.ndarray,
    mask: np.ndarray,
    style: Style,
    rng: np.random.Generator,
) -> bool:
    """Lay a cell where there is room, under those that lie there already; False if there is none."""
    corner = _room(label_map > 0, mask, style, rng)
    if corner is None:
        return False
    top, left = corner
    rows = slice(max(top, 0), min(top + mask.shape[0], EDGE))
    columns = slice(max(left, 0), min(left + mask.shape[1], EDGE))
    part = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
    free = mask[part] & (label_map[rows, columns] == 0)
    if free.sum() < VISIBLE * mask.sum():
        return False
    label_map[rows, columns][free] = label_map.max() + 1
    light[:, rows, columns] = np.where(free, cell[(slice(None), *part)], light[:, rows, columns])
    return True


def _room(taken: np.ndarray, mask: np.ndarray, style: Style, rng: np.random.Generator) -> tuple[int, int] | None:
    """Return top and left of a place where a cell finds room, of all places by chance; None if there is none."""
    edge = EDGE // COARSE
    shape = [max(1, round(n / COARSE)) for n in mask.shape]
    small = cv2.resize(mask.astype(np.float32), shape[::-1], interpolation=cv2.INTER_AREA)
    margin = max(shape)
    occupied = cv2.resize(taken.astype(np.float32), (edge, edge), interpolation=cv2.INTER_AREA)
    occupied = np.pad(occupied, margin)
    inside = np.pad(np.ones((edge, edge), np.float32), margin)
    around = ndimage.maximum_filter(occupied, 3) - occupied
    covered, visible, contact = (cv2.matchTemplate(m, small, cv2.TM_CCORR) for m in (occupied, inside, around))
    whole = small.sum()
    good = (covered < style.cover * whole) & (visible >= VISIBLE * whole)
    if not good.any():
        return None
    weight = np.where(good, 1 + style.packing * np.maximum(contact, 0) ** 2, 0).ravel().astype(np.float64)
    top, left = np.unravel_index(rng.choice(weight.size, p=weight / weight.sum()), good.shape)
    return (int(top) - margin) * COARSE, (int(left) - margin) * COARSE
