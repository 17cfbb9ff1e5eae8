from pathlib import Path

import pandas as pd
import pytest

from wsss.core.checks import DataError
from wsss.core.csv_text import guard_text, read_text, unguard_text

NAMES = ["=1+1", "+a", "-b", "@c", "'d", "'=e", "plain", "", "a=b"]


def test_text_that_looks_like_a_formula_is_made_harmless_and_comes_back() -> None:
    table = pd.DataFrame({"ID": NAMES})
    guarded = guard_text(table)
    assert not guarded.ID.str.match(r"[=+\-@]").any()
    assert guarded.ID.tolist()[6:] == NAMES[6:]
    assert unguard_text(guarded).ID.tolist() == NAMES


def test_other_columns_are_left_as_they_are() -> None:
    assert guard_text(pd.DataFrame({"ID": ["a"], "score": [-1.5]})).score.tolist() == [-1.5]


def test_numbers_and_missing_words_stay_text(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("ID,Label\n0012,NA\n1e5,\n")
    assert read_text(path).to_numpy().tolist() == [["0012", "NA"], ["1e5", ""]]


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "does not exist"), ("", "no CSV"), ("key,Label\n1,2\n", r"lacks the column\(s\) ID")],
)
def test_a_bad_table_is_refused_by_name(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "t.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=f"t.csv.*{message}"):
        read_text(path, ["ID"])
