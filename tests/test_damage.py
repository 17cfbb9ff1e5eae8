"""Files of ours that are cut or have a flipped bit: the damage is noticed, or does not touch what the file holds."""

import dataclasses
import io
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from forest_file import FEATURES, feature_classifier
from peak import soon

from wsss.core.checks import UserError
from wsss.core.files import BLANK, read_json, read_record, sealed, write_json
from wsss.core.label_maps import find_label_map, read_label_map, write_label_map
from wsss.core.labels import ClassList
from wsss.core.parquet import read_parquet, write_parquet
from wsss.core.rle import encode_label_map
from wsss.data.build import ExistingSet, Spec, create_dataset
from wsss.data.catalog import DataSet
from wsss.data.origin import read_provenance
from wsss.data.pseudo import PseudoSet, write_masks
from wsss.feature_classifier.store import load_feature_classifier
from wsss.inference.checkpoints import CamCheckpoint
from wsss.inference.hub import load_model, save_model
from wsss.inference.tables import (
    cells_frame,
    iter_cells,
    iter_submission,
    prediction_files,
    read_cells,
    read_embeddings,
    read_images,
    table_digest,
    write_cells,
    write_embeddings,
    write_images,
    write_submission,
)
from wsss.metrics.calibration import Calibration, Curve, load_calibration, save_calibration
from wsss.models.cam_net import build_cam_net
from wsss.models.device import choose_device
from wsss.options.infer import run_config
from wsss.options.recipe import ClassifyRecipe
from wsss.reviewing.answers import Answer, Answers
from wsss.runs.journal import Journal
from wsss.runs.output import in_folder
from wsss.runs.record import Ancestor, RunRecord
from wsss.runs.result_record import STATE, files_of_record, record_of
from wsss.runs.run_folder import RunFolder, load_checkpoint, save_checkpoint
from wsss.segmenters import UNET_WEIGHTS
from wsss.segmenters.cell_unet import load_cell_unet
from wsss.stages.mask_predictions import predicted_probs
from wsss.stages.overlay import read_predictions

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
        ExistingSet.read(folder)
        pixels = [data.image(i).tolist() for i in range(len(data))]
        return pixels, data.table.to_dict("list"), data.folds().tolist(), data.classes, data.channels, data.size

    return folder / name, read


def catalogue_in_prepare(folder: Path) -> tuple[Path, Read]:
    """What prepare takes over of a data set without opening it."""
    path, _ = data_set(folder, "images.parquet")
    return path, lambda: ExistingSet.read(folder).table.to_dict("list")


def calibration(folder: Path) -> tuple[Path, Read]:
    path = folder / "calibration.json"
    curve = Curve("isotonic", np.array([0, 0.25, 0.5, 1]), np.array([0, 0.125, 0.75, 1]))
    save_calibration(path, Calibration([curve] * 3, [curve] * 3, {"members": ["a"]}), {"error": 0.25})
    return path, lambda: repr(load_calibration(path, 3))


def segment_record(folder: Path) -> tuple[Path, Read]:
    write_json(folder / "segment.json", {"options": {"backend": "unet", "size": 3}, "seconds": {"reading": 0.125}})
    return folder / "segment.json", lambda: read_record(folder / "segment.json", "options")


def pseudo_set(folder: Path, name: str) -> tuple[Path, Read]:
    data = DataSet.open(data_set(folder, "images.parquet")[0].parent)
    masks = np.random.default_rng(0).integers(0, 2, (2, SIZE, SIZE), dtype=np.uint8)
    write_masks(folder, "i0", np.array([3, 5]), masks)
    manifest = {"format": 1, "folds": data.folds_digest, "classes": list(data.classes.names), "size": data.size}
    write_json(folder / "pseudo.json", manifest | {"facts": {}, "ids": ["i0"], "trained_on": ["i1", "i2"]})

    def read() -> object:
        found = PseudoSet.open(folder, data)
        classes, masks = found.masks("i0")
        return found.ids, sorted(found.seen), classes.tolist(), masks.tolist()

    return folder / name, read


def probabilities(folder: Path) -> tuple[Path, Read]:
    """What infer keeps of mask networks, for evaluate to search a threshold."""
    content = io.BytesIO()
    np.save(content, np.arange(200, dtype=np.uint8).reshape(2, 10, 10))
    with in_folder(folder, "infer") as output:
        output.begin(lambda digests: {})
        output.path("probs/a.npy").write_bytes(sealed(content.getvalue() + BLANK.encode()))
        output.publish()
    return folder / "probs/a.npy", lambda: predicted_probs(folder, "a", files_of_record(folder)).tolist()


def model(folder: Path, name: str) -> tuple[Path, Read]:
    """A run, exported for Hugging Face."""
    device = choose_device("cpu", "fp32")
    recipe = ClassifyRecipe(backbone="test_resnet", weights="none")
    record = RunRecord(recipe, 0, "", ("a", "b", "c"), ("r", "g", "b", "y"), ("a", "b"), 1, 64, versions={"wsss": "1"})
    net = build_cam_net(recipe, channels=4, classes=2, pretrained=False)
    save_model([CamCheckpoint(dataclasses.replace(record, path=folder), net)], folder, folder)

    def read() -> object:
        found = load_model(folder, device)[0]
        return found.record, {key: own.tolist() for key, own in found.net.state_dict().items()}

    return folder / name, read


def overlay_table(folder: Path) -> tuple[Path, Read]:
    path, _ = cells_table(folder)
    data: Any = SimpleNamespace(folder=folder, classes=ClassList(("a", "b"), None))
    return path, lambda: read_predictions(folder, data, ["i1", "i4"], 0.5)


def flat_table(folder: Path) -> tuple[Path, Read]:
    """The table of cells as evaluate, report, ensemble, calibrate and export read it."""
    path, _ = cells_table(folder)
    return path, lambda: read_cells(folder).to_dict("list")


def images_table(folder: Path) -> tuple[Path, Read]:
    """The table of images, a CSV whose digest stands in the record of its result."""
    with in_folder(folder, "infer") as output:
        output.begin(lambda digests: {})
        names = [f"i{k}" for k in range(6)]
        table = pd.DataFrame({"ID": names, "fold": 0, "ImageHeight": 9, "ImageWidth": 9, "n_cells": range(6)})
        write_images(output.home, table.assign(status="ok", reason="", **{"0": 0.25, "1": np.linspace(0, 1, 6)}))
        output.publish()
    return folder / "images.csv", lambda: read_images(folder).to_dict("list")


def run_file(folder: Path, name: str) -> tuple[Path, Read]:
    """What a run folder holds beside its checkpoints."""
    recipe = ClassifyRecipe(backbone="test_resnet", weights="none")
    ancestors = (Ancestor(("init_from runs/a/fold0",), frozenset(f"b{k}" for k in range(20))),)
    ids = tuple(f"a{k}" for k in range(20))
    record = RunRecord(recipe, 0, "", ids, ("r", "g", "b", "y"), ("a", "b"), 1, 64, ancestors, versions={"wsss": "1"})
    run = RunFolder(folder)
    run.begin(record)
    run.save_best({"net.w": torch.ones(3)}, record.meta())

    def read() -> object:
        return run.read()[0], run_config(folder)

    return folder / name, read


def stage_record(folder: Path) -> tuple[Path, Read]:
    """The record of a result: a damaged one is no record, and the result is then unknown, not another."""
    path, _ = images_table(folder)

    def read() -> object:
        found = record_of(path.parent)
        if found is None:
            raise UserError(f"{STATE}/result.json is none")
        return found

    return folder / STATE / "result.json", read


def feature_classifier_file(folder: Path) -> tuple[Path, Read]:
    path = folder / "feature_classifier.safetensors"
    path.write_bytes(feature_classifier())

    def read() -> object:
        found = load_feature_classifier(path, FEATURES)
        return found.predict(np.linspace(-1, 1, 3 * len(FEATURES)).reshape(3, -1)).tolist(), found.meta

    return path, read


def cell_unet(folder: Path) -> tuple[Path, Read]:
    """The network that finds cells, which comes with wsss."""
    path = folder / UNET_WEIGHTS.name
    shutil.copyfile(UNET_WEIGHTS, path)
    return path, lambda: {key: own.tolist() for key, own in load_cell_unet(path).state_dict().items()}


def review(folder: Path) -> tuple[Path, Read]:
    """The answers of a review, its designs and rates."""
    path, classes = folder / "review.sqlite", ["a", "b", "c"]
    with closing(Answers(path, classes)) as answers:
        for k in range(20):
            own = Answer(("i1", k), (k % 3,), "random", "0123456789abcdef", 1.5, False)
            answers.add(own, {"random": 1 / (k + 1)}, 0.5)

    def read() -> object:
        with closing(Answers(path, classes)) as answers:
            live = answers.live()
            return live, answers.designs(), answers.seed, answers.weights([own.cell for own in live]).tolist()

    return path, read


def result_file(folder: Path, name: str) -> tuple[Path, Read]:
    """Further files of a prediction, whose digests stand in the record of the result."""
    with in_folder(folder, "infer") as output:
        output.begin(lambda digests: {})
        cells_table(output.home)
        vectors = pd.DataFrame({"ID": np.repeat([f"i{k}" for k in range(6)], 2), "cell_id": [1, 2] * 6})
        write_embeddings(output.home, [vectors.assign(a=np.linspace(0, 1, 12).astype(np.float32))])
        sizes = pd.DataFrame({"ID": [f"i{k}" for k in range(6)], "ImageHeight": 9, "ImageWidth": 9})
        write_submission(output.home / "submission.csv", sizes, iter_cells(output.home))
        write_json(output.home / "provenance.json", {"oof": True, "members": [{"path": "a", "weights": "0"}]})
        output.publish()

    def read() -> object:
        prediction_files(folder)
        vectors = read_embeddings(folder, read_cells(folder))
        images = [(own.image_id, own.scores.tolist()) for own in iter_submission(folder / "submission.csv", 2)]
        assert vectors is not None
        return vectors.to_dict("list"), images, read_provenance(folder), table_digest(folder)

    return folder / name, read


def cells_table(folder: Path) -> tuple[Path, Read]:
    def frame(name: str) -> pd.DataFrame:
        geometry = {key: [3, 4] for key in ("center_y", "center_x", "y0", "x0", "y1", "x1", "area_px")}
        geometry["touches_border"] = [True, False]
        scores, rle = np.array([[0.25, 0.5], [0.75, 1]]), [encode_label_map(np.eye(9) == k)[1] for k in (0, 1)]
        return cells_frame(
            name, fold=0, size=(9, 9), cell_ids=np.array([1, 2]), geometry=geometry, scores=scores, rle=rle
        )

    write_cells(folder, (frame(f"i{k}") for k in range(6)))
    return folder / "cells.parquet", lambda: [own.to_dict("list") for _, own in iter_cells(folder)]


KINDS: dict[str, Callable[[Path], tuple[Path, Read]]] = {
    "catalogue in prepare": catalogue_in_prepare,
    "calibration": calibration,
    "record of a stage": segment_record,
    "pseudo-masks": lambda folder: pseudo_set(folder, "masks/i0.npz"),
    "manifest of pseudo-masks": lambda folder: pseudo_set(folder, "pseudo.json"),
    "probabilities": probabilities,
    "weights of a model": lambda folder: model(folder, "model.safetensors"),
    "record of a model": lambda folder: model(folder, "config.json"),
    "table of cells": cells_table,
    "table of cells, flat": flat_table,
    "table of cells in overlay": overlay_table,
    "table of images": images_table,
    "network of cells": cell_unet,
    "answers of a review": review,
    "vectors of cells": lambda folder: result_file(folder, "embeddings.parquet"),
    "submission": lambda folder: result_file(folder, "submission.csv"),
    "provenance": lambda folder: result_file(folder, "provenance.json"),
    "options of a run": lambda folder: run_file(folder, "config.yaml"),
    "training images of a run": lambda folder: run_file(folder, "train_ids.txt"),
    "ancestors of a run": lambda folder: run_file(folder, "ancestors.json"),
    "record of a result": stage_record,
    "feature classifier": feature_classifier_file,
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
    """Cut a file at random places, flip random bits, one or a run of bytes at a time; count the outcomes."""
    path, read = KINDS[kind](folder)
    content, right = path.read_bytes(), read()
    rng = np.random.default_rng(len(kind))
    found: Counter[str] = Counter()
    for length in rng.integers(0, len(content), cuts):
        path.write_bytes(content[:length])
        found[outcome(read, right, path)] += 1
    for k, at in enumerate(rng.integers(0, len(content), flips)):
        changed = bytearray(content)
        if k % 3:
            changed[at] ^= 1 << rng.integers(8)
        else:
            end = min(len(content), int(at) + int(rng.integers(1, 65)))
            changed[at:end] = bytes(end - at) if k % 2 else rng.bytes(end - int(at))
        path.write_bytes(changed)
        found[outcome(read, right, path)] += 1
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_noticed_or_touches_nothing(kind: str, tmp_path: Path, examples: int) -> None:
    """A cut at every second place that can be, and one flipped bit at a time; of 7 examples 2 are cuts."""
    found = damage(kind, tmp_path, cuts=examples * 2 // 7, flips=examples * 5 // 7)
    print(f"{kind}: {dict(found)}")
    assert set(found) <= {"noticed", "whole"}, found
    if kind in ("checkpoint", "soft labels", "weights of a model", "table of cells, flat"):
        assert found["noticed"] >= 0.97 * found.total()  # all but flips in the mark of the seal itself


SEALED = [
    "catalogue in prepare",
    "catalogue",
    "thumbnails",
    "pseudo-masks",
    "probabilities",
    "weights of a model",
    "table of cells",
    "network of cells",
    "table of images",
    "vectors of cells",
    "submission",
    "provenance",
    "manifest",
    "checkpoint",
    "feature classifier",
]


@pytest.mark.parametrize("kind", SEALED)
def test_files_stretched_to_gigabytes_are_refused_before_they_are_read(kind: str, tmp_path: Path) -> None:
    """Zeros that take no room on disk, in place of the content, behind it, and within it."""
    path, read = KINDS[kind](tmp_path)
    content, right = path.read_bytes(), read()
    for start in (0, len(content), len(content) // 8, len(content) * 7 // 8):
        path.unlink()
        with path.open("wb") as stream:
            stream.write(content[:start])
            stream.truncate(2**31 + 2**20)
            stream.seek(0, io.SEEK_END)
            stream.write(content[start:] if start else b"")
        began = time.process_time()
        assert outcome(read, right, path) == "noticed"
        assert soon(began)


@pytest.mark.parametrize("name", ["embeddings.parquet", "submission.csv", "provenance.json"])
def test_a_file_of_a_prediction_that_is_gone_is_missed(name: str, tmp_path: Path) -> None:
    path, read = result_file(tmp_path, name)
    path.unlink()
    with pytest.raises(UserError, match=f"{name} is missing, a file of the result in"):
        read()


@pytest.mark.parametrize("gone", [True, False])
def test_a_review_that_has_lost_its_answers_begins_no_new_one(gone: bool, tmp_path: Path) -> None:
    path, read = review(tmp_path)
    (tmp_path / "review.json").write_text("{}")
    read()
    path.write_bytes(b"")
    if gone:
        path.unlink()
    with pytest.raises(UserError, match=r"is missing or empty, and .* beside it was made of it"):
        read()


def test_files_without_digest_and_those_changed_on_purpose_still_open(tmp_path: Path) -> None:
    """Of older versions, of other tools, and of people who take the digest out."""
    table = pd.DataFrame({"ID": ["a"], "cell_id": [1]})
    table.to_parquet(tmp_path / "old.parquet")
    write_parquet(tmp_path / "new.parquet", table)
    for name in ("old", "new"):
        assert read_parquet(tmp_path / f"{name}.parquet").to_dict("list") == table.to_dict("list")
    path = tmp_path / "a.json"
    write_json(path, {"size": 3})
    path.write_text(path.read_text().replace("3", "4", 1))
    with pytest.raises(UserError, match=r"a\.json is damaged: .* or, if it was changed on purpose, remove its"):
        read_json(path)
    path.write_text('{"size": 4}')
    assert read_json(path) == {"size": 4}


NEWER: dict[str, Callable[[bytes], bytes]] = {
    "calibration": lambda content: content.replace(b"wsss-calibration-1", b"wsss-calibration-2"),
    "record of a stage": lambda content: content.replace(b'"format": 1', b'"format": 2'),
    "manifest of pseudo-masks": lambda content: content.replace(b'"format": 1', b'"format": 2'),
    "record of a model": lambda content: content.replace(b'"format": 1', b'"format": 2'),
    "table of cells": lambda content: content.replace(b"wsss-table-1", b"wsss-table-2"),
    "table of cells, flat": lambda content: content.replace(b"wsss-table-1", b"wsss-table-2"),
    "table of cells in overlay": lambda content: content.replace(b"wsss-table-1", b"wsss-table-2"),
    "network of cells": lambda content: content.replace(b"wsss-cells-1", b"wsss-cells-2"),
    "answers of a review": lambda content: content.replace(b"wsss-review-1", b"wsss-review-2"),
    "vectors of cells": lambda content: content.replace(b"wsss-table-1", b"wsss-table-2"),
    "provenance": lambda content: content.replace(b'"format": 1', b'"format": 2'),
    "record of a result": lambda content: content.replace(b'"format": 1', b'"format": 2'),
    "feature classifier": lambda content: content.replace(b"classifier-2", b"classifier-3"),
    "checkpoint": lambda content: content.replace(b"wsss-1", b"wsss-2"),
    "journal": lambda content: content[:63] + bytes([content[63] + 1]) + content[64:],  # PRAGMA user_version
    "manifest": lambda content: content.replace(b'"format": 1', b'"format": 2'),
}
"""Kinds of file that name a format, and a file of the next one: JSON and tables without the digest of this one."""


def undigested(content: bytes) -> bytes:
    """Take the digest of a JSON file or a table away."""
    plain = re.sub(rb',\s*"(wsss_)?digest": "\w+"', b"", content)
    return re.sub(rb"wsss-sha256:(?=[0-9a-f]{64})", b"wsss-sha000:", plain)


@pytest.mark.parametrize("kind", NEWER)
def test_files_of_a_newer_format_are_refused_as_such(kind: str, tmp_path: Path) -> None:
    path, read = KINDS[kind](tmp_path)
    read()
    path.write_bytes(NEWER[kind](undigested(path.read_bytes())))
    if kind != "record of a result":
        shutil.rmtree(path.parent / STATE, ignore_errors=True)  # what was written meanwhile has a record of its own
    with pytest.raises(UserError, match=r"was made by a newer wsss \(format .*[23], this one reads .*[12]\): update"):
        read()


def test_a_file_that_the_model_does_not_list_is_not_loaded(tmp_path: Path) -> None:
    _, read = model(tmp_path, "config.json")
    (tmp_path / "feature_classifier-fold0.safetensors").write_bytes(b"of an earlier export")
    read()


def state() -> Any:
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


FLIPS = """
import sys
from pathlib import Path
from wsss.core.checks import DataError
from wsss.core.parquet import read_parquet

path = Path(sys.argv[1])
whole = path.read_bytes()
for place in range(len(whole) - 8 - int.from_bytes(whole[-8:-4], "little"), len(whole) - 8):
    for bit in range(8):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << bit
        path.write_bytes(damaged)
        try:
            read_parquet(path)
        except DataError:
            pass
"""


@pytest.mark.slow
@pytest.mark.parametrize("is_ours", [True, False])
def test_no_bit_in_the_description_of_a_table_ends_the_process(is_ours: bool, tmp_path: Path) -> None:
    table, path = pd.DataFrame({"ID": ["a", "b"], "size": [1, 2]}), tmp_path / "table.parquet"
    if is_ours:
        write_parquet(path, table)
    else:
        table.to_parquet(path)
    done = subprocess.run([sys.executable, "-c", FLIPS, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
