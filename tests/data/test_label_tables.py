import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsss.core.checks import DataError
from wsss.core.labels import HPA, ClassList
from wsss.data.tables import read_classes, read_labels
from wsss.metrics.cells import read_cell_truth

THREE = ClassList(("one", "two", "three"), 2)


def table(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "train.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        "ID,Label\na,8|5|0\nb,18\n",
        'ID,Label\na,"[8, 5, 0]"\nb,[18]\n',
        "ID;Label\na;8|5|0\nb;18\n",
        "ID\tLabel\na\t8 5 0\nb\t18\n",
        "\ufeffID,Label\r\na,8|5|0\r\nb,18\r\n",
        '"ID","Label","source"\n"a","0|5|8|8","x"\n"b","18","y"\n',
        "Label,id\n8|5|0,a\n\n18,b\n",
        "ID,Label\ra,8|5|0\rb,18\r",
    ],
)
def test_every_form_of_label_text_is_read(tmp_path: Path, text: str) -> None:
    assert read_labels(table(tmp_path, text), HPA).labels == {"a": (0, 5, 8), "b": (18,)}


def test_class_ids_with_a_decimal_comma_are_no_two_classes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="every Label ends with ',0', such as '8,0': write whole numbers"):
        read_labels(table(tmp_path, "ID;Label\na;8,0\nb;\nc;18,0\n"), HPA)
    with pytest.raises(DataError, match="every Cell_Label ends with ',0'"):
        read_cell_truth(table(tmp_path, "ID;cell;Cell_Label\na;1;1,0\na;2;0,0\n"), THREE)
    assert read_labels(table(tmp_path, "ID;Label\na;8,0\nb;18\n"), HPA).labels == {"a": (0, 8), "b": (18,)}


@pytest.mark.parametrize("suffix", [".bmp", ".ome.TIF", ".jpeg", ".zarr"])
def test_an_image_may_be_named_by_its_file_of_any_form_that_is_read(tmp_path: Path, suffix: str) -> None:
    assert read_labels(table(tmp_path, f"file,Label\nx{suffix},8\n"), HPA).labels == {"x": (8,)}


@pytest.mark.parametrize("names", ["0,1,2", "one,two,three"])
@pytest.mark.parametrize("row", ["a,x,1,0,1", "a,x,1.0,0.0,1.0", "a,x,True,False,True"])
def test_one_hot_columns_are_read_by_id_or_name(tmp_path: Path, names: str, row: str) -> None:
    assert read_labels(table(tmp_path, f"ID,source,{names}\n{row}\n"), THREE).labels == {"a": (0, 2)}


def test_a_label_column_and_one_hot_columns_must_agree(tmp_path: Path) -> None:
    classes = ClassList(("one", "two", "three"), None)
    agreed = read_labels(table(tmp_path, "ID,Label,one,two,three\na,one|two,1,1,0\nb,,0,0,0\n"), classes)
    assert agreed.labels == {"a": (0, 1), "b": ()}
    with pytest.raises(DataError, match=r"row 2: classes is '2', but the columns of the classes say '0\|1'"):
        read_labels(table(tmp_path, "ID,classes,one,two,three\na,2,1,1,0\n"), classes)  # how many there are
    scores = read_labels(table(tmp_path, "ID,Label,0,1,2\na,2,0.1,0.2,0.7\n"), classes)
    assert scores.labels == {"a": (2,)}


def test_ids_of_2018_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert read_labels(table(tmp_path, "Id,Target\na,8 18\n"), HPA).labels == {"a": (12, 17)}
    assert "Target is read as the 28 classes of the 2018 competition" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["plates/1/a.tif", "C:\\plates\\a.ome.tif"])
def test_an_image_may_be_named_by_the_path_of_its_file(name: str, tmp_path: Path) -> None:
    assert read_labels(table(tmp_path, f"ID,Label\n{name},one\n"), THREE).labels == {"a": (0,)}
    assert read_cell_truth(table(tmp_path, f"ID,cell,Label\n{name},1,one\n"), THREE).ids.tolist() == ["a"]
    with pytest.raises(DataError, match="has a path in it"):
        read_labels(table(tmp_path, "ID,Label\nplates/1/a,one\n"), THREE)
    two = table(tmp_path, f"ID,cell,Label\n{name},1,one\nother/a.tif,2,one\n")
    for reader in (read_labels, read_cell_truth):
        with pytest.raises(DataError, match="which are one ID"):
            reader(two, THREE)


def test_one_hot_columns_may_be_in_another_case(tmp_path: Path) -> None:
    classes = ClassList(("alpha", "Beta"), None)
    assert read_labels(table(tmp_path, "ID,BETA,Alpha\na,1,0\n"), classes).labels == {"a": (1,)}


def test_the_2018_table_is_mapped_and_vanished_labels_are_reported(tmp_path: Path) -> None:
    found = read_labels(table(tmp_path, "Id,Target\na,11 25 8\nb,27\nc,16 0\n"), HPA)
    assert found.labels == {"a": (8, 16, 17), "c": (0,)}
    assert found.vanished == ["b"]


def test_equal_repeated_rows_are_merged_and_different_ones_refused(tmp_path: Path) -> None:
    assert read_labels(table(tmp_path, "ID,Label\na,1|2\na,2|1\n"), HPA).merged == 1
    with pytest.raises(DataError, match=r"row 4: the ID 'a' has other labels in row 2"):
        read_labels(table(tmp_path, "ID,Label\na,1\nb,1\na,2\n"), HPA)


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("a,19", "row 3: label 19 is outside the classes 0..18"),
        ("a,-1", "row 3: label '-1' is neither a class id nor a class name"),
        ("a,1.5", "'1.5' is neither a class id"),
        ("a,Nucleolus", "'Nucleolus' is neither a class id nor a class name (Did you mean 'Nucleoli'?)"),
        ("a,", "row 3: no label"),
        ("a", "row 3: has 1 fields"),
        (",1", "row 3: the ID '' is empty"),
        ("../a,1", "has a path in it"),
        ("/etc/a,1", "has a path in it"),
        ("c:\\a,1", "has a path in it"),
        (".a,1", "begins with a dot"),
        ("a\x07b,1", "has control characters"),
        ("a\u202eb,1", "has control characters"),
        ("x" * 300 + ",1", "longer than 200 bytes"),
    ],
)
def test_a_bad_row_is_named_with_file_and_row(tmp_path: Path, row: str, fault: str) -> None:
    with pytest.raises(DataError) as error:
        read_labels(table(tmp_path, f"ID,Label\nok,1\n{row}\n"), HPA)
    assert fault in str(error.value)
    assert "train.csv" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "it is empty"),
        ("ID,Label\n", "no rows"),
        ("name,Label\na,1\n", "expected one named ID"),
        ("ID,colour\na,1\n", "expected ID and Label"),
        ("ID,Label,Label\na,1,1\n", "two columns of one name"),
        (b"ID,Label\na,\x00\n", "NUL byte in row 2"),
        (b"\x80\x04\x95pickle", "not UTF-8"),
        ("ID,Label\nab,1\nAB,1\n", "only in case"),
        ('ID,Label\n"ab,1\n', "row"),
    ],
)
def test_a_file_that_is_no_label_table_is_refused_in_one_line(tmp_path: Path, text: str | bytes, fault: str) -> None:
    with pytest.raises(DataError, match=fault) as error:
        read_labels(table(tmp_path, text), HPA)
    assert "\n" not in str(error.value)


def test_an_absent_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_labels(tmp_path / "train.csv", HPA)


def test_without_a_negative_class_an_image_may_have_no_label(tmp_path: Path) -> None:
    assert read_labels(table(tmp_path, "ID,Label\na,\nb,1\n"), ClassList(("x", "y"), None)).labels["a"] == ()


@pytest.mark.slow
def test_a_million_rows_are_read(tmp_path: Path) -> None:
    rows = (f"{k:032x},{k % 19}|{k * 7 % 19}" for k in range(10**6))
    labels = read_labels(table(tmp_path, "\n".join(["ID,Label", *rows])), HPA).labels
    assert len(labels) == 10**6
    assert labels[f"{20:032x}"] == (1, 7)


IDS = st.text("abcdefgh0123456789-", min_size=1, max_size=12)


@settings(deadline=None, max_examples=100)
@given(st.dictionaries(IDS, st.sets(st.integers(0, 18), min_size=1), min_size=1), st.sampled_from(",;\t"))
def test_what_is_written_is_read(tmp_path_factory, labels: dict[str, set[int]], separator: str) -> None:
    lines = [f"{ID}{separator}{'|'.join(map(str, found))}" for ID, found in labels.items()]
    path = table(tmp_path_factory.mktemp("t"), "\n".join([f"ID{separator}Label", *lines]))
    assert read_labels(path, HPA).labels == {ID: tuple(sorted(found)) for ID, found in labels.items()}


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=200))
def test_rubbish_is_refused_never_uncaught(tmp_path_factory, content: bytes) -> None:
    path = table(tmp_path_factory.mktemp("t"), b"ID,Label\n" + content)
    with contextlib.suppress(DataError):
        assert read_labels(path, HPA).labels


def test_names_of_classes_are_compared_as_labels_are(tmp_path: Path) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text("names: ['x ', 'cafe\u0301']\nnegative: 'caf\u00e9'\n", "utf-8")
    assert read_classes(path) == ClassList(("x", "caf\u00e9"), 1)
    for names, message in (("x, ' '", "class 1 has no name"), ("caf\u00e9, cafe\u0301", "distinct")):
        path.write_text(f"names: [{names}]\n", "utf-8")
        with pytest.raises(DataError, match=message):
            read_classes(path)


def test_classes_are_read_with_negative_by_name_or_id(tmp_path: Path) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text("names: [x, y, none]\nnegative: none\n")
    assert read_classes(path) == ClassList(("x", "y", "none"), 2)
    path.write_text("names: [x, y]\n")
    assert read_classes(path) == ClassList(("x", "y"), None)


@pytest.mark.parametrize(
    "text", ["[1, 2]", "names: x", "names: [x]\nnegativ: 0", "names: [x]\nnegative: y", "!!python/object:os.system {}"]
)
def test_a_bad_class_list_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "classes.yaml").write_text(text)
    with pytest.raises(DataError, match=r"classes\.yaml"):
        read_classes(tmp_path / "classes.yaml")


def test_the_public_atlas_table_is_read_with_addresses_and_names(tmp_path: Path) -> None:
    base = "https://images.proteinatlas.org"
    text = (
        "Image\tLabel\tCellline\tin_trainset\n"
        f"{base}/10580/1610_C1_1_\tNucleoplasm,Peroxisomes\tU-2 OS\tTrue\n"
        f"{base}/686/4109_24_H11_1\tMidbody\tA-431\tFalse\n"
    )
    found = read_labels(table(tmp_path, text), HPA)
    assert found.labels == {"10580_1610_C1_1": (0, 17)}
    assert found.vanished == ["686_4109_24_H11_1"]
    assert found.lost == {"Midbody": 1}
    assert found.aliases["1610_C1_1"] == "10580_1610_C1_1"
    assert found.carried.loc["686_4109_24_H11_1"].tolist() == ["A-431", "False"]


def test_columns_beside_the_labels_are_carried_and_empty_ones_are_not(tmp_path: Path) -> None:
    found = read_labels(table(tmp_path, "ID,Label,antibody,note\na,1,HPA1,\nb,2,,\n"), HPA)
    assert found.carried.to_dict("index") == {"a": {"antibody": "HPA1"}, "b": {"antibody": ""}}


def test_file_names_in_the_id_column_mean_their_image(tmp_path: Path) -> None:
    found = read_labels(table(tmp_path, "filename,class\na.png,one\nb_red.tif,two\n"), THREE)
    assert found.labels == {"a": (0,), "b_red": (1,)}
    assert found.aliases == {"a": "a", "b": "b_red"}
