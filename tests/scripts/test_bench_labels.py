"""The comparison of methods: its list fits together, its jobs are done once, its table says mean and spread."""

import argparse
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from bench_labels import check_same, choose
from label_bench.fields import FieldSet, find_fields
from label_bench.jobs import Bench
from label_bench.methods import CONFIG, INFERENCES, METHODS, TRAININGS
from label_bench.references import copied_report
from label_bench.table import write_table

from wsss.core.checks import ConfigError, DataError
from wsss.options.command_line import make_parser
from wsss.options.infer import InferOptions
from wsss.options.parsing import parse
from wsss.options.recipe import ClassifyRecipe
from wsss.options.train import TrainOptions


def test_every_row_names_what_there_is_and_once() -> None:
    assert len({method.name for method in METHODS}) == len(METHODS)
    for method in METHODS:
        assert all(name in INFERENCES for name in method.inferences()), method.name
        assert method.inferences() or method.part in ("labels", "supervised"), method.name
    used = {name for method in METHODS for name in method.inferences()}
    assert used == set(INFERENCES)
    assert {INFERENCES[name].training for name in used} == set(TRAININGS)


@pytest.mark.parametrize("name", TRAININGS)
def test_the_flags_of_every_training_are_understood(name: str) -> None:
    words = ["--config", str(CONFIG), *TRAININGS[name].flags.split()]
    recipe, _ = parse(make_parser("train", "", "", ClassifyRecipe, TrainOptions), words, ClassifyRecipe, TrainOptions)
    assert recipe.backbone.startswith("tf_efficientnet_lite")


@pytest.mark.parametrize("name", INFERENCES)
def test_the_flags_of_every_inference_are_understood(name: str) -> None:
    words = ["--run", "run", *INFERENCES[name].flags.split()]
    (options,) = parse(make_parser("infer", "", "", InferOptions), words, InferOptions)
    assert options.run == Path("run")


def test_methods_are_chosen_by_name_and_by_group() -> None:
    assert choose([]) == list(METHODS)
    assert [method.name for method in choose(["supervised", "published recipe"])] == ["published recipe", "supervised"]
    with pytest.raises(ConfigError, match=r"'publish recipe'.*Did you mean 'published recipe'"):
        choose(["publish recipe"])


def test_another_budget_needs_another_folder(tmp_path: Path) -> None:
    names = ("train", "cells", "natural", "size", "epochs", "minutes", "flags", "quick")
    options = argparse.Namespace(out=tmp_path, **dict.fromkeys(names))
    check_same(options)
    check_same(options)
    options.epochs = 3
    with pytest.raises(ConfigError, match=r"begun with --epochs None, not 3: choose another --out"):
        check_same(options)


def bench(folder: Path, minutes: float | None = None) -> Bench:
    return Bench(folder, FieldSet("train", folder), 128, "", epochs=9, minutes=minutes)


def test_cheaper_trainings_get_more_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("puzzle", "plain", "puzzle-folds", "features-plain")
    assert [bench(tmp_path)._epochs(name) for name in names] == [9, 18, 3, 1]
    monkeypatch.setattr(Bench, "_epoch_seconds", lambda self, name: 60 * TRAININGS[name].cost)
    assert [bench(tmp_path, minutes=6.5)._epochs(name) for name in names] == [6, 13, 2, 1]


def test_a_job_is_done_once_and_again_when_its_words_change(tmp_path: Path) -> None:
    calls: list[str] = []

    def work() -> dict[str, Any]:
        calls.append("done")
        return {"seconds": len(calls)}

    own = bench(tmp_path)
    assert own._once("a/b", work, "--epochs 1")["seconds"] == 1
    assert bench(tmp_path)._once("a/b", work, "--epochs 1")["seconds"] == 1
    assert own._once("a/b", work, "--epochs 2")["seconds"] == 2
    assert own._once("c", work, after=["a/b"])["seconds"] == 3
    assert own._once("c", work, after=["a/b"])["seconds"] == 3
    own._once("a/b", work, "--epochs 3")
    assert own._once("c", work, after=["a/b"])["seconds"] == 5  # what it reads from was done again


def test_the_table_says_mean_and_spread(tmp_path: Path) -> None:
    base = {"about": "x", "set": "val", "train_s": 60.0, "infer_s": 5.0, "several": None, "ece": 0.01}
    rows: list[dict[str, Any]] = [
        {"method": "a", "seed": 0, "ap": 0.7, "AP 0 Nucleoplasm": 0.5, **base},
        {"method": "a", "seed": 1, "ap": 0.8, "AP 0 Nucleoplasm": 0.6, **base},
        {"method": "b", "seed": 0, "ap": 0.9, "AP 0 Nucleoplasm": None, **base},
    ]
    text = write_table(tmp_path, rows, "about it")
    assert "| a | x | 0.750 ± 0.071 |  | 0.010 | 2 | 1.0 | 5.0 |" in text
    assert "| b | x | 0.900 |" in text
    assert "| a | 0.550 |" in text
    assert text.endswith("about it\n")
    assert (tmp_path / "table.md").read_text() == text
    table = pd.read_csv(tmp_path / "table.csv").set_index("method")
    assert table.loc["a", "ap sd"] == pytest.approx(0.0707107)
    assert len(pd.read_csv(tmp_path / "runs.csv")) == 3


def test_copied_labels_score_as_by_hand(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("ID,Label\na,0|2\nb,0\n")
    (tmp_path / "cells_truth.csv").write_text("ID,cell,Label\na,1,0\na,2,2\nb,1,0\nb,2,18\n")
    found = copied_report(FieldSet("val", tmp_path))
    ap = {row["id"]: row["ap"] for row in found["per_class"] if row["count"]}
    assert ap == {0: 0.5, 2: 0.5, 18: 0.25}
    assert found["per_class"][1]["ap"] is None


def test_misspelt_sets_are_refused(tmp_path: Path) -> None:
    options = argparse.Namespace(train=tmp_path, sets=["val"], cells=None)
    with pytest.raises(ConfigError, match="expected NAME=FOLDER"):
        find_fields(options)
    options.sets = []
    with pytest.raises(ConfigError, match="belong together"):
        find_fields(options)
    options.sets = [f"val={tmp_path}"]
    with pytest.raises(DataError, match="lacks images"):
        find_fields(options)
