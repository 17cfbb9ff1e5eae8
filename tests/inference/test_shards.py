"""A prediction cut into shards and put together again."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from forest_file import FEATURES
from PIL import Image

from wsss import infer, overlay, train
from wsss.cells.instances import crop_batches
from wsss.core.checks import ConfigError, DataError
from wsss.data.build import Spec, create_dataset
from wsss.data.catalog import DataSet
from wsss.data.origin import recorded_data
from wsss.feature_classifier.features import cell_features
from wsss.inference.checkpoints import load_classifier
from wsss.inference.pipeline import ShardJournals, take
from wsss.inference.tables import EMBEDDINGS
from wsss.models.cam_net import crop_outputs
from wsss.models.device import choose_device
from wsss.options.infer import Shard
from wsss.options.scoring import CropConfig
from wsss.runs.journal import Journal
from wsss.runs.result_record import STATE
from wsss.runs.run_folder import find_folders

SIZE = 64


@pytest.mark.parametrize("text", ["", "0/2", "3/2", "1", "1/2/3", "-1/2", "a/b"])
def test_a_shard_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected i/n"):
        Shard.parse(text)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 40])
def test_shards_hold_every_image_once_and_keep_the_batches(count: int) -> None:
    plan = [([], list(range(13))), ([], list(range(20, 30)))]
    whole = [cut for _, indices in plan for cut in batches(indices)]
    parts = [take(Shard(k + 1, count), plan, 4) for k in range(count)]  # type: ignore[arg-type]
    found = [cut for part in parts for _, indices in part for cut in batches(indices)]
    assert sorted(found) == sorted(whole)
    sizes = [sum(len(batches(indices)) for _, indices in part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


def batches(indices: list[int]) -> list[list[int]]:
    return [indices[k : k + 4] for k in range(0, len(indices), 4)]


def write(folder: Path, shard: str, keys: list[str], fingerprint: str = "same") -> None:
    with Journal(folder / Shard.parse(shard).journal, fingerprint) as journal:
        for key in keys:
            journal.add(key, {"of": shard}, key.encode())


def test_shards_are_read_as_one(tmp_path: Path) -> None:
    write(tmp_path, "1/2", ["a", "c"])
    write(tmp_path, "2/2", ["b"])
    with ShardJournals(tmp_path, "same", dict.fromkeys(["a", "b", "c"], "")) as shards:
        assert [shards.get(key) for key in "bcx"] == [({"of": "2/2"}, b"b"), ({"of": "1/2"}, b"c"), None]


def test_what_is_missing_double_or_foreign_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no shards"):
        ShardJournals(tmp_path, "same", dict.fromkeys(["a"], ""))
    write(tmp_path, "1/3", ["a", "c"])
    write(tmp_path, "3/3", ["d"])
    with pytest.raises(DataError, match=r"lacks 1 of 4 images \(b\).*no file of shard 2/3"):
        ShardJournals(tmp_path, "same", dict.fromkeys("abcd", ""))
    with pytest.raises(DataError, match="holds d, which"):
        ShardJournals(tmp_path, "same", dict.fromkeys(["a", "c"], ""))
    with pytest.raises(ConfigError, match="other inputs or options"):
        ShardJournals(tmp_path, "other", dict.fromkeys("acd", ""))
    shutil.copy(tmp_path / "shard-3-of-3.sqlite", tmp_path / "shard-2-of-3.sqlite")
    with pytest.raises(DataError, match=r"d is in .*shard-2-of-3\.sqlite and in .*shard-3-of-3\.sqlite"):
        ShardJournals(tmp_path, "same", dict.fromkeys("acd", ""))
    write(tmp_path, "1/2", ["e"])
    with pytest.raises(DataError, match="shards of 2, 3"):
        ShardJournals(tmp_path, "same", dict.fromkeys("acd", ""))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train two folds for an epoch on seven noisy images with given cells, and predict out of fold in one process."""
    home = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(0)
    images = {f"im{n:02}": rng.integers(0, 200, (4, SIZE, SIZE), np.uint8) for n in range(7)}
    create_dataset(home / "data", images, {name: [k % 2] for k, name in enumerate(images)}, Spec(size=SIZE, folds=2))
    (home / "data/cells").mkdir()
    for k, name in enumerate(images):
        cells = np.zeros((SIZE, SIZE), np.uint16)
        cells[2:30, 2:30], cells[34:60, 8 + k : 50] = 2, 5
        Image.fromarray(cells).save(home / f"data/cells/{name}.png")
    words = f"--data {home}/data --run {home}/run --fold all --backbone test_resnet --weights none --crop 64 --batch 3"
    words += " --feature_classifier.enabled false"
    train.main(f"{words} --epochs 1 --workers 0 --device cpu --crops.size 32 --crops.batch 3".split())
    assert predict(home, "whole") == 0
    return home


def predict(home: Path, out: str, *more: str) -> int:
    words = f"--data {home}/data --run {home}/run --out {home}/{out} --device cpu --oof --batch 2 --parts"
    return infer.main([*words.split(), *more])


def test_shards_merged_are_the_very_files_of_one_process(home: Path) -> None:
    for k in (3, 1):
        assert predict(home, "parts", "--shard", f"{k}/3") == 0
    with pytest.raises(DataError, match="no file of shard 2/3"):
        predict(home, "parts", "--merge")
    assert not (home / "parts/cells.csv").exists()
    assert predict(home, "parts", "--shard", "2/3") == 0
    assert predict(home, "parts", "--merge") == 0
    files, merged = (
        sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.parent.name != STATE)
        for folder in (home / "whole", home / "parts")
    )
    assert files == merged
    for path in files:
        assert (home / "whole" / path).read_bytes() == (home / "parts" / path).read_bytes(), path


def test_a_shard_begun_again_keeps_what_it_has_done_unless_told_to_overwrite(home: Path) -> None:
    predict(home, "again", "--shard", "1/2")
    path = home / "again/shard-1-of-2.sqlite"
    first = path.read_bytes()
    predict(home, "again", "--shard", "1/2")
    assert path.read_bytes() == first
    predict(home, "again", "--shard", "2/2", "--overwrite")
    assert path.exists()  # only its own is replaced
    with pytest.raises(ConfigError, match="two steps"):
        predict(home, "again", "--shard", "1/2", "--merge")


def embed(home: Path, out: str, *more: str) -> pd.DataFrame:
    words = f"--data {home}/data --run {home}/run --out {home}/{out} --device cpu --batch 2"
    assert infer.main([*words.split(), *more]) == 0
    return pd.read_parquet(home / out / EMBEDDINGS)


def test_vectors_are_those_of_features_and_network_whatever_scores_in_one_process_or_in_shards(home: Path) -> None:
    table = embed(home, "vectors", "--embeddings", "true")  # this run scores crops
    cells = pd.read_parquet(home / "vectors/cells.parquet")
    assert table[["ID", "cell_id"]].equals(cells[["ID", "cell_id"]])
    data = DataSet.open(home / "data")
    label_map = data.cells(3)
    rows = table[table["ID"] == data.ids[3]]
    features = cell_features(np.array(data.image(3)), label_map)
    np.testing.assert_allclose(rows[list(FEATURES)], features, rtol=1e-6)
    crops = crop_batches([(np.array(data.image(3)), label_map)], CropConfig(size=32))
    first = load_classifier(find_folders(home / "run")[0], choose_device("cpu"))
    _, pooled = crop_outputs(first.net, crops, choose_device("cpu"))
    assert list(table.columns[2:]) == [*FEATURES, *(f"crop_{k}" for k in range(pooled.shape[1]))]
    np.testing.assert_allclose(rows.filter(regex="^crop_"), pooled, rtol=1e-4, atol=1e-5)

    asked = embed(home, "asked", "--score.crop_share", "0", "--embeddings", "crops")  # crops score nothing then
    pd.testing.assert_frame_equal(asked, table)
    assert not pd.read_parquet(home / "asked/cells.parquet")[["0", "1"]].equals(cells[["0", "1"]])

    for shard in ("2/2", "1/2"):
        words = f"--data {home}/data --run {home}/run --out {home}/cut --device cpu --batch 2 --embeddings true"
        infer.main([*words.split(), "--shard", shard])
    embed(home, "cut", "--embeddings", "true", "--merge")
    assert (home / "cut" / EMBEDDINGS).read_bytes() == (home / "vectors" / EMBEDDINGS).read_bytes()


def test_features_of_several_networks_are_not_put_in_one_column(home: Path) -> None:
    with pytest.raises(ConfigError, match=r"one network for all images.*--score\.crop_share 0"):
        predict(home, "mixed", "--embeddings", "true")
    with pytest.raises(ConfigError, match=r"crops\.mode is none"):
        predict(home, "mixed", "--embeddings", "crops", "--crops.mode", "none")
    assert predict(home, "mixed", "--embeddings", "true", "--score.crop_share", "0") == 0
    assert list(pd.read_parquet(home / "mixed" / EMBEDDINGS).columns[2:]) == list(FEATURES)


def test_the_data_set_is_found_from_any_working_directory(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    maps = ["--score.crop_share", "0"]
    words = "--data data --run run --out preds/here --device cpu"
    assert infer.main([*words.split(), *maps]) == 0
    assert recorded_data(Path("preds/here")) == Path("data")
    monkeypatch.chdir(tmp_path)
    assert recorded_data(home / "preds/here") == home / "data"
    words = f"--preds {home}/preds/here --out pictures --ids im03"
    assert overlay.main(words.split()) == 0
    assert (tmp_path / "pictures/im03.png").exists()
    (tmp_path / "moved/preds").mkdir(parents=True)
    shutil.copytree(home / "preds/here", tmp_path / "moved/preds/here")
    assert recorded_data(tmp_path / "moved/preds/here") is None
    shutil.copytree(home / "data", tmp_path / "moved/data")
    assert recorded_data(tmp_path / "moved/preds/here") == tmp_path / "moved/data"


def test_half_precision_on_the_cpu_is_another_prediction_with_nearly_the_same_scores(home: Path) -> None:
    with pytest.raises(ConfigError, match="holds another result"):
        predict(home, "whole", "--precision", "bf16")
    assert predict(home, "half", "--precision", "bf16") == 0
    whole, half = (pd.read_parquet(home / name / "cells.parquet") for name in ("whole", "half"))
    scores = [str(k) for k in range(19)]
    assert 0 < np.abs(whole[scores] - half[scores]).to_numpy().max() < 0.1
