"""Images that reach a network through the networks it was made from: refused already at train, and in infer --oof."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from squares import make_squares, words

from wsss.core.checks import DataError
from wsss.core.files import read_json, write_json
from wsss.core.label_maps import write_label_map
from wsss.data.catalog import DataSet
from wsss.infer import main as infer
from wsss.pseudo import main as pseudo
from wsss.runs.run_folder import RunFolder, load_checkpoint, save_checkpoint
from wsss.train import main


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run a has learnt every image of the data set 'first'; run b, on the data set 'other', started from it."""
    home = tmp_path_factory.mktemp("chain")
    make_squares(home / "first", folds=2, count=6)
    make_squares(home / "other", "new", folds=2, count=6)
    once = ["--epochs", "1"]
    assert main(words(home / "first", home / "a", "--fold", "none", *once)) == 0
    assert main(words(home / "other", home / "b", "--init_from", str(home / "a"), *once)) == 0
    return home


def test_a_start_that_goes_back_to_held_out_images_is_refused(home: Path, tmp_path: Path) -> None:
    chain = rf"trained on im\d\d.*\(through {home}/b/fold0 <- init_from {home}/a/full\): images held out in this run"
    with pytest.raises(DataError, match=chain):
        main(words(home / "first", tmp_path / "c", "--init_from", str(home / "b" / "fold0")))


def test_a_checkpoint_of_a_run_given_as_weights_is_looked_at_as_a_start(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = ["--weights", str(home / "a" / "full" / "best.safetensors"), "--epochs", "1"]
    with pytest.raises(DataError, match=r"a/full was trained on im\d\d.*: images held out .* for weights"):
        main([*words(home / "first", tmp_path / "c"), *start])
    assert main([*words(home / "other", tmp_path / "d"), *start]) == 0
    assert f"note: 6 images that {home}/a/full learnt from have IDs that are not here" in capsys.readouterr().out
    (ancestor,) = RunFolder(tmp_path / "d" / "fold0").read()[0].ancestors or ()
    assert ancestor.chain == (f"weights {home}/a/full",)


def test_a_teacher_that_goes_back_to_held_out_images_is_refused(home: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"through .* <- init_from .*a/full.*for drs.refine_from"):
        main(words(home / "first", tmp_path / "c", "--drs.refine_from", str(home / "b" / "fold0")))


def test_without_held_out_images_any_start_is_taken_and_recorded(home: Path, tmp_path: Path) -> None:
    start = ["--init_from", str(home / "b"), "--fold", "none", "--epochs", "1"]
    assert main(words(home / "first", tmp_path / "c", *start)) == 0
    ancestors = RunFolder(tmp_path / "c" / "full").read()[0].ancestors
    assert ancestors is not None
    assert [len(ancestor.chain) for ancestor in ancestors] == [1, 2]
    assert ancestors[1].images == set(DataSet.open(home / "first").ids)


def with_cells(data: Path, copy: Path) -> Path:
    """Copy a data set, and call every image of it a cell."""
    shutil.copytree(data, copy)
    for name in DataSet.open(copy).ids:
        write_label_map(copy / "cells" / name, np.ones((64, 64), np.int32))
    return copy


@pytest.fixture
def moved(home: Path, tmp_path: Path) -> Path:
    """Run d: each fold of the data set 'other', by b; said to have held out its fold, though a list says otherwise."""
    return Path(shutil.copytree(home / "b", tmp_path / "d"))


def test_out_of_fold_the_chain_is_looked_at_again(home: Path, moved: Path, tmp_path: Path) -> None:
    assert main(words(home / "other", moved, "--fold", "1", "--epochs", "1")) == 0
    data = DataSet.open(with_cells(home / "other", tmp_path / "data"))
    asked = ["--data", str(data.folder), "--run", str(moved), "--out", str(tmp_path / "out"), "--crops.mode", "none"]
    held_out = data.ids[int(np.flatnonzero(data.folds() == 0)[0])]
    folder = RunFolder(moved / "fold0")
    values = read_json(folder.ancestors)
    values[0]["images"].append(held_out)
    write_json(folder.ancestors, values)
    with pytest.raises(DataError, match=r"ancestors.json is missing or was changed"):
        infer([*asked, "--oof", "--device", "cpu"])
    tensors, facts = load_checkpoint(folder.best)
    from wsss.core.files import digest_json

    values[0]["images"].sort()
    write_json(folder.ancestors, values)
    save_checkpoint(folder.best, tensors, facts | {"ancestors": digest_json(values)})
    with pytest.raises(DataError, match=rf"trained on {held_out} \(through .*a/full\): images that it would predict"):
        infer([*asked, "--oof", "--device", "cpu"])
    assert infer([*asked, "--device", "cpu"]) == 0  # not out of fold anything may be predicted


def test_pseudo_masks_hand_the_chain_on(home: Path, tmp_path: Path) -> None:
    data = with_cells(home / "other", tmp_path / "data")
    made = ["--data", str(data), "--run", str(home / "b"), "--out", str(tmp_path / "masks")]
    assert pseudo([*made, "--device", "cpu"]) == 0
    slim = ["--task", "maps", "--pseudo", str(tmp_path / "masks"), "--unet.channels", "[8,8,8,4,4]"]
    assert main(words(data, tmp_path / "unet", *slim, "--epochs", "1")) == 0
    (ancestor,) = RunFolder(tmp_path / "unet" / "fold0").read()[0].ancestors or ()
    assert ancestor.chain == (f"masks of {home}/b/fold0", f"init_from {home}/a/full")
    assert ancestor.images == set(DataSet.open(home / "first").ids)


def test_runs_of_version_0_1_0_open_but_prove_nothing_they_did_not_record(home: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(home / "b", tmp_path / "old"))
    folder = RunFolder(run / "fold0")
    folder.ancestors.unlink()
    for path in (folder.best, folder.last):
        tensors, facts = load_checkpoint(path)
        del facts["ancestors"]
        save_checkpoint(path, tensors, facts | {"parents": {"init_from": "0" * 16, "refine_from": None}})
    assert folder.read()[0].lineage is None
    with pytest.raises(DataError, match=r"made from other networks by version 0.1.0.*Train it again"):
        main(words(home / "other", tmp_path / "c", "--init_from", str(run)))
    assert main(words(home / "other", run, "--init_from", str(home / "a"), "--epochs", "1")) == 0  # goes on
