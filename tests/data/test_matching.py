from pathlib import Path

import pytest

from wsss.core.checks import ConfigError, DataError
from wsss.core.labels import HPA, ClassList
from wsss.data.image_files import ImageFiles
from wsss.data.tables import LabelTable, leave_out, match_labels, read_labels

FILES = [ImageFiles(ID, (f"{ID}.png",)) for ID in ("a", "b", "c")]


def table(vanished: tuple[str, ...] = (), merged: int = 0, **labels: tuple[int, ...]) -> LabelTable:
    return LabelTable(Path("train.csv"), labels, list(vanished), merged)


def test_labels_go_to_their_images() -> None:
    found = match_labels(FILES, table(c=(0, 8), a=(1,), b=(2,)), allow_unlabelled=False)
    assert found.labels == ["1", "2", "0|8"]
    assert found.notes == []


def test_without_a_table_no_image_has_labels() -> None:
    assert match_labels(FILES, None, allow_unlabelled=False).labels == [None, None, None]


def test_images_without_a_row_stop_the_run_unless_allowed() -> None:
    with pytest.raises(DataError, match="no row for 1 of 3 images: b"):
        match_labels(FILES, table(a=(1,), c=(2,)), allow_unlabelled=False)
    assert match_labels(FILES, table(a=(1,), c=(2,)), allow_unlabelled=True).labels == ["1", None, "2"]


def test_rows_without_images_and_vanished_labels_are_noted() -> None:
    found = match_labels(FILES, table(("b",), 2, a=(1,), c=(2,), x=(3,)), allow_unlabelled=False)
    assert found.labels == ["1", None, "2"]
    assert [note for note in found.notes if "names 1 IDs that have no image files: x" in note]
    assert [note for note in found.notes if "1 images keep no label" in note]
    assert [note for note in found.notes if "repeats 2 rows" in note]


def test_empty_labels_and_rows_that_differ_otherwise_are_noted(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("ID,Label,well,plate\na,one,A1,p\na,one,A2,p\nb,,B1,q\nc,two,C1,q\n")
    found = match_labels(FILES, read_labels(path, ClassList(("one", "two"), None)), allow_unlabelled=False)
    assert (found.labels, found.carried.well.tolist()) == (["0", "", "1"], ["A1", "B1", "C1"])
    assert [note for note in found.notes if "their labels agree, but not well: the first row of each" in note]
    assert [note for note in found.notes if "1 images are taken to show none of the classes" in note and ": b." in note]


def test_a_table_of_other_images_is_refused() -> None:
    with pytest.raises(DataError, match="names none of the 3 images"):
        match_labels(FILES, table(x=(1,)), allow_unlabelled=True)


def test_a_table_that_writes_an_id_in_other_case_is_refused() -> None:
    with pytest.raises(DataError, match="'A' and 'a'"):
        match_labels(FILES, table(A=(1,), b=(1,), c=(1,)), allow_unlabelled=True)


def test_labels_of_predictions_go_by_the_names_of_their_channels_files(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("ID,Label\na_red.png,0\nb_red.png,1\n")
    labels = read_labels(tmp_path / "l.csv", HPA)
    assert {name: row.argmax() for name, row in labels.encoded(["a", "c"], HPA).items()} == {"a": 0, "b_red": 1}
    with pytest.raises(DataError, match="names none of the 1 images"):
        labels.encoded(["c"], HPA)


def test_skip_takes_ids_or_a_file(tmp_path: Path) -> None:
    assert [files.ID for files in leave_out(FILES, "a, c")] == ["b"]
    (tmp_path / "skip.txt").write_text("b\nc\n")
    assert [files.ID for files in leave_out(FILES, str(tmp_path / "skip.txt"))] == ["a"]


@pytest.mark.parametrize(("skip", "fault"), [("a,zz", "names zz, not found"), ("a,b,c", "nothing is left")])
def test_skip_of_unknown_or_all_ids_is_refused(skip: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        leave_out(FILES, skip)
