"""The tables of several predictions, checked to be of the same cells, and written as one."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wsss.core.checks import DataError, some
from wsss.core.csv_text import read_text
from wsss.core.files import digest_file, read_record
from wsss.inference.tables import iter_cells, read_cells, read_images, score_columns
from wsss.runs.output import record_over

SAME = ("fold", "ImageHeight", "ImageWidth", "area_px", "y0", "x0", "y1", "x1")


@dataclass(frozen=True)
class MemberTables:
    """One prediction."""

    folder: Path
    cells: pd.DataFrame
    """Without masks; rows in the order of the first member's."""
    images: pd.DataFrame
    """Rows in the order of the first member's."""
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
        name = "cells.parquet" if (self.folder / "cells.parquet").exists() else "cells.csv"
        return {"path": str(self.folder), name: digest_file(self.folder / name)}


def read_members(folders: list[Path]) -> list[MemberTables]:
    """Read the tables of all members, and bring them to the rows of the first.

    Raises:
        DataError: a member is of other images, cells, classes or folds than the first.
    """
    members: list[MemberTables] = []
    for folder in folders:
        provenance = read_provenance(folder)
        cells, images = read_cells(folder), read_images(folder)
        if members:
            first = members[0]
            cells = _aligned(cells, first.cells, ["ID", "cell_id"], folder, first.folder)
            images = _aligned(images, first.images, ["ID"], folder, first.folder)
        members.append(MemberTables(folder, cells, images, provenance))
        _check_same(members[-1], members[0])
    return members


def read_provenance(folder: Path) -> dict[str, Any]:
    """Return what infer or ensemble recorded of a prediction; empty for tables made by others."""
    record = folder / "provenance.json"
    found: dict[str, Any] = read_record(record) if record.exists() else {}
    return found


def _aligned(table: pd.DataFrame, first: pd.DataFrame, key: list[str], folder: Path, other: Path) -> pd.DataFrame:
    wanted, found = pd.MultiIndex.from_frame(first[key]), pd.MultiIndex.from_frame(table[key])
    rows = found.get_indexer(wanted)
    missing, extra = int((rows < 0).sum()), int((~found.isin(wanted)).sum())
    if missing or extra:
        what = "cells" if len(key) > 1 else "images"
        name = " cell ".join(map(str, (wanted[rows < 0] if missing else found[~found.isin(wanted)])[0]))
        raise DataError(
            f"{folder} lacks {missing} {what} of {other} and has {extra} it has not ({name}): "
            "blend predictions of one data set, with the same label maps."
        )
    return table.iloc[rows].reset_index(drop=True)


def _check_same(member: MemberTables, first: MemberTables) -> None:
    if member.columns != first.columns:
        raise DataError(f"{member.folder} has {len(member.columns)} classes, {first.folder} has {len(first.columns)}.")
    for name in SAME:
        differs = np.flatnonzero(member.cells[name].to_numpy() != first.cells[name].to_numpy())
        if differs.size:
            row = first.cells.iloc[differs[0]]
            more = ": predictions out of different folds leak into each other" if name == "fold" else ""
            raise DataError(
                f"{member.folder}: cell {row.cell_id} of {row.ID} has {name} {member.cells[name].iloc[differs[0]]}, "
                f"in {first.folder} it is {row[name]}{more}. Blend predictions of the same cells and folds."
            )
    for name in ("fold", "status"):
        differs = np.flatnonzero(member.images[name].to_numpy() != first.images[name].to_numpy())
        if differs.size:
            row = first.images.iloc[differs[0]]
            raise DataError(
                f"{member.folder}: the {name} of {row.ID} is '{member.images[name].iloc[differs[0]]}', in "
                f"{first.folder} it is '{row[name]}'. Predict both on the same data set and folds."
            )
    marks, first_marks = ((record_over(own.folder) or {}).get("items", {}) for own in (member, first))
    if marks and first_marks and marks != first_marks:
        changed = [name for name in marks if marks[name] != first_marks.get(name, marks[name])]
        raise DataError(
            f"{member.folder} and {first.folder} were made from other pixels or label maps of {some(changed, 3)}: "
            "predict both again."
        )
    for name in ("oof", "table"):
        if member.provenance and first.provenance and member.provenance.get(name) != first.provenance.get(name):
            what = "is out of fold, the other is not" if name == "oof" else "is of another state of the data set"
            raise DataError(f"of {member.folder} and {first.folder} one {what}: blend predictions made alike.")


def blended_frames(first: MemberTables, scores: np.ndarray) -> Iterator[pd.DataFrame]:
    """Yield each image's cells of the first member, with masks, scores replaced; needs its cells.parquet."""
    start = 0
    empty = True
    for _, own in iter_cells(first.folder):
        own[first.columns] = scores[start : start + len(own)]
        start, empty = start + len(own), False
        yield own
    if empty:
        yield pd.DataFrame({name: pd.Series(dtype=first.cells[name].dtype) for name in first.cells}).assign(
            rle=pd.Series(dtype="str")
        )


def image_sizes(first: MemberTables) -> pd.DataFrame:
    """Return ID, ImageHeight, ImageWidth of every image, from the first member's submission and cells.

    Raises:
        DataError: there is no submission to tell the sizes of images without cells.
    """
    path = first.folder / "submission.csv"
    known = first.cells.groupby("ID")[["ImageHeight", "ImageWidth"]].first()
    lacking = set(first.images.ID) - set(known.index)
    if lacking:
        table = read_text(path, ["ID", "ImageWidth", "ImageHeight"]).set_index("ID")
        more = table.loc[table.index.isin(lacking), ["ImageHeight", "ImageWidth"]].apply(pd.to_numeric)
        known = pd.concat([known, more])
    return known.reindex(first.images.ID).rename_axis("ID").reset_index()
