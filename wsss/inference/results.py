"""From what the sources score to one image's rows, and from the journal of finished images to the tables."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wsss.cells.blending import Part, blend_parts, feature_share, image_scores
from wsss.cells.instances import measure_cells
from wsss.cells.regions import visible_share
from wsss.core.console import say
from wsss.core.rle import encode_label_map
from wsss.core.runtime import progress
from wsss.data.catalog import DataSet
from wsss.inference.shards import ShardJournals
from wsss.inference.sources import Sample, Source, Task
from wsss.inference.submission import write_submission
from wsss.inference.tables import cells_frame, iter_cells, put_carried, write_cells, write_images
from wsss.runs.journal import Journal


@dataclass(frozen=True)
class Scored:
    """One image's results."""

    index: int
    record: dict[str, Any]
    """n_cells, status, fold and probs: the image's row."""
    payload: bytes
    """Its cells: the blended table and, as columns 'source:class', the parts; Arrow IPC."""


def finish_image(task: Task, sources: Sequence[Source], sample: Sample, fold: int) -> Scored:
    """Score one image's cells by all sources, blend, and add geometry and masks.

    Args:
        task: data and rules.
        sources: what scores.
        sample: the image, with what the networks saw.
        fold: what the tables say of the image.
    """
    parts = [Part(source.name, source.group, source.share, source.score(sample)) for source in sources]
    visible = visible_share(sample.cells, sample.content)
    final = blend_parts(parts, task.score, negative=task.data.classes.negative, visible=visible)
    probs = image_scores(final, sample.probs, negative=task.data.classes.negative, share=feature_share(parts))
    if task.calibration is not None:
        final, probs = task.calibration.of_cells(final), task.calibration.of_image(probs)
    frame = _frame(task.data, sample, final, parts, fold)
    status = "ok" if sample.label_map is not None else f"no cells: {sample.problem}"
    record = {"n_cells": len(frame), "status": status, "fold": fold, "probs": [float(p) for p in probs]}
    stream = BytesIO()
    frame.to_feather(stream)
    return Scored(sample.index, record, stream.getvalue())


def _frame(data: DataSet, sample: Sample, final: np.ndarray, parts: Sequence[Part], fold: int) -> pd.DataFrame:
    """Put scores beside the geometry of the original image.

    A cell so small that scaling lost it has no scores of its own and gets the image's probabilities.
    """
    geometry = data.geometry(sample.index)
    label_map = sample.cells if sample.label_map is None else sample.label_map
    native = label_map.shape == (geometry.height, geometry.width)
    table = measure_cells(label_map, geometry=None if native else geometry)
    ids = table["cell_id"].to_numpy()
    row = np.searchsorted(sample.cell_ids, ids)
    scored = np.isin(ids, sample.cell_ids)

    def align(scores: np.ndarray) -> np.ndarray:
        out = np.tile(sample.probs, (len(ids), 1)).astype(np.float32)
        out[scored] = scores[row[scored]]
        return out

    masks = encode_label_map(geometry.labels_to_native(label_map), ids)
    frame = cells_frame(
        data.ids[sample.index],
        fold=fold,
        size=(geometry.height, geometry.width),
        cell_ids=ids,
        geometry={name: table[name] for name in table.columns},
        scores=align(final),
        rle=[masks[k] for k in ids.tolist()],
    )
    aligned = {part.name: align(part.scores) for part in parts}
    columns = {f"{name}:{k}": scores[:, k] for name, scores in aligned.items() for k in range(scores.shape[1])}
    return pd.concat([frame, pd.DataFrame(columns, index=frame.index)], axis=1)


def take_part(frames: Iterable[pd.DataFrame], name: str) -> Iterator[pd.DataFrame]:
    """Keep the blended table of each frame ('' for `name`), or put the scores of a part in its place."""
    for frame in frames:
        plain = frame[[column for column in frame.columns if ":" not in column]]
        if name:
            scores = [column for column in plain.columns if column.isdecimal()]
            plain = plain.assign(**{column: frame[f"{name}:{column}"] for column in scores})
        yield plain


def write_results(
    out: Path, data: DataSet, journal: Journal | ShardJournals, parts: list[str], min_score: float, shown: Path
) -> int:
    """Write all tables and print a summary; return the number of images without a result.

    Args:
        out: the folder.
        data: what was predicted.
        journal: the finished images.
        parts: parts of the score to write beside the blend, each into a folder of its own.
        min_score: predictions below it are left out of submission.csv.
        shown: the folder as messages name it.
    """
    images = _images_table(data, journal)
    cells = write_cells(out, take_part(_frames(data, journal), ""))
    for name in parts:
        write_cells(out / name, take_part(_frames(data, journal), name))
        write_images(out / name, images)
    write_images(out, images)
    sizes = data.table[["ID", "ImageHeight", "ImageWidth"]]
    cells_of_images = progress(iter_cells(out), "submission", total=int((images["n_cells"] > 0).sum()))
    written = write_submission(out / "submission.csv", sizes, cells_of_images, min_score=min_score)
    failed = images[images["status"] != "ok"]
    say(
        f"{shown}: {cells} cells in {len(images)} images, {int((images['n_cells'] == 0).sum())} without cells, "
        f"{len(failed)} failed; {written.predictions} predictions in submission.csv"
    )
    for name, status in list(zip(failed["ID"], failed["status"], strict=True))[:10]:
        say(f"  {name}: {status}")
    return len(failed)


def _frames(data: DataSet, journal: Journal | ShardJournals) -> Iterator[pd.DataFrame]:
    """Yield every image's table, in the order of the data set."""
    carried: list[Any] = data.carried.to_dict("records")
    for i, name in enumerate(progress(data.ids, "tables")):
        entry = journal.get(name)
        if entry is not None:
            yield put_carried(pd.read_feather(BytesIO(entry[1])), carried[i])


def _images_table(data: DataSet, journal: Journal | ShardJournals) -> pd.DataFrame:
    """Return images.csv: one row an image, failed ones and those without cells included."""
    rows = []
    for i, name in enumerate(data.ids):
        entry = journal.get(name)
        if entry is None:
            reason = "no fold holds it out" if data.ok[i] else data.table["reason"].iloc[i]
            rows.append([name, -1, 0, f"failed: {reason}", *[float("nan")] * len(data.classes)])
        else:
            record = entry[0]
            rows.append([name, record["fold"], record["n_cells"], record["status"], *record["probs"]])
    table = pd.DataFrame(rows, columns=["ID", "fold", "n_cells", "status", *data.classes.columns])
    for k, name in enumerate(data.carried.columns):
        table.insert(4 + k, name, data.carried[name])
    return table
