"""Fields to learn segmentation from: composed or drawn, with cells that touch, and the truth of cells and nuclei.

Cells come from a `CellBank` (whose masks are exact), nuclei from their blue inside these masks. What real fields have
and composed ones lack is put on top: edges that fade, light around the cells, uneven light, haze, noise, blur.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from skimage.filters import threshold_otsu

from composing.cells import Bank, Style, compose_field
from wsss.data.synthetic import Look, draw_field
from wsss.training.tasks.masks import make_target

RED, BLUE, YELLOW = 0, 2, 3
STAINS = [RED, BLUE, YELLOW]
"""What a network sees of a field; green, the protein of interest, would shape the masks."""
EDGE = 384
"""Edge of a scene in px."""
BORDER_PX = 1
"""Width of the target's border on each side of the line between two objects."""
NOTHING = 18
"""The class of a cell without protein; green is not used here."""


@dataclass(frozen=True)
class Scene:
    """A field without a camera's faults, and what is to be found in it."""

    light: np.ndarray
    """(3, E, E) uint8: red, blue, yellow."""
    target: np.ndarray
    """(4, E, E) uint8: inside and border of nuclei, inside and border of cells."""


@dataclass(frozen=True)
class Zoomed:
    """A bank whose cells come larger or smaller."""

    bank: Bank
    zoom: float

    @property
    def by_class(self) -> dict[int, list[str]]:
        """Return the cells of each class."""
        return self.bank.by_class

    def draw(self, label: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return a cell at its new size."""
        cell, mask = self.bank.draw(label, rng)
        shape = [max(4, round(n * self.zoom)) for n in mask.shape[::-1]]
        planes = [cv2.resize(np.ascontiguousarray(plane), shape, interpolation=cv2.INTER_AREA) for plane in cell]
        wide = cv2.resize(mask.astype(np.uint8), shape, interpolation=cv2.INTER_NEAREST) > 0
        return np.stack(planes), wide


@dataclass(frozen=True)
class NucleiOnly:
    """A bank of nuclei, each standing for a whole cell that shows the same in every channel."""

    bank: Bank

    @property
    def by_class(self) -> dict[int, list[str]]:
        """Return the cells of each class."""
        return self.bank.by_class

    def draw(self, label: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return a nucleus."""
        cell, mask = self.bank.draw(label, rng)
        nucleus = find_nuclei(cell[BLUE], mask.astype(np.int32)) > 0
        if not nucleus.any():
            return cell, mask
        rows, columns = (np.flatnonzero(nucleus.any(axis=axis)) for axis in (1, 0))
        box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        return np.repeat(cell[BLUE][box][None], 4, axis=0), nucleus[box]


def find_nuclei(blue: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Find the nucleus of every cell: the largest part above Otsu's threshold of blue within the cell, holes filled.

    Args:
        blue: (H, W), any scale.
        cells: (H, W) int32, 0 background.

    Returns:
        (H, W) int32 with the ids of the cells.
    """
    nuclei = np.zeros(cells.shape, np.int32)
    soft = cv2.GaussianBlur(blue.astype(np.float32), (0, 0), 1.5)
    for cell in np.unique(cells[cells > 0]):
        mask = cells == cell
        values = soft[mask]
        if values.max() - values.min() < 4:
            continue
        bright = (mask & (soft > threshold_otsu(values))).astype(np.uint8)
        bright = cv2.morphologyEx(bright, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
        outlines, _ = cv2.findContours(bright, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        if outlines:
            filled = np.zeros(cells.shape, np.uint8)
            cv2.drawContours(filled, [max(outlines, key=cv2.contourArea)], -1, 1, cv2.FILLED)
            nuclei[mask & (filled > 0)] = cell
    return nuclei


def compose_scene(bank: Bank, rng: np.random.Generator) -> Scene:
    """Compose a scene of cells, or (one of five) of nuclei alone, at a zoom that is drawn."""
    alone = rng.random() < 0.2
    zoom = float(np.exp(rng.uniform(np.log(0.5), np.log(1.5))))
    count = (8, 90) if zoom > 0.8 else (20, 200)
    style = Style(
        cells=(2 * count[0], 2 * count[1]) if alone else count,
        classes=(2, 5),
        gain=(0.5, 1.0),
        packing=float(rng.uniform(0, 12)),
        cover=float(rng.choice([0.02, 0.08, 0.15])),
    )
    source: Bank = NucleiOnly(bank) if alone else bank
    field = compose_field(Zoomed(source, zoom), style, NOTHING, rng)
    nuclei = field.label_map if alone else find_nuclei(field.image[BLUE], field.label_map)
    return _scene(field.image, field.label_map, nuclei)


def drawn_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene by code."""
    field = draw_field(rng, EDGE, [16], Look(cell=float(rng.uniform(0.1, 0.3)), photons=50))
    return _scene(field.image, field.label_map, field.nuclei)


def _scene(image: np.ndarray, cells: np.ndarray, nuclei: np.ndarray) -> Scene:
    size = (EDGE, EDGE)
    light = np.stack([cv2.resize(image[c], size, interpolation=cv2.INTER_AREA) for c in STAINS])
    maps = [cv2.resize(m.astype(np.int32), size, interpolation=cv2.INTER_NEAREST) for m in (nuclei, cells)]
    known = np.zeros(size, bool)
    return Scene(light, np.concatenate([make_target(m, known, "border", BORDER_PX) for m in maps]))


def photograph_scene(scene: Scene, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Turn and flip a scene by chance and take a faulty picture of it.

    Returns:
        Image (3, E, E) uint8 and target (4, E, E) uint8.
    """
    turns, flip = int(rng.integers(4)), rng.random() < 0.5
    light, target = (np.rot90(m, turns, (1, 2)) for m in (scene.light, scene.target))
    if flip:
        light, target = light[:, :, ::-1], target[:, :, ::-1]
    light = _dim_cells(np.ascontiguousarray(light, np.float32), target, rng)
    light = _fade(light, target, rng)
    light = _stain_anew(light, rng)
    return _camera(light, rng), np.ascontiguousarray(target)


def _dim_cells(light: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Make some cells dimmer than their neighbours, all their stains alike."""
    count, cells = cv2.connectedComponents(np.ascontiguousarray(target[2]), connectivity=4)
    cells = cv2.dilate(cells.astype(np.float32), np.ones((5, 5), np.uint8)).astype(np.int32)  # borders go with a cell
    gains = np.exp(rng.uniform(np.log(0.2), 0, count)).astype(np.float32)
    gains[(rng.random(count) < rng.uniform(0.3, 1)) | (np.arange(count) == 0)] = 1
    return light * gains[cells]


def _fade(light: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Let cells get dim towards their free edges, and shine a little beyond them."""
    cells = (target[2:].max(axis=0) > 0).astype(np.uint8)
    width = rng.uniform(0, 6)
    if width > 0.5:
        depth = cv2.distanceTransform(cells, cv2.DIST_L2, 3)
        strength = np.clip((depth + 0.5) / width, 0, 1).astype(np.float32)
        light = light * (1 - rng.uniform(0, 0.9) * (1 - strength))
    for sigma, most in ((2.0, 0.6), (8.0, 0.4), (25.0, 0.3)):
        amount = rng.uniform(0, most) if rng.random() < 0.5 else 0
        if amount:
            light = light + amount * _blur(light, sigma)
    return light


def _blur(light: np.ndarray, sigma: float) -> np.ndarray:
    """Blur (C, H, W), wide blurs on reduced planes."""
    step = max(1, int(sigma // 3))
    size = light.shape[2] // step, light.shape[1] // step
    out = []
    for plane in light:
        small = cv2.GaussianBlur(cv2.resize(plane, size, interpolation=cv2.INTER_AREA), (0, 0), sigma / step)
        out.append(cv2.resize(small, light.shape[:0:-1], interpolation=cv2.INTER_LINEAR))
    return np.stack(out)


def _stain_anew(light: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change brightness and contrast of each stain; now and then one of red and yellow is missing or shows both."""
    power = rng.uniform(0.7, 1.4, (3, 1, 1)).astype(np.float32)
    light = 255 * (np.clip(light, 0, 400) / 255) ** power
    light *= np.exp(rng.uniform(np.log(0.25), np.log(1.3), (3, 1, 1))).astype(np.float32)
    chance = rng.random()
    if chance < 0.08:
        light[2] = light[0]
    elif chance < 0.16:
        light[rng.choice([0, 2])] *= 0.05
    if rng.random() < 0.3:  # cytoplasm shines through in the nuclear stain
        light[1] += rng.uniform(0, 0.25) * light[2]
    return light


def _camera(light: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Uneven light, blur, offset, shot noise, 8 bits."""
    slopes = rng.uniform(-0.4, 0.4, 2)
    y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in light.shape[1:])
    light = light * (1 + slopes[0] * y[:, None] + slopes[1] * x).clip(0.3).astype(np.float32)
    if rng.random() < 0.4:
        light = _blur(light, float(rng.uniform(0.5, 1.6)))
    light += rng.uniform(0, 12, (3, 1, 1)).astype(np.float32)
    photons = np.exp(rng.uniform(np.log(0.3), np.log(6)))
    noise = rng.standard_normal(light.shape, np.float32) * np.sqrt(light / photons + 0.3)
    return np.clip(light + noise, 0, 255).astype(np.uint8)
