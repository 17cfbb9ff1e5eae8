"""A folder of another kind, in the place of every option that takes one, is called what it is."""

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from wsss import cli
from wsss.core.checks import UserError
from wsss.core.files import DATA_SET, MASK_SET, PREDICTIONS, PSEUDO_MASKS, RUN, SIGNS
from wsss.data.build import Spec, create_dataset
from wsss.data.masks import open_masks
from wsss.runs.result_record import STATE, record_of
from wsss.runs.run_folder import check_free, find_folders

WORDS = {
    "segment --data": DATA_SET,
    "infer --run run --data": DATA_SET,
    "infer --data data --run": RUN,
    "train --weights none --data": DATA_SET,
    "train --weights none --task masks --backbone resnet10t --data": MASK_SET,
    "pseudo --data data --pseudo.inside_cells false --run": RUN,
    "evaluate --truth truth.csv --out s.json --preds": PREDICTIONS,
    "overlay --out out --preds": PREDICTIONS,
    "overlay --out out --preds oof --data": DATA_SET,
    "report --preds": PREDICTIONS,
    "report --preds oof --data": DATA_SET,
    "review --preds": PREDICTIONS,
    "review --preds oof --data": DATA_SET,
    "compare --by plate --preds": PREDICTIONS,
    "export --to tiff --out out --preds": PREDICTIONS,
    "export --to tiff --out out --preds oof --data": DATA_SET,
    "export --to huggingface --out out --run": RUN,
    "ensemble --out out --preds oof": PREDICTIONS,
    "calibrate --out c.json --preds": PREDICTIONS,
    "doctor --labels": PREDICTIONS,
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One folder of each kind, empty but for the file that shows it, one of no kind, and a file."""
    names = {DATA_SET: "data", PSEUDO_MASKS: "pseudo", PREDICTIONS: "oof", RUN: "run", MASK_SET: "salt"}
    for kind, signs in SIGNS.items():
        if kind != DATA_SET:
            (tmp_path / names.get(kind, "other")).mkdir(exist_ok=True)
            (tmp_path / names.get(kind, "other") / signs[0]).touch()
    create_dataset(tmp_path / "data", {"a": np.zeros((4, 16, 16), np.uint8)}, {}, Spec(size=16))
    (tmp_path / "oof/provenance.json").write_text("{}")
    (tmp_path / "run/config.yaml").write_text("task: classify")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/a.png").touch()
    (tmp_path / "truth.csv").write_text("ID,cell,Label\na,1,0\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("words", WORDS)
def test_a_folder_of_another_kind_is_called_what_it_is(words: str, home: Path) -> None:
    stage, *rest = words.split()
    of_kinds = {"data": DATA_SET, "oof": PREDICTIONS, "run": RUN, "pseudo": PSEUDO_MASKS}
    found = {name: f"{name} is {kind}" for name, kind in of_kinds.items()}
    found |= {"pictures": "pictures holds a.png", "truth.csv": "truth.csv is a file", "gone": "gone does not exist"}
    for name, what in found.items():
        if of_kinds.get(name) == WORDS[words]:
            continue
        with pytest.raises(UserError) as refused:
            cli.run_stage(stage, [*rest, name])
        assert str(refused.value).startswith(f"{what}, expected {WORDS[words]}"), f"{words} {name}"


def test_nothing_is_trained_into_a_folder_of_another_kind(home: Path) -> None:
    for name, what in {"data": DATA_SET, "oof": PREDICTIONS, "pseudo": PSEUDO_MASKS, "run": "a fold of a run"}.items():
        with pytest.raises(UserError) as refused:
            check_free(home / name / "fold0")
        assert str(refused.value).startswith(f"{home / name} is {what}")
    check_free(home / "new" / "fold0")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_what_may_not_be_read_is_not_passed_over() -> None:
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        home.chmod(0o755)
        if any(not folder.stat().st_mode & 0o001 for folder in home.parents):
            pytest.skip(f"{home.parent} is closed to others")
        for folder in ("run/fold0", "run/fold1", f"oof/{STATE}", "salt/images", "salt/masks"):
            (home / folder).mkdir(parents=True)
        for file in ("run/fold1/best.safetensors", f"oof/{STATE}/result.json", "salt/images/a.png"):
            (home / file).write_text("{}")
        for closed, look in (
            ("run/fold0", lambda: find_folders(home / "run")),
            (f"oof/{STATE}", lambda: record_of(home / "oof")),
            (f"oof/{STATE}/result.json", lambda: record_of(home / "oof")),
            ("salt/masks", lambda: open_masks(home / "salt")),
        ):
            before = (home / closed).stat().st_mode
            (home / closed).chmod(0)
            os.seteuid(65534)
            try:
                with pytest.raises(PermissionError, match=closed):
                    look()
            finally:
                os.seteuid(0)
                (home / closed).chmod(before)
