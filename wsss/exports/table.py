"""Tables of cells for other tools: one flat table for napari, R, Excel; AnnData for scanpy and squidpy."""

import json
import re
import tempfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd

from wsss.core.checks import ConfigError
from wsss.core.console import progress, waiting
from wsss.core.csv_text import carried_columns
from wsss.core.files import csv_bytes, write_atomic
from wsss.core.labels import ClassList
from wsss.core.parquet import write_parquet

_OF_CROP = re.compile(r"crop_\d+")
ROWS = 20_000
"""Rows written between two updates of the progress bar."""


def named_table(cells: pd.DataFrame, classes: ClassList) -> pd.DataFrame:
    """Return cells with `label` (the value in the label map), best class and its score, and scores by class name.

    A class named like another column gets its id appended, such as 'fold (3)'.
    """
    scores = cells[classes.columns].to_numpy(np.float32)
    plain = cells.drop(columns=[*classes.columns, "rle"], errors="ignore").rename(columns={"cell_id": "label"})
    top = scores.argmax(axis=1) if len(scores) else np.zeros(0, np.intp)
    plain["top_class"] = pd.Series(np.array(classes.names, object)[top], index=plain.index, dtype="str")
    plain["top_score"] = scores[np.arange(len(top)), top]
    taken = set(plain.columns)
    names = [f"{name} ({k})" if name in taken else name for k, name in enumerate(classes.names)]
    return pd.concat([plain, pd.DataFrame(scores, columns=names, index=plain.index)], axis=1)


def write_table(path: Path, cells: pd.DataFrame, classes: ClassList, *, parquet: bool) -> None:
    """Write `named_table` as CSV or Parquet, whole or not at all."""
    table = named_table(cells, classes)
    if parquet:
        write_parquet(path, table)
    else:
        write_atomic(path, lambda stream: _pour(table, stream))


def _pour(table: pd.DataFrame, stream: IO[bytes]) -> None:
    with progress(None, "export", total=len(table), unit="cell") as bar:
        for first in range(0, max(1, len(table)), ROWS):
            part = table.iloc[first : first + ROWS]
            stream.write(csv_bytes(part, header=first == 0))
            bar.update(len(part))


def to_anndata(
    cells: pd.DataFrame,
    classes: ClassList,
    provenance: dict[str, Any] | None = None,
    vectors: pd.DataFrame | None = None,
) -> Any:
    """Build an AnnData of cells x classes.

    X holds the scores; obs has image, cell, area (px), border, fold, image_height, image_width and top_class;
    obsm['spatial'] the centres as x, y in pixels of the image; var_names are the class names, var['class_id'] their
    ids; obs has the carried columns too; uns['wsss'] the provenance as JSON text. Names of cells are '<image>:<cell>'.
    With vectors, obsm['features'] and obsm['crop'] hold those there are, and uns['features'] and uns['crop'] the names
    of their columns.

    Raises:
        ConfigError: anndata is not installed.
    """
    try:
        import anndata
    except ImportError as error:
        raise ConfigError("--to h5ad needs anndata: pip install 'wsss[h5ad]'.") from error
    scores = cells[classes.columns].to_numpy(np.float32)
    top = scores.argmax(axis=1) if len(scores) else np.zeros(0, np.intp)
    names = [f"{name}:{number}" for name, number in zip(cells.ID, cells.cell_id, strict=True)]
    obs = pd.DataFrame(
        {
            "image": pd.Categorical(cells.ID.astype(object)),
            "cell": cells.cell_id.to_numpy(),
            "area": cells.area_px.to_numpy(),
            "border": cells.touches_border.to_numpy(bool),
            "fold": cells.fold.to_numpy(),
            "image_height": cells.ImageHeight.to_numpy(),
            "image_width": cells.ImageWidth.to_numpy(),
            "top_class": pd.Categorical.from_codes(top, pd.Index(classes.names, dtype=object)),
        },
        index=pd.Index(names, dtype=object),
    )
    for name in carried_columns(cells.columns):
        obs[name.replace("/", "_")] = pd.Categorical(cells[name].astype(object))
    var = pd.DataFrame({"class_id": np.arange(len(classes))}, index=pd.Index(classes.names, dtype=object))
    table = anndata.AnnData(scores, obs=obs, var=var)
    table.obsm["spatial"] = cells[["center_x", "center_y"]].to_numpy(np.float64)
    table.uns["wsss"] = json.dumps(provenance or {}, sort_keys=True)
    for kind, names in _kinds(vectors).items():
        assert vectors is not None
        table.obsm[kind] = vectors[names].to_numpy(np.float32)
        table.uns[kind] = np.array(names, object)
    return table


def _kinds(vectors: pd.DataFrame | None) -> dict[str, list[str]]:
    """Return the names of the vectors' columns by kind: features by name, features of the crop by number."""
    names = [] if vectors is None else [str(name) for name in vectors.columns]
    kinds = {"features": [name for name in names if not _OF_CROP.fullmatch(name)]}
    kinds["crop"] = [name for name in names if _OF_CROP.fullmatch(name)]
    return {kind: of_kind for kind, of_kind in kinds.items() if of_kind}


def write_h5ad(
    path: Path,
    cells: pd.DataFrame,
    classes: ClassList,
    provenance: dict[str, Any] | None = None,
    vectors: pd.DataFrame | None = None,
) -> None:
    """Write `to_anndata` to a file, whole or not at all.

    Raises:
        ConfigError: anndata is not installed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        part = Path(folder) / "part.h5ad"
        # text as plain objects: the form every version of anndata and scanpy reads
        with pd.option_context("future.infer_string", False), waiting("export"):
            to_anndata(cells, classes, provenance, vectors).write_h5ad(part, compression="gzip")
        part.replace(path)
