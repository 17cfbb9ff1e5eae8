"""How synthetic cells lie and what form they have, and the brushes that draw in them."""

from dataclasses import dataclass

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
