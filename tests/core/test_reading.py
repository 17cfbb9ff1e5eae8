"""Texts from files of any origin: faults are one line that says where."""

import re
from pathlib import Path

import pytest

from wsss.core.checks import UserError
from wsss.core.files import as_read, disk_errors
from wsss.core.labels import ClassList
from wsss.core.reading import parse_yaml
from wsss.options import prepare as prepare_options
from wsss.options.parsing import read_options


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: 2\na: 3", "gives 'a' twice (lines 1 and 3): keep one"),
        ("- op: x\n  p: 1\n  p: 1", "gives 'p' twice (lines 2 and 3)"),
        ("a: {x: 1, x: 2}", "gives 'x' twice (lines 1 and 1)"),
        ("a: 1\nb: c: d", "line 2, is not YAML (mapping values are not allowed in this context)"),
        ("a:\n\t- b", "line 2, is not YAML (while scanning for the next token"),
        ("a: 1\nb: [1, 2", "line 3, is not YAML (while parsing a flow sequence"),
        ("a: 1\nb: 2001-99-99", "line 2, is not YAML ('2001-99-99' is no timestamp)"),
        ("a: 1\nb: !!int ''", "line 2, is not YAML ('' is no int)"),
        ("a: 1\nb: \0", "line 2, is not YAML (a character that no text has)"),
        ("a: 1\nb: !!python/name:os.getcwd x", "line 2, is not YAML (could not determine a constructor"),
        ("a: 1\n---\nb: 2", "line 2, is not YAML (expected a single document"),
    ],
)
def test_faults_of_yaml_are_one_line_with_its_number(text: str, words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        parse_yaml(text, "a.yaml")
    assert "\n" not in str(caught.value)


def test_the_same_key_in_several_tables_is_none_given_twice() -> None:
    text = "a: {x: 1, y: [{x: 1}, {x: 2}]}\nb: {x: x, y: y}\n? [a]\n"
    assert parse_yaml(text.rsplit("?")[0], "a.yaml")["b"] == {"x": "x", "y": "y"}


@pytest.mark.parametrize("words", [["--config", "{seed: 1, seed: 2}"], ["--config={seed: 1, seed: 2}"]])
def test_keys_given_twice_on_the_command_line_are_refused(words: list[str]) -> None:
    with pytest.raises(UserError, match="--config gives 'seed' twice"):
        read_options("prepare", prepare_options, words)


def test_names_that_are_not_utf8_are_named_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = b"b\xff".decode("utf-8", "surrogateescape")
    with pytest.raises(UserError, match=r"the name 'b\\udcff/images' of the command.* is not UTF-8: rename it"):
        read_options("prepare", prepare_options, ["--images", f"{odd}/images"])
    with pytest.raises(UserError, match=r"the name '/a/b\\udcff' that is to be recorded is not UTF-8"):
        as_read({"files": {f"/a/{odd}": 1}})
    (tmp_path / odd).mkdir()
    monkeypatch.chdir(tmp_path / odd)
    with pytest.raises(UserError, match="of the folder where it is started, is not UTF-8"):
        read_options("prepare", prepare_options, ["--images", "images"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- folds\n", "holds no options, expected 'name: value' in each line"),
        ("", "holds no options"),
        ("folds: ''\n", "--folds is '', expected a whole number"),
        ("images: 5\n", "--images is a value of the kind int, expected a path"),
    ],
)
def test_faults_of_options_in_files_are_told_in_words(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UserError, match=re.escape(words)):
        read_options("prepare", prepare_options, ["--out", "d", "--config", str(tmp_path / "c.yaml")])


def test_the_home_folder_is_meant_where_the_shell_leaves_its_sign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    options = read_options("prepare", prepare_options, ["--images=~/images", "--labels", "t.csv", "--out=~"])[0]
    assert (options.images, options.out) == (tmp_path / "images", tmp_path)


def test_links_that_go_round_in_a_circle_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match=r"loop' cannot be used: its links go round in a circle"), disk_errors():
        (tmp_path / "loop").resolve()


def test_class_names_have_no_line_breaks() -> None:
    with pytest.raises(UserError, match=r"no line breaks .* got 'a\\nb'"):
        ClassList(("a\nb", "c"), None)
