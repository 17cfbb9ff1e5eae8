"""Predictions out of fold are refused wherever the network could have seen the image, and the image is named."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from wsss.core.checks import DataError
from wsss.data.build import Spec, create_dataset, finish, write_extra
from wsss.data.catalog import FOLDS, SHARDS, DataSet, Shards
from wsss.data.duplicates import thumbnail
from wsss.inference.checkpoints import CamCheckpoint, bits_note, came_later, count_seen, plan_all, plan_oof
from wsss.options.recipe import ClassifyRecipe
from wsss.runs.record import Ancestor, RunRecord

SIZE = 32


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    """Twelve images in two folds; im11 is im03, a little brighter."""
    rng = np.random.default_rng(0)
    images = {f"im{k:02}": rng.integers(0, 200, (4, SIZE, SIZE), dtype=np.uint8) for k in range(11)}
    images["im11"] = images["im03"] + 9
    labels = {ID: [k % 2] for k, ID in enumerate(images)}
    folder = create_dataset(tmp_path / "data", images, labels, Spec(size=SIZE, folds=2), group_duplicates=True)
    return DataSet.open(folder)


def network(of: DataSet, fold: int | None, **other: Any) -> Any:
    """A network that was trained as it should be."""
    folds = of.folds()
    seen = tuple(ID for ID, own in zip(of.ids, folds, strict=True) if own != fold)
    record = RunRecord(ClassifyRecipe(), fold, of.folds_digest, seen, of.channels, path=Path(f"run/fold{fold}"))
    return CamCheckpoint(dataclasses.replace(record, **other), None)  # type: ignore[arg-type]


def test_each_image_is_predicted_by_the_network_that_never_saw_it_or_its_twin(data: DataSet) -> None:
    plan = plan_oof([network(data, 0), network(data, 1)], data)
    assert sorted(i for _, own in plan for i in own) == list(range(12))
    for (one,), own in plan:
        assert not set(one.record.train_ids) & {data.ids[i] for i in own}
    assert data.folds()[3] == data.folds()[11]
    assert data.table["duplicate_of"][11] == "im03"


def test_an_image_in_the_training_and_in_its_own_prediction_is_named(data: DataSet) -> None:
    ID = data.ids[int(np.flatnonzero(data.folds() == 0)[0])]
    wrong = network(data, 0, train_ids=(*network(data, 0).record.train_ids, ID))
    with pytest.raises(DataError, match=rf"was trained on {ID}: images that it would predict"):
        plan_oof([wrong, network(data, 1)], data)


def test_a_near_duplicate_in_the_training_is_named(data: DataSet) -> None:
    table = data.table.copy()
    moved = 1 - int(table["fold"][3])
    table.loc[11, "fold"] = moved  # as if duplicates had not been looked for, and the digest were made to fit
    folds = {**data.manifest["folds"]}
    split = dataclasses.replace(data, table=table, manifest={**data.manifest, "folds": folds})
    split.__dict__["folds"] = lambda: table["fold"].to_numpy(np.int64)
    wrong = network(split, 1 - moved)
    assert "im11" in wrong.record.train_ids
    with pytest.raises(DataError, match=r"was trained on im(03|11): near-duplicates of images that it would predict"):
        plan_oof([wrong, network(split, moved)], split)


def test_a_network_trained_on_other_folds_or_labels_is_refused(data: DataSet) -> None:
    with pytest.raises(DataError, match="other labels or folds"):
        plan_oof([network(data, 0, data="of an earlier time"), network(data, 1)], data)


def test_a_fold_without_its_network_is_named(data: DataSet) -> None:
    with pytest.raises(DataError, match="no network of the run held out fold 1"):
        plan_oof([network(data, 0), network(data, None)], data)


def test_folds_edited_by_hand_are_refused_and_the_image_named(data: DataSet) -> None:
    path = data.folder / FOLDS
    lines = path.read_text().splitlines()
    ID, fold, label = lines[4].split(",")
    path.write_text("\n".join([*lines[:4], f"{ID},{1 - int(fold)},{label}", *lines[5:]]) + "\n")
    with pytest.raises(DataError, match=rf"was changed after the folds were made: {ID} has fold"):
        plan_oof([network(data, 0), network(data, 1)], DataSet.open(data.folder))


def test_an_image_that_came_through_an_ancestor_is_named_with_its_way(data: DataSet) -> None:
    ID = data.ids[int(np.flatnonzero(data.folds() == 0)[0])]
    ancestors = (Ancestor(("init_from runs/b", "init_from runs/a/full"), frozenset({ID})),)
    chain = rf"trained on {ID} \(through run/fold0 <- init_from runs/b <- init_from runs/a/full\): images that it would"
    with pytest.raises(DataError, match=chain):
        plan_oof([network(data, 0, ancestors=ancestors), network(data, 1)], data)


def test_a_network_whose_ancestors_were_not_recorded_is_refused(data: DataSet) -> None:
    with pytest.raises(DataError, match=r"made from other networks by version 0.1.0.*Train it again"):
        plan_oof([network(data, 0, ancestors=None), network(data, 1)], data)


def test_the_unets_beside_a_network_are_looked_at_too(data: DataSet) -> None:
    unet = network(data, None)
    one = dataclasses.replace(network(data, 0), unets=(unet,))
    with pytest.raises(DataError, match=r"run/foldNone was trained on .* images that it would predict"):
        plan_oof([one, network(data, 1)], data)


def test_an_image_without_labels_is_predicted_by_all_folds_that_saw_no_twin_of_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = {f"im{k:02}": rng.integers(0, 200, (4, SIZE, SIZE), dtype=np.uint8) for k in range(11)}
    images["im11"] = images["im03"] + 9
    labels = {ID: [k % 2] for k, ID in enumerate(images) if ID not in ("im10", "im11")}
    spec = Spec(size=SIZE, folds=2)
    data = DataSet.open(create_dataset(tmp_path / "data", images, labels, spec, group_duplicates=True))

    def trained(fold: int) -> Any:
        seen = {data.ids[i] for i in np.flatnonzero((data.folds() >= 0) & (data.folds() != fold))}
        return network(data, fold, train_ids=tuple(sorted(seen)))

    plan = plan_oof([trained(0), trained(1)], data)
    assert sorted(i for _, own in plan for i in own) == list(range(12))
    by_image = {i: [net.fold for net in nets] for nets, own in plan for i in own}
    assert by_image[10] == [0, 1]
    assert by_image[11] == [int(data.folds()[3])]


def test_predicted_images_that_reached_a_network_are_counted_with_their_near_duplicates(data: DataSet) -> None:
    both = [network(data, 0), network(data, 1)]
    assert count_seen(plan_all(both, data), data) == 12
    assert count_seen(plan_oof(both, data), data) == 0
    assert count_seen(plan_all([network(data, 0, train_ids=("im03", "gone"))], data), data) == 2  # im11 is im03
    through = (Ancestor(("init_from runs/b",), frozenset({"im00"})),)
    assert count_seen(plan_all([network(data, 0, train_ids=(), ancestors=through)], data), data) == 1


def test_a_source_that_came_after_the_training_is_predicted_by_all_networks_that_saw_no_twin(data: DataSet) -> None:
    nets = [network(data, 0), network(data, 1)]
    before = dict(zip(data.ids, data.folds().tolist(), strict=True))
    record = {"name": "more", "images": 2, "failed": 0}
    table = data.table.iloc[[0, 3]].assign(ID=["new", "twin"], source="more")
    table = pd.concat([data.table, table], ignore_index=True)
    images = np.stack([255 - data.image(0), data.image(3)])
    shards = Shards(data.folder / SHARDS, "more", 2, 4, SIZE)
    shards.allocate()
    for k in range(2):
        row = len(data) + k
        table.loc[row, ["shard", "slot"]] = shards.place(k)
        table.loc[row, "crc32"] = shards.write(k, images[k])
    small = [thumbnail(image, data.geometry(0)) for image in images]
    write_extra(data.folder, "more", thumbnails=np.stack(small))
    records = [*data.manifest["sources"], record]
    finish(data.folder, Spec(size=SIZE, folds=2), table, records, before=before)
    grown = DataSet.open(data.folder)
    assert grown.folds_digest != data.folds_digest
    plan = plan_oof(nets, grown)
    by_image = {grown.ids[i]: [net.fold for net in own] for own, images in plan for i in images}
    assert by_image["new"] == [0, 1]
    assert by_image["twin"] == by_image["im03"] == [before["im03"]]
    assert all(by_image[ID] == [fold] for ID, fold in before.items())
    assert came_later(nets, grown)[1] == [12, 13]
    table.loc[2, "Label"] = "0|1"  # another label of an old image
    finish(data.folder, Spec(size=SIZE, folds=2), table, records, before=before)
    with pytest.raises(DataError, match="other labels or folds"):
        plan_oof(nets, DataSet.open(data.folder))


def test_other_bits_than_those_of_the_training_are_told(data: DataSet) -> None:
    records = [network(data, 0, bits=12).record, network(data, 1, bits=12).record]
    assert bits_note(records, data) == ""  # 8-bit files
    source = {**data.manifest["sources"][0], "bits": 16}
    other = dataclasses.replace(data, manifest={**data.manifest, "sources": [source]})
    assert "learnt from images of 12 bits" in bits_note(records, other)
    source["bits"] = 12
    assert bits_note(records, other) == ""
