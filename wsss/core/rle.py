"""Masks as run lengths: COCO's compressed text, column by column, Kaggle's 'start length ...', and filled outlines."""

import base64
import zlib
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from pycocotools import mask as coco

from wsss.core.checks import DataError

LONGEST = 1 << 26
"""Bytes that a submission's mask may unpack to; more is refused to protect memory."""


def encode_label_map(label_map: np.ndarray, ids: Iterable[int] | None = None) -> dict[int, bytes]:
    """Encode the cells of a label map.

    Args:
        label_map: (H, W) integer or bool, 0 background.
        ids: which cells; None for every one there is, in rising order. An id not there gives an empty mask.

    Returns:
        COCO counts of each cell's full-size mask, byte-identical to pycocotools.mask.encode.

    Raises:
        ValueError: label_map is not a two-dimensional map of integers.
    """
    if label_map.ndim != 2 or label_map.dtype.kind not in "iub":
        raise ValueError(f"label_map is {label_map.dtype} of shape {label_map.shape}, expected (H, W) integers.")
    flat = label_map.T.ravel()  # (W * H,) column after column
    borders = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts = np.concatenate(([0], borders)) if flat.size else borders
    stops = np.concatenate((borders, [flat.size])) if flat.size else borders
    values = flat[starts]
    order = np.argsort(values, kind="stable")  # runs of one cell side by side, still from left to right
    cell_ids, first = np.unique(values[order], return_index=True)
    runs = dict(zip(cell_ids.tolist(), np.split(order, first[1:]), strict=True)) if cell_ids.size else {}
    none = np.zeros(0, np.intp)
    wanted = [int(k) for k in (runs if ids is None else ids) if k != 0]
    counts = [
        _counts(starts[cell_runs], stops[cell_runs], flat.size) for cell_runs in (runs.get(k, none) for k in wanted)
    ]
    return dict(zip(wanted, _compress(counts, label_map.shape), strict=True))


def _counts(starts: np.ndarray, stops: np.ndarray, pixels: int) -> np.ndarray:
    """Turn the runs [start, stop) of one cell into COCO's run lengths: outside, inside, outside, ..."""
    edges = np.stack([starts, stops], axis=1).ravel()
    if edges.size == 0 or edges[-1] < pixels:
        edges = np.append(edges, pixels)
    return np.diff(edges, prepend=0)


def _compress(counts: Sequence[np.ndarray], size: tuple[int, ...]) -> list[bytes]:
    objects = [{"size": list(size), "counts": lengths} for lengths in counts]
    return [packed["counts"] for packed in coco.frPyObjects(objects, *size)] if objects else []


def run_lengths(masks: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Unpack COCO counts into run lengths: outside, inside, outside, ...

    pycocotools neither returns run lengths nor checks its input; masks from other sources are checked here first.

    Args:
        masks: N texts, at least one.

    Returns:
        (n,) int64 run lengths of all, one mask after another, and (N + 1,) where each begins.

    Raises:
        DataError: a text is not COCO counts.
    """
    groups = np.frombuffer(b"".join(masks), np.uint8).astype(np.int64) - 48
    stops = np.cumsum([len(counts) for counts in masks])
    if min(map(len, masks)) == 0 or groups.min() < 0 or groups.max() > 63 or (groups[stops - 1] & 32).any():
        raise DataError(f"a mask is no COCO run-length text: {_bad(masks)!r}.")
    last = np.flatnonzero(groups & 32 == 0)  # five bits a character, the sixth bit says that more follow
    first = np.concatenate(([0], last[:-1] + 1))
    if (last - first).max() > 6:
        at = int(np.searchsorted(stops, last[np.argmax(last - first)], side="right"))
        raise DataError(f"a mask has a run of more than 35 bits: {masks[at][:20]!r}.")
    place = np.arange(groups.size) - np.repeat(first, last - first + 1)
    values = np.add.reduceat((groups & 31) << (5 * place), first)
    values -= np.where(groups[last] & 16, np.int64(1) << (5 * (place[last] + 1)), 0)  # two's complement
    begins = np.concatenate(([0], np.searchsorted(last, stops)))
    return _summed(values, begins), begins


def _bad(masks: Sequence[bytes]) -> bytes:
    """Return the beginning of the first text that is no COCO counts."""
    wrong = (m for m in masks if not m or min(m) < 48 or max(m) > 111 or (m[-1] - 48) & 32)
    return next(wrong)[:20]


def _summed(values: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """Return the runs: from the fourth of a mask on, a text holds the differences to the last but one."""
    mask = np.repeat(np.arange(len(begins) - 1), np.diff(begins))
    place = np.arange(len(values)) - begins[mask]
    out = np.where(place == 0, values, 0)
    for chosen in (place % 2 == 1, (place % 2 == 0) & (place > 0)):
        sums = np.cumsum(np.where(chosen, values, 0))
        before = np.concatenate(([0], sums))[begins[mask]]
        out += np.where(chosen, sums - before, 0)
    return out


BLOCK = 1 << 12
"""Masks that are unpacked at once."""


def check(masks: Sequence[bytes], size: tuple[int, int]) -> list[np.ndarray]:
    """Return the run lengths of counts that are masks of `size`.

    Raises:
        DataError: a text is broken, or belongs to an image of another size.
    """
    return [runs for k in range(0, len(masks), BLOCK) for runs in _check(masks[k : k + BLOCK], size)]


def _check(masks: Sequence[bytes], size: tuple[int, int]) -> list[np.ndarray]:
    runs, begins = run_lengths(masks)
    pixels = np.add.reduceat(runs, begins[:-1])
    wrong = (pixels != size[0] * size[1]) | (np.minimum.reduceat(runs, begins[:-1]) < 0)
    if wrong.any():
        has = pixels[wrong][0]
        raise DataError(f"a mask has {has} pixels, expected {size[0]} x {size[1]} = {size[0] * size[1]}.")
    return np.split(runs, begins[1:-1])


def decode(counts: bytes, size: tuple[int, int]) -> np.ndarray:
    """Return the (H, W) bool mask of COCO counts.

    Raises:
        DataError: the text is broken, or belongs to an image of another size.
    """
    runs = check([counts], size)[0]
    return np.repeat(np.arange(runs.size) % 2 == 1, runs).reshape(size, order="F")


def iou(a: Sequence[bytes], b: Sequence[bytes], size: tuple[int, int]) -> np.ndarray:
    """Return the (len(a), len(b)) float64 intersection over union of every pair of masks."""
    if not a or not b:
        return np.zeros((len(a), len(b)))
    return np.asarray(coco.iou(_objects(a, size), _objects(b, size), [0] * len(b)))


def _objects(masks: Sequence[bytes], size: tuple[int, int]) -> list[dict[str, object]]:
    return [{"size": list(size), "counts": counts} for counts in masks]


def to_submission(counts: bytes) -> str:
    """Pack COCO counts as a submission wants them: zlib, then base64."""
    return base64.b64encode(zlib.compress(counts, 9)).decode()


def from_submission(text: str) -> bytes:
    """Unpack a submission's mask into COCO counts.

    Raises:
        DataError: the text is not base64, or not zlib.
    """
    try:
        unpack = zlib.decompressobj()
        counts = unpack.decompress(base64.b64decode(text, validate=True), LONGEST)
    except (ValueError, zlib.error) as error:
        raise DataError(f"a mask is not base64 of zlib ({error}): {text[:20]!r}.") from error
    if not unpack.eof:
        raise DataError(f"a mask is cut short or unpacks to more than {LONGEST} bytes: {text[:20]!r}.")
    return counts


Order = Literal["columns", "rows"]


def encode_pairs(mask: np.ndarray, order: Order = "columns") -> str:
    """Return the text of a (H, W) mask; everything but 0 is inside."""
    return encode_parts([np.ravel(mask, order="F" if order == "columns" else "C")])


def encode_parts(parts: Iterable[np.ndarray]) -> str:
    """Return the text of a mask that comes as one-dimensional parts, one after another in the order of its pixels."""
    edges, seen, last = [], 0, False  # start, stop, start, stop, ...
    for part in parts:
        flat = part != 0
        edges.append(seen + np.flatnonzero(np.diff(flat, prepend=last)))
        seen, last = seen + len(flat), bool(flat[-1]) if len(flat) else last
    ends = np.concatenate([*edges, np.array([seen] * last, np.int64)]).astype(np.int64)
    starts, stops = ends[::2], ends[1::2]
    runs = np.stack([starts + 1, stops - starts], axis=1)
    return " ".join(map(str, runs.ravel().tolist()))


def decode_pairs(
    text: str, size: tuple[int, int], order: Order = "columns", where: str = "the run-length text"
) -> np.ndarray:
    """Return the (H, W) bool mask of a text, see `parse_pairs`, with its pixels counted in `order`."""
    starts, stops = parse_pairs(text, size, where)
    flat = np.zeros(size[0] * size[1] + 1, np.int8)
    np.add.at(flat, starts, 1)
    np.add.at(flat, stops, -1)
    return np.cumsum(flat[:-1], dtype=np.int8).astype(bool).reshape(size, order="F" if order == "columns" else "C")


def parse_pairs(text: str, size: tuple[int, int], where: str = "the run-length text") -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels (n,) where the runs of a text begin, and those (n,) behind their ends, both from 0.

    Args:
        text: pairs of start and length; empty for an empty mask.
        size: (H, W).
        where: what the text belongs to, for messages.

    Raises:
        DataError: no whole numbers, an odd count, runs that overlap or leave the image; nothing is guessed.
    """
    words = text.split()
    odd = next((word for word in words if not (word.isascii() and word.isdigit() and len(word) < 16)), "")
    if odd:
        raise DataError(f"{where} holds '{odd[:20]}', expected whole numbers: start and length of each run.")
    if len(words) % 2:
        raise DataError(f"{where} has {len(words)} numbers, expected pairs of start and length: it is cut short.")
    numbers = np.array(words, np.int64).reshape(-1, 2)
    starts, stops = numbers[:, 0] - 1, numbers[:, 0] - 1 + numbers[:, 1]
    pixels = size[0] * size[1]
    if len(numbers) and (starts.min() < 0 or numbers[:, 1].min() < 1):
        raise DataError(f"{where} has a start or length of 0, expected both from 1 on.")
    if len(numbers) and stops.max() > pixels:
        raise DataError(
            f"{where} runs to pixel {stops.max()}, but the image of {size[0]} x {size[1]} has {pixels}: "
            "check that mask and image belong together."
        )
    if (starts[1:] < stops[:-1]).any():
        raise DataError(f"{where} has runs that overlap or do not rise: it is damaged, or of another order.")
    return starts, stops


def enclosed(ring: np.ndarray) -> float:
    """Return the area of a ring, (n, 2) of x, y, in pixels."""
    x, y = ring.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


MOST_COVERED = 16
"""Times that the masks of an image may cover it, taken together."""


def check_covered(pixels: int, size: tuple[int, int], where: object) -> None:
    """Refuse masks that cover their image over and over: painting them takes as long as that.

    Raises:
        DataError: they do.
    """
    if pixels > max(1 << 24, MOST_COVERED * size[0] * size[1]):
        raise DataError(
            f"{where}: the masks of its cells have {pixels} pixels in all, more than {MOST_COVERED} times the image of "
            f"{size[0]} x {size[1]}: they are no cells."
        )


FAR = 1e9
EMPTY = np.zeros((0, 2, 2))


def fill(rings: Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Return the pixels whose centres an odd number of rings encloses.

    A centre on an outline counts if its right side, or what is below it, is inside, as in Java and QuPath.

    Args:
        rings: (n, 2) of x, y; pixel (0, 0) reaches from 0 to 1.
        size: (H, W) of the image.

    Returns:
        (N, 2) int64: first flat number of a run of pixels, and the one behind its last.
    """
    height, width = size
    centred = [ring.clip(-FAR, FAR) - 0.5 for ring in rings]
    ends = np.concatenate([np.stack([ring, np.roll(ring, -1, axis=0)], axis=1) for ring in centred] or [EMPTY])
    ends = np.take_along_axis(ends, np.argsort(ends[..., 1:], axis=1), axis=1)  # the upper end of each edge first
    (x0, y0), (x1, y1) = ends[:, 0].T, ends[:, 1].T
    first, behind = (np.ceil(y.clip(0, height)).astype(np.int64) for y in (y0, y1))
    count = behind - first
    edge = np.repeat(np.arange(len(ends)), count)
    row = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    slope = (x1 - x0)[edge] / (y1 - y0)[edge]
    column = np.ceil((x0[edge] + (row - y0[edge]) * slope).clip(0, width)).astype(np.int64)
    crossings = np.sort(row * (width + 1) + column).reshape(-1, 2)  # an even number in each row
    rows, columns = np.divmod(crossings, width + 1)
    runs = rows * width + columns
    return runs[runs[:, 0] < runs[:, 1]]
