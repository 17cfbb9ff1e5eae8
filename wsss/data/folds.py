"""Near-duplicate images, and folds that spread classes evenly and keep the images of a group together.

Every image leaves a small thumbnail when it is prepared. The most similar thumbnails of each image are found by blocks
of a matrix product and ranked allowing for shifts; the first of them are verified on the stored pixels. So the cost of
this last step grows with the number of images, even if all of them look alike.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache

import cv2
import numpy as np
import pandas as pd
from iterstrat.ml_stratifiers import MultilabelStratifiedKFold

from wsss.core.checks import ConfigError
from wsss.core.console import progress
from wsss.core.label_maps import Geometry
from wsss.core.labels import ClassList, parse_label

EDGE = 16
"""Edge of a thumbnail."""
COARSE = 8
"""Edge to which thumbnails are pooled for the search."""
ALIKE = 0.6
"""Correlation of pooled thumbnails from which a pair is verified."""
SAME = 0.6
"""Correlation of aligned, high-passed images from which a pair is a near-duplicate."""
BLOCK = 4096
NEAREST = 32
"""Most similar images of each image by pooled thumbnails."""
PARTNERS = 5
"""Of these, by thumbnails, that are verified; copies of one image all find the same first ones."""
DETAIL = 128
"""Edge to which images are scaled for verification."""
SHIFT = 8
"""Largest shift looked for, in pixels of the detail image (1/16 of the edge)."""
STEPS = 25.0
"""int8 steps per standard deviation of a thumbnail channel."""


def thumbnail(stored: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Return what an image looks like from afar, whatever its brightness.

    Args:
        stored: (C, size, size) uint8.
        geometry: where the image lies in it.

    Returns:
        (C, 16, 16) int8, each channel with mean 0 and standard deviation 25 (clipped); zeros for a constant channel.
    """
    content = stored[:, : geometry.content_height, : geometry.content_width]
    small = _shrink(content, EDGE)
    small -= small.mean((1, 2), keepdims=True)
    spread = small.std((1, 2), keepdims=True)
    scaled = np.divide(small * STEPS, spread, out=np.zeros_like(small), where=spread > 1e-3)
    return np.clip(np.rint(scaled), -127, 127).astype(np.int8)


def find_duplicates(thumbnails: np.ndarray, content: Callable[[int], np.ndarray]) -> list[tuple[int, int, float]]:
    """Find pairs of near-duplicate images.

    Args:
        thumbnails: (N, C, 16, 16) int8.
        content: gives the pixels of image i, (C, h, w) uint8 without padding; called for likely pairs only.

    Returns:
        (a, b, correlation) with a < b, sorted.
    """
    pairs = _most_similar(thumbnails, _alike(_vectors(thumbnails)))

    @lru_cache(maxsize=64)  # half a megabyte each
    def detail(i: int) -> tuple[np.ndarray, np.ndarray]:
        fine = _detail(content(i))
        return fine, np.fft.rfft2(fine)

    duplicates = []
    for a, b in progress(pairs.tolist(), "near-duplicates"):
        same = _correlation(*detail(a), *detail(b))
        if same >= SAME:
            duplicates.append((a, b, round(same, 4)))
    return sorted(duplicates)


def _correlation(one: np.ndarray, one_fft: np.ndarray, two: np.ndarray, two_fft: np.ndarray) -> float:
    """Return the correlation of two images at the best shift of at most 1/16 of the edge.

    Args:
        one: (C, DETAIL, DETAIL) fine structure of the first image.
        one_fft: its transform.
        two: that of the second.
        two_fft: its transform.
    """
    peaks = np.fft.irfft2((one_fft * np.conj(two_fft)).sum(0), s=one.shape[1:])
    near = np.r_[: SHIFT + 1, -SHIFT:0]
    window = peaks[np.ix_(near, near)]
    row, column = np.unravel_index(np.argmax(window), window.shape)
    a, b = _overlap(one, two, int(near[row]), int(near[column]))
    norm = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / norm if norm > 0 else 0.0


def _overlap(one: np.ndarray, two: np.ndarray, dy: int, dx: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what two images (..., E, E) have in common if the first one lies (dy, dx) px further down and right."""
    edge = one.shape[-1]
    a = one[..., max(dy, 0) : edge + min(dy, 0), max(dx, 0) : edge + min(dx, 0)]
    b = two[..., max(-dy, 0) : edge + min(-dy, 0), max(-dx, 0) : edge + min(-dx, 0)]
    return a, b


def _shrink(image: np.ndarray, edge: int) -> np.ndarray:
    return np.stack([cv2.resize(c, (edge, edge), interpolation=cv2.INTER_AREA) for c in image.astype(np.float32)])


def _detail(image: np.ndarray) -> np.ndarray:
    """Return (C, DETAIL, DETAIL) float32 without slow changes of brightness, each channel of unit spread."""
    small = _shrink(image, DETAIL)
    small -= np.stack([cv2.GaussianBlur(channel, (0, 0), DETAIL / 16) for channel in small])
    spread = small.std((1, 2), keepdims=True)
    return np.divide(small, spread, out=np.zeros_like(small), where=spread > 1e-3)


def _vectors(thumbnails: np.ndarray) -> np.ndarray:
    """Pool thumbnails to (N, C * 64) float32 of unit length; zeros stay zeros."""
    count, channels = thumbnails.shape[:2]
    step = EDGE // COARSE
    blocks = thumbnails.reshape(count, channels, COARSE, step, COARSE, step)
    vectors = blocks.mean((3, 5), dtype=np.float32).reshape(count, -1)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)


def _alike(vectors: np.ndarray) -> np.ndarray:
    """Return pairs (P, 2) of a < b: each image with its NEAREST most similar ones, if they are ALIKE."""
    count = len(vectors)
    best = np.full((count, NEAREST), -1, np.float32)
    partner = np.full((count, NEAREST), -1)

    def offer(first: int, start: int, scores: np.ndarray) -> None:
        """Offer the images from `start` on, scores (R, M), to those from `first` on."""
        some = np.flatnonzero((scores >= ALIKE).any(axis=1))
        if not len(some):
            return
        scores = scores[some] - np.arange(scores.shape[1], dtype=np.float32) * 1e-6  # among equals the first ones
        most = min(NEAREST, scores.shape[1])
        top = np.argpartition(scores, -most, axis=1)[:, -most:]
        rows = first + some
        value = np.concatenate([best[rows], np.take_along_axis(scores, top, 1)], axis=1)
        who = np.concatenate([partner[rows], start + top], axis=1)
        order = np.lexsort((who, -value), axis=1)[:, :NEAREST]
        best[rows], partner[rows] = (np.take_along_axis(part, order, 1) for part in (value, who))

    for i in progress(range(0, count, BLOCK), "alike images"):
        for j in range(i, count, BLOCK):
            scores = vectors[i : i + BLOCK] @ vectors[j : j + BLOCK].T
            if i == j:
                np.fill_diagonal(scores, -1)
            else:
                offer(j, i, scores.T)
            offer(i, j, scores)
    mine, place = np.nonzero(best >= ALIKE - BLOCK * 1e-6)
    both = np.sort(np.stack([mine, partner[mine, place]], axis=1), axis=1)
    return np.unique(both, axis=0)


def _most_similar(thumbnails: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Keep the pairs (P, 2) in which one is among the PARTNERS most similar to the other, shifts up to 1 px allowed."""
    scores = np.zeros(len(pairs), np.float32)
    for start in range(0, len(pairs), BLOCK):
        one, two = (thumbnails[pairs[start : start + BLOCK, side]].astype(np.float32) for side in (0, 1))
        shifted = [_cosine(*_overlap(one, two, dy, dx)) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        scores[start : start + BLOCK] = np.max(shifted, axis=0)
    image, number = pairs.T.ravel(), np.tile(np.arange(len(pairs)), 2)  # each pair seen from both sides
    order = np.lexsort((pairs[:, ::-1].T.ravel(), -np.tile(scores.round(3), 2), image))
    rank = np.arange(len(order)) - np.searchsorted(image[order], image[order])
    kept = np.unique(number[order[rank < PARTNERS]])
    return pairs[kept]


def _cosine(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Return the cosine between each of (N, C, h, w) and its like (N,); 0 where one of them is 0."""
    product = np.einsum("nchw,nchw->n", one, two)
    norm = np.sqrt(np.einsum("nchw,nchw->n", one, one) * np.einsum("nchw,nchw->n", two, two))
    return np.divide(product, norm, out=np.zeros_like(product), where=norm > 0)


RESTARTS = 200
"""Restarts of the evening out from a shuffled state; the best result is kept."""
MOST_KINDS = 1000
"""Most kinds of groups of a fold that one step looks at, drawn at random if there are more."""


def make_folds(
    labels: np.ndarray,
    groups: np.ndarray,
    n: int,
    seed: int,
    before: np.ndarray | None = None,
    what: str = "different labelled images",
    option: str = "--folds",
) -> np.ndarray:
    """Assign every image to one of n folds.

    Multilabel stratification (Sechidis et al. 2011, as in iterative-stratification) first. It knows no groups, and
    leaves small sets uneven; exchanges between folds then bring every class, and the folds' sizes, to a difference of
    at most one image where such folds exist: groups may force more, and so may, rarely, the labels of a small set.

    Args:
        labels: (N, K) bool.
        groups: (N,) int; images with the same number go to the same fold.
        n: number of folds.
        seed: the same seed gives the same folds.
        before: (N,) int, the fold that each image has already, -1 for none. Its whole group goes there; where a group
            has images of several folds, to the one that most of them are in.
        what: what the groups are, for the message.
        option: by which the number of folds is given, likewise.

    Returns:
        (N,) int8 in 0..n-1.

    Raises:
        ConfigError: fewer groups than folds.
    """
    _, group = np.unique(groups, return_inverse=True)
    count = int(group.max()) + 1 if len(group) else 0
    if count < n:
        raise ConfigError(f"{option} {n} needs at least {n} {what}, got {count}: pass a lower {option}.")
    sums = np.zeros((count, labels.shape[1] + 1), np.int64)  # images of the group per class, and in all
    np.add.at(sums, group, np.column_stack([labels, np.ones(len(labels), bool)]))
    fold = _kept(group, count, n, before)
    new = fold < 0
    totals = np.stack([sums[fold == f].sum(0) for f in range(n)])
    if new.sum() >= n:
        fold[new] = _stratify(sums[new, :-1] > 0, n, seed)
    else:
        fold[new] = np.argsort(totals[:, -1], kind="stable")[: new.sum()]
    if new.any():
        fold[new] = _even_out(sums[new], fold[new], totals, seed)
    return fold[group].astype(np.int8)


def _kept(group: np.ndarray, count: int, n: int, before: np.ndarray | None) -> np.ndarray:
    """Return (count,) the fold that each group has already, -1 for a new one."""
    if before is None:
        return np.full(count, -1)
    votes = np.zeros((count, n), np.int64)
    held = before >= 0
    np.add.at(votes, (group[held], before[held]), 1)
    return np.where(votes.any(axis=1), votes.argmax(axis=1), -1)


def fold_table(labels: np.ndarray, fold: np.ndarray, n: int) -> np.ndarray:
    """Return (K, n) int: images of each class in each fold."""
    return np.stack([labels[fold == f].sum(0) for f in range(n)], axis=1).astype(np.int64)


def _stratify(labels: np.ndarray, n: int, seed: int) -> np.ndarray:
    if labels.shape[1] == 1:  # one column would be taken for a single-label task
        labels = np.column_stack([labels, ~labels])
    splitter = MultilabelStratifiedKFold(n_splits=n, shuffle=True, random_state=seed)
    fold = np.zeros(len(labels), np.int64)
    for f, (_, held_out) in enumerate(splitter.split(labels, labels.astype(np.int8))):
        fold[held_out] = f
    return fold


def _even_out(sums: np.ndarray, fold: np.ndarray, totals: np.ndarray, seed: int) -> np.ndarray:
    """Exchange groups between folds until per class (and in all) they differ by at most one, or nothing helps.

    `totals` (n, K + 1) are the sums of what is in the folds for good.

    Groups with the same sums are interchangeable, so each step looks at all exchanges of kinds of groups between the
    two folds that differ most: with d the difference of the folds' sums and x that of what they exchange, the squared
    difference falls by 4 (x.d - x.x). At a standstill a random exchange makes a new start, and the best is kept.
    """
    kinds, kind = np.unique(np.vstack([sums, np.zeros_like(sums[:1])]), axis=0, return_inverse=True)
    nothing, kind = int(kind[-1]), kind[:-1]  # the last kind is 'no group': an exchange with it is a move
    state = _State(kinds, kind, fold.copy(), totals, np.random.default_rng(seed))
    best, least = state.fold.copy(), state.excess()
    for _ in range(RESTARTS):
        while state.excess() and state.improve(nothing):
            pass
        if state.excess() < least:
            best, least = state.fold.copy(), state.excess()
        if least == 0:
            break
        state.shake()
    return best


class _State:
    """Groups in folds, and the sums of the folds."""

    def __init__(
        self, kinds: np.ndarray, kind: np.ndarray, fold: np.ndarray, kept: np.ndarray, rng: np.random.Generator
    ) -> None:
        n = len(kept)
        self.kinds, self.kind, self.fold, self.rng = kinds, kind, fold, rng
        self.norms = (kinds**2).sum(1)
        self.totals = kept + np.stack([kinds[kind[fold == f]].sum(0) for f in range(n)])  # (n, K + 1)
        self.pairs = [(a, b) for a in range(n) for b in range(n) if a < b]

    def excess(self) -> int:
        """Return by how many images, beyond one, the folds differ in all."""
        spread = self.totals.max(0) - self.totals.min(0)
        return int(np.maximum(spread - 1, 0).sum())

    def improve(self, nothing: int) -> bool:
        """Make the best exchange between two folds; return whether one helped."""
        gaps = [np.abs(self.totals[a] - self.totals[b]).max() for a, b in self.pairs]
        for at in np.argsort(gaps, kind="stable")[::-1]:
            a, b = self.pairs[at]
            difference = self.kinds @ (self.totals[a] - self.totals[b])
            ours, theirs = self._present(a, nothing), self._present(b, nothing)
            gain = (difference - self.norms)[ours][:, None] - (difference + self.norms)[theirs][None, :]
            gain += 2 * (self.kinds[ours] @ self.kinds[theirs].T)
            p, q = np.unravel_index(np.argmax(gain), gain.shape)
            if gain[p, q] > 0:
                self._move(ours[p], a, b, nothing)
                self._move(theirs[q], b, a, nothing)
                return True
        return False

    def _present(self, f: int, nothing: int) -> np.ndarray:
        """Return the kinds that fold f has, and 'nothing'."""
        present = np.unique(self.kind[self.fold == f])
        if len(present) > MOST_KINDS:
            present = self.rng.choice(present, MOST_KINDS, replace=False)
        return np.append(present, nothing)

    def shake(self) -> None:
        """Put two random groups into each other's folds, twice."""
        for one, two in self.rng.integers(0, len(self.fold), (2, 2)):
            a, b = self.fold[one], self.fold[two]
            self.totals[a] += self.kinds[self.kind[two]] - self.kinds[self.kind[one]]
            self.totals[b] += self.kinds[self.kind[one]] - self.kinds[self.kind[two]]
            self.fold[one], self.fold[two] = b, a

    def _move(self, kind: int, source: int, target: int, nothing: int) -> None:
        if kind == nothing:
            return
        self.fold[np.flatnonzero((self.kind == kind) & (self.fold == source))[0]] = target
        self.totals[source] -= self.kinds[kind]
        self.totals[target] += self.kinds[kind]


MOST = 10


def summary(table: pd.DataFrame, classes: ClassList) -> Iterator[str]:
    """Yield lines on images, depths, sizes, near-duplicates, failures, and the table of classes and folds."""
    ok = table[table["status"] == "ok"]
    failed = table[table["status"] == "failed"]
    yield from _class_lines(ok, classes)
    yield f"{len(table)} images, {len(failed)} failed, {int(ok['Label'].notna().sum())} with labels."
    yield "  bits: " + _counted(ok["depth"])
    sizes = ok["ImageHeight"].astype(str) + " x " + ok["ImageWidth"].astype(str)
    yield "  sizes (height x width): " + _counted(sizes)
    if len(table["source"].unique()) > 1:
        yield "  sources: " + _counted(table["source"])
    if {"12", "16"} <= set(ok["depth"]):
        yield "  note: 12 and 16 bit are mixed; if the microscope wrote 16 bit throughout, pass --bits 16."
    doubles = table[table["duplicate_of"].notna()]
    yield f"{len(doubles)} near-duplicates" + (", kept in one fold (duplicates.csv):" if len(doubles) else ".")
    for row in doubles.head(MOST).itertuples():
        yield f"  {row.ID} is like {row.duplicate_of}"
    for row in failed.head(MOST).itertuples():
        yield f"failed: {row.reason}"
    if len(failed) > MOST:
        yield f"... and {len(failed) - MOST} more failed: column reason of images.parquet."


def _counted(values: pd.Series) -> str:
    counts = values.value_counts().sort_index(kind="stable").sort_values(ascending=False, kind="stable")
    shown = [f"{value} ({number})" for value, number in counts.head(MOST).items()]
    return ", ".join(shown) + (f" and {len(counts) - MOST} more" if len(counts) > MOST else "")


def _class_lines(table: pd.DataFrame, classes: ClassList) -> Iterator[str]:
    held = table[table["fold"] >= 0]
    if len(held):
        labels = np.stack([classes.encode(parse_label(text)) for text in held["Label"]])
        yield from fold_lines(labels, held["fold"].to_numpy(), classes)


def fold_lines(labels: np.ndarray, fold: np.ndarray, classes: ClassList) -> Iterator[str]:
    """Yield a table of images per class and fold; the last column is how far the folds differ.

    Args:
        labels: (N, K) of 0/1.
        fold: (N,) in 0..n-1.
        classes: their names.
    """
    n = int(fold.max()) + 1
    names = [f"{k:>3} {name}" for k, name in enumerate(classes.names)]
    wide = max(map(len, names))
    yield f"{'class':<{wide}} {'images':>7}" + "".join(f"{f'fold {f}':>8}" for f in range(n)) + "  max - min"
    counts = np.vstack([fold_table(labels, fold, n), [np.bincount(fold, minlength=n)]])
    for name, row in zip([*names, "    all images"], counts, strict=True):
        cells = "".join(f"{value:>8}" for value in row)
        yield f"{name:<{wide}} {row.sum():>7}{cells}{row.max() - row.min():>11}"
