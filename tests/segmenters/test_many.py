import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wsss.core.checks import DataError
from wsss.core.label_maps import read_label_map
from wsss.data.build import Spec, create_dataset
from wsss.data.catalog import DataSet
from wsss.options.segment import SegmentOptions
from wsss.runs.inputs import Digests
from wsss.segmenters import BackendOptions, CellMaps, Field, Finish, many
from wsss.segmenters.many import Job, segment_images
from wsss.stages.segment import _marks


class Counting:
    """A network whose maps are 1 where red is bright; remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def segment_batch(self, fields: Sequence[Field]) -> list[Finish]:
        self.batches.append([field.name for field in fields])
        return [functools.partial(CellMaps, (field.image[0] > 100).astype(np.int32), None) for field in fields]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    images = {f"i{k}": np.full((4, 16, 16 + 4 * k), 20 + 40 * k, np.uint8) for k in range(5)}
    return create_dataset(tmp_path / "set", images, spec=Spec(size=16))


def run(data: Path, network: Counting, workers: int = 0) -> dict[int, Any]:
    job = Job(data, "counting", BackendOptions(batch=2))
    return dict(segment_images(job, network, range(5), workers))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_network_sees_every_image_once_in_batches(data: Path, workers: int) -> None:
    network = Counting()
    records = run(data, network, workers)
    assert network.batches == [["i0", "i1"], ["i2", "i3"], ["i4"]]
    assert [records[k]["n_cells"] for k in range(5)] == [0, 0, 0, 1, 1]
    assert set(records[0]["seconds"]) == {"reading", "network", "labelling", "measuring", "writing"}
    cells = read_label_map(data / "cells" / "i4.png")
    assert cells[:8].all(), "half as high as wide: the upper half of the stored square is the image"
    assert not cells[8:].any(), "the rest is padding"


def test_an_image_that_cannot_be_read_or_finished_is_told_and_the_others_go_on(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = DataSet.image

    def broken(self: DataSet, i: int) -> np.ndarray:
        if i == 1:
            raise DataError("the shard is cut short")
        return whole(self, i)

    def unfinished() -> CellMaps:
        raise DataError("no labels in there")

    class Failing(Counting):
        def segment_batch(self, fields: Sequence[Field]) -> list[Finish]:
            finishes = super().segment_batch(fields)
            return [unfinished if field.name == "i3" else f for field, f in zip(fields, finishes, strict=True)]

    monkeypatch.setattr(DataSet, "image", broken)
    network = Failing()
    records = run(data, network)
    assert network.batches == [["i0"], ["i2", "i3"], ["i4"]]
    assert str(records[1]) == "the shard is cut short"
    assert str(records[3]) == "no labels in there"
    assert [records[k]["status"] for k in (0, 2, 4)] == ["ok"] * 3


def test_a_bug_of_the_network_is_not_recorded_as_a_broken_image(data: Path) -> None:
    class Buggy(Counting):
        def segment_batch(self, fields: Sequence[Field]) -> list[Finish]:
            raise TypeError("unexpected keyword")

    with pytest.raises(TypeError, match="unexpected keyword"):
        run(data, Buggy())


def test_a_backend_sees_names_and_size_of_pixels_and_red_before_yellow(tmp_path: Path) -> None:
    channels = ("yellow", "green", "blue", "red")
    image = np.arange(4, dtype=np.uint8)[:, None, None] * np.ones((1, 8, 8), np.uint8)
    create_dataset(tmp_path / "set", {"a": image}, spec=Spec(size=8, channels=channels))
    data = DataSet.open(tmp_path / "set")
    data = replace(data, table=data.table.assign(pixel_size_um=["0.5"]))
    field = many._read(data, 0)
    assert (field.names, field.pixel_um) == (channels, 0.5)
    assert [int(plane[0, 0]) for plane in field.cells] == [3, 0]
    given, guessed = (_marks(data, SegmentOptions(backend="instanseg", pixel_um=um), Digests()) for um in (0.5, None))
    assert guessed["a"] == f"{given['a']} 0.5 um"
