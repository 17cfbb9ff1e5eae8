"""Folds that spread classes, or shares of mask, evenly and keep images of a group together; tables that show them."""

import itertools
from collections.abc import Iterator

import numpy as np
import pandas as pd
from iterstrat.ml_stratifiers import MultilabelStratifiedKFold

from wsss.core.checks import ConfigError
from wsss.core.labels import ClassList, parse_label

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
        way_out = f"pass {option} {count} or lower" if count > 1 else "bring more of them"
        raise ConfigError(f"{option} {n} needs at least {n} {what}, got {count}: {way_out}.")
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
    state = _State(sums, fold.copy(), totals, np.random.default_rng(seed))
    best, least = state.fold.copy(), state.excess()
    for _ in range(RESTARTS):
        while state.excess() and state.improve():
            pass
        if state.excess() < least:
            best, least = state.fold.copy(), state.excess()
        if least == 0:
            break
        state.shake()
    return best


class _State:
    """Groups in folds, and the sums of the folds."""

    def __init__(self, sums: np.ndarray, fold: np.ndarray, kept: np.ndarray, rng: np.random.Generator) -> None:
        # the last row is 'no group': an exchange with it is a move
        self.kinds, kind = np.unique(np.vstack([sums, np.zeros_like(sums[:1])]), axis=0, return_inverse=True)
        self.kind, self.nothing = kind[:-1], int(kind[-1])
        self.fold, self.rng = fold, rng
        self.norms = (self.kinds**2).sum(1)
        n = len(kept)
        self.totals = kept + np.stack([sums[fold == f].sum(0) for f in range(n)])  # (n, K + 1)
        self.pairs = list(itertools.combinations(range(n), 2))

    def excess(self) -> int:
        """Return by how many images, beyond one, the folds differ in all."""
        spread = self.totals.max(0) - self.totals.min(0)
        return int(np.maximum(spread - 1, 0).sum())

    def improve(self) -> bool:
        """Make the best exchange between two folds; return whether one helped."""
        gaps = [np.abs(self.totals[a] - self.totals[b]).max() for a, b in self.pairs]
        for at in np.argsort(gaps, kind="stable")[::-1]:
            a, b = self.pairs[at]
            difference = self.kinds @ (self.totals[a] - self.totals[b])
            ours, theirs = self._present(a), self._present(b)
            gain = (difference - self.norms)[ours][:, None] - (difference + self.norms)[theirs][None, :]
            gain += 2 * (self.kinds[ours] @ self.kinds[theirs].T)
            p, q = np.unravel_index(np.argmax(gain), gain.shape)
            if gain[p, q] > 0:
                self._move(ours[p], a, b)
                self._move(theirs[q], b, a)
                return True
        return False

    def _present(self, f: int) -> np.ndarray:
        """Return the kinds that fold f has, and 'nothing'."""
        present = np.unique(self.kind[self.fold == f])
        if len(present) > MOST_KINDS:
            present = self.rng.choice(present, MOST_KINDS, replace=False)
        return np.append(present, self.nothing)

    def shake(self) -> None:
        """Put two random groups into each other's folds, twice."""
        for one, two in self.rng.integers(0, len(self.fold), (2, 2)):
            a, b = self.fold[one], self.fold[two]
            self.totals[a] += self.kinds[self.kind[two]] - self.kinds[self.kind[one]]
            self.totals[b] += self.kinds[self.kind[one]] - self.kinds[self.kind[two]]
            self.fold[one], self.fold[two] = b, a

    def _move(self, kind: int, source: int, target: int) -> None:
        if kind == self.nothing:
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
    """
    n = int(fold.max()) + 1
    names = [f"{k:>3} {name}" for k, name in enumerate(classes.names)]
    wide = max(map(len, names))
    yield f"{'class':<{wide}} {'images':>7}" + "".join(f"{f'fold {f}':>8}" for f in range(n)) + "  max - min"
    counts = np.vstack([fold_table(labels, fold, n), [np.bincount(fold, minlength=n)]])
    for name, row in zip([*names, "    all images"], counts, strict=True):
        cells = "".join(f"{value:>8}" for value in row)
        yield f"{name:<{wide}} {row.sum():>7}{cells}{row.max() - row.min():>11}"


COVERAGE_BINS = 5
"""Bins of images by share of the mask, besides the empty ones; each bin is spread evenly over the folds."""


def coverage_folds(
    coverage: np.ndarray, n: int, seed: int, groups: np.ndarray | None = None, what: str = "images with masks"
) -> np.ndarray:
    """Assign images to n folds, each with its share of empty, small and large masks; -1 where the mask is unknown.

    Args:
        coverage: (N,) share of each image that is mask, NaN where it is unknown.
        seed: the same seed gives the same folds.
        groups: (N,) int; images of one number (copies, tiles of one large image) go to the same fold. None: each by
            itself.
        what: what is counted, for the message.

    Raises:
        ConfigError: fewer images, or groups of them, than folds.
    """
    if groups is not None:
        _, group = np.unique(groups, return_inverse=True)
        known = np.isfinite(coverage)
        with np.errstate(invalid="ignore"):
            mean = np.bincount(group[known], coverage[known], group.max() + 1) / np.bincount(
                group[known], minlength=group.max() + 1
            )
        what = what if len(mean) == len(coverage) else "different images with masks"
        return np.where(known, coverage_folds(mean, n, seed, what=what)[group], -1)
    known = np.flatnonzero(np.isfinite(coverage))
    shares = coverage[known]
    edges = np.quantile(shares[shares > 0], np.linspace(0, 1, COVERAGE_BINS + 1)[1:-1]) if (shares > 0).any() else []
    kind = np.where(shares > 0, 1 + np.searchsorted(edges, shares), 0)
    labels = kind[:, None] == np.unique(kind)
    folds = np.full(len(coverage), -1)
    folds[known] = make_folds(labels, np.arange(len(known)), n, seed, what=what, option="--masks.folds")
    return folds
