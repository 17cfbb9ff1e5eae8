"""The same seed on the same machine: the same weights and the same tables, with any number of workers."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from squares import equal

from wsss import infer, prepare, segment, train

SIZE = 64


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images with round cells, and their labels."""
    folder, rng = tmp_path_factory.mktemp("inputs"), np.random.default_rng(0)
    y, x = np.mgrid[:SIZE, :SIZE]
    for k in range(12):
        planes = rng.integers(0, 12, (SIZE, SIZE, 4))
        for cy, cx in rng.integers(10, SIZE - 10, (3, 2)):
            distance = np.hypot(y - cy, x - cx)[..., None]
            planes += np.array([90, 40 + 60 * (k % 2), 200, 70]) * (distance < np.array([12, 9, 5, 11]))
        for channel, name in enumerate(("red", "green", "blue", "yellow")):
            plane = np.clip(planes[..., channel], 0, 255).astype(np.uint8)
            Image.fromarray(plane).save(folder / f"i{k:02}_{name}.png")
    (folder / "train.csv").write_text("\n".join(["ID,Label", *(f"i{k:02},{k % 2}" for k in range(12))]) + "\n")
    return folder


def chain(inputs: Path, home: Path, workers: str) -> dict[str, str]:
    """Run all stages; return the digests of tables, maps and stores."""
    data, run, preds, few = home / "data", home / "run", home / "preds", ["--workers", workers]
    images = ["--images", str(inputs), "--labels", str(inputs / "train.csv"), "--out", str(data), "--size", str(SIZE)]
    assert prepare.main([*images, *few]) == 0
    assert segment.main(["--data", str(data), *few]) == 0
    words = ["--backbone", "test_resnet", "--weights", "none", "--crop", "64", "--batch", "4", "--epochs", "2"]
    assert train.main(["--data", str(data), "--run", str(run), *words, "--device", "cpu", *few]) == 0
    score = ["--data", str(data), "--run", str(run), "--out", str(preds), "--device", "cpu", "--crops.size", "32"]
    assert infer.main(score) == 0
    files = [*data.rglob("*.png"), *data.rglob("*.npy"), *data.glob("*.csv"), *preds.glob("*.csv")]
    files += [data / "images.parquet", preds / "cells.parquet"]
    kept = [path for path in files if path.name != "stamps.npy"]
    return {str(path.relative_to(home)): hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "1", "2"])
def test_another_number_of_workers_gives_the_same_weights_and_tables(
    inputs: Path, tmp_path: Path, workers: str
) -> None:
    assert chain(inputs, tmp_path / "one", "0") == chain(inputs, tmp_path / "other", workers)
    assert equal(tmp_path / "one" / "run", tmp_path / "other" / "run")
