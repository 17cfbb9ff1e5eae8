"""Blends of several predictions of the same cells: the rules, and weights fitted without looking at what is scored."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from wsss.core.checks import DataError, some
from wsss.core.console import progress, say
from wsss.core.csv_text import read_text
from wsss.data.origin import read_provenance, seen_note
from wsss.inference.tables import (
    cells_file,
    gathered,
    iter_cells,
    other_names,
    read_cells,
    read_images,
    score_columns,
    table_digest,
)
from wsss.runs.result_record import check_recorded, record_over

ROUNDS = 20
"""Picks of the weight search; a weight is a multiple of 1 / ROUNDS, or all are equal."""

Score = Callable[[np.ndarray, np.ndarray], float]
"""(N, K) blended scores and the (n,) rows that count -> how good they are; higher is better."""


def prepare(scores: np.ndarray, how: str) -> np.ndarray:
    """Bring one prediction's (N, K) scores to the scale on which `blend` adds them.

    mean: as they are; geometric: their logarithm, scores below 1e-6 counting as 1e-6; rank: for each class the share
    of scores that are not higher, in (0, 1], equal scores sharing the mean of their ranks.
    """
    if how == "geometric":
        return np.log(np.maximum(scores.astype(np.float64), 1e-6))
    if how == "rank":
        return rankdata(scores, axis=0) / max(len(scores), 1)
    return scores.astype(np.float64)


def blend(prepared: Sequence[np.ndarray], weights: np.ndarray, how: str) -> np.ndarray:
    """Blend predictions that `prepare` has prepared; the weights' scale does not matter.

    Returns:
        (N, K) float32 in [0, 1].
    """
    shares = np.asarray(weights, np.float64) / np.sum(weights)
    total = sum(share * scores for share, scores in zip(shares, prepared, strict=True))
    out = np.exp(total) if how == "geometric" else np.asarray(total)
    if how == "geometric":
        out = np.where(out <= 1.000001e-6, 0, out)  # nobody gave it a score
    return np.clip(out, 0, 1).astype(np.float32)


def fit_weights(prepared: Sequence[np.ndarray], rows: np.ndarray, how: str, score: Score) -> np.ndarray:
    """Find weights that make the blend of `rows` score high: pick after pick, the prediction that helps most.

    Equal weights stay where no others score higher, as where nothing is known of these rows.

    Returns:
        (M,) float64 with sum 1.

    Source: Caruana et al., Ensemble selection from libraries of models (ICML 2004), with replacement.
    """
    counts = np.zeros(len(prepared))
    best_counts = np.ones(len(prepared))
    best = score(blend(prepared, best_counts, how), rows)
    for _ in range(ROUNDS):
        tried = [score(blend(prepared, counts + step, how), rows) for step in np.eye(len(prepared))]
        counts = counts + np.eye(len(prepared))[int(np.argmax(tried))]
        if max(tried) > best:
            best, best_counts = max(tried), counts
    return best_counts / best_counts.sum()


@dataclass(frozen=True)
class Fitted:
    """Weights for every fold, fitted on the others, and for new images."""

    by_fold: dict[int, np.ndarray]
    """Fold -> (M,) weights that never saw it."""
    final: np.ndarray
    """(M,) the mean of those, for images in no fold."""

    def apply(self, prepared: Sequence[np.ndarray], folds: np.ndarray, how: str) -> np.ndarray:
        """Blend each row with the weights of its fold, or the final ones; (N, K) float32."""
        out = blend(prepared, self.final, how)
        for fold, weights in self.by_fold.items():
            held_out = folds == fold
            out[held_out] = blend([scores[held_out] for scores in prepared], weights, how)
        return out


def fit_nested(prepared: Sequence[np.ndarray], folds: np.ndarray, how: str, score: Score) -> Fitted:
    """Fit weights once for every fold, each time on the rows of the other folds; rows without a fold are left out.

    Args:
        prepared: the predictions' scores, (N, K) each.
        folds: (N,) the fold that held each row out; -1 for none.
        how: rule of the blend.
        score: what is to be high.
    """
    numbers = np.unique(folds[folds >= 0])
    by_fold = {
        int(fold): fit_weights(prepared, np.flatnonzero((folds >= 0) & (folds != fold)), how, score)
        for fold in progress(numbers, "fit weights", leave=False)
    }
    return Fitted(by_fold, np.mean(list(by_fold.values()), axis=0))


SAME = ("fold", "ImageHeight", "ImageWidth", "area_px", "y0", "x0", "y1", "x1")


@dataclass(frozen=True)
class Prediction:
    """One prediction."""

    folder: Path
    cells: pd.DataFrame
    """Without masks; rows in the order of the first prediction."""
    images: pd.DataFrame
    """Rows in the order of the first prediction."""
    provenance: dict[str, Any]
    """Of infer or ensemble; empty for tables made by others."""

    @property
    def columns(self) -> list[str]:
        """Names of the score columns."""
        return score_columns(self.cells, self.folder)

    @property
    def scores(self) -> np.ndarray:
        """(N, K) float32 of the cells."""
        return self.cells[self.columns].to_numpy(np.float32)

    @property
    def is_oof(self) -> bool:
        """Whether the record says each image was predicted by networks that never saw it."""
        return bool(self.provenance.get("oof"))

    def facts(self) -> dict[str, Any]:
        """Return what the blend's record says of it."""
        return {"path": str(self.folder), cells_file(self.folder).name: table_digest(self.folder)}


def read_predictions(folders: list[Path]) -> list[Prediction]:
    """Read the tables of all predictions, and bring them to the rows of the first.

    Raises:
        DataError: a prediction is of other images, cells, classes or folds than the first.
    """
    predictions: list[Prediction] = []
    for folder in folders:
        provenance = read_provenance(folder)
        cells = read_cells(folder)
        images = read_images(folder, score_columns(cells, folder))
        if predictions:
            first = predictions[0]
            cells = _aligned(cells, first.cells, ["ID", "cell_id"], folder, first.folder)
            images = _aligned(images, first.images, ["ID"], folder, first.folder)
        predictions.append(Prediction(folder, cells, images, provenance))
        _check_same(predictions[-1], predictions[0])
    return predictions


def foreign_note(names: Iterable[str]) -> str:
    """Return a note on what no record of this project proves of published networks; '' without any."""
    if not (known := list(names)):
        return ""
    return (
        f"note: what {some(known)} learnt from is not on record here. Others trained it on images of the Human Protein "
        "Atlas: if these are such images, it may have seen them, and figures measured on them flatter it."
    )


def say_figure_notes(preds: Path) -> None:
    """Print what flatters figures of predictions."""
    provenance = read_provenance(preds)
    for note in filter(None, (seen_note(provenance), foreign_note(provenance.get("published", {})))):
        say(note)


def _aligned(table: pd.DataFrame, first: pd.DataFrame, key: list[str], folder: Path, other: Path) -> pd.DataFrame:
    wanted, given = pd.MultiIndex.from_frame(first[key]), pd.MultiIndex.from_frame(table[key])
    rows = given.get_indexer(wanted)
    missing, extra = int((rows < 0).sum()), int((~given.isin(wanted)).sum())
    if missing or extra:
        what = "cells" if len(key) > 1 else "images"
        name = " cell ".join(map(str, (wanted[rows < 0] if missing else given[~given.isin(wanted)])[0]))
        raise DataError(
            f"{folder} lacks {missing} {what} of {other} and has {extra} it has not ({name}): "
            "blend predictions of one data set, with the same label maps."
        )
    return table.iloc[rows].reset_index(drop=True)


def _check_same(prediction: Prediction, first: Prediction) -> None:
    if prediction.columns != first.columns:
        raise DataError(
            f"{prediction.folder} has {len(prediction.columns)} classes, {first.folder} has {len(first.columns)}."
        )
    for name in SAME:
        differs = np.flatnonzero(prediction.cells[name].to_numpy() != first.cells[name].to_numpy())
        if differs.size:
            row = first.cells.iloc[differs[0]]
            more = ": predictions out of different folds leak into each other" if name == "fold" else ""
            raise DataError(
                f"{prediction.folder}: cell {row.cell_id} of {row.ID} has {name} "
                f"{prediction.cells[name].iloc[differs[0]]}, in {first.folder} it is {row[name]}{more}. "
                "Blend predictions of the same cells and folds."
            )
    for name in ("fold", "status"):
        differs = np.flatnonzero(prediction.images[name].to_numpy() != first.images[name].to_numpy())
        if differs.size:
            row = first.images.iloc[differs[0]]
            raise DataError(
                f"{prediction.folder}: the {name} of {row.ID} is '{prediction.images[name].iloc[differs[0]]}', in "
                f"{first.folder} it is '{row[name]}'. Predict both on the same data set and folds."
            )
    marks, first_marks = ((record_over(one.folder) or {}).get("items", {}) for one in (prediction, first))
    if marks and first_marks and marks != first_marks:
        changed = [name for name in marks if marks[name] != first_marks.get(name, marks[name])]
        raise DataError(
            f"{prediction.folder} and {first.folder} were made from other pixels or label maps of {some(changed, 3)}: "
            "predict both again."
        )
    if others := other_names(first.provenance.get("classes"), prediction.provenance.get("classes") or ()):
        raise DataError(
            f"{prediction.folder} is of other classes than {first.folder} ({others}): predict one of them again."
        )
    for name in ("oof", "table"):
        if prediction.provenance and first.provenance and prediction.provenance.get(name) != first.provenance.get(name):
            what = "is out of fold, the other is not" if name == "oof" else "is of another state of the data set"
            raise DataError(f"of {prediction.folder} and {first.folder} one {what}: blend predictions made alike.")


def blended_frames(first: Prediction, scores: np.ndarray) -> Iterator[pd.DataFrame]:
    """Yield the cells of the first prediction, with masks, scores replaced; needs its cells.parquet."""
    start = 0
    empty = True
    for cells in gathered(cells for _, cells in iter_cells(first.folder)):
        cells[first.columns] = scores[start : start + len(cells)]
        start, empty = start + len(cells), False
        yield cells
    if empty:
        yield pd.DataFrame({name: pd.Series(dtype=first.cells[name].dtype) for name in first.cells}).assign(
            rle=pd.Series(dtype="str")
        )


def image_sizes(first: Prediction) -> pd.DataFrame:
    """Return ID, ImageHeight, ImageWidth of every image, from the first prediction submission and cells.

    Raises:
        DataError: there is no submission that gives the sizes of images without cells.
    """
    path = first.folder / "submission.csv"
    known = first.cells.groupby("ID")[["ImageHeight", "ImageWidth"]].first()
    lacking = set(first.images.ID) - set(known.index)
    if lacking:
        check_recorded(path)
        table = read_text(path, ["ID", "ImageWidth", "ImageHeight"]).set_index("ID")
        more = table.loc[table.index.isin(lacking), ["ImageHeight", "ImageWidth"]].apply(pd.to_numeric)
        known = pd.concat([known, more])
    return known.reindex(first.images.ID).rename_axis("ID").reset_index()
