"""Names of columns that a user's table brings along."""

import importlib
import os
import sys
from types import SimpleNamespace

import pandas as pd
import pytest

import wsss.core
from wsss.core.csv_text import carried_columns, carried_names


def test_no_carried_column_is_taken_for_one_of_ours() -> None:
    found = carried_names(["gene", "Source", "0", "a:b", "=x", "Gene"])
    assert found == {"gene": "gene", "Source": "given_Source", "0": "given_0", "a:b": "a_b", "=x": "x", "Gene": "Gene_"}
    assert carried_columns(found.values()) == list(found.values())
    assert carried_columns(["ID", "cell_id", "0", "cam_scores:0", "gene"]) == ["gene"]


def test_missing_text_stays_missing_with_pandas_2_too(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pd.DataFrame({"a": ["x", None]}).astype("str").a.isna().tolist() == [False, True]
    assert os.environ["PANDAS_FUTURE_INFER_STRING"] == "1", "for pandas that is imported later"
    before = SimpleNamespace(__version__="2.3.3", options=SimpleNamespace(future=SimpleNamespace(infer_string=False)))
    monkeypatch.setitem(sys.modules, "pandas", before)
    importlib.reload(wsss.core)
    assert before.options.future.infer_string
