"""From the journal of finished images to the tables of a prediction."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pandas as pd

from wsss.core.console import say
from wsss.core.runtime import progress
from wsss.data.catalog import DataSet
from wsss.inference.image_tables import take_stage
from wsss.inference.shards import ShardJournals
from wsss.inference.submission import write_submission
from wsss.inference.tables import iter_cells, write_cells, write_images
from wsss.runs.journal import Journal


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
    cells = write_cells(out, take_stage(_frames(data, journal), ""))
    for stage in parts:
        write_cells(out / stage, take_stage(_frames(data, journal), stage))
        write_images(out / stage, images)
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
    for name in progress(data.ids, "tables"):
        found = journal.get(name)
        if found is not None:
            yield pd.read_feather(BytesIO(found[1]))


def _images_table(data: DataSet, journal: Journal | ShardJournals) -> pd.DataFrame:
    """Return images.csv: one row an image, failed ones and those without cells included."""
    rows = []
    for i, name in enumerate(data.ids):
        found = journal.get(name)
        if found is None:
            reason = "no fold holds it out" if data.ok[i] else data.table["reason"].iloc[i]
            rows.append([name, -1, 0, f"failed: {reason}", *[float("nan")] * len(data.classes)])
        else:
            record = found[0]
            rows.append([name, record["fold"], record["n_cells"], record["status"], *record["probs"]])
    return pd.DataFrame(rows, columns=["ID", "fold", "n_cells", "status", *data.classes.columns])
