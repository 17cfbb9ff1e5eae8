import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from wsss.core import rle
from wsss.core.checks import ConfigError, DataError
from wsss.segmenters import Backend, BackendOptions, Field, NetworkBackend, make_backend

FIELD = Field("ab", np.zeros((4, 5, 10), np.uint8), 20, 40, 10)
CELLS = np.zeros((20, 40), np.int32)
CELLS[2:9, 3:12], CELLS[4:18, 20:33] = 7, 3


def backend(path: Path) -> Backend:
    made = make_backend("masks", BackendOptions(path))
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
    return {"size": [20, 40], "counts": rle.run_lengths(counts()[k]).tolist()}


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
        ({0: polygon(0, 0, 5, 5)}, "number 0, expected whole numbers from 1"),
        ({1.5: polygon(0, 0, 5, 5)}, "number 1.5"),
        ({1: polygon(3, 3, 3, 3)}, "no pixel is left of cell 1"),
        ({1: polygon(0, 0, 5, 5), 2: polygon(0, 0, 5, 5)}, "no pixel is left of cell 1"),
        ({1: [[0, 0, 5, 5]]}, "annotation 1: a polygon is no list"),
        ({1: []}, "annotation 1: a polygon is no list"),
        ({1: {"size": [40, 20], "counts": [800]}}, "run lengths of 20 x 40"),
        ({1: {"size": [20, 40], "counts": [5, 5]}}, "do not add up to 20 x 40"),
        ({1: {"size": [20, 40], "counts": "é?"}}, "mask has"),
        ({1: None}, "neither polygons nor run lengths"),
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
        ({"images": [image | {"height": 0}], "annotations": []}, "expected pixels"),
    ):
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        with pytest.raises(DataError, match=words):
            backend(path)


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
    assert "cells.csv (ab)" in str(error.value)


def test_tables_without_masks_and_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "cells.csv").write_text("ID,cell_id\nab,1\n")
    with pytest.raises(DataError, match="lacks the column"):
        backend(tmp_path / "cells.csv")
    (tmp_path / "cells.parquet").write_text("no parquet")
    with pytest.raises(DataError, match="no Parquet table"):
        backend(tmp_path / "cells.parquet")
    (tmp_path / "cells.txt").touch()
    with pytest.raises(ConfigError, match="no file with one of"):
        backend(tmp_path / "cells.txt")
