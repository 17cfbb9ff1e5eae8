import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from wsss.core.checks import DataError
from wsss.core.label_maps import Geometry
from wsss.core.labels import ClassList
from wsss.data.build import Spec, create_dataset
from wsss.data.catalog import DataSet

SPEC = Spec(size=16, classes=ClassList(("x", "y", "z"), 2), folds=2)
RNG = np.random.default_rng(0)
IMAGES = {f"i{k}": RNG.integers(0, 256, (4, 20 + k, 20), dtype=np.uint8) for k in range(8)}
LABELS = {f"i{k}": [k % 2, 2] for k in range(7)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return create_dataset(tmp_path / "set", IMAGES, LABELS, SPEC)


def test_a_data_set_gives_back_what_was_put_in(folder: Path) -> None:
    data = DataSet.open(folder)
    assert data.ids == sorted(IMAGES)
    assert (data.size, data.channels[3], data.classes) == (16, "yellow", SPEC.classes)
    assert data.geometry(3) == Geometry(23, 20, 16)
    assert (data.image(3) == Geometry(23, 20, 16).image_to_store(IMAGES["i3"])).all()
    assert data.labels[3].tolist() == [0, 1, 1]
    assert data.has_labels.tolist() == [True] * 7 + [False]
    assert data.labels.dtype == np.float32
    assert data.ok.all()


def test_folds_cover_the_labelled_images_only(folder: Path) -> None:
    folds = DataSet.open(folder).folds()
    assert folds[7] == -1
    assert sorted(np.bincount(folds[:7])) == [3, 4]


def test_a_pickled_data_set_reads_the_same_pixels(folder: Path) -> None:
    data = DataSet.open(folder)
    data.image(0)
    assert (pickle.loads(pickle.dumps(data)).image(5) == data.image(5)).all()


def test_folds_changed_by_hand_are_refused_with_the_image(folder: Path) -> None:
    path = folder / "folds.csv"
    lines = path.read_text().splitlines()
    ID, fold, label = lines[3].split(",")
    lines[3] = f"{ID},{1 - int(fold)},{label}"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=f"{ID} has fold '{1 - int(fold)}', expected '{fold}'"):
        DataSet.open(folder).folds()


def test_labels_changed_in_the_folds_are_refused_with_the_image(folder: Path) -> None:
    path = folder / "folds.csv"
    path.write_text(path.read_text().replace("0|2", "1|2", 1))
    with pytest.raises(DataError, match=r"i0 has Label '1.2', expected '0.2'"):
        DataSet.open(folder).folds()


def test_folds_that_lack_an_image_or_are_missing_are_refused(folder: Path) -> None:
    path = folder / "folds.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))
    with pytest.raises(DataError, match="does not hold the folds of 7 images"):
        DataSet.open(folder).folds()
    path.unlink()
    with pytest.raises(DataError, match="is missing"):
        DataSet.open(folder).folds()


def test_a_changed_catalogue_is_refused(folder: Path) -> None:
    table = pd.read_parquet(folder / "images.parquet")
    table.loc[0, "Label"] = "1"
    table.to_parquet(folder / "images.parquet")
    with pytest.raises(DataError, match=r"images\.parquet is not the one"):
        DataSet.open(folder)


def test_the_folds_digest_follows_the_labels(folder: Path, tmp_path: Path) -> None:
    other = create_dataset(tmp_path / "other", IMAGES, {**LABELS, "i0": [1, 2]}, SPEC)
    assert DataSet.open(folder).folds_digest != DataSet.open(other).folds_digest
    again = create_dataset(tmp_path / "again", IMAGES, LABELS, SPEC)
    assert DataSet.open(folder).folds_digest == DataSet.open(again).folds_digest


def test_without_labels_there_are_no_folds(tmp_path: Path) -> None:
    data = DataSet.open(create_dataset(tmp_path / "set", IMAGES, None, SPEC))
    assert data.folds_digest == ""
    assert not data.has_labels.any()
    with pytest.raises(DataError, match="without --labels"):
        data.folds()


def test_a_flipped_bit_in_the_store_is_found(folder: Path) -> None:
    path = folder / "shards" / "main-00000.npy"
    content = bytearray(path.read_bytes())
    content[128 + 2 * 4 * 16 * 16 + 5] ^= 1
    path.write_bytes(content)
    data = DataSet.open(folder)
    with pytest.raises(DataError, match="i2 is damaged"):
        data.image(2)
    assert data.image(1).any(), "the others are whole"


def test_an_absent_or_unfinished_data_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere does not exist, expected a data set \(wsss prepare\)"):
        DataSet.open(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds nothing, expected a data set"):
        DataSet.open(tmp_path)
    (tmp_path / "prepare-main.journal").touch()
    with pytest.raises(DataError, match="unfinished: start the same command again"):
        DataSet.open(tmp_path)


def test_a_prepare_that_was_stopped_once_it_had_removed_the_old_set_is_named(folder: Path) -> None:
    (folder / "dataset.json").unlink()
    with pytest.raises(DataError, match=r"the prepare of .*set is unfinished: start the same command again"):
        DataSet.open(folder)


def test_the_same_arrays_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    again = create_dataset(tmp_path / "again", IMAGES, LABELS, SPEC)
    for path in folder.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (again / path.relative_to(folder)).read_bytes(), path.name
