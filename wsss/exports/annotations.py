"""Cells in the forms of other tools: GeoJSON, COCO, label TIFF, flat tables and AnnData."""

import gzip
import io
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any
from uuid import NAMESPACE_URL, uuid5

import numpy as np
import pandas as pd
import tifffile
from skimage.measure import find_contours, label, regionprops

from wsss.core import rle
from wsss.core.checks import ConfigError, DataError, install
from wsss.core.console import progress, waiting
from wsss.core.csv_text import carried_columns, csv_bytes
from wsss.core.files import write_atomic, write_bytes
from wsss.core.labels import ClassList
from wsss.core.parquet import write_parquet

Polygon = list[np.ndarray]
"""The outer ring and then its holes: (n, 2) int64 of x, y at pixel corners, first corner repeated at the end."""

MEASURED = ("cell_id", "area_px", "touches_border", "fold")
"""Measurements of a cell in addition to its scores."""
Colour = Callable[[int], Sequence[int]]
"""Class id -> red, green, blue of 0..255."""


def write_geojson(path: Path, features: Iterable[dict[str, Any]]) -> int:
    """Write features as a FeatureCollection, whole or not at all, and return their number; .gz compresses."""
    return write_feature_texts(path, (feature_text(feature) for feature in features))


def feature_text(feature: dict[str, Any]) -> str:
    """Return a feature as a line of JSON."""
    return json.dumps(feature, allow_nan=False)


def write_feature_texts(path: Path, features: Iterable[str]) -> int:
    """Write lines of `feature_text` as `write_geojson` writes features."""
    return _write_list(path, '{"type": "FeatureCollection", "features": [', features, "\n]}\n")


def _write_list(path: Path, before: str, items: Iterable[str], after: str) -> int:
    """Write texts with a comma and a new line between two, whole or not at all, and return their number."""
    count = 0

    def pour(stream: IO[bytes]) -> None:
        nonlocal count
        with text_stream(stream, path) as text:
            text.write(before)
            for item in items:
                text.write((",\n" if count else "\n") + item)
                count += 1
            text.write(after)

    write_atomic(path, pour)
    return count


def text_stream(stream: IO[bytes], path: Path) -> io.TextIOWrapper:
    """Return a UTF-8 writer into `stream`, gzipped if `path` ends in .gz; closing it leaves `stream` open."""
    if path.suffix == ".gz":  # without a time: equal text gives equal bytes
        return io.TextIOWrapper(gzip.GzipFile("", "wb", 6, stream, mtime=0), encoding="utf-8", newline="\n")
    return _Unclosing(stream, encoding="utf-8", newline="\n")


class _Unclosing(io.TextIOWrapper):
    """A text writer that leaves the stream below it open."""

    def close(self) -> None:
        """Flush, and detach from the stream."""
        if not self.closed:
            self.flush()
            self.detach()


def cell_features(
    cells: pd.DataFrame, label_map: np.ndarray, classes: ClassList, colour: Colour
) -> Iterator[dict[str, Any]]:
    """Yield one QuPath cell a row of `cells`: outline in pixels, class of the highest score, all scores.

    Args:
        cells: rows of one image, as `tables.iter_cells` gives them.
        label_map: (H, W) of the original image, with the ids of `cells`.
        colour: the colour of each class.
    """
    polygons = cell_polygons(label_map)
    scores = cells[classes.columns].to_numpy(np.float64)
    for row, cell_scores in zip(cells.to_dict("records"), scores, strict=True):
        if row["cell_id"] not in polygons:
            continue  # a cell that scaling to the original size left without a pixel has no outline
        top = int(cell_scores.argmax())
        values = zip(measured_names(classes), cell_scores, strict=True)
        measured = {name: float(f"{score:.6g}") for name, score in values}
        properties = {
            "objectType": "cell",
            "name": f"{row['ID']} {row['cell_id']}",
            "classification": {"name": classes.names[top], "color": list(colour(top))},
            "measurements": {
                **measured,
                "cell_id": row["cell_id"],
                "area_px": row["area_px"],
                "touches_border": int(row["touches_border"]),
                "fold": row["fold"],
            },
        }
        yield {
            "type": "Feature",
            "id": str(uuid5(NAMESPACE_URL, f"wsss:{row['ID']}:{row['cell_id']}")),
            "geometry": geometry(polygons[row["cell_id"]]),
            "properties": properties,
        }


def measured_names(classes: ClassList) -> list[str]:
    """Return the names of the classes as measurements; one that is called like another measurement gets its id."""
    return [f"{name} ({k})" if name in MEASURED else name for k, name in enumerate(classes.names)]


def geometry(polygons: list[Polygon]) -> dict[str, Any]:
    """Return a Polygon, or a MultiPolygon of several pieces; outer rings have a positive area, holes a negative one."""
    pieces = [[_turned(ring, outer=not k).tolist() for k, ring in enumerate(polygon)] for polygon in polygons]
    if len(pieces) == 1:
        return {"type": "Polygon", "coordinates": pieces[0]}
    return {"type": "MultiPolygon", "coordinates": pieces}


def _turned(ring: np.ndarray, *, outer: bool) -> np.ndarray:
    return ring if (signed_area(ring) > 0) == outer else ring[::-1]


def cell_polygons(label_map: np.ndarray) -> dict[int, list[Polygon]]:
    """Trace every cell of a label map.

    Args:
        label_map: (H, W) integers, 0 background.

    Returns:
        Cell id -> one polygon a 4-connected piece. A polygon covers exactly the pixels of its piece, pixel (y, x)
        being the square from corner (x, y) to (x + 1, y + 1); no ring touches itself.
    """
    out: dict[int, list[Polygon]] = {}
    for piece in regionprops(label(label_map, background=0, connectivity=1)):
        y, x = piece.coords[0]
        corner = np.array([piece.bbox[1], piece.bbox[0]])
        rings = [ring + corner for ring in _rings(piece.image)]
        rings.sort(key=lambda ring: -abs(signed_area(ring)))  # the outer ring encloses all others
        out.setdefault(int(label_map[y, x]), []).append(rings)
    return dict(sorted(out.items()))


def signed_area(ring: np.ndarray) -> float:
    """Return the area inside a closed ring, positive or negative by its sense of rotation."""
    x, y = ring.T.astype(np.float64)
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)


def _rings(mask: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the rings around a mask and its holes.

    find_contours gives the middles of all pixel edges between inside and outside, in order. Where one edge runs along
    a row and the next along a column, the corner between them has the row of the first and the column of the second.
    """
    for middles in find_contours(np.pad(mask, 1).astype(np.float32), 0.5):
        middles = middles[:-1]  # the last repeats the first
        next_middles = np.roll(middles, -1, axis=0)
        along_row = middles[:, 0] % 1 != 0
        turns = along_row != np.roll(along_row, -1)
        here = np.where(along_row[:, None], middles, next_middles)  # the edge that has the row
        there = np.where(along_row[:, None], next_middles, middles)  # the edge that has the column
        corners = np.stack([there[:, 1], here[:, 0]], axis=1)[turns]
        yield from _simple_rings((corners - 0.5).astype(np.int64))


def _simple_rings(corners: np.ndarray) -> Iterator[np.ndarray]:
    """Cut a closed path where it meets itself; yield closed rings that do not."""
    path: list[tuple[int, int]] = []
    place: dict[tuple[int, int], int] = {}
    for corner in map(tuple, corners.tolist()):
        if corner in place:
            start = place[corner]
            yield np.array([*path[start:], corner], np.int64)
            for dropped in path[start + 1 :]:
                del place[dropped]
            del path[start + 1 :]
        else:
            place[corner] = len(path)
            path.append(corner)
    yield np.array([*path, path[0]], np.int64)


def write_coco(
    path: Path,
    images: pd.DataFrame,
    cells: Iterable[tuple[str, pd.DataFrame]],
    classes: ClassList,
    *,
    every_class: bool = False,
    min_score: float = 0.01,
) -> int:
    """Write a COCO file (gzipped if `path` ends in .gz), whole or not at all; return the number of annotations.

    Category ids are the class ids, from 0. An image's `file_name` is its ID.

    Args:
        images: every image: ID, ImageHeight, ImageWidth.
        cells: (ID, its cells with masks).
        every_class: one annotation for each cell and class that scores at least `min_score`, as detection metrics
            want it; else one a cell, with its best class, and all its scores in `scores`.
        min_score: see `every_class`.

    Raises:
        DataError: cells of an image that is not in `images`.
    """
    categories = [{"id": k, "name": name, "supercategory": "cell"} for k, name in enumerate(classes.names)]
    before = '{"info": ' + json.dumps({"description": "wsss: cells and their classes", "version": "1"})
    before += ',\n"categories": ' + json.dumps(categories) + ',\n"images": ['
    before += ",".join("\n" + json.dumps(record) for record in _images(images)) + '],\n"annotations": ['
    numbers = {name: k for k, name in enumerate(images.ID, 1)}

    def annotations() -> Iterator[dict[str, Any]]:
        for name, image_cells in cells:
            if name not in numbers:
                raise DataError(f"{path}: cells of {name}, which is not among the images: pass its data set.")
            for record in _annotations(image_cells, classes, min_score if every_class else None):
                yield {"image_id": numbers[name], **record}

    numbered = ({"id": count, **record} for count, record in enumerate(annotations(), 1))
    return _write_list(path, before, (json.dumps(record, allow_nan=False) for record in numbered), "]}\n")


def _images(images: pd.DataFrame) -> Iterator[dict[str, Any]]:
    rows = zip(images.ID, images.ImageHeight.astype(int), images.ImageWidth.astype(int), strict=True)
    for number, (name, height, width) in enumerate(rows, 1):
        yield {"id": number, "file_name": name, "height": int(height), "width": int(width)}


def _annotations(cells: pd.DataFrame, classes: ClassList, min_score: float | None) -> Iterator[dict[str, Any]]:
    scores = cells[classes.columns].to_numpy(np.float64)
    for row, cell_scores in zip(cells.to_dict("records"), scores, strict=True):
        y0, x0, y1, x1 = (row[name] for name in ("y0", "x0", "y1", "x1"))
        size = [row["ImageHeight"], row["ImageWidth"]]
        shared = {
            "segmentation": {"size": size, "counts": row["rle"]},
            "area": row["area_px"],
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "iscrowd": 0,
            "cell_id": row["cell_id"],
            "touches_border": bool(row["touches_border"]),
            "fold": row["fold"],
        }
        values = [float(f"{value:.6g}") for value in cell_scores]
        if min_score is None:
            top = int(cell_scores.argmax())
            yield {"category_id": top, "score": values[top], "scores": values, **shared}
        else:
            for k in np.flatnonzero(cell_scores >= min_score).tolist():
                yield {"category_id": k, "score": values[k], **shared}


MOST_IN_16_BITS = 65535


def label_map_of(ids: Iterable[int], masks: Iterable[str], size: tuple[int, int], where: str) -> np.ndarray:
    """Put cells back into one label map.

    Args:
        ids: number of each cell.
        masks: its COCO counts at `size`.
        size: (H, W) of the original image.
        where: file and image, for messages.

    Returns:
        (H, W) int32, 0 background.

    Raises:
        DataError: a mask is broken or of another size, or two cells share a pixel, which a label map cannot hold.
    """
    flat = np.zeros(size[0] * size[1], np.int32)  # column after column, as the masks are
    for number, mask in zip(ids, masks, strict=True):
        try:
            runs = rle.check([mask.encode("ascii")], size)[0]
        except (DataError, UnicodeEncodeError) as error:
            raise DataError(f"{where}, cell {number}: {error}") from None
        ends = np.cumsum(runs)
        for start, stop in zip(ends[0::2], ends[1::2], strict=False):
            if flat[start:stop].any():
                other = flat[start:stop].max()
                raise DataError(f"{where}: the cells {other} and {number} share pixels: export them --to coco.")
            flat[start:stop] = number
    return flat.reshape(size, order="F")


def write_label_tiff(path: Path, label_map: np.ndarray) -> None:
    """Write a label map losslessly: 16 bit in ImageJ's own form, or plain 32 bit where ids exceed 65535."""
    stream = io.BytesIO()
    top = int(label_map.max(initial=0))
    if top <= MOST_IN_16_BITS:
        shown = {"axes": "YX", "min": 0, "max": max(top, 1)}
        tifffile.imwrite(stream, label_map.astype(np.uint16), imagej=True, compression="zlib", metadata=shown)
    else:
        tifffile.imwrite(stream, label_map.astype(np.uint32), compression="zlib", photometric="minisblack")
    write_bytes(path, stream.getvalue())


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
        raise ConfigError(f"--to h5ad needs anndata: {install('h5ad')}.") from error
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
