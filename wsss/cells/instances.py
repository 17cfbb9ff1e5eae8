"""Cells as objects: cut out as crops, found in the maps of a mask network (threshold, seeds, watershed, size).

With operations on masks and label maps, and signs that a given label map is not what it should be.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import cv2
import numpy as np
from scipy import ndimage
from skimage.measure import label
from skimage.morphology import reconstruction
from skimage.segmentation import watershed

from wsss.cells.regions import cell_runs
from wsss.core.checks import some
from wsss.core.outlines import IN_CORNER, in_corner
from wsss.options.scoring import CropConfig

MOST_CHANNELS = 4
"""Channels that OpenCV scales at once."""


def crop_batches(fields: Iterable[tuple[np.ndarray, np.ndarray]], config: CropConfig) -> Iterator[np.ndarray]:
    """Cut out the cells of several images, surroundings black, batch by batch: memory does not grow with the cells.

    Args:
        fields: (C, H, W) uint8 images, each with its (H, W) int label map; 0 is background, and ids may have gaps.
        config: size and mode, and most crops at a time.

    Yields:
        (n, C, size, size) uint8, image after image and by rising id; a batch goes on into the next image.

    Raises:
        ValueError: an image and its label map differ in size.
    """
    cells = (place for field in fields for place in _places(*field))
    while part := list(islice(cells, config.batch)):
        channels = len(part[0][0])
        crops = np.zeros((len(part), channels, config.size, config.size), np.uint8)
        for crop, (image, label_map, cell, box) in zip(crops, part, strict=True):
            _cut(image, label_map, cell, box, config, crop)
        yield crops


@dataclass(frozen=True)
class Window:
    """How networks that know the size of things want each cell: in the middle of a square of fixed width."""

    size: int
    """Edge of a crop in px."""
    pixel_um: float
    """Micrometres per pixel of a crop."""
    rim_um: float
    """How far around the cell its surroundings stay, in micrometres; beyond they are black."""


def window_batches(
    fields: Iterable[tuple[np.ndarray, np.ndarray, float]], window: Window, batch: int
) -> Iterator[np.ndarray]:
    """Cut out the cells of several images, each an image, its label map and the micrometres per pixel of both.

    Yields:
        (n, C, size, size) uint8 with n up to `batch`, image after image and by rising id; black beyond the image.
    """
    cells = ((*place, um) for image, label_map, um in fields for place in _places(image, label_map))
    while part := list(islice(cells, batch)):
        yield np.stack([_cut_window(*cell, window) for cell in part])


def _cut_window(
    image: np.ndarray, label_map: np.ndarray, cell: int, box: np.ndarray, um: float, window: Window
) -> np.ndarray:
    """Return one cell, (C, size, size): the square around the middle of its box, scaled, its surroundings black."""
    scale = window.pixel_um / um
    edge, rim = max(1, round(window.size * scale)), round(window.rim_um / um)
    top, left = ((int(box[k]) + int(box[k + 2])) // 2 - edge // 2 for k in (0, 1))
    height, width = label_map.shape
    rows, columns = slice(max(0, top), min(height, top + edge)), slice(max(0, left), min(width, left + edge))
    place = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
    planes = np.zeros((len(image) + 1, edge, edge), np.uint8)
    planes[:-1, *place], planes[-1, *place] = image[:, rows, columns], label_map[rows, columns] == cell
    planes[-1] = cv2.dilate(planes[-1], np.ones((2 * rim + 1, 2 * rim + 1), np.uint8))
    size, method = (window.size, window.size), cv2.INTER_AREA if scale > 1 else cv2.INTER_LINEAR
    *scaled, mask = (cv2.resize(plane, size, interpolation=method) for plane in planes)
    return np.stack(scaled) * mask


def cell_boxes(label_map: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids (N,) int32 in rising order and the boxes (N, 4) int64, y0 x0 y1 x1 half-open, of all cells."""
    cells = cell_runs(label_map)
    return cells.ids, cells.boxes()


def _places(image: np.ndarray, label_map: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, int, np.ndarray]]:
    """Yield the image, its label map, the id and the box of every cell."""
    if image.shape[1:] != label_map.shape:
        raise ValueError(f"the image is {image.shape[1:]}, the label map is {label_map.shape}.")
    for cell, box in zip(*cell_boxes(label_map), strict=True):
        yield image, label_map, int(cell), box


def _cut(
    image: np.ndarray, label_map: np.ndarray, cell: int, box: np.ndarray, config: CropConfig, out: np.ndarray
) -> None:
    """Write one cell into `out` (C, size, size), which is black."""
    y0, x0, y1, x1 = box
    size = config.size
    mask = label_map[y0:y1, x0:x1] == cell
    pixels = np.where(mask[..., None], image[:, y0:y1, x0:x1].transpose(1, 2, 0), np.uint8(0))
    longest = max(mask.shape)
    scale = size / (longest * (1 + 2 * config.margin))
    if config.mode == "stored":
        scale = min(scale, 1.0)
    if scale != 1:
        height, width = (max(1, min(size, round(edge * scale))) for edge in mask.shape)
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        parts = [
            cv2.resize(pixels[..., k : k + MOST_CHANNELS], (width, height), interpolation=method)
            for k in range(0, len(image), MOST_CHANNELS)
        ]
        pixels = np.concatenate([part.reshape(height, width, -1) for part in parts], axis=-1)
    height, width = pixels.shape[:2]
    y, x = (size - height) // 2, (size - width) // 2
    out[:, y : y + height, x : x + width] = pixels.transpose(2, 0, 1)


EIGHT = np.ones((3, 3), bool)
SMOOTH_PX = (1.0, 32.0)
"""Least and most smoothing of a distance map before its peaks are taken as seeds, px."""
SMOOTH_SHARE = 0.3
"""Smoothing of a connected part of the mask, as a share of the depth that nine tenths of its pixels do not exceed:
noise must not divide large objects, nor smoothing join small ones."""
NECK = 0.93
"""Two peaks are two objects if the way between them falls below this share of the lower one."""
LEAST = 0.01
"""Heights below this are alike."""
REACH = 1
"""Pixels around a connected part of the mask that its objects depend on."""


def mask_channel(probs: np.ndarray, kind: str) -> np.ndarray:
    """Return the (H, W) probability of the whole mask, border included; probs (K, H, W) of `MaskConfig.target`."""
    if kind in ("binary", "distance"):
        return probs[0]
    if kind == "border":
        return np.minimum(1, probs[0] + probs[1])  # of two that exclude each other: neither need be likely alone
    return 1 - probs[0]


def decode(probs: np.ndarray, kind: str, threshold: float, min_size: int, *, objects: bool) -> np.ndarray:
    """Return `objects_of`, or without `objects` the whole mask as object 1, empty below the minimum size."""
    if objects:
        return objects_of(probs, kind, threshold=threshold, min_size=min_size)
    return without_small((mask_channel(probs, kind) >= threshold).astype(np.int32), min_size)


def objects_of(probs: np.ndarray, kind: str, *, threshold: float = 0.5, min_size: int = 0) -> np.ndarray:
    """Find the objects of one image.

    With a border channel, what is inside and not border makes the seeds, and a watershed of the probability gives
    the border pixels back to them; else seeds are the peaks of the distance to the background, as the network predicts
    it or as the mask has it. A part of the mask without any seed is one object.

    Args:
        probs: (K, H, W) float in [0, 1].
        kind: binary, border, softmax or distance.
        threshold: probability from which a pixel is of the mask.
        min_size: objects of fewer pixels are dropped.

    Returns:
        (H, W) int32, objects 1..N without gaps, 0 background.
    """
    mask = mask_channel(probs, kind) >= threshold
    if kind in ("binary", "distance"):
        depth = ndimage.distance_transform_edt(mask)
        height = _smoothed(depth if kind == "binary" else probs[1], mask, depth)
        seeds = _peaks(height, mask, NECK)
    else:
        inside, border = (probs[0], probs[1]) if kind == "border" else (probs[1], probs[2])
        height = inside - border
        seeds = ndimage.label((inside >= threshold) & (border < threshold) & mask, EIGHT)[0]
    return without_small(watershed(-height, _with_seedless(seeds, mask), mask=mask), min_size)


def _smoothed(height: np.ndarray, mask: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Smooth a (H, W) map in each connected part of the mask by itself, the deeper the part the more.

    Args:
        height: the map; what lies outside the mask has no part in it.
        mask: (H, W) bool.
        depth: (H, W) distance to the background, px.
    """
    parts = ndimage.label(mask, EIGHT)[0]
    out = np.zeros(mask.shape, np.float32)
    for number, box in enumerate(ndimage.find_objects(parts), 1):
        part = parts[box] == number
        sigma = np.clip(SMOOTH_SHARE * np.percentile(depth[box][part], 90), *SMOOTH_PX)
        values = np.stack([np.where(part, height[box], 0), part]).astype(np.float32)
        blurred, weight = ndimage.gaussian_filter(values, (0, sigma, sigma), mode="constant")
        out[box][part] = blurred[part] / weight[part]
    return out


def _peaks(height: np.ndarray, mask: np.ndarray, neck: float) -> np.ndarray:
    """Number the peaks of a (H, W) map in the mask that stand out from the way to any higher one: (H, W) int32.

    Standing out is relative to a peak's height, so that small objects are separated as large ones are.
    """
    fall = np.float32(-np.log(neck))
    steps = np.where(mask, np.log(np.maximum(height, LEAST)), np.log(LEAST) - fall).astype(np.float32)
    below = reconstruction(steps - fall, steps)
    return ndimage.label(mask & (steps - below >= fall * 0.999), EIGHT)[0]


def _with_seedless(seeds: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the seeds, (H, W) int32, and a seed for each connected part of the mask that has none."""
    parts, count = ndimage.label(mask, EIGHT)
    seeded = np.zeros(count + 1, bool)
    seeded[parts[seeds > 0]] = True
    alone = mask & ~seeded[parts]
    return np.where(alone, seeds.max(initial=0) + parts, seeds)


LEAST_PIECE = 0.2
"""Pieces of a cell that are smaller than this share of its largest do not count: specks."""
MOST_BORDER = 0.5
"""A cell that holds more of the border of the map, and touches all four sides, is background."""

BINARY = (1, 255, 65535)
"""Values of the object in masks; a single cell of number 1 is a mask only where all images have no other."""
LEAST_MAPS = 3
"""Images of a set whose only cell has the number 1, from which on this is no chance."""

_RESAVE = "save a label map with a number for each cell and 0 as the background"
_MORE_BITS = "save numbers of 16 or 32 bits"
DOUBTS = {
    "pieces": (
        "one label is many pieces that do not touch, as in a binary mask",
        "segment with --split takes each piece for a cell",
        _RESAVE,
    ),
    "binary": ("the only label is {0}, as in a binary mask, in which cells that touch are one", _RESAVE, _RESAVE),
    "border": (
        "one label ({0}) covers most of the border: it looks like background, which must be 0",
        "segment with --background {0} takes it for 0, and 0 for {0}",
        _RESAVE,
    ),
    "wrapped": (
        "all labels from 1 to {0} are there and some are in several pieces, as where an image has more cells than its "
        "file has numbers",
        _MORE_BITS,
        _MORE_BITS,
    ),
    "corner": (*IN_CORNER, IN_CORNER[1]),
    "full": (
        "no pixel is 0, which is right where cells fill the whole image; background must be 0",
        "if one of the labels is background, segment with --background N takes label N for it",
        "if one of the labels is background, save it as 0",
    ),
    "palette": (
        "the pixels are places in a table of colours that do not look like cell numbers (where only black and white "
        "are shown, white is read as cells, else the places are)",
        "save grey numbers",
        "save grey numbers",
    ),
    "stray": (
        "outlines and masks without a pixel, outside the image or under others, are left out",
        "check that the sizes match",
        "check that the sizes match",
    ),
}
"""What may be wrong with a label map; what to do, with the options of segment and without; {0} is a number."""


def doubts_of(label_map: np.ndarray) -> list[str]:
    """Return the doubts about a label map (H, W) int32: keys of DOUBTS, '=' and the number where one is meant."""
    doubts = []
    around = _around(label_map)
    cells = np.where(label_map == around, 0, label_map) if around else label_map
    parts = label(cells, background=0, connectivity=2)
    pieces = cell_runs(parts)
    owners = np.zeros(len(pieces.ids), np.int64)
    owners[pieces.owner] = cells[pieces.rows, pieces.starts]
    ids, owner = np.unique(owners, return_inverse=True)
    most = _most_pieces(pieces.sums(pieces.stops - pieces.starts), owner)
    if most > 1 and len(ids) == ids[-1] and int(ids[-1]) in BINARY[1:]:
        doubts.append(f"wrapped={ids[-1]}")
    elif most >= (2 if len(ids) == 1 else 3):
        doubts.append("pieces")
    elif len(ids) == 1 and int(ids[0]) in BINARY:
        doubts.append(f"binary={ids[0]}")
    if around:
        doubts.append(f"border={around}")
    elif len(ids) > 1 and label_map.all():
        doubts.append("full")
    rows, columns = (np.flatnonzero(cells.any(axis=axis)) for axis in (1, 0))
    if len(ids) and in_corner(len(ids), (rows[0], columns[0], rows[-1] + 1, columns[-1] + 1), label_map.shape):
        doubts.append("corner")
    return doubts


def _most_pieces(areas: np.ndarray, owner: np.ndarray) -> int:
    """Return the most large pieces that a cell has; of each piece (n,) its area and cell."""
    largest = np.zeros(owner.max(initial=-1) + 1, np.int64)
    np.maximum.at(largest, owner, areas)
    return int(np.bincount(owner[areas >= LEAST_PIECE * largest[owner]]).max(initial=0))


def _around(label_map: np.ndarray) -> int:
    """Return the label that covers most of the border and touches all four sides, 0 if that is none."""
    sides = label_map[0], label_map[-1], label_map[:, 0], label_map[:, -1]
    ids, counts = np.unique(np.concatenate(sides), return_counts=True)
    most = int(counts.argmax())
    on_all = all((side == ids[most]).any() for side in sides)
    return int(ids[most]) if on_all and counts[most] > MOST_BORDER * counts.sum() else 0


def with_background(label_map: np.ndarray, number: int) -> np.ndarray:
    """Return a (H, W) label map in which `number` and 0 have changed places.

    A map stays as it is where `number` does not occur, or would then surround the cells: 0 does so already.
    """
    is_number = label_map == number
    swapped = np.where(is_number, 0, np.where(label_map == 0, number, label_map)).astype(label_map.dtype)
    return swapped if is_number.any() and _around(swapped) != number else label_map


def split_pieces(label_map: np.ndarray) -> np.ndarray:
    """Number each connected part (8 neighbours) of each label by itself, 1..N: (H, W) int32."""
    return label(label_map, background=0, connectivity=2).astype(np.int32)


def doubt_notes(doubts: Mapping[str, Iterable[str]], *, segmenting: bool = True) -> list[str]:
    """Return a line for each kind of doubt that names images.

    Args:
        doubts: ID -> what `doubts_of` returns.
        segmenting: name options of segment as the way out.
    """
    notes = []
    ones = sum("binary=1" in of_image for of_image in doubts.values())
    chance = {"binary=1"} if ones < max(LEAST_MAPS, len(doubts)) else set()
    for kind, (what, by_segment, elsewhere) in DOUBTS.items():
        found = {
            name: doubt
            for name, of_image in doubts.items()
            for doubt in of_image
            if doubt.partition("=")[0] == kind and doubt not in chance
        }
        if found:
            numbers = {doubt.partition("=")[2] for doubt in found.values()}
            number = (numbers.pop() if len(numbers) == 1 else "") or "N"
            way_out = (by_segment if segmenting else elsewhere).format(number)
            notes.append(f"label maps of {len(found)} images ({some(found)}): {what.format(number)}: {way_out}.")
    return notes


def drop_small(labels: np.ndarray, least: float) -> np.ndarray:
    """Clear the labels of fewer than `least` pixels in a (H, W) label map; the others keep their ids."""
    keep = np.bincount(labels.ravel()) >= least
    keep[0] = False
    return np.where(keep, np.arange(len(keep)), 0).astype(np.int32)[labels]


def without_small(labels: np.ndarray, min_size: float) -> np.ndarray:
    """Drop objects of fewer than `min_size` pixels and number the others 1..N: (H, W) int32."""
    return renumber(drop_small(labels, max(1, min_size)))[0]


def renumber(labels: np.ndarray, *others: np.ndarray) -> tuple[np.ndarray, ...]:
    """Number the labels of a (H, W) map 1..N in their order, and `others` alike; ids that it lacks become 0."""
    most = max(int(one.max()) for one in (labels, *others))
    if most > max(labels.size, 1 << 16):  # a table of all ids would be larger than the map
        ids = np.append(0, cell_runs(labels).ids)
        places = [np.minimum(np.searchsorted(ids, one), len(ids) - 1) for one in (labels, *others)]
        found = zip((labels, *others), places, strict=True)
        return tuple(np.where(ids[place] == one, place, 0).astype(np.int32) for one, place in found)
    present = np.bincount(labels.ravel(), minlength=most + 1) > 0
    present[0] = False
    numbers = np.where(present, np.cumsum(present), 0).astype(np.int32)
    return tuple(numbers[one] for one in (labels, *others))


def fill_holes(mask: np.ndarray, most: float) -> np.ndarray:
    """Fill the holes of at most `most` pixels in a (H, W) bool mask; what touches the image's border is no hole."""
    holes, inner, area = _holes(mask == 0)
    return mask | (inner & (area <= most))[holes]


def _holes(background: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number the 4-connected parts of a (H, W) bool background, from 1; 0 is the rest.

    Returns:
        (H, W) int32 numbers; of each number whether it is a part that does not touch the border, and its area in px.
    """
    _, parts, stats, _ = cv2.connectedComponentsWithStats(background.astype(np.uint8), connectivity=4)
    left, top, wide, high, area = stats.T
    inner = (left > 0) & (top > 0) & (left + wide < background.shape[1]) & (top + high < background.shape[0])
    inner[0] = False
    return parts, inner, area


def fill_cells(labels: np.ndarray) -> np.ndarray:
    """Give the background that a single cell encloses to that cell; gaps between several cells stay."""
    holes, inner, _ = _holes(labels == 0)
    low, high_id = np.full(len(inner), np.iinfo(np.int32).max), np.zeros(len(inner), np.int64)
    for one, two in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        for here, there in ((one, two), (two, one)):
            at = (labels[here] == 0) & (labels[there] > 0)
            np.minimum.at(low, holes[here][at], labels[there][at])
            np.maximum.at(high_id, holes[here][at], labels[there][at])
    owner = np.where(inner & (low == high_id), high_id, 0).astype(np.int32)
    return np.where(labels == 0, owner[holes], labels)


def pair_nuclei(cells: np.ndarray, nuclei: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number cells 1..N, and give every nucleus to the cell that holds most of it, cut to that cell.

    Args:
        cells: (H, W) int, 0 background; any ids.
        nuclei: (H, W) int with any ids; several may share a cell, and a cell may have none.

    Returns:
        Cells and nuclei, both (H, W) int32. Nuclei outside of all cells are left out.

    Raises:
        ValueError: the maps differ in size.
    """
    if cells.shape != nuclei.shape:
        raise ValueError(f"the cells are {cells.shape}, the nuclei {nuclei.shape}: they must match.")
    cells, nuclei = renumber(cells)[0], renumber(nuclei)[0]
    inside = (cells > 0) & (nuclei > 0)
    most = int(cells.max()) + 1
    pairs, counts = np.unique(nuclei[inside].astype(np.int64) * most + cells[inside], return_counts=True)
    owner = np.zeros(int(nuclei.max()) + 1, np.int32)
    order = np.argsort(counts, kind="stable")  # the last one written, with most pixels, stays
    owner[pairs[order] // most] = pairs[order] % most
    owned = owner[nuclei]
    return cells, np.where(owned == cells, owned, 0)
