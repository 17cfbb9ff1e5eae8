"""The export stage: every form is read back by the library it is made for, and compared with the label maps."""

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from wsss import export
from wsss.cells.regions import describe_cells
from wsss.core import rle
from wsss.core.checks import ConfigError, DataError
from wsss.core.labels import HPA_NAMES, ClassList
from wsss.data.build import Spec, create_dataset
from wsss.inference import tables
from wsss.inference.tables import iter_submission

SIZES = {"a b": (40, 64), '<i>"x"': (50, 30), "empty": (20, 20)}


def label_map(name: str) -> np.ndarray:
    """Return cells with gaps in their numbers, one with a hole, one in two pieces, two that touch."""
    out = np.zeros(SIZES[name], np.int32)
    if name == "empty":
        return out
    out[2:20, 1:15] = 3
    out[6:9, 5:9] = 0
    out[2:20, 15:28] = 70_000 if name == "a b" else 4
    out[25:30, 0:6] = out[33:38, 8:14] = 9
    return out


def cells_of(name: str, rng: np.random.Generator) -> pd.DataFrame:
    found = label_map(name)
    geometry = describe_cells(found)
    ids = geometry["cell_id"].to_numpy()
    masks = rle.encode_label_map(found, ids)
    return tables.cells_frame(
        name,
        fold=1,
        size=SIZES[name],
        cell_ids=ids,
        geometry={column: geometry[column] for column in geometry.columns},
        scores=rng.random((len(ids), 19)),
        rle=[masks[k] for k in ids.tolist()],
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 255, (4, *size), np.uint8) for name, size in SIZES.items()}
    create_dataset(tmp_path / "data", images)
    tables.write_cells(tmp_path / "preds", [cells_of(name, rng) for name in sorted(SIZES)])
    (tmp_path / "preds/provenance.json").write_text(json.dumps({"data": str(tmp_path / "data"), "run": "runs/x"}))
    return tmp_path


def run(folder: Path, to: str, out: str, *more: str) -> Path:
    words = ["--preds", str(folder / "preds"), "--to", to, "--out", str(folder / out), *more]
    assert export.main(words) == 0
    return folder / out


def test_h5ad_opens_in_anndata_with_scores_positions_and_origin(folder: Path) -> None:
    anndata = pytest.importorskip("anndata")
    found = anndata.read_h5ad(run(folder, "h5ad", "x.h5ad"))
    cells = tables.read_cells(folder / "preds")
    np.testing.assert_array_equal(found.X, cells[[str(k) for k in range(19)]].to_numpy(np.float32))
    assert found.var_names.tolist() == list(HPA_NAMES)
    np.testing.assert_array_equal(found.obsm["spatial"], cells[["center_x", "center_y"]].to_numpy())
    assert {"image", "cell", "area", "border", "fold"} <= set(found.obs)
    assert found.obs.image.tolist() == cells.ID.tolist()
    assert found.obs.cell.tolist() == cells.cell_id.tolist()
    assert found.obs.border.tolist() == cells.touches_border.tolist()
    assert json.loads(found.uns["wsss"])["run"] == "runs/x"
    top = cells[[str(k) for k in range(19)]].to_numpy().argmax(axis=1)
    assert found.obs.top_class.tolist() == [HPA_NAMES[k] for k in top]


def test_h5ad_holds_the_vectors_of_cells_with_their_names(folder: Path) -> None:
    anndata = pytest.importorskip("anndata")
    cells = tables.read_cells(folder / "preds")
    names = ["edge_1", "crop_0", "crop_1", "nucleus_inner"]
    vectors = pd.DataFrame(np.random.default_rng(1).random((len(cells), 4), np.float32), columns=names)
    tables.write_embeddings(folder / "preds", [pd.concat([cells[["ID", "cell_id"]], vectors], axis=1)])
    table = anndata.read_h5ad(run(folder, "h5ad", "x.h5ad"))
    for kind, wanted in (("features", ["edge_1", "nucleus_inner"]), ("crop", ["crop_0", "crop_1"])):
        np.testing.assert_array_equal(table.obsm[kind], vectors[wanted])
        assert table.uns[kind].tolist() == wanted


def test_coco_is_read_by_pycocotools_pixel_for_pixel(folder: Path) -> None:
    from pycocotools.coco import COCO

    found = COCO(str(run(folder, "coco", "x.json")))
    assert len(found.getImgIds()) == 3, "images without cells are there too"
    assert [category["name"] for category in found.loadCats(found.getCatIds())] == list(HPA_NAMES)
    for image in found.loadImgs(found.getImgIds()):
        own = np.zeros((image["height"], image["width"]), np.int32)
        for annotation in found.loadAnns(found.getAnnIds(image["id"])):
            mask = found.annToMask(annotation)
            own[mask > 0] = annotation["cell_id"]
            assert mask.sum() == annotation["area"]
            x, y, w, h = annotation["bbox"]
            assert (np.argwhere(mask).min(0).tolist(), np.argwhere(mask).max(0).tolist()) == (
                [y, x],
                [y + h - 1, x + w - 1],
            )
            assert annotation["score"] == max(annotation["scores"])
            assert annotation["scores"][annotation["category_id"]] == annotation["score"]
        np.testing.assert_array_equal(own, label_map(image["file_name"]))


def test_coco_with_every_class_has_an_annotation_a_score(folder: Path) -> None:
    path = run(folder, "coco", "x.json.gz", "--every-class", "--min-score", "0.5")
    with gzip.open(path) as stream:
        found = json.load(stream)["annotations"]
    scores = tables.read_cells(folder / "preds")[[str(k) for k in range(19)]].to_numpy()
    assert len(found) == (scores >= 0.5).sum()
    assert sorted(a["score"] for a in found) == pytest.approx(np.sort(scores[scores >= 0.5]), abs=1e-6)


@pytest.mark.parametrize("gz", ["true", "false"])
def test_geojson_polygons_are_the_masks_and_carry_class_and_scores(folder: Path, gz: str) -> None:
    shapely = pytest.importorskip("shapely")
    from shapely.geometry import shape

    out = run(folder, "geojson", "q", "--gz", gz)
    suffix = ".geojson.gz" if gz == "true" else ".geojson"
    assert {path.name for path in out.glob("[!.]*")} == {f"{name}{suffix}" for name in SIZES}
    cells = tables.read_cells(folder / "preds").set_index(["ID", "cell_id"])
    for name in SIZES:
        path = out / f"{name}{suffix}"
        found = json.loads(gzip.decompress(path.read_bytes()) if gz == "true" else path.read_bytes())
        assert found["type"] == "FeatureCollection"
        drawn = np.zeros(SIZES[name], np.int32)
        y, x = np.indices(SIZES[name]) + 0.5
        for feature in found["features"]:
            outline, facts = shape(feature["geometry"]), feature["properties"]
            assert (feature["type"], facts["objectType"]) == ("Feature", "cell")
            assert outline.is_valid
            number = facts["measurements"]["cell_id"]
            drawn[shapely.contains_xy(outline, x, y)] = number
            row = cells.loc[(name, number)]
            top = int(row[[str(k) for k in range(19)]].to_numpy(float).argmax())
            assert facts["classification"]["name"] == HPA_NAMES[top]
            assert facts["measurements"][HPA_NAMES[top]] == pytest.approx(row[str(top)], abs=1e-6)
        np.testing.assert_array_equal(drawn, label_map(name))


def test_tiff_label_maps_are_exact_whole_numbers(folder: Path) -> None:
    import tifffile

    out = run(folder, "tiff", "labels")
    for name in SIZES:
        found = tifffile.imread(out / f"{name}.tif")
        assert found.dtype == (np.uint32 if name == "a b" else np.uint16)
        np.testing.assert_array_equal(found, label_map(name))
    with tifffile.TiffFile(out / "empty.tif") as file:
        assert file.is_imagej


@pytest.mark.parametrize("to", ["csv", "parquet"])
def test_tables_have_naparis_label_and_classes_by_name(folder: Path, to: str) -> None:
    path = run(folder, to, f"x.{to}")
    found = pd.read_csv(path) if to == "csv" else pd.read_parquet(path)
    cells = tables.read_cells(folder / "preds")
    assert found.label.tolist() == cells.cell_id.tolist()
    assert found.ID.tolist() == cells.ID.tolist()
    for k, name in enumerate(HPA_NAMES):
        np.testing.assert_allclose(found[name], cells[str(k)], rtol=1e-5)
    assert found.top_score.to_numpy() == pytest.approx(found[list(HPA_NAMES)].max(axis=1).to_numpy())


def test_kaggle_is_a_valid_submission_with_a_row_an_image(folder: Path) -> None:
    found = list(iter_submission(run(folder, "kaggle", "s.csv", "--min-score", "0.2"), 19))
    assert [image.image_id for image in found] == sorted(SIZES)
    for image in found:
        drawn = np.zeros(image.size, bool)
        for mask in image.masks:
            drawn |= rle.decode(mask, image.size)
        np.testing.assert_array_equal(drawn, label_map(image.image_id) > 0)


def spoil(folder: Path, **changes: object) -> None:
    frame = cells_of("a b", np.random.default_rng(0)).assign(**changes)
    tables.write_cells(folder / "preds", [frame])


def test_an_image_the_data_set_lacks_is_refused_so_no_path_can_be_smuggled_in(folder: Path) -> None:
    spoil(folder, ID="../../outside")
    for to in ("tiff", "geojson", "coco", "kaggle"):
        with pytest.raises(DataError, match=r"the ID '../../outside' has a path in it"):
            run(folder, to, {"coco": "x.json", "kaggle": "x.csv"}.get(to, "x"))
    assert not list(folder.parent.glob("outside*"))


def test_predictions_of_another_size_are_refused(folder: Path) -> None:
    spoil(folder, ImageHeight=41)
    with pytest.raises(DataError, match=r"a b is \(41, 64\), in .* it is \(40, 64\)"):
        run(folder, "tiff", "x")


@pytest.mark.parametrize("to", ["geojson", "coco", "csv", "kaggle"])
@pytest.mark.parametrize("count", [3, 25])
def test_predictions_of_other_classes_are_refused(folder: Path, to: str, count: int) -> None:
    other = Spec(classes=ClassList(tuple(f"kind {k}" for k in range(count)), None))
    create_dataset(folder / "other", {name: np.zeros((4, *size), np.uint8) for name, size in SIZES.items()}, spec=other)
    suffix = {"geojson": "", "coco": ".json"}.get(to, ".csv")
    with pytest.raises(DataError, match=f"has 19 classes, .* has {count}"):
        run(folder, to, f"x{suffix}", "--data", str(folder / "other"))


def test_cells_that_share_pixels_are_refused_where_a_map_cannot_hold_them(folder: Path) -> None:
    mask = rle.encode_label_map(label_map("a b") > 0)[1].decode()
    spoil(folder, rle=[mask, mask, mask])
    with pytest.raises(DataError, match=r"a b: the cells 3 and 9 share pixels: export them --to coco"):
        run(folder, "tiff", "x")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--to", "h5ad", "--out", "x.h5ad", "--run", "r"], "made from --preds"),
        (["--to", "onnx", "--out", "x", "--preds", "p"], "made from --run"),
        (["--to", "csv", "--out", "x.csv", "--preds", "p", "--push", "me/it"], "--push changes nothing with --to csv"),
        *(
            (["--to", to, "--out", f"x{wrong}", "--preds", "p"], f"--out is x.*, expected .* that ends with {right}")
            for to, right in {"coco": ".json or", "csv": ".csv", "parquet": ".p", "h5ad": ".h5", "kaggle": ".c"}.items()
            for wrong in ("", ".csv.gz")
        ),
        (["--to", "geojson", "--out", "x.geojson.gz", "--preds", "p"], "writes a folder .* is named like a file"),
        (["--to", "tiff", "--out", "x.TIF", "--preds", "p"], "writes a folder .* is named like a file"),
        (["--to", "onnx", "--out", "x.onnx", "--run", "r"], "writes a folder .* is named like a file"),
    ],
)
def test_options_that_do_not_fit_the_form_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        export.main(words)
