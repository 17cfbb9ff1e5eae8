"""Take results into other tools: predictions as AnnData, COCO, GeoJSON, TIFF or a table; a run as a model."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pandas as pd

from wsss.core.checks import DataError, some
from wsss.core.console import progress, say
from wsss.data import ids
from wsss.data.catalog import DataSet
from wsss.data.origin import data_folder_of, read_provenance
from wsss.exports.annotations import (
    cell_features,
    label_map_of,
    write_coco,
    write_geojson,
    write_h5ad,
    write_label_tiff,
    write_table,
)
from wsss.inference.checkpoints import load_run
from wsss.inference.hub import export_onnx, push_model, save_model
from wsss.inference.tables import (
    EMBEDDINGS,
    check_classes,
    iter_cells,
    prediction_files,
    read_cells,
    read_embeddings,
    score_columns,
    write_submission,
)
from wsss.models.device import choose_device
from wsss.options.export import FOLDERS, OF_RUNS, ExportOptions
from wsss.reports.figures import colour
from wsss.runs.inputs import Digests, what_is_read
from wsss.runs.output import Output, at_file, in_folder
from wsss.runs.run_folder import find_folders


def run(options: ExportOptions) -> int:
    """Run the stage; return the exit code."""
    place = in_folder if options.to in FOLDERS else at_file
    with place(options.out, "export") as output:
        if output.begin(partial(_read, options), overwrite=options.overwrite, subject=("options",)):
            export_run(options, output) if options.to in OF_RUNS else export_predictions(options, output)
    if options.push:
        say(f"pushed to {push_model(options.out, options.push)}")
    return 0


def _read(options: ExportOptions, digests: Digests) -> dict[str, Any]:
    if options.run is not None:
        files = [path for folder in find_folders(options.run) for path in folder.used]
    else:
        assert options.preds is not None
        data = data_folder_of(options.preds, options.data)
        files = [*prediction_files(options.preds), data / "dataset.json"]
        files += [options.preds / EMBEDDINGS] if options.to == "h5ad" else []
    return what_is_read(options, digests, files, leave=("push",))


@dataclass(frozen=True)
class Predictions:
    """Predictions and the data set they are of."""

    folder: Path
    data: DataSet

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.data.ids)}

    def cells(self) -> Iterator[tuple[str, pd.DataFrame]]:
        """Yield (ID, its cells with masks), each checked against the data set."""
        for name, cells in iter_cells(self.folder):
            self._check(name, cells)
            yield name, cells

    def images(self) -> pd.DataFrame:
        """Return ID, ImageHeight, ImageWidth of every image that was prepared."""
        return self.data.table.loc[self.data.ok, ["ID", "ImageHeight", "ImageWidth"]]

    def each_image(self) -> Iterator[tuple[str, tuple[int, int], pd.DataFrame | None]]:
        """Yield (ID, (H, W), its cells or None) of every image, those without cells last."""
        sizes = {name: (int(h), int(w)) for name, h, w in self.images().itertuples(index=False, name=None)}
        for name, cells in self.cells():
            yield name, sizes.pop(name), cells
        for name, size in sizes.items():
            yield name, size, None

    def _check(self, name: str, cells: pd.DataFrame) -> None:
        place = self._places.get(name)
        if place is None or not self.data.ok[place]:
            raise DataError(f"{self.folder} has cells of {name!r}, which {self.data.folder} lacks: pass its --data.")
        check_classes(self.folder, score_columns(cells, self.folder), self.data.classes, self.data.folder)
        geometry = self.data.geometry(place)
        sizes = set(zip(cells.ImageHeight.tolist(), cells.ImageWidth.tolist(), strict=True))
        if sizes != {(geometry.height, geometry.width)}:
            raise DataError(
                f"{self.folder}: {name} is {some(sorted(sizes))}, in {self.data.folder} it is "
                f"{(geometry.height, geometry.width)}: pass the data set that was predicted as --data."
            )


def export_predictions(options: ExportOptions, output: Output) -> None:
    """Publish predictions in another form."""
    assert options.preds is not None
    data = DataSet.open(data_folder_of(options.preds, options.data))
    out = output.home if options.to in FOLDERS else output.path(options.out.name)
    writers: dict[str, Callable[[ExportOptions, Path, Predictions], str]] = {
        "geojson": _geojson,
        "tiff": _tiff,
        "coco": _coco,
        "kaggle": _kaggle,
    }
    if options.to in writers:
        done = writers[options.to](options, out, Predictions(options.preds, data))
    else:
        cells = read_cells(options.preds)
        check_classes(options.preds, score_columns(cells, options.preds), data.classes, data.folder)
        _write_table(options, out, cells, data)
        done = f"{len(cells)} cells"
    output.publish()
    say(f"{options.out}: {done} written")


def _write_table(options: ExportOptions, out: Path, cells: pd.DataFrame, data: DataSet) -> None:
    if options.to == "h5ad":
        assert options.preds is not None
        write_h5ad(out, cells, data.classes, read_provenance(options.preds), read_embeddings(options.preds, cells))
    else:
        write_table(out, cells, data.classes, parquet=options.to == "parquet")


def _coco(options: ExportOptions, out: Path, predictions: Predictions) -> str:
    images, how = predictions.images(), {"every_class": options.every_class, "min_score": options.min_score}
    count = write_coco(out, images, predictions.cells(), predictions.data.classes, **how)  # type: ignore[arg-type]
    return f"{count} annotations of {len(images)} images"


def _kaggle(options: ExportOptions, out: Path, predictions: Predictions) -> str:
    sizes = predictions.data.table[["ID", "ImageHeight", "ImageWidth"]]
    done = write_submission(out, sizes, predictions.cells(), min_score=options.min_score)
    return f"{done.predictions} predictions of {done.images} images, {done.empty} of them without any,"


def _tiff(options: ExportOptions, out: Path, predictions: Predictions) -> str:
    count = 0
    for name, label_map, _ in _label_maps(predictions):
        write_label_tiff(out / f"{name}.tif", label_map)
        count += 1
    return f"{count} label maps"


def _geojson(options: ExportOptions, out: Path, predictions: Predictions) -> str:
    count = files = 0
    suffix = ".geojson.gz" if options.gz else ".geojson"
    for name, label_map, cells in _label_maps(predictions):
        features = [] if cells is None else cell_features(cells, label_map, predictions.data.classes, colour)
        count += write_geojson(out / f"{name}{suffix}", features)
        files += 1
    return f"{count} cells in {files} files"


def _label_maps(predictions: Predictions) -> Iterator[tuple[str, Any, pd.DataFrame | None]]:
    """Yield (ID, label map, cells) of every image, with a progress bar."""
    for name, size, cells in progress(predictions.each_image(), "export", total=len(predictions.images())):
        reason = ids.fault(name)
        if reason:
            raise DataError(f"{predictions.folder}: the ID {ids.shown(name)} {reason}: no file can be named after it.")
        numbers, masks = ([], []) if cells is None else (cells.cell_id.tolist(), cells.rle.tolist())
        yield name, label_map_of(numbers, masks, size, f"{predictions.folder}: {name}"), cells


def export_run(options: ExportOptions, output: Output) -> None:
    """Publish a run's networks as a model for others."""
    assert options.run is not None
    checkpoints = load_run(options.run, choose_device("cpu", "fp32"))
    if options.to == "onnx":
        done = export_onnx(checkpoints, output.home)
        output.publish()
        for path, worst in done:
            say(f"{options.out / path.name}: largest difference from PyTorch {worst:.2g}")
        return
    save_model(checkpoints, options.run, output.home)
    output.publish()
    say(f"{options.out}: {len(checkpoints)} networks written; wsss.load('{options.out}') reads them")
