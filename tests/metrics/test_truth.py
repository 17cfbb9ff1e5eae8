from pathlib import Path

import pytest

from wsss.core.checks import DataError
from wsss.core.labels import HPA
from wsss.metrics.cells import read_cell_truth


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_composed_table_is_read(tmp_path: Path) -> None:
    truth = read_cell_truth(write(tmp_path / "t.csv", "ID,cell,Label\nb,1,16\nb,2,18\na,5,0|16\n"), HPA)
    assert truth.ids.tolist() == ["b", "b", "a"]
    assert truth.cells.tolist() == [1, 2, 5]
    assert truth.labels[2].nonzero()[0].tolist() == [0, 16]
    assert truth.image_labels == {}
    assert {name: rows.tolist() for name, rows in truth.rows().items()} == {"b": [0, 1], "a": [2]}


def test_an_atlas_table_gives_cell_and_image_labels(tmp_path: Path) -> None:
    text = "ID,Label,Cell_index,Cell_Label,Image_size\n1_2,10;16,1,16,1728\n1_2,10;16,10,18,1728\n"
    truth = read_cell_truth(write(tmp_path / "t.csv", text), HPA)
    assert truth.labels.argmax(axis=1).tolist() == [16, 18]
    assert truth.image_labels["1_2"].nonzero()[0].tolist() == [10, 16]


def test_negative_is_an_images_label_only_where_no_cell_shows_another_class(tmp_path: Path) -> None:
    text = "ID,cell,Label\na,1,16\na,2,18\nb,1,18\nb,2,18\n"
    union = read_cell_truth(write(tmp_path / "t.csv", text), HPA).union(HPA.negative)
    assert {name: values.nonzero()[0].tolist() for name, values in union.items()} == {"a": [16], "b": [18]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ID,Label\na,1\n", "lacks a column cell_id or cell or Cell_index"),
        ("ID,cell\na,1\n", "lacks a column Cell_Label or Label"),
        ("ID,cell,Label\na,1,3\na,x,3\n", "row 3: cell is 'x'"),
        ("ID,cell,Label\na,0,3\n", "row 2: cell is '0'"),
        ("ID,cell,Label\na,1,3\na,1,4\n", "row 3: cell 1 of a comes twice"),
        ("ID,cell,Label\na,1,19\n", "row 2: label 19 is outside the classes 0..18"),
        ("ID,cell,Label\na,1,\n", "row 2: the label is ''"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=f"t.csv {message}"):
        read_cell_truth(write(tmp_path / "t.csv", text), HPA)
