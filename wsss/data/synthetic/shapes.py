"""Where the cells of a synthetic field lie, and the outlines of their bodies and nuclei."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from wsss.data.synthetic.strokes import dots, noise, pick


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
    beside = (outside > 2.5 * unit) & (outside < 5 * unit) & (depth > 4 * unit)
    found = pick(beside, 1, rng)
    return Outline(
        box=box,
        body=body,
        nucleus=nucleus,
        nucleoli=nucleoli * (not seed.mitotic),
        sites=sites,
        depth=depth,
        rim=outside.astype(np.float32),
        centre=centre,
        centrosome=found[0] if len(found) else centre,
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
