"""Synthetic cells: how they lie, their form, their three stains, and the protein in each of the 19 places of a cell.

A pattern takes a cell and a random generator and returns (h, w) float32 of the cell's bounding box, about
0..1, sharp: the microscope's blur comes later, on the whole field.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
from scipy import ndimage

Shape = tuple[int, int]


def noise(shape: Shape, scale: float, rng: np.random.Generator) -> np.ndarray:
    """Return smooth noise of mean 0 and standard deviation about 1, its grains about 2 * `scale` px wide."""
    # The standard deviation of blurred white noise is 1 / (2 sqrt(pi) scale); dividing by the sample's own
    # would make the contrast depend on the size of the patch.
    white = rng.standard_normal(shape, np.float32)
    return ndimage.gaussian_filter(white, scale, mode="wrap", truncate=3) * np.float32(2 * np.pi**0.5 * scale)


def pick(mask: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return (count, 2) points y, x drawn evenly from `mask`; (0, 2) where the mask is empty."""
    where = np.flatnonzero(mask)
    if len(where) == 0:
        return np.zeros((0, 2))
    points = np.stack(np.unravel_index(rng.choice(where, count), mask.shape), axis=1)
    return points + rng.uniform(-0.5, 0.5, (count, 2))


def dots(shape: Shape, centres: np.ndarray, sigma: float | np.ndarray, height: float | np.ndarray) -> np.ndarray:
    """Return the (H, W) sum of Gaussian dots at `centres` (N, 2); sigma and height are one or N values."""
    narrow = -0.5 / np.broadcast_to(np.asarray(sigma, np.float32), len(centres))[:, None] ** 2
    rows = np.exp(narrow * (np.arange(shape[0]) - centres[:, :1]) ** 2)  # (N, H)
    columns = np.exp(narrow * (np.arange(shape[1]) - centres[:, 1:]) ** 2)  # (N, W)
    heights = np.broadcast_to(np.asarray(height, np.float32), len(centres))[:, None]
    return ((rows * heights).T @ columns).astype(np.float32)


def curves(
    starts: np.ndarray,
    headings: np.ndarray,
    length: float,
    stride: float,
    wobble: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Walk from every start, turning a little at each step.

    Args:
        starts: (N, 2) points y, x.
        headings: (N,) first directions in radians, 0 along +x.
        length: length of every curve in px.
        stride: step in px.
        wobble: standard deviation of the turn at a step, radians; 0 draws straight lines.
        rng: source of the turns.

    Returns:
        (N, T, 2) points, with T = length / stride.
    """
    steps = max(2, round(length / stride))
    turns = wobble * np.cumsum(rng.standard_normal((len(starts), steps)), axis=1)
    heading = headings[:, None] + turns
    walk = np.cumsum(np.stack([np.sin(heading), np.cos(heading)], axis=-1), axis=1)
    return starts[:, None, :] + stride * walk


def draw(shape: Shape, points: np.ndarray, weight: float | np.ndarray) -> np.ndarray:
    """Drop `weight` at every point (..., 2), shared by the four nearest pixels; points outside are lost."""
    spots = points.reshape(-1, 2)
    weights = np.broadcast_to(np.asarray(weight, np.float64), points.shape[:-1]).ravel()
    corner = np.floor(spots).astype(np.intp)
    part = spots - corner
    out = np.zeros(shape[0] * shape[1])
    for dy in (0, 1):
        for dx in (0, 1):
            y, x = corner[:, 0] + dy, corner[:, 1] + dx
            share = np.abs(1 - dy - part[:, 0]) * np.abs(1 - dx - part[:, 1])
            inside = (y >= 0) & (y < shape[0]) & (x >= 0) & (x < shape[1])
            flat = y[inside] * shape[1] + x[inside]
            out += np.bincount(flat, (weights * share)[inside], minlength=len(out))
    return out.reshape(shape).astype(np.float32)


@dataclass(frozen=True)
class Outline:
    """The geometry of one cell, in arrays of its bounding box (h, w)."""

    box: tuple[slice, slice]
    """Rows and columns of the bounding box on the canvas."""
    body: np.ndarray
    """(h, w) bool, the whole cell, nucleus included."""
    nucleus: np.ndarray
    """(h, w) bool; the plate of chromosomes where the cell is mitotic."""
    nucleoli: np.ndarray
    """(h, w) float32 0..1, soft blobs inside the nucleus."""
    sites: np.ndarray
    """(n, 2) centres y, x of the nucleoli."""
    depth: np.ndarray
    """(h, w) px to the outside of the cell, 0 outside."""
    rim: np.ndarray
    """(h, w) px to the border of the nucleus, negative inside it."""
    centre: np.ndarray
    """(2,) centre y, x of the nucleus."""
    centrosome: np.ndarray
    """(2,) position y, x of the centrosome, just outside the nucleus."""
    angle: float
    """Direction of the long axis in radians."""
    unit: float
    """Length unit in px: 1/64 of a typical cell's diameter, about one pixel in a field of 256 px."""
    mitotic: bool
    """Rounded up, with condensed chromosomes."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the bounding box."""
        return self.body.shape[0], self.body.shape[1]


@dataclass(frozen=True)
class Seed:
    """A cell to be: its place and form before it meets its neighbours."""

    centre: np.ndarray
    radius: float
    stretch: float
    angle: float
    waves: np.ndarray
    """(n, 2) amplitude and phase of the outline's 2nd, 3rd, ... harmonic."""
    mitotic: bool


def scatter(size: int, cell_px: float, fill: float, rng: np.random.Generator) -> np.ndarray:
    """Throw cell centres into a (size, size) field, none nearer than most of a cell's diameter to another.

    Returns:
        (N, 2) points y, x; `fill` = 1 packs as many as chance finds room for. N is at least 1.
    """
    chosen = rng.uniform(0, size, (1, 2))
    for point in rng.uniform(0, size, (max(40, int(12 * (size / cell_px) ** 2)), 2)):
        if np.min(np.sum((chosen - point) ** 2, axis=1)) > (0.8 * cell_px) ** 2:
            chosen = np.concatenate([chosen, point[None]])
    return chosen[: max(1, round(fill * len(chosen)))]


def make_seed(centre: np.ndarray, cell_px: float, mitotic: bool, rng: np.random.Generator) -> Seed:
    """Choose size, stretch, direction and waviness of a cell; a mitotic one is round and smaller."""
    count = 5
    amplitude = rng.uniform(0, 0.16, count) / np.sqrt(np.arange(1, count + 1))
    waves = np.stack([amplitude * (0.15 if mitotic else 1), rng.uniform(0, 2 * np.pi, count)], axis=1)
    radius = 0.5 * cell_px * (rng.uniform(0.74, 0.82) if mitotic else rng.uniform(1.0, 1.3))
    stretch = 1.0 if mitotic else rng.uniform(1.0, 1.45)
    return Seed(centre, radius, stretch, rng.uniform(0, np.pi), waves, mitotic)


def polar(shape: tuple[int, int], centre: np.ndarray, angle: float, stretch: float) -> tuple[np.ndarray, np.ndarray]:
    """Return radius and direction of every pixel about `centre`, in a turned and stretched frame."""
    y = np.arange(shape[0])[:, None] - centre[0]
    x = np.arange(shape[1])[None, :] - centre[1]
    along = (x * np.cos(angle) + y * np.sin(angle)) / np.sqrt(stretch)
    across = (y * np.cos(angle) - x * np.sin(angle)) * np.sqrt(stretch)
    return np.hypot(along, across).astype(np.float32), np.arctan2(across, along).astype(np.float32)


def wavy_ellipse(shape: tuple[int, int], seed: Seed) -> np.ndarray:
    """Return for every pixel its distance from the seed's centre in outline radii: below 1 is inside."""
    radius, direction = polar(shape, seed.centre, seed.angle, seed.stretch)
    outline = np.ones(shape, np.float32)
    for k, (amplitude, phase) in enumerate(seed.waves, start=2):
        outline += np.float32(amplitude) * np.cos(k * direction + np.float32(phase))
    return radius / (np.float32(seed.radius) * outline)


def settle(edge: int, seeds: list[Seed], unit: float, rng: np.random.Generator) -> np.ndarray:
    """Share an (edge, edge) canvas among the seeds: each pixel goes to the cell it lies deepest in.

    Returns:
        (edge, edge) int32 label map; cell i + 1 is seed i. Neighbours touch along ragged lines.
    """
    best = np.ones((edge, edge), np.float32)
    owner = np.zeros((edge, edge), np.int32)
    rough = 0.035 * noise((edge, edge), 2.5 * unit, rng)
    for number, seed in enumerate(seeds, start=1):
        reach = int(1.7 * seed.radius)
        corner = np.maximum(seed.centre.astype(int) - reach, 0)
        box = (slice(corner[0], corner[0] + 2 * reach), slice(corner[1], corner[1] + 2 * reach))
        local = Seed(seed.centre - corner, seed.radius, seed.stretch, seed.angle, seed.waves, seed.mitotic)
        depth = wavy_ellipse(best[box].shape, local) + (0 if seed.mitotic else rough[box])
        mine = depth < best[box]
        best[box][mine] = depth[mine]
        owner[box][mine] = number
    return owner


def boxes(owner: np.ndarray) -> list[tuple[slice, slice]]:
    """Return the bounding box of every cell 1..N, two pixels wider on each side."""
    return [
        (slice(max(rows.start - 2, 0), rows.stop + 2), slice(max(columns.start - 2, 0), columns.stop + 2))
        for rows, columns in ndimage.find_objects(owner)
    ]


def make_outline(
    mask: np.ndarray, box: tuple[slice, slice], seed: Seed, unit: float, rng: np.random.Generator
) -> Outline:
    """Give the cell that `mask` (h, w) shows in its bounding box a nucleus, nucleoli and a centrosome."""
    centre = seed.centre - (box[0].start, box[1].start)
    body = _piece(mask, centre)
    depth = ndimage.distance_transform_edt(body).astype(np.float32)
    nucleus = _piece(_nucleus(body.shape, seed, centre, rng) & (depth > 1.5 * unit), centre)
    outside = ndimage.distance_transform_edt(~nucleus) - ndimage.distance_transform_edt(nucleus)
    sites = pick(outside < -4 * unit, int(rng.integers(2, 5)), rng)
    sizes = rng.uniform(1.6, 2.8, len(sites)) * unit
    nucleoli = np.clip(2 * dots(body.shape, sites, sizes, 1.0) - 0.5, 0, 1) * nucleus
    near = (outside > 2.5 * unit) & (outside < 5 * unit) & (depth > 4 * unit)
    centrosomes = pick(near, 1, rng)
    return Outline(
        box=box,
        body=body,
        nucleus=nucleus,
        nucleoli=nucleoli * (not seed.mitotic),
        sites=sites,
        depth=depth,
        rim=outside.astype(np.float32),
        centre=centre,
        centrosome=centrosomes[0] if len(centrosomes) else centre,
        angle=seed.angle,
        unit=unit,
        mitotic=seed.mitotic,
    )


def _nucleus(shape: tuple[int, int], seed: Seed, centre: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    waves = np.stack([rng.uniform(0, 0.06, 3), rng.uniform(0, 2 * np.pi, 3)], axis=1)
    if seed.mitotic:
        form = Seed(centre, 0.3 * seed.radius, rng.uniform(4.0, 5.5), seed.angle, waves, True)
    else:
        angle = seed.angle + rng.normal(0, 0.4)
        size = rng.uniform(0.41, 0.5) * seed.radius
        form = Seed(centre, size, rng.uniform(1.05, 1.6), angle, waves, False)
    return wavy_ellipse(shape, form) < 1


def _piece(mask: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Keep the connected piece of `mask` nearest to `centre`, its holes filled."""
    pieces, count = ndimage.label(mask)
    if count > 1:
        where = np.argwhere(mask)
        y, x = where[np.argmin(np.sum((where - centre) ** 2, axis=1))]
        mask = pieces == pieces[y, x]
    return ndimage.binary_fill_holes(mask)


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
