import itertools
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from roifile import ROI_TYPE, ImagejRoi, roiwrite

from wsss.core import rle
from wsss.core.checks import ConfigError, DataError
from wsss.core.labels import HPA_CHANNELS, ClassList
from wsss.data.masks import read_mask
from wsss.exports.annotations import cell_features, write_coco, write_geojson
from wsss.segmenters import Backend, BackendOptions, Field, NetworkBackend, make_backend
from wsss.segmenters.masks import CONVERT_SEG, MaskFolder, open_cell_masks

FIELD = Field("ab", np.zeros((4, 5, 10), np.uint8), 20, 40, 10)
CELLS = np.zeros((20, 40), np.int32)
CELLS[2:9, 3:12], CELLS[4:18, 20:33] = 7, 3


CD = Field("cd", FIELD.image, 20, 40, 10)


def backend(path: Path, *channels: str) -> Backend:
    made = make_backend("masks", BackendOptions(path, channels=(*HPA_CHANNELS, *channels)))
    assert not isinstance(made, NetworkBackend)
    return made


def coco(path: Path, segmentations: dict[Any, Any], name: str = "ab.png", **more: Any) -> Path:
    images = [{"id": 1, "file_name": name, "height": 20, "width": 40}, {"id": 2, "file_name": "none.tif"} | more]
    images[1] |= {"height": 20, "width": 40}
    cells = [{"id": k, "image_id": 1, "category_id": 1, "segmentation": s} for k, s in segmentations.items()]
    path.write_text(json.dumps({"images": images, "annotations": cells, "categories": []}))
    return path


def counts() -> dict[int, bytes]:
    return rle.encode_label_map(CELLS)


def runs(k: int) -> dict[str, Any]:
    return {"size": [20, 40], "counts": rle.run_lengths([counts()[k]])[0].tolist()}


def polygon(y0: int, x0: int, y1: int, x1: int) -> list[list[int]]:
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


@pytest.mark.parametrize("name", ["ab.png", "ab_red.tif", "sub/folder/ab.jpg", "C:\\data\\ab_blue.png"])
def test_polygons_and_both_kinds_of_run_lengths_of_a_coco_file(tmp_path: Path, name: str) -> None:
    packed = {"size": [20, 40], "counts": counts()[3].decode()}
    for given in ({7: polygon(2, 3, 9, 12), 3: packed}, {7: runs(7), 3: polygon(4, 20, 18, 33)}):
        found = backend(coco(tmp_path / "cells.json", given, name))(FIELD)
        np.testing.assert_array_equal(found.cells, CELLS)
        assert found.nuclei is None


def test_an_image_without_annotations_has_no_cells_and_an_unlisted_one_is_told(tmp_path: Path) -> None:
    made = backend(coco(tmp_path / "cells.json", {7: runs(7)}))
    assert not made(Field("none", FIELD.image, 20, 40, 10)).cells.any()
    with pytest.raises(DataError, match="lists no image other"):
        made(Field("other", FIELD.image, 20, 40, 10))


def test_the_smaller_of_overlapping_cells_lies_on_top(tmp_path: Path) -> None:
    found = backend(coco(tmp_path / "c.json", {1: polygon(5, 5, 8, 8), 2: polygon(0, 0, 20, 20)}))(FIELD).cells
    assert (found[5:8, 5:8] == 1).all()
    assert (found == 2).sum() == 400 - 9


@pytest.mark.parametrize(
    ("segmentations", "words"),
    [
        ({-1: polygon(0, 0, 5, 5)}, "number -1, expected whole numbers from 1"),
        ({1.5: polygon(0, 0, 5, 5)}, "number 1.5"),
        ({1: {"size": [40, 20], "counts": [800]}}, "run lengths of 20 x 40"),
        ({1: {"size": [20, 40], "counts": [5, 5]}}, "do not add up to 20 x 40"),
        ({1: {"size": [20, 40], "counts": "é?"}}, "mask has"),
        ({1: "A"}, "neither polygons nor run lengths"),
    ],
)
def test_broken_segmentations_are_named(tmp_path: Path, segmentations: dict[Any, Any], words: str) -> None:
    with pytest.raises(DataError, match=words) as error:
        backend(coco(tmp_path / "cells.json", segmentations))(FIELD)
    assert "ab" in str(error.value)
    assert "\n" not in str(error.value)


def test_coco_files_that_do_not_hold_together_are_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "cells.json"
    cell = {"id": 1, "image_id": 9, "segmentation": []}
    image = {"id": 1, "file_name": "ab.png", "height": 20, "width": 40}
    for content, words in (
        ("[1]", "is no COCO file"),
        ("{", "is not JSON"),
        ({"images": [], "annotations": [cell]}, "image 9, which 'images' does not list"),
        ({"images": [], "annotations": [{"id": 1}]}, "lacks id, image_id or segmentation"),
        ({"images": [{"id": 1, "file_name": "a.png"}], "annotations": []}, "lacks id, file_name, height"),
        ({"images": [image, image], "annotations": []}, "two images for the ID ab"),
        ({"images": [image, image | {"file_name": "c.png"}], "annotations": []}, "several images of the id 1"),
        ({"images": [image | {"height": 0}], "annotations": []}, "expected (1 to|pixels)"),
    ):
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        with pytest.raises(DataError, match=words):
            backend(path)


def test_annotations_of_an_image_that_is_not_listed_cost_no_other(tmp_path: Path) -> None:
    path = coco(tmp_path / "cells.json", {7: runs(7), 3: runs(3)})
    content = json.loads(path.read_text())
    content["annotations"].append(content["annotations"][0] | {"id": 9, "image_id": 77})
    path.write_text(json.dumps(content))
    given = open_cell_masks(path)
    np.testing.assert_array_equal(given.maps(FIELD).cells, CELLS)
    assert "belong to the image 77" in given.notes[0]


def cell_table(**more: Any) -> pd.DataFrame:
    rows = {"ID": "ab", "cell_id": list(counts()), "rle": [text.decode() for text in counts().values()]}
    return pd.DataFrame(rows | more)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_of_cells_gives_the_map_back(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"cells.{kind}"
    table = cell_table(ImageHeight=20, ImageWidth=40)
    table.to_csv(path, index=False) if kind == "csv" else table.to_parquet(path)
    np.testing.assert_array_equal(backend(path)(FIELD).cells, CELLS)


def test_an_image_without_cells_is_known_from_images_csv_beside_the_table(tmp_path: Path) -> None:
    cell_table().to_csv(tmp_path / "cells.csv", index=False)
    empty = Field("empty", FIELD.image, 20, 40, 10)
    with pytest.raises(DataError, match="has no row of empty"):
        backend(tmp_path / "cells.csv")(empty)
    (tmp_path / "images.csv").write_text("ID,n_cells\nab,2\nempty,0\n")
    assert not backend(tmp_path / "cells.csv")(empty).cells.any()


def test_each_distinct_mask_of_a_submission_is_a_cell(tmp_path: Path) -> None:
    first, second = (rle.to_submission(counts()[k]) for k in (7, 3))
    text = f"0 .5 {first} 4 .9 {second} 16 .1 {first}"
    path = tmp_path / "submission.csv"
    path.write_text(f"ID,ImageWidth,ImageHeight,PredictionString\nab,40,20,{text}\nnone,40,20,\n")
    made = backend(path)
    np.testing.assert_array_equal(made(FIELD).cells, np.where(CELLS == 7, 1, np.where(CELLS == 3, 2, 0)))
    assert not made(Field("none", FIELD.image, 20, 40, 10)).cells.any()
    for line, words in ((f"ab,40,20,0 .5 {first} 4", "4 words"), ("ab,40,20,0 1 ??", "not base64"), ("ab,x,2,", "'x'")):
        path.write_text(f"ID,ImageWidth,ImageHeight,PredictionString\n{line}\n")
        with pytest.raises(DataError, match=words):
            backend(path)(FIELD)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cell_id": [1, 1]}, "cell 1 comes twice"),
        ({"cell_id": [1, -2]}, "number -2"),
        ({"cell_id": ["1", "b"]}, "cell_id is 'b'"),
        ({"rle": ["P8", "0"]}, "no COCO run-length text|mask has"),
        ({"ImageHeight": [20, 21], "ImageWidth": 40}, "different sizes"),
        ({"ImageHeight": 40, "ImageWidth": 20}, "40 x 20, but ab is 20 x 40|mask has"),
    ],
)
def test_broken_rows_are_named_with_file_and_image(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    cell_table(**change).to_csv(tmp_path / "cells.csv", index=False)
    with pytest.raises(DataError, match=words) as error:
        backend(tmp_path / "cells.csv")(FIELD)
    assert "cells.csv (ab)" in str(error.value) or "cells.csv row 3" in str(error.value)


def test_tables_without_masks_and_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "cells.csv").write_text("ID,cell_id\nab,1\n")
    with pytest.raises(DataError, match="lacks the column"):
        backend(tmp_path / "cells.csv")
    (tmp_path / "cells.parquet").write_text("no parquet")
    with pytest.raises(DataError, match="no Parquet file"):
        backend(tmp_path / "cells.parquet")
    (tmp_path / "cells.xlsx").touch()
    with pytest.raises(ConfigError, match="no file with one of"):
        backend(tmp_path / "cells.xlsx")


def crowded(path: Path, **kinds: str) -> Path:
    """A file of two categories: cell 7 and, in it, nucleus 8; and a crowd."""
    coco(path, {7: polygon(2, 3, 9, 12), 8: polygon(4, 5, 7, 8), 9: polygon(0, 0, 20, 2)})
    content = json.loads(path.read_text())
    for annotation, (category, crowd) in zip(content["annotations"], ((1, 0), (2, 0), (1, 1)), strict=True):
        annotation |= {"category_id": category, "iscrowd": crowd}
    content["categories"] = [{"id": 1, "name": kinds["one"]}, {"id": 2, "name": kinds["two"]}]
    path.write_text(json.dumps(content))
    return path


def test_crowds_are_left_out_and_nuclei_paired_with_their_cells(tmp_path: Path) -> None:
    made = backend(crowded(tmp_path / "c.json", one="cell", two="nucleus"))
    found = made(FIELD)
    assert np.unique(found.cells).tolist() == [0, 7]
    assert (found.cells == 7).sum() == 7 * 9
    assert found.nuclei is not None
    assert (found.nuclei == 7).sum() == 3 * 3
    assert [note for note in made.notes if "1 annotations of crowds" in note]  # type: ignore[attr-defined]


def test_two_categories_that_say_nothing_are_asked_for(tmp_path: Path) -> None:
    path = crowded(tmp_path / "c.json", one="big", two="small")
    with pytest.raises(ConfigError, match=r"big \(1 annotations\), small \(1 annotations\): say which are cells"):
        backend(path)
    for word, ids in (("Big", [7]), ("2", [8]), ("all", [7, 8]), ("big,small", [7, 8])):
        made = make_backend("masks", BackendOptions(path, category=word))
        assert not isinstance(made, NetworkBackend)
        assert np.setdiff1d(made(FIELD).cells, 0).tolist() == ids
    with pytest.raises(ConfigError, match=r"--category is 'smal'.*Did you mean 'small'"):
        make_backend("masks", BackendOptions(path, category="smal"))


@pytest.mark.parametrize("stray", [[[0, 0, 5, 5]], [], None, {}, polygon(3, 3, 3, 3), polygon(50, 50, 60, 60)])
def test_a_stray_polygon_costs_itself_and_is_told(tmp_path: Path, stray: list[Any]) -> None:
    made = backend(coco(tmp_path / "c.json", {7: polygon(2, 3, 9, 12), 1: stray}))
    assert np.unique(made(FIELD).cells).tolist() == [0, 7]
    assert "of annotation 1" in made.notes[0]  # type: ignore[attr-defined]


@pytest.mark.parametrize("stray", [{"size": [20, 40], "counts": [800]}, polygon(2, 3, 9, 12)])
def test_a_mask_that_is_empty_or_under_another_costs_itself_and_is_told(tmp_path: Path, stray: Any) -> None:
    maps = backend(coco(tmp_path / "c.json", {1: stray, 7: polygon(2, 3, 9, 12)}))(FIELD)
    assert np.unique(maps.cells).tolist() == [0, 7]
    assert maps.doubts == ("stray",)


@pytest.mark.parametrize(
    "change",
    [
        lambda cell: cell | {"segmentation": cell["segmentation"][0]},
        lambda cell: cell | {"iscrowd": "0"},
        lambda cell: cell | {"id": 7.0, "image_id": 1.0},
        lambda cell: cell | {"id": "7"},
    ],
    ids=["one list", "crowd as text", "whole floats", "number as text"],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-8-sig"])
def test_what_other_writers_make_of_coco_is_read(tmp_path: Path, encoding: str, change: Any) -> None:
    path = coco(tmp_path / "c.json", {7: polygon(2, 3, 9, 12)})
    content = json.loads(path.read_text())
    content["annotations"] = [change(cell) for cell in content["annotations"]]
    path.write_bytes(json.dumps(content).encode(encoding))
    assert np.unique(backend(path)(FIELD).cells).tolist() == [0, 7]


def test_an_id_with_dots_is_found_by_its_file_name(tmp_path: Path) -> None:
    made = backend(coco(tmp_path / "c.json", {7: runs(7)}, "a.b.2_green.ome.tif"))
    assert made(Field("a.b.2", FIELD.image, 20, 40, 10)).cells.any()


@pytest.mark.parametrize("every_class", [False, True])
def test_our_own_coco_export_comes_back_with_the_same_ids(tmp_path: Path, every_class: bool) -> None:
    table = cell_table(ID="a.2", ImageHeight=20, ImageWidth=40, fold=-1, area_px=1, touches_border=False)
    table = table.assign(y0=0, x0=0, y1=1, x1=1, **{"0": 0.4, "1": 0.6})
    images = pd.DataFrame({"ID": ["a.2", "none_red"], "ImageHeight": 20, "ImageWidth": 40})
    path, classes = tmp_path / "cells.json.gz", ClassList(("x", "y"), None)
    write_coco(path, images, [("a.2", table)], classes, every_class=every_class)
    made = backend(path)
    np.testing.assert_array_equal(made(Field("a.2", FIELD.image, 20, 40, 10)).cells, CELLS)
    assert not made(Field("none_red", FIELD.image, 20, 40, 10)).cells.any()


def features(**more: Any) -> list[dict[str, Any]]:
    rings = {7: [[3, 2], [12, 2], [12, 9], [3, 9], [3, 2]], 3: [[20, 4], [33, 4], [33, 18], [20, 18], [20, 4]]}
    return [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"objectType": "cell", "measurements": {"cell_id": k}, **more},
        }
        for k, ring in rings.items()
    ]


@pytest.mark.parametrize("collection", [True, False])
def test_outlines_of_qupath_are_read_with_nuclei_and_without_the_region_around_them(
    tmp_path: Path, collection: bool
) -> None:
    found = features()
    found[0]["nucleusGeometry"] = {"type": "Polygon", "coordinates": [[[4, 4], [7, 4], [7, 7], [4, 7]]]}
    region = {"geometry": {"type": "Polygon", "coordinates": [[[0, 0], [40, 0], [40, 20], [0, 20]]]}}
    found.append(region | {"properties": {"objectType": "annotation"}})
    found.append({"geometry": {"type": "Point", "coordinates": [1, 1]}, "properties": {}})
    content = {"type": "FeatureCollection", "features": found} if collection else found
    (tmp_path / "ab.geojson").write_text(json.dumps(content))
    maps = backend(tmp_path)(FIELD)
    np.testing.assert_array_equal(maps.cells, CELLS)
    assert maps.nuclei is not None
    assert (maps.nuclei == 7).sum() == 9


def test_our_own_geojson_export_comes_back_with_holes_and_the_same_ids(tmp_path: Path) -> None:
    cells = CELLS.copy()
    cells[8:12, 24:28] = 0
    cells[0, 39] = 3
    table = pd.DataFrame({"ID": "ab", "cell_id": [3, 7], "area_px": 1, "touches_border": False, "fold": -1})
    table = table.assign(**{"0": 0.4, "1": 0.6})
    classes = ClassList(("fold", "y"), None)
    written = list(cell_features(table, cells, classes, lambda k: (0, 0, 0)))
    write_geojson(tmp_path / "ab.geojson.gz", written)
    np.testing.assert_array_equal(backend(tmp_path)(FIELD).cells, cells)
    measured = written[0]["properties"]["measurements"]
    assert (measured["fold (0)"], measured["fold"]) == (0.4, -1), "a class named like a column is not lost"


@pytest.mark.parametrize("name", ["cd_green_cp_masks.png", "cd_cp_masks.tif", "cd_DAPI_cp_masks.png", "cd_masks.PNG"])
def test_masks_of_cellpose_are_read_and_its_pickles_refused_with_the_line_that_converts_them(
    tmp_path: Path, name: str
) -> None:
    np.save(tmp_path / "ab_seg.npy", {"masks": CELLS}, allow_pickle=True)
    with pytest.raises(ConfigError, match=r"pickles, which are never loaded.*python -c"):
        backend(tmp_path)
    with pytest.raises(ConfigError, match=r"masks of one image.*python -c"):
        backend(tmp_path / "ab_seg.npy")
    Image.fromarray(np.zeros((20, 40), np.uint8)).save(tmp_path / "cd.tif")  # the image, saved beside its masks
    Image.fromarray(CELLS.astype(np.uint16)).save(tmp_path / name)
    with pytest.raises(DataError, match=r"no masks of ab.*python -c"):
        backend(tmp_path)(FIELD)
    np.testing.assert_array_equal(backend(tmp_path, "DAPI")(CD).cells, CELLS)
    (tmp_path / "cd.tif").unlink()
    np.testing.assert_array_equal(backend(tmp_path, "DAPI")(CD).cells, CELLS)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["ab.png", "ab.tif"], "ab.png, not ab.tif"),
        (["ab.geojson", "ab.png", "ab.npy"], "ab.geojson, not ab.png, ab.npy"),
        (["ab.tif", "ab_masks.png"], "ab_masks.png, not ab.tif"),
        (["ab_cp_masks.png", "ab_cp_masks.tif", "ab_seg.npy", "ab.tif"], "ab_cp_masks.png, not ab_cp_masks.tif"),
        (["ab_cp_masks.png", "ab.tif"], "ab_cp_masks.png, not ab.tif"),
        (["ab_cp_masks.png", "ab_rois.zip", "ab_seg.npy", "ab.tif"], ""),
        (["ab.png", "ab_red.png", "ab_green.png"], ""),
        (["ab.tif", "RoiSet_ab.zip"], "RoiSet_ab.zip, not ab.tif"),
    ],
)
def test_one_note_says_which_of_several_files_is_read(tmp_path: Path, names: list[str], told: str) -> None:
    for name in (*names, "cd.png"):
        (tmp_path / name).touch()
    notes = MaskFolder(tmp_path).several(["ab", "cd", "ef"])
    assert notes == ([f"{tmp_path} has several files of 1 images; read are {told}."] if told else [])


def test_a_stack_is_refused_with_a_way_out_that_the_command_has(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "ab.tif", np.stack([CELLS, CELLS]).astype(np.uint16), imagej=True, metadata={"axes": "ZYX"}
    )
    with pytest.raises(DataError, match=r"is a stack.*save one plane") as error:
        backend(tmp_path)(FIELD)
    assert "--" not in str(error.value)


@pytest.mark.parametrize("background", [1, 9])
def test_another_background_is_named_until_it_is_said(tmp_path: Path, background: int) -> None:
    numbered = np.where(CELLS > 0, CELLS + 1, background)
    Image.fromarray(numbered.astype(np.uint16)).save(tmp_path / "ab.png")
    for split in (False, True):
        given = make_backend("masks", BackendOptions(tmp_path, split=split))(FIELD)
        assert given.doubts == (f"border={background}",), "a note that stays as long as its cause"
    given = make_backend("masks", BackendOptions(tmp_path, background=background))(FIELD)
    np.testing.assert_array_equal(given.cells, np.where(CELLS > 0, CELLS + 1, 0))
    assert given.doubts == ()
    stored = np.zeros((10, 10), np.uint16)
    stored[:5] = numbered[::4, ::4]
    Image.fromarray(stored).save(tmp_path / "ab.png")
    given = make_backend("masks", BackendOptions(tmp_path, background=background))(FIELD)
    assert not given.cells[5:].any(), "what pads the stored square is no cell"
    np.testing.assert_array_equal(given.cells[:5] > 0, CELLS[::4, ::4] > 0)


@pytest.mark.parametrize(
    ("colours", "places", "doubts"),
    [
        ([0, 0, 0, 255, 255, 255], (0, 1), ()),
        ([255, 255, 255, 0, 0, 0], (1, 0), ("palette",)),
        ([9, 9, 9, 0, 0, 0, 255, 255, 255], (1, 2), ("palette",)),
        ([0, 0, 0, 128, 0, 0], (0, 1), ()),
        ([k // 3 for k in range(767, -1, -1)], (0, 255), ()),  # of ImageJ, which shows 255 black
    ],
)
def test_palettes_are_read_alike_as_label_maps_and_as_masks(
    tmp_path: Path, colours: list[int], places: tuple[int, int], doubts: tuple[str, ...]
) -> None:
    picture = Image.fromarray(np.where(CELLS == 7, places[1], places[0]).astype(np.uint8), "P")
    picture.putpalette(colours)
    picture.save(tmp_path / "ab.png")
    found = backend(tmp_path)(FIELD)
    np.testing.assert_array_equal(found.cells > 0, CELLS == 7)
    np.testing.assert_array_equal(read_mask(tmp_path / "ab.png", CELLS.shape, tmp_path), CELLS == 7)
    assert tuple(doubt for doubt in found.doubts if doubt == "palette") == doubts


@pytest.mark.parametrize("cells", [CELLS, np.where(CELLS == 7, 1, CELLS), np.zeros_like(CELLS)])
def test_maps_whose_background_is_0_already_stay_with_another_background(tmp_path: Path, cells: np.ndarray) -> None:
    Image.fromarray(cells.astype(np.uint16)).save(tmp_path / "ab.png")
    given = make_backend("masks", BackendOptions(tmp_path, background=1))(FIELD)
    np.testing.assert_array_equal(given.cells, cells)


def test_a_palette_of_colours_whose_first_is_white_says_nothing_of_an_empty_map(tmp_path: Path) -> None:
    picture = Image.fromarray(np.zeros(CELLS.shape, np.uint8), "P")
    picture.putpalette([255, 255, 255, 200, 0, 0, 0, 90, 0])
    picture.save(tmp_path / "ab.png")
    assert not backend(tmp_path)(FIELD).cells.any()


def test_a_folder_without_masks_of_an_image_says_what_it_has(tmp_path: Path) -> None:
    for name in ("x.png", "AB-labels.tif"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"holds no masks of ab: expected .*, found AB-labels.tif\.$"):
        backend(tmp_path)(FIELD)
    (tmp_path / "AB-labels.tif").unlink()
    with pytest.raises(DataError, match=r", found x.png\.$"):
        backend(tmp_path)(FIELD)
    (tmp_path / "x.png").rename(tmp_path / "ab.json")
    with pytest.raises(ConfigError, match="one COCO file of all"):
        backend(tmp_path)


def test_masks_of_several_channels_of_an_image_are_refused(tmp_path: Path) -> None:
    for channel in ("DAPI", "red"):
        Image.fromarray(CELLS.astype(np.uint16)).save(tmp_path / f"ab_{channel}.png")
    with pytest.raises(DataError, match=r"several channels of ab \(ab_red.png, ab_DAPI.png\)"):
        backend(tmp_path, "DAPI")(FIELD)


def test_the_line_that_converts_cellpose_files_makes_readable_ones(tmp_path: Path) -> None:
    np.save(tmp_path / "ab_seg.npy", {"masks": CELLS.astype(np.uint16)}, allow_pickle=True)
    line = CONVERT_SEG.replace("python", sys.executable, 1)
    subprocess.run(line, shell=True, cwd=tmp_path, check=True)
    np.testing.assert_array_equal(backend(tmp_path)(FIELD).cells, CELLS)


def region(kind: ROI_TYPE, points: list[list[float]], **more: Any) -> ImagejRoi:
    made = ImagejRoi.frompoints(points)
    made.roitype = kind
    for name, value in more.items():
        setattr(made, name, value)
    return made


BOXES = [[[3, 2], [12, 2], [12, 9], [3, 9]], [[20, 4], [33, 4], [33, 18], [20, 18]]]


@pytest.mark.parametrize("kind", [ROI_TYPE.POLYGON, ROI_TYPE.FREEHAND, ROI_TYPE.TRACED])
def test_regions_of_imagej_are_cells_in_the_order_of_the_set(tmp_path: Path, kind: ROI_TYPE) -> None:
    roiwrite(tmp_path / "ab.zip", [region(kind, box, name=f"r{k}") for k, box in enumerate(BOXES)])
    expected = np.where(CELLS == 7, 1, np.where(CELLS == 3, 2, 0))
    np.testing.assert_array_equal(backend(tmp_path)(FIELD).cells, expected)
    for before, after in itertools.pairwise(["ab.zip", "ab_red_rois.ZIP", "RoiSet_ab.zip", "ab_red_RoiSet.zip"]):
        (tmp_path / before).rename(tmp_path / after)
        np.testing.assert_array_equal(backend(tmp_path)(FIELD).cells, expected)


def test_rectangles_ovals_and_composite_regions_have_their_area_and_lines_none(tmp_path: Path) -> None:
    box = ImagejRoi(roitype=ROI_TYPE.RECT, left=1, top=2, right=6, bottom=9, name="box")
    oval = ImagejRoi(roitype=ROI_TYPE.OVAL, left=10, top=4, right=20, bottom=16, name="oval")
    rings = [0, 22, 2, 1, 36, 2, 1, 36, 16, 1, 22, 16, 4, 0, 26, 6, 1, 30, 6, 1, 30, 10, 1, 26, 10, 4]
    ring = ImagejRoi(roitype=ROI_TYPE.RECT, left=22, top=2, right=36, bottom=16, name="ring", shape_roi_size=len(rings))
    ring.multi_coordinates = np.array(rings, np.float32)
    line = ImagejRoi(roitype=ROI_TYPE.LINE, name="line", x1=0.0, y1=0.0, x2=9.0, y2=9.0)
    roiwrite(tmp_path / "ab.zip", [box, line, oval, ring])
    areas = np.bincount(backend(tmp_path)(FIELD).cells.ravel())
    assert areas[1] == 5 * 7
    assert areas[2] == pytest.approx(np.pi * 5 * 6, rel=0.05)
    assert areas[3] == 14 * 14 - 4 * 4
    roiwrite(tmp_path / "cd.roi", box)
    assert (backend(tmp_path)(CD).cells > 0).sum() == 5 * 7


def test_sets_of_regions_that_are_none_are_refused_in_one_line(tmp_path: Path) -> None:
    def refused(words: str) -> None:
        with pytest.raises(DataError, match=words) as error:
            backend(tmp_path)(FIELD)
        assert "\n" not in str(error.value)
        (tmp_path / "ab.zip").unlink()

    (tmp_path / "ab.zip").write_bytes(b"PK")
    refused("cannot be read")
    with zipfile.ZipFile(tmp_path / "ab.zip", "w") as archive:
        archive.writestr("a.roi", b"Iout" + bytes(70))
        archive.writestr("b.txt", b"")
    refused("no region with an area")
    with zipfile.ZipFile(tmp_path / "ab.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.roi", bytes(2**28 + 1))
    refused("unpack to 268435457 bytes, more than are read")
    slices = [region(ROI_TYPE.POLYGON, box, name=f"r{k}", position=k) for k, box in enumerate(BOXES, 1)]
    roiwrite(tmp_path / "ab.zip", slices)
    refused("2 slices of a stack.*Remove Positions")
    roiwrite(tmp_path / "ab.zip", [region(ROI_TYPE.POLYGON, [[90, 90], [99, 90], [99, 99]], name="far")])
    refused("none of its 1 outlines lies in the 20 x 40 pixels")


def test_outlines_that_cover_no_pixel_are_told(tmp_path: Path) -> None:
    far = [[90, 90], [99, 90], [99, 99]]
    roiwrite(tmp_path / "ab.zip", [region(ROI_TYPE.POLYGON, box, name=str(k)) for k, box in enumerate([*BOXES, far])])
    found = backend(tmp_path)(FIELD)
    assert np.unique(found.cells).tolist() == [0, 1, 2]
    assert found.doubts == ("stray",)


def test_ids_of_coco_may_begin_with_0_and_its_lists_may_be_tables(tmp_path: Path) -> None:
    path = coco(tmp_path / "c.json", {0: polygon(2, 3, 9, 12), 1: polygon(4, 20, 18, 33)})
    content = json.loads(path.read_text())
    content["images"][0]["id"] = 0
    for annotation in content["annotations"]:
        annotation |= {"image_id": 0, "category_id": 0}
    content["categories"] = [{"id": 0, "name": "cell"}]
    content["annotations"] = {str(a["id"]): a for a in content["annotations"]}
    path.write_text(json.dumps(content))
    made = backend(path)
    np.testing.assert_array_equal(made(FIELD).cells, np.where(CELLS == 7, 1, np.where(CELLS == 3, 2, 0)))
    assert "cell = id + 1" in made.notes[0]  # type: ignore[attr-defined]


def test_an_image_of_coco_is_found_by_the_file_of_one_of_its_channels(tmp_path: Path) -> None:
    path = coco(tmp_path / "c.json", {7: polygon(2, 3, 9, 12)}, name="ab_DAPI.tif")
    assert backend(path, "DAPI")(FIELD).cells.any()
    with pytest.raises(DataError, match="lists no image ab"):
        backend(path)(FIELD)


def test_a_json_with_a_byte_order_mark_is_no_damage(tmp_path: Path) -> None:
    path = coco(tmp_path / "c.json", {7: runs(7)})
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert backend(path)(FIELD).cells.any()
