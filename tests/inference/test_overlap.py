import threading
from pathlib import Path

import numpy as np
import pytest

from wsss import infer, segment, train
from wsss.core.checks import ConfigError, DataError
from wsss.core.runtime import Overlap, Stopped, running
from wsss.data.build import Spec, create_dataset
from wsss.options.infer import InferOptions

SIZE = 128


def test_what_is_there_already_is_not_waited_for_and_the_rest_comes_in_the_order_asked_for() -> None:
    overlap = Overlap(["c", "a", "b"])
    assert overlap.begin(["a", "c"]) == ["c", "a"]
    overlap.wait("b")
    overlap.done("c")
    overlap.wait("c")


def test_an_image_is_given_out_when_it_is_made_and_not_before() -> None:
    go, told = threading.Event(), []

    def work(overlap: Overlap) -> None:
        for name in overlap.begin(["a", "b"]):
            go.wait(10)
            told.append(name)
            overlap.done(name)

    with running(work, Overlap(["a", "b"])) as overlap:
        assert told == []
        go.set()
        overlap.wait("a")
        assert told[0] == "a"


def test_the_error_of_the_other_stage_ends_the_waiting() -> None:
    def work(overlap: Overlap) -> None:
        overlap.begin(["a"])
        raise ConfigError("no weights")

    with pytest.raises(ConfigError, match="no weights"), running(work, Overlap(["a"])) as overlap:
        overlap.wait("a")
    with pytest.raises(ConfigError, match="no weights"), running(work, Overlap(["a"])):
        pass


def test_a_stage_that_ends_without_an_image_is_told() -> None:
    with (
        pytest.raises(DataError, match="cells of a were not made"),
        running(lambda overlap: overlap.begin(["a"]), Overlap(["a"])) as overlap,
    ):
        overlap.wait("a")


def test_the_other_stage_ends_when_the_block_fails() -> None:
    ended = []

    def work(overlap: Overlap) -> None:
        overlap.begin(map(str, range(10**6)))
        try:
            for k in range(10**6):
                overlap.done(str(k))
        except Stopped:
            ended.append(True)
            raise

    with pytest.raises(KeyError), running(work, Overlap([])):
        raise KeyError
    assert ended


def blobs(rng: np.random.Generator) -> np.ndarray:
    image = rng.integers(0, 5, (4, SIZE, SIZE), np.uint8)
    rows, columns = np.ogrid[:SIZE, :SIZE]
    for y, x in ((30, 30), (66, 62)):
        away = np.hypot(rows - y, columns - x)
        image[[0, 1, 3]] += (120 * (away < 18)).astype(np.uint8)
        image[2] += (160 * (away < 8)).astype(np.uint8)
    return image


def make_set(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    images = {f"im{n}": blobs(rng) for n in range(6)}
    return create_dataset(folder, images, {name: [k % 2] for k, name in enumerate(images)}, Spec(size=SIZE, folds=2))


@pytest.mark.parametrize("backend", ["classical", pytest.param("unet", marks=pytest.mark.slow)])
def test_cells_found_at_the_same_time_give_the_very_tables_of_cells_found_before(tmp_path: Path, backend: str) -> None:
    first, second = make_set(tmp_path / "data"), tmp_path / "moved"
    words = f"--data {first} --run {tmp_path}/run --fold 0 --backbone test_resnet --weights none --crop 64 --batch 3"
    words += " --crops.mode none --feature_classifier.enabled false"
    train.main(f"{words} --epochs 1 --workers 0 --device cpu".split())
    ask = f"--data {first} --run {tmp_path}/run --device cpu --batch 2"
    assert segment.main(f"--data {first} --backend {backend} --workers 0".split()) == 0
    assert infer.main([*ask.split(), "--out", f"{tmp_path}/before"]) == 0
    first.rename(second)
    make_set(first)
    assert infer.main([*ask.split(), "--out", f"{tmp_path}/overlap", "--segment", backend]) == 0
    for name in ("cells.csv", "cells.parquet", "images.csv", "submission.csv", "provenance.json"):
        assert (tmp_path / "before" / name).read_bytes() == (tmp_path / "overlap" / name).read_bytes(), name
    for path in sorted((second / "cells").iterdir()):
        assert path.read_bytes() == (first / "cells" / path.name).read_bytes()


def test_overlapping_segmentation_and_cut_up_work_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"run python -m wsss\.segment first"):
        InferOptions(run=tmp_path, segment="classical", shard="1/2")
