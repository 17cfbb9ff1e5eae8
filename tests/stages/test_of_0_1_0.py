"""Predictions, figures, curves and feature classifiers of version 0.1.0 open, or the message says what to do."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from reviewable import IDS, write_reviewable
from safetensors.numpy import save_file
from squares import make_squares, words

from wsss import cli, train
from wsss.core.checks import DataError, UserError
from wsss.inference.pipeline import check_origin
from wsss.metrics.calibration import Calibration
from wsss.options.review import ReviewOptions
from wsss.stages.review import open_session

SCORE = {"region": "quantile", "stage2_share": 0.5, "opinion_share": 0.5, "field_rounds": 0, "outlier_power": 0.0}
MEMBER = {"path": "run/fold0", "held_out_fold": 0, "weights": "748354f22e795d36", "opinion": "73769d2feae65811"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to a folder with a data set and two predictions as 0.1.0 left them: no digests, no record, its own words."""
    monkeypatch.chdir(tmp_path)
    table = pd.read_parquet(write_reviewable(tmp_path) / "cells.parquet")
    table["fold"] = table.ID.map({name: fold for fold, name in enumerate(IDS)})
    images = pd.read_csv("preds/images.csv").assign(fold=[0, 1])
    members = [MEMBER | {"student": None, "unets": [], "seen_and_predicted": 0}]
    facts = {"data": "data", "run": "run", "oof": True, "score": SCORE, "crops": {"mode": "fit"}, "members": members}
    for k, name in enumerate(("preds", "second")):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        cells = table.assign(**{"0": np.roll(table["0"].to_numpy(), k)})
        cells.to_parquet(folder / "cells.parquet")
        cells.drop(columns="rle").to_csv(folder / "cells.csv", index=False)
        images.to_csv(folder / "images.csv", index=False)
        (folder / "provenance.json").write_text(json.dumps(facts))
    pd.DataFrame({"ID": IDS, "cell": [2, 5], "Label": ["0", "1"]}).to_csv("truth.csv", index=False)
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        "evaluate --preds preds --truth truth.csv --out out.json",
        "calibrate --preds preds --out out.json",
        "ensemble --preds [preds,second] --out out",
        "ensemble --preds [preds,second] --weights auto --truth truth.csv --join number --out out",
        "report --preds preds --out out.html",
        "overlay --preds preds --out out",
        "export --preds preds --to csv --out out.csv",
        "export --preds preds --to kaggle --out out.csv",
        "export --preds preds --to coco --out out.json",
        "export --preds preds --to geojson --out out",
        "export --preds preds --to tiff --out out",
        "doctor --labels preds",
    ],
)
def test_predictions_open_in_every_command(home: Path, command: str) -> None:
    name, *flags = command.split()
    assert cli.run_stage(name, flags) == 0


def test_a_review_of_predictions_begins(home: Path) -> None:
    (home / "review").mkdir()
    session, _ = open_session(ReviewOptions(home / "preds"), home / "review")
    assert session.counts()["cells"] == 6
    session.answers.close()


@pytest.mark.parametrize(
    ("command", "made"),
    [
        ("evaluate --preds preds --truth truth.csv", "preds/scores.json"),
        ("calibrate --preds preds", "preds/calibration.json"),
        ("ensemble --preds [preds,second] --out blend", "blend/provenance.json"),
        ("report --preds preds --out old.html", "old.html"),
        ("export --preds preds --to csv --out old.csv", "old.csv"),
    ],
)
def test_results_made_then_are_replaced_only_when_asked_for(home: Path, command: str, made: str) -> None:
    (home / made).parent.mkdir(exist_ok=True)
    (home / made).write_text("{}")
    name, *flags = command.split()
    with pytest.raises(
        UserError, match=r"choose another --out, or pass --overwrite true\.|Choose another --out"
    ) as error:
        cli.run_stage(name, flags)
    assert "\n" not in str(error.value)
    assert cli.run_stage(name, [*flags, "--overwrite", "true"]) == 0


def test_curves_are_refused_for_scores_of_today(home: Path) -> None:
    curves = Calibration([], [], origin={"score": SCORE, "members": [MEMBER]})
    today = {"score": {"region": "mean"}, "crops": {}, "tta": {}, "members": []}
    with pytest.raises(DataError, match=r"old.json was fitted to scores made with other score: .* make it again from"):
        check_origin(curves, today, Path("old.json"))


def test_a_feature_classifier_is_refused_with_the_way_to_a_new_one(tmp_path: Path) -> None:
    data, run = make_squares(tmp_path / "squares"), tmp_path / "run"
    assert train.main(words(data, run, "--epochs", "1", "--feature_classifier.enabled", "false")) == 0
    header = json.dumps({"format": "wsss-opinion-1", "meta": {}, "digest": ""})
    old = run / "fold0/opinion.safetensors"
    save_file({"classes": np.zeros(1, np.int64)}, old, {"wsss": header})
    export = ["--run", str(run / "fold0"), "--out", str(tmp_path / "model"), "--to", "huggingface"]
    with pytest.raises(DataError, match=r"of format wsss-f.*: remove it and run the same train command"):
        cli.run_stage("export", export)
    old.unlink()
    assert cli.run_stage("export", export) == 0
