"""The doctor: what it finds of a machine, a data set and a run, and its exit code."""

import json
from pathlib import Path

import numpy as np
import pytest

from wsss import doctor
from wsss.core.checks import DataError
from wsss.core.files import write_json
from wsss.core.label_maps import write_label_map
from wsss.core.labels import HPA_NAMES, ClassList
from wsss.data.build import Spec, create_dataset
from wsss.data.catalog import DataSet
from wsss.inference import tables
from wsss.runs.run_folder import save_checkpoint
from wsss.stages import doctor as machine


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one healthy data set and one run."""
    rng = np.random.default_rng(0)
    images = {f"im{n}": rng.integers(0, 255, (4, 24, 24), np.uint8) for n in range(8)}
    create_dataset(tmp_path / "data/x", images, {name: [0, 3] for name in images}, Spec(size=32, folds=2))
    run = tmp_path / "runs/r/fold0"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("epochs: 5\n")
    save_checkpoint(run / "best.safetensors", {}, {"progress": {"epoch": 4}, "recipe": {"epochs": 5}})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def findings(capsys: pytest.CaptureFixture[str], code: int, *words: str) -> list[dict]:
    assert doctor.main(["--json", *words]) == code
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return [own for own in told if own["event"] == "finding"]


def levels(found: list[dict], topic: str) -> dict[str, str]:
    """Return text -> level of what is told about a topic."""
    return {own["text"]: own["level"] for own in found if own["topic"] == topic}


def test_it_looks_at_the_machine_and_at_all_that_is_under_data_and_runs(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = findings(capsys, 0)
    topics = {own["topic"] for own in found}
    assert {"versions", "processor", "memory", "disk", "GPU", "extra", "data/x", "runs/r/fold0"} <= topics
    told = levels(found, "data/x")
    assert told["8 images read, bytes as prepared"] == "ok"
    assert told["no cells yet: python -m wsss.segment --data data/x"] == "note"
    assert any("such classes are not learnt" in text for text in told)
    assert levels(found, "runs/r/fold0") == {"weights whole, from epoch 4 of 5": "ok"}


def test_damaged_pixels_and_weights_are_bad_and_make_the_exit_code_1(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (shard,) = (home / "data/x/shards").iterdir()
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    weights = home / "runs/r/fold0/best.safetensors"
    weights.write_bytes(weights.read_bytes()[:-3])
    for damaged in (content, content[:-1]):
        shard.write_bytes(bytes(damaged))
        found = findings(capsys, 1)
        assert [own["topic"] for own in found if own["level"] == "bad"] == ["data/x", "runs/r/fold0"]


def test_dark_channels_and_missing_label_maps_are_told(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = {f"im{n}": np.full((4, 24, 24), 9, np.uint8) for n in range(3)}
    for image in images.values():
        image[1] = 0
    create_dataset(home / "dark", images)
    (home / "dark/cells").mkdir()
    write_label_map(home / "dark/cells/im1", np.zeros((24, 24), np.int32))
    told = levels(findings(capsys, 0, "--data", "dark"), "dark")
    assert told["3 images read, bytes as prepared; green is dark in 3 of them"] == "note"
    assert told["2 images have no label map (im0, im2): run segment again"] == "note"
    assert told["no labels: fit for infer, not for train"] == "ok"
    write_label_map(home / "dark/cells/im2", np.zeros((24, 20), np.int32))
    told = levels(findings(capsys, 1, "--data", "dark"), "dark")
    told_of = next(text for text in told if text.startswith("1 label maps cannot be used: im2: "))
    assert "im2.png is (24, 20), expected (24, 24)" in told_of
    (home / "dark/cells/im1.tif").touch()
    told = levels(findings(capsys, 1, "--data", "dark"), "dark")
    assert next(level for text, level in told.items() if "im1.png and im1.tif" in text) == "bad"


def test_a_folder_that_is_no_data_set_is_bad(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError) as error:
        DataSet.open(home / "nowhere")
    assert levels(findings(capsys, 1, "--data", f"{home}/nowhere"), f"{home}/nowhere") == {str(error.value): "bad"}


def test_a_driver_without_a_gpu_in_pytorch_is_bad(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine, "DRIVER", tmp_path)
    assert [own.level for own in machine._gpus()] == ["bad"]


def write_predictions(home: Path, fold: int) -> Path:
    """Two cells an image: class 0 everywhere, class 3 except in im2, class 5 in im4; all images bear 0 and 3."""
    frames = []
    for name in (f"im{n}" for n in range(8)):
        scores = np.full((2, 19), 0.05, np.float32)
        scores[:, 0], scores[:, 3], scores[:, 5] = 0.9, 0.9 * (name != "im2"), 0.9 * (name == "im4")
        geometry = {column: np.zeros(2) for column in tables.GEOMETRY_COLUMNS}
        ids = np.array([1, 2])
        frames.append(
            tables.cells_frame(
                name, fold=fold, size=(24, 24), cell_ids=ids, geometry=geometry, scores=scores, rle=[b"0"] * 2
            )
        )
    tables.write_cells(home / "preds", frames)
    write_json(home / "preds/provenance.json", {"oof": fold >= 0, "data": str(home / "data/x")})
    return home / "preds"


def test_image_labels_that_their_cells_contradict_are_listed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    preds = write_predictions(home, fold=0)
    told = findings(capsys, 0, "--labels", str(preds))
    names = HPA_NAMES
    assert [(own["topic"], own["text"]) for own in told] == [
        ("im2", f"labelled {names[3]}, its cells do not show it (mean score 0.00)"),
        ("im4", f"not labelled {names[5]}, its cells show it (mean score 0.90)"),
    ]
    told = findings(capsys, 0, "--labels", str(preds), "--most", "1")
    assert told[1]["text"].startswith("1 more doubtful labels in 8 images")


def test_labels_of_what_is_no_prediction_name_the_option(home: Path) -> None:
    with pytest.raises(DataError, match="check --labels"):
        doctor.main(["--labels", str(home)])


def test_labels_are_not_judged_by_predictions_of_other_classes(home: Path) -> None:
    create_dataset(home / "other", {"im0": np.zeros((4, 24, 24), np.uint8)}, spec=Spec(classes=ClassList(("a",), None)))
    with pytest.raises(DataError, match=r"has 19 classes, .* has 1:"):
        doctor.main(["--labels", str(write_predictions(home, fold=0)), "--data", str(home / "other")])


def test_labels_are_not_judged_by_networks_that_learnt_them(home: Path) -> None:
    with pytest.raises(DataError, match="not out of fold"):
        doctor.main(["--labels", str(write_predictions(home, fold=-1))])
