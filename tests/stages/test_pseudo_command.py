"""From class maps to a U-Net and back into the scores, through the commands."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from squares import SIZE, make_squares
from squares import words as train_words

from wsss import infer, pseudo, train
from wsss.core.checks import ConfigError, DataError
from wsss.core.files import read_json
from wsss.core.label_maps import find_label_map, write_label_map
from wsss.data.catalog import DataSet
from wsss.data.pseudo import PseudoSet
from wsss.runs.run_folder import load_checkpoint

CPU = ["--device", "cpu"]
ALONE = ["--epochs", "1", "--feature_classifier.enabled", "false"]
ONE_VIEW = ["--tta.views", "none", "--tta.scales", "1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight images, cut into four cells each."""
    folder = make_squares(tmp_path_factory.mktemp("data") / "squares", count=8)
    cells = np.kron(np.arange(1, 5).reshape(2, 2), np.ones((SIZE // 2, SIZE // 2))).astype(np.int32)
    cells[SIZE // 2] = 0
    for name in DataSet.open(folder).ids:
        write_label_map(folder / "cells" / name, cells)
    return folder


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two of the folds of a classifier."""
    path = tmp_path_factory.mktemp("runs") / "cam"
    for fold in ("0", "1"):
        assert train.main(train_words(data, path, "--fold", fold, *ALONE, "--score.prior_rounds", "0")) == 0
    return path


@pytest.fixture(scope="module")
def masks(data: Path, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pseudo") / "cam"
    assert (
        pseudo.main(["--data", str(data), "--run", str(run), "--out", str(out), "--batch", "4", *CPU, *ONE_VIEW]) == 0
    )
    return out


def unet_words(data: Path, masks: Path, run: Path, *more: str) -> list[str]:
    slim = ["--task", "maps", "--pseudo", str(masks), "--unet.channels", "[8,8,8,4,4]", "--augment", "none"]
    return train_words(data, run, *slim, "--epochs", "1", *more)


@pytest.fixture(scope="module")
def unet(data: Path, masks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "unet"
    for fold in ("0", "1"):
        assert train.main(unet_words(data, masks, path, "--fold", fold)) == 0
    return path


def test_each_network_makes_masks_of_its_own_training_images(data: Path, run: Path, masks: Path) -> None:
    for fold in (0, 1):
        found = PseudoSet.open(masks / f"fold{fold}", DataSet.open(data))
        trained_on = (run / f"fold{fold}" / "train_ids.txt").read_text().split()
        assert sorted(found.ids) == sorted(trained_on)
        assert found.seen == set(trained_on)


def test_masks_are_of_the_labels_alone_and_inside_the_cells(data: Path, masks: Path) -> None:
    opened = DataSet.open(data)
    found = PseudoSet.open(masks / "fold0", opened)
    for name in found.ids:
        classes, own = found.masks(name)
        assert classes.tolist() == np.flatnonzero(opened.labels[opened.ids.index(name)]).tolist()
        assert own.shape == (len(classes), SIZE, SIZE)
        assert set(np.unique(own)) <= {0, 1, 255}
        assert not own[:, SIZE // 2].any()
    table = pd.read_csv(masks / "fold0" / "shares.csv")
    assert table["of_class"].between(0, 1).all()


def test_an_interrupted_run_goes_on_to_the_same_masks(
    data: Path, run: Path, masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wsss.runs.journal import Journal

    plain, count = Journal.add, [0]

    def add(self: Journal, *args: object) -> None:
        count[0] += 1
        if count[0] == 6:
            raise KeyboardInterrupt
        plain(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Journal, "add", add)
    words = ["--data", str(data), "--run", str(run), "--out", str(tmp_path / "out"), "--batch", "4", *CPU]
    words += ONE_VIEW
    with pytest.raises(KeyboardInterrupt):
        pseudo.main(words)
    assert pseudo.main(words) == 0
    for path in sorted((masks / "fold0").rglob("*.npz")):
        assert path.read_bytes() == (tmp_path / "out" / "fold0" / "masks" / path.name).read_bytes()
    with pytest.raises(ConfigError, match="holds another result"):
        pseudo.main([*words, "--pseudo.high", "0.6"])


def test_an_image_that_lost_its_cells_while_the_run_was_interrupted_is_left_out(
    data: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(data, tmp_path / "set")
    words = ["--data", str(copy), "--run", str(run / "fold0"), "--out", str(tmp_path / "out"), *CPU]
    words += ONE_VIEW
    with monkeypatch.context() as patch:
        patch.setattr("wsss.stages.pseudo.make_masks", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            pseudo.main(words)
    lost = (run / "fold0" / "train_ids.txt").read_text().split()[0]
    find_label_map(copy / "cells", lost).unlink()
    assert pseudo.main(words) == 1
    assert lost not in PseudoSet.open(tmp_path / "out" / "fold0", DataSet.open(copy)).ids


def test_a_label_that_is_held_out_changes_nothing_that_predicts_it(
    data: Path, run: Path, unet: Path, tmp_path: Path
) -> None:
    """The chain classifier, masks, U-Net of fold 0 over again, with every label of fold 0 turned round."""
    from wsss.data.build import Spec, create_dataset

    old = DataSet.open(data)
    folds = old.folds()
    labels = {name: np.flatnonzero(old.labels[i]).tolist() for i, name in enumerate(old.ids)}
    turned = {name: [1 - own[0]] if folds[old.ids.index(name)] == 0 else own for name, own in labels.items()}
    images = {name: np.array(old.image(i)) for i, name in enumerate(old.ids)}
    new = create_dataset(tmp_path / "turned", images, turned, Spec(size=SIZE))
    opened = DataSet.open(new)
    (new / "cells").symlink_to(data / "cells")
    monkey = pytest.MonkeyPatch()
    monkey.setattr(DataSet, "folds", lambda self: folds)  # new labels would draw new folds
    with monkey.context():
        assert opened.ids == old.ids
        assert train.main(train_words(new, tmp_path / "cam", "--fold", "0", *ALONE)) == 0
        out = tmp_path / "pseudo"
        words = ["--data", str(new), "--run", str(tmp_path / "cam"), "--out", str(out), "--batch", "4", *CPU]
        assert pseudo.main([*words, *ONE_VIEW]) == 0
        assert train.main(unet_words(new, out, tmp_path / "unet", "--fold", "0")) == 0
    monkey.undo()
    first, second = (load_checkpoint(path / "fold0" / "best.safetensors")[0] for path in (unet, tmp_path / "unet"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_maps_of_a_unet_are_scored_beside_the_classifiers(data: Path, run: Path, unet: Path, tmp_path: Path) -> None:
    words = ["--data", str(data), "--run", str(run / "fold0"), "--unet", str(unet), "--parts", "--crops.mode", "none"]
    for share in ("0", "1"):
        out = str(tmp_path / share)
        assert infer.main([*words, *CPU, "--out", out, "--score.unet_share", share]) == 0
    scores = [pd.read_csv(tmp_path / name / "cells.csv") for name in ("0", "0/cam", "1", "1/unet")]
    assert scores[0].equals(scores[1])
    assert scores[2].equals(scores[3])
    assert not scores[0].equals(scores[2])
    members = read_json(tmp_path / "1" / "provenance.json")["members"]
    assert len(members[0]["unets"]) == 1  # that of the same fold


def test_out_of_fold_refuses_a_unet_that_knows_too_much(
    data: Path, run: Path, masks: Path, unet: Path, tmp_path: Path
) -> None:
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / "fold1").symlink_to(masks / "fold0")
    with pytest.raises(DataError, match="images that this fold holds out"):
        train.main(unet_words(data, tmp_path / "wrong", tmp_path / "leaky", "--fold", "1"))
    assert train.main(unet_words(data, _as_full(masks, tmp_path), tmp_path / "full", "--fold", "none")) == 0
    one = ["--data", str(data), "--run", str(run / "fold1"), "--out", str(tmp_path / "out"), *CPU]
    with pytest.raises(DataError, match=r"images that it would predict out of fold|held out fold"):
        infer.main([*one, "--unet", str(tmp_path / "full"), "--oof"])


def _as_full(masks: Path, tmp_path: Path) -> Path:
    """Call the masks of the network of fold 0 those of a network of all images."""
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "full").symlink_to(masks / "fold0")
    return tmp_path / "all"


def test_what_is_missing_is_said_in_a_line(data: Path, run: Path, masks: Path, unet: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pass --pseudo FOLDER"):
        train.main(["--task", "maps", "--data", str(data)])
    with pytest.raises(ConfigError, match="has no fold3, but fold0, fold1"):
        train.main(unet_words(data, masks, tmp_path / "run", "--fold", "3"))
    with pytest.raises(ConfigError, match="finds class maps alone"):
        infer.main(["--run", str(unet), "--data", str(data)])
    with pytest.raises(DataError, match="trained for the task"):
        infer.main(["--run", str(run), "--unet", str(run), "--data", str(data), *CPU])
