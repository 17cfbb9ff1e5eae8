"""What a protein looks like in each of the 19 places of a cell, and the three stains every cell has.

A pattern takes a cell and a random generator and returns (h, w) float32 of the cell's bounding box, about
0..1, sharp: the microscope's blur comes later, on the whole field.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np

from wsss.data.synthetic.outlines import Outline, curves, dots, draw, noise, pick

STRIDE = 0.7
"""Step along a filament, in units; shorter than the blur, so that no beads show."""


@dataclass(frozen=True)
class Cell(Outline):
    """A cell with its reference stains, which two of the protein patterns follow."""

    microtubules: np.ndarray
    """(h, w) float32, the red stain."""
    chromatin: np.ndarray
    """(h, w) float32, the blue stain."""
    reticulum: np.ndarray
    """(h, w) float32, the yellow stain: endoplasmic reticulum."""


Pattern = Callable[[Cell, np.random.Generator], np.ndarray]


def stain(outline: Outline, rng: np.random.Generator) -> Cell:
    """Draw the red, blue and yellow stains of a cell."""
    geometry = {field.name: getattr(outline, field.name) for field in fields(outline)}
    return Cell(
        **geometry,
        microtubules=_spindle(outline, rng) + 0.12 * outline.body if outline.mitotic else _asters(outline, rng),
        chromatin=_chromatin(outline, rng),
        reticulum=_reticulum(outline, rng),
    )


def _asters(cell: Outline, rng: np.random.Generator) -> np.ndarray:
    """Microtubules: long curved filaments from the centrosome, and from around the nucleus outwards."""
    rays = rng.uniform(0, 2 * np.pi, 38)
    rim = pick((cell.rim > 0) & (cell.rim < 4 * cell.unit) & cell.body, 38, rng)
    away = np.arctan2(*(rim - cell.centre).T) + rng.normal(0, 0.7, len(rim))
    starts = np.concatenate([np.repeat(cell.centrosome[None], len(rays), axis=0), rim])
    paths = curves(starts, np.append(rays, away), 45 * cell.unit, STRIDE * cell.unit, 0.07, rng)
    web = draw(cell.shape, paths, 0.75 * cell.unit**2)
    over = np.where(cell.nucleus, 0.12, 1) * cell.body
    return _saturate(0.9 * web + 0.08) * over.astype(np.float32)


def _spindle(cell: Outline, rng: np.random.Generator) -> np.ndarray:
    """Two poles beside the plate of chromosomes, with bowed fibres from each to the plate."""
    along = np.array([np.sin(cell.angle), np.cos(cell.angle)])
    across = np.array([along[1], -along[0]])
    width, height = 8.5 * cell.unit, 11 * cell.unit
    spread = rng.uniform(-1, 1, (2, 26, 1)) * width
    t = np.linspace(0, 1, round(height / (STRIDE * cell.unit)) + 1)[None, None, :]
    side = np.array([-1.0, 1.0])[:, None, None]
    bow = spread * np.sin(0.5 * np.pi * t)  # (2, fibres, points): 0 at the pole, full at the plate
    reach = side * height * (1 - t) + 0 * bow
    paths = cell.centre + bow[..., None] * along + reach[..., None] * across
    poles = cell.centre + np.array([[-1.0], [1.0]]) * height * across
    fibres = draw(cell.shape, paths, 0.55 * cell.unit**2)
    return _saturate(fibres + dots(cell.shape, poles, 1.3 * cell.unit, 1.5)) * cell.body


def _chromatin(cell: Outline, rng: np.random.Generator) -> np.ndarray:
    """DNA: grainy, darker in the nucleoli; dense and bright where the chromosomes are condensed."""
    grain = 1 + 0.13 * noise(cell.shape, 1.3 * cell.unit, rng) + 0.08 * noise(cell.shape, 3 * cell.unit, rng)
    level = 1.35 if cell.mitotic else 0.75
    return level * cell.nucleus * np.clip(grain, 0.3, 1.6) * (1 - 0.65 * cell.nucleoli)


def _reticulum(cell: Outline, rng: np.random.Generator) -> np.ndarray:
    """ER: a fine net, dense around the nucleus and thin towards the edge of the cell."""
    ridges = 1 - np.abs(noise(cell.shape, 1.3 * cell.unit, rng))
    fall = np.exp(-np.maximum(cell.rim, 0) / (13 * cell.unit))
    inside = np.where(cell.nucleus, 0.06, 1) * cell.body
    return (0.15 + 0.85 * fall) * np.clip(0.45 + 0.55 * ridges, 0.05, 1) * inside


def nucleoplasm(cell: Cell, rng: np.random.Generator) -> np.ndarray:
    """The whole nucleus, smooth, the nucleoli left out."""
    grain = 1 + 0.07 * noise(cell.shape, 2 * cell.unit, rng)
    return 0.7 * cell.nucleus * (1 - 0.85 * cell.nucleoli) * grain


def nuclear_membrane(cell: Cell, rng: np.random.Generator) -> np.ndarray:
    """A thin bright ring around a faint nucleus."""
    ring = np.exp(-((cell.rim / (1.05 * cell.unit)) ** 2))
    return (1.4 * ring * (1 + 0.15 * noise(cell.shape, 2 * cell.unit, rng)) + 0.13 * cell.nucleus) * cell.body


def nucleoli(cell: Cell, rng: np.random.Generator) -> np.ndarray:
    """Two to four filled blobs in the nucleus, whose rest is faint."""
    return cell.nucleoli * (1 + 0.1 * noise(cell.shape, cell.unit, rng)) + 0.07 * cell.nucleus


def fibrillar_center(cell: Cell, rng: np.random.Generator) -> np.ndarray:
    """Several tiny spots inside each nucleolus."""
    count = 4
    places = np.repeat(cell.sites, count, axis=0)
    places = places + rng.normal(0, 1.5 * cell.unit, places.shape)
    spots = dots(cell.shape, places, 0.5 * cell.unit, rng.uniform(1.2, 2.6, len(places)))
    return (spots + 0.03) * cell.nucleus


def nuclear_speckles(cell: Cell, rng: np.random.Generator) -> np.ndarray:
    """Twenty or so irregular speckles in a nucleus that is faintly filled, none in the nucleoli."""
    ground = noise(cell.shape, 1.35 * cell.unit, rng)
    speckles = np.clip(2.2 * (ground - 0.75), 0, 1.2)
    return (speckles + 0.13) * (1 - 0.9 * cell.nucleoli) * cell.nucleus


def nuclear_bodies(cell: Cell, rng: np.random.Generator) -> np.ndarray:
    """Two to six round dots of one size, apart from the nucleoli."""
    free = (cell.rim < -2 * cell.unit) & (cell.nucleoli < 0.1)
    places = pick(free, int(rng.integers(3, 7)), rng)
    return (dots(cell.shape, places, 1.05 * cell.unit, 1.4) + 0.07) * cell.nucleus


def endoplasmic_reticulum(cell: Cell, rng: np.random.Generator) -> np.ndarray:
    """What the yellow stain shows."""
    return cell.reticulum * (1 + 0.1 * noise(cell.shape, 2 * cell.unit, rng))


def golgi(cell: Cell, rng: np.random.Generator) -> np.ndarray:
    """A compact, folded ribbon that hugs one side of the nucleus."""
    direction = np.arctan2(*(cell.centrosome - cell.centre))
    y, x = np.indices(cell.shape)
    turned = np.arctan2(y - cell.centre[0], x - cell.centre[1]) - direction
    near = np.cos(turned) > np.cos(rng.uniform(0.55, 0.85))
    place = near & (cell.rim > cell.unit) & (cell.rim < 5.5 * cell.unit) & (cell.depth > 2 * cell.unit)
    starts = pick(place, 16, rng)
    tangent = np.arctan2(*(starts - cell.centre).T) + np.pi / 2 + rng.normal(0, 0.45, len(starts))
    ribbon = draw(cell.shape, curves(starts, tangent, 6 * cell.unit, 0.5 * cell.unit, 0.2, rng), 0.8 * cell.unit**2)
    return (1.25 * _saturate(ribbon) + 0.05) * cell.body * ~cell.nucleus


def intermediate_filaments(cell: Cell, rng: np.random.Generator) -> np.ndarray:
    """Wavy bundles that wind around the nucleus and mesh into a cage."""
    starts = pick((cell.rim > 0) & (cell.rim < 13 * cell.unit) & cell.body, 44, rng)
    turn = rng.choice([-1, 1], len(starts))
    around = np.arctan2(*(starts - cell.centre).T) + turn * rng.normal(1.3, 0.5, len(starts))
    steps = np.arange(round(32 / STRIDE)) * STRIDE  # arc length in units
    wave = 0.55 * np.sin(steps * 2 * np.pi / 17 + rng.uniform(0, 2 * np.pi, (len(starts), 1)))
    heading = around[:, None] + wave + 0.045 * steps * turn[:, None]
    walk = np.cumsum(np.stack([np.sin(heading), np.cos(heading)], axis=-1), axis=1)
    bundles = draw(cell.shape, starts[:, None] + STRIDE * cell.unit * walk, 0.9 * cell.unit**2)
    fall = np.exp(-np.maximum(cell.rim, 0) / (22 * cell.unit))
    return 1.2 * _saturate(bundles) * fall * np.where(cell.nucleus, 0.2, 1) * cell.body


def actin_filaments(cell: Cell, rng: np.random.Generator) -> np.ndarray:
    """Straight stress fibres from edge to edge, nearly parallel, with a thin cortex."""
    starts = pick(cell.body, 24, rng)
    heading = cell.angle + rng.normal(0, 0.12, len(starts))
    length = rng.uniform(25, 60, len(starts))[:, None, None] * cell.unit
    t = np.linspace(-0.5, 0.5, round(60 / STRIDE))[None, :, None]
    way = np.stack([np.sin(heading), np.cos(heading)], axis=1)[:, None, :]
    weight = rng.uniform(0.6, 1.3, (len(starts), 1)) * length[..., 0] / (60 * cell.unit) * cell.unit**2
    fibres = draw(cell.shape, starts[:, None] + t * length * way, weight)
    cortex = 0.35 * np.exp(-((cell.depth / (1.5 * cell.unit)) ** 2))
    return (1.1 * _saturate(fibres) + cortex + 0.05) * cell.body


def microtubules(cell: Cell, rng: np.random.Generator) -> np.ndarray:
    """What the red stain shows."""
    return 1.1 * cell.microtubules * (1 + 0.1 * noise(cell.shape, 2 * cell.unit, rng))


def mitotic_spindle(cell: Cell, rng: np.random.Generator) -> np.ndarray:
    """The spindle of a dividing cell."""
    return 1.1 * _spindle(cell, rng) + 0.06 * cell.body


def centrosome(cell: Cell, rng: np.random.Generator) -> np.ndarray:
    """One or two bright dots beside the nucleus."""
    count = int(rng.integers(1, 3))
    places = cell.centrosome + rng.normal(0, 1.7 * cell.unit, (count, 2)) * (count - 1)
    return dots(cell.shape, places, 0.95 * cell.unit, 1.7) + 0.05 * cell.body


def plasma_membrane(cell: Cell, rng: np.random.Generator) -> np.ndarray:
    """The outline of the cell, over a faint body."""
    line = np.exp(-(((cell.depth - cell.unit) / (1.1 * cell.unit)) ** 2))
    return (line * (0.95 + 0.2 * noise(cell.shape, 3 * cell.unit, rng)) + 0.1) * cell.body


def mitochondria(cell: Cell, rng: np.random.Generator) -> np.ndarray:
    """Many short wavy rods in the cytoplasm, most of them near the nucleus."""
    starts = pick((cell.rim > cell.unit) & (cell.depth > 2 * cell.unit), 200, rng)
    distance = cell.rim[tuple(np.clip(np.rint(starts).astype(int), 0, np.array(cell.shape) - 1).T)]
    starts = starts[rng.random(len(starts)) < np.exp(-distance / (14 * cell.unit))]
    outward = np.arctan2(*(starts - cell.centre).T) + rng.normal(0, 0.9, len(starts))
    paths = curves(starts, outward, 6.5 * cell.unit, 0.5 * cell.unit, 0.25, rng)
    return (1.15 * _saturate(draw(cell.shape, paths, 0.95 * cell.unit**2)) + 0.03) * cell.body * ~cell.nucleus


def aggresome(cell: Cell, rng: np.random.Generator) -> np.ndarray:
    """One large bright clump beside the nucleus."""
    outward = cell.centrosome - cell.centre
    place = cell.centrosome + outward / max(float(np.hypot(*outward)), 1e-6) * 3 * cell.unit
    blob = dots(cell.shape, place[None], rng.uniform(3.4, 4.6) * cell.unit, 2.4)
    clump = np.clip(blob + 0.12 * noise(cell.shape, 1.2 * cell.unit, rng) - 0.75, 0, 1)
    return (1.3 * clump * ~cell.nucleus + 0.07) * cell.body


def cytosol(cell: Cell, rng: np.random.Generator) -> np.ndarray:
    """The cytoplasm, evenly filled, thinner towards the edge; the nucleus dark."""
    height = 0.35 + 0.65 * np.minimum(cell.depth / (12 * cell.unit), 1)
    grain = 1 + 0.06 * noise(cell.shape, 1.5 * cell.unit, rng)
    return 0.7 * height * grain * np.where(cell.nucleus, 0.18, 1) * cell.body


def vesicles(cell: Cell, rng: np.random.Generator) -> np.ndarray:
    """Many small dots of uneven brightness all over the cytoplasm."""
    places = pick((cell.rim > cell.unit) & (cell.depth > cell.unit), int(rng.integers(45, 85)), rng)
    heights = rng.lognormal(0.1, 0.5, len(places))
    return (dots(cell.shape, places, rng.uniform(0.55, 0.9, len(places)) * cell.unit, heights) + 0.04) * cell.body


def negative(cell: Cell, rng: np.random.Generator) -> np.ndarray:
    """Nothing: only the faint glow that every cell has."""
    return np.zeros(cell.shape, np.float32)


def _saturate(density: np.ndarray) -> np.ndarray:
    """Bend densities of crossing filaments below 1."""
    return 1 - np.exp(-density)


PATTERNS: tuple[Pattern, ...] = (
    nucleoplasm,
    nuclear_membrane,
    nucleoli,
    fibrillar_center,
    nuclear_speckles,
    nuclear_bodies,
    endoplasmic_reticulum,
    golgi,
    intermediate_filaments,
    actin_filaments,
    microtubules,
    mitotic_spindle,
    centrosome,
    plasma_membrane,
    mitochondria,
    aggresome,
    cytosol,
    vesicles,
    negative,
)
"""The pattern of each class, in the order of `core.labels.HPA_NAMES`."""

MITOTIC = PATTERNS.index(mitotic_spindle)
NEGATIVE = PATTERNS.index(negative)
