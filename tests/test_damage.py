"""Files of ours that are cut or have a flipped bit: the damage is noticed, or does not touch what the file holds."""

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wsss.core.checks import UserError
from wsss.core.label_maps import find_label_map, read_label_map, write_label_map
from wsss.data.build import Spec, create_dataset
from wsss.data.catalog import DataSet
from wsss.data.existing import Past
from wsss.runs.checkpoint import load_checkpoint, save_checkpoint
from wsss.runs.journal import Journal

SIZE = 16
Read = Callable[[], object]
"""Reads all that a file holds, as something to compare."""


def checkpoint(folder: Path) -> tuple[Path, Read]:
    path = folder / "last.safetensors"
    tensors = {"net.w": torch.arange(60.0).reshape(3, 20), "net.b": torch.ones(3), "net.n": torch.tensor(3)}
    save_checkpoint(path, tensors, {"progress": {"epoch": 1}})

    def read() -> object:
        tensors, meta = load_checkpoint(path)
        return {name: (tensor.tolist(), tensor.dtype) for name, tensor in tensors.items()}, meta

    return path, read


def journal(folder: Path) -> tuple[Path, Read]:
    path = folder / "journal.sqlite"
    with Journal(path, "f") as journal:
        for k in range(20):
            journal.add(f"i{k}", {"n": k}, bytes([k]) * 1500)

    def read() -> object:
        with Journal(path, "f") as journal:
            found = {name: (record, payload) for name, record, payload in journal.items()}
            assert all(journal.get(name) == value for name, value in found.items())
            return found

    return path, read


def label_map(folder: Path, first: int) -> tuple[Path, Read]:
    cells = np.kron(np.arange(first, first + 16).reshape(4, 4), np.ones((8, 8), int))
    return write_label_map(folder / "a", cells), lambda: read_label_map(find_label_map(folder, "a")).tolist()


def data_set(folder: Path, name: str) -> tuple[Path, Read]:
    rng = np.random.default_rng(0)
    images = {f"i{k}": rng.integers(0, 256, (4, SIZE, SIZE), dtype=np.uint8) for k in range(8)}
    labels = {ID: [k % 2] for k, ID in enumerate(images)}
    create_dataset(folder, images, labels, Spec(size=SIZE, folds=2))

    def read() -> object:
        data = DataSet.open(folder)
        Past.read(folder)
        pixels = [data.image(i).tolist() for i in range(len(data))]
        return pixels, data.table.to_dict("list"), data.folds().tolist(), data.classes, data.channels, data.size

    return folder / name, read


def cells_table(folder: Path) -> tuple[Path, Read]:
    import pandas as pd

    from wsss.inference.tables import cells_frame, iter_cells, write_cells

    def frame(name: str) -> pd.DataFrame:
        geometry = {key: [3, 4] for key in ("center_y", "center_x", "y0", "x0", "y1", "x1", "area_px")}
        geometry["touches_border"] = [True, False]
        scores, rle = np.array([[0.25, 0.5], [0.75, 1]]), [b"03", b"12"]
        return cells_frame(
            name, fold=0, size=(9, 9), cell_ids=np.array([1, 2]), geometry=geometry, scores=scores, rle=rle
        )

    write_cells(folder, (frame(f"i{k}") for k in range(6)))
    return folder / "cells.parquet", lambda: [own.to_dict("list") for _, own in iter_cells(folder)]


KINDS: dict[str, Callable[[Path], tuple[Path, Read]]] = {
    "checkpoint": checkpoint,
    "journal": journal,
    "PNG label map": lambda folder: label_map(folder, 1),
    "TIFF label map": lambda folder: label_map(folder, 70_000),
    "pixels": lambda folder: data_set(folder, "shards/main-00000.npy"),
    "catalogue": lambda folder: data_set(folder, "images.parquet"),
    "manifest": lambda folder: data_set(folder, "dataset.json"),
    "folds": lambda folder: data_set(folder, "folds.csv"),
    "thumbnails": lambda folder: data_set(folder, "sources/main/thumbnails.npy"),
}


def outcome(read: Read, right: object, path: Path) -> str:
    """Read a damaged file: 'noticed' in one line that names it, 'whole' if what it holds is, or 'changed'."""
    try:
        return "whole" if read() == right else "changed"
    except UserError as error:
        told = str(error)
    named = path.name in told or path.parent.name in told
    return "noticed" if named and "\n" not in told else f"told badly: {told}"


def damage(kind: str, folder: Path, cuts: int, flips: int) -> Counter[str]:
    """Cut a file at random places and flip random bits, one at a time; count the outcomes."""
    path, read = KINDS[kind](folder)
    content, right = path.read_bytes(), read()
    rng = np.random.default_rng(len(kind))
    found: Counter[str] = Counter()
    for length in rng.integers(0, len(content), cuts):
        path.write_bytes(content[:length])
        found[outcome(read, right, path)] += 1
    for at in rng.integers(0, len(content), flips):
        changed = bytearray(content)
        changed[at] ^= 1 << rng.integers(8)
        path.write_bytes(changed)
        found[outcome(read, right, path)] += 1
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_noticed_or_touches_nothing(kind: str, tmp_path: Path, examples: int) -> None:
    """A cut at every second place that can be, and one flipped bit at a time; of 7 examples 2 are cuts."""
    found = damage(kind, tmp_path, cuts=examples * 2 // 7, flips=examples * 5 // 7)
    print(f"{kind}: {dict(found)}")
    assert set(found) <= {"noticed", "whole"}, found
    assert kind != "checkpoint" or set(found) == {"noticed"}


def state() -> Any:
    from wsss.core.device import choose_device
    from wsss.models.cam_net import build_cam_net
    from wsss.options.recipe import ClassifyRecipe
    from wsss.training.state import TrainState

    recipe = ClassifyRecipe(backbone="test_resnet", weights="none")
    made = TrainState(build_cam_net(recipe, channels=4, classes=3, pretrained=False), recipe, choose_device("cpu"))
    for weight in made.net.parameters():
        weight.grad = torch.zeros_like(weight)
    made.optimizer.step()
    return made


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("net.classifier.weight"), "missing classifier.weight"),
        (lambda t: t.update({"net.more": torch.ones(1)}), "extra more"),
        (lambda t: t.update({"net.classifier.weight": torch.ones(2, 2)}), r"classifier.weight \(2, 2\) instead of"),
        (lambda t: t.pop("optim.1.exp_avg"), r"optimiser: missing 1\.exp_avg;"),
        (lambda t: t.update({"optim.999.exp_avg": torch.ones(1)}), r"extra 999\.exp_avg;"),
        (lambda t: t.update({"optim.0.exp_avg": torch.ones(1)}), r"another shape optim\.0\.exp_avg \(1,\)\."),
    ],
    ids=["missing", "extra", "misshapen", "missing of optimiser", "extra of optimiser", "misshapen of optimiser"],
)
def test_missing_extra_and_misshapen_tensors_are_named(change: Callable[[dict[str, Any]], object], words: str) -> None:
    own = state()
    tensors, meta = own.tensors(), own.meta()
    own.restore(tensors, meta)  # as they are they fit
    change(tensors)
    with pytest.raises(UserError, match=words):
        own.restore(tensors, meta)


def test_after_damage_the_checkpoint_before_it_is_offered_and_can_be_taken(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    for step in range(2):
        save_checkpoint(path, {"w": torch.full((9,), float(step))}, {"step": step})
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"The checkpoint before it is .*last.safetensors.previous: move it to last"):
        load_checkpoint(path)
    shutil.move(tmp_path / "last.safetensors.previous", path)
    assert load_checkpoint(path)[1] == {"step": 0}
