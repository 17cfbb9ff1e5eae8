"""Published networks: their authors' numbers from the same weights, their crops, and `infer --source`."""

import hashlib
import re
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import save_file
from squares import make_squares, words
from tiny_subcell import SIZE, WIDTH, classifier, encoder, formula, linear, write_subcell

import wsss
from wsss.calibrate import main as calibrate
from wsss.cells.instances import Window, window_batches
from wsss.core.checks import ConfigError, DataError
from wsss.core.files import read_json
from wsss.core.label_maps import write_label_map
from wsss.core.labels import HPA_NAMES, ClassList
from wsss.data.build import Spec, create_dataset
from wsss.data.catalog import DataSet
from wsss.data.fetch import Manners
from wsss.doctor import main as doctor
from wsss.ensemble import main as ensemble
from wsss.evaluate import main as evaluate
from wsss.infer import main as infer
from wsss.inference import published
from wsss.inference.published import SUBCELL_NAMES, SUBCELL_TO_HPA, read_densenet, read_subcell
from wsss.inference.sources import Batch, PublishedScores, Sample, Task
from wsss.inference.tables import EMBEDDINGS, read_cells
from wsss.models.device import choose_device
from wsss.options.scoring import CropConfig, ScoreConfig
from wsss.stages.doctor import examine_source
from wsss.train import main as train


def wave(count: int, channels: int, size: int) -> torch.Tensor:
    k = np.arange(count * channels * size**2, dtype=np.int64).reshape(count, channels, size, size)
    return torch.from_numpy(np.floor(127.5 * (1 + np.sin(k * 0.013) * np.cos(k * k * 1e-6))).astype(np.uint8))


def test_subcell_gives_the_numbers_of_its_authors() -> None:
    """Known numbers: ViTPoolClassifier and min_max_standardize of CellProfiling/SubCellPortable (676f0e1).

    At full size (ViT-B, 448 px, random weights) the largest difference is 6e-8 in probabilities, 7e-7 in embeddings.
    """
    net = read_subcell([encoder(), classifier(0), classifier(1)]).eval()
    assert (net.channels, net.size, net.width) == (4, SIZE, 2 * WIDTH)
    with torch.no_grad():
        probs, vectors = net(wave(2, 4, SIZE))
    known = [[0.59267217, 0.44127917, 0.59981132, 0.46217829], [0.59265959, 0.44120401, 0.59972668, 0.46211466]]
    np.testing.assert_allclose(probs[:, [0, 7, 19, 30]], known, atol=1e-5)
    known = [[0.34669188, 0.36262414, 0.36136824, -1.55519485], [0.18213692, 0.23181973, 0.21027587, -1.47215247]]
    np.testing.assert_allclose(vectors[:, [0, 100, 128, 255]], known, atol=1e-5)


def densenet() -> dict[str, torch.Tensor]:
    """Return a state dict by the names of the authors' file, some of them those of PyTorch 0.4."""
    net: Any = timm.create_model("densenet121", in_chans=4, num_classes=0)
    shapes = {f"backbone.features.{name}": tuple(t.shape) for name, t in net.features.state_dict().items()}
    for name, width in (("bn1", 2048), ("bn2", 1024)):
        shapes |= {f"{name}.{kind}": (width,) for kind in ("weight", "bias", "running_mean", "running_var")}
    shapes |= linear("fc1", 1024, 2048) | linear("logit", 28, 1024)
    return {
        re.sub(r"(layer\d+\.(norm|conv))", r"\1.", name): formula(name, shape, 0.5)
        for name, shape in shapes.items()
        if not name.endswith("num_batches_tracked")
    }


def test_the_densenet_gives_the_numbers_of_its_authors() -> None:
    """Known numbers: class_densenet121_large_dropout of CellProfiling/densenet (19dad14); the difference is 0."""
    others = {"conv1.0.weight": torch.zeros(1), "backbone.classifier.bias": torch.zeros(1)}
    net = read_densenet([densenet() | others]).eval()
    with torch.no_grad():
        probs, vectors = net(wave(2, 4, 64))
    known = [[0.38278279, 0.67223221, 0.32317144, 0.35872760], [0.38278267, 0.67223227, 0.32317132, 0.35872754]]
    np.testing.assert_allclose(probs[:, [0, 9, 25, 27]], known, atol=1e-5)
    known = [[0.14179248, 1.25888515, 0.54251456], [0.14179412, 1.25888562, 0.54251671]]
    np.testing.assert_allclose(vectors[:, [500, 1000, 1023]], known, atol=1e-5)


def test_cells_are_cut_out_to_scale_with_a_rim_and_black_around() -> None:
    image = np.full((2, 40, 60), 200, np.uint8)
    cells = np.zeros((40, 60), np.int32)
    cells[18:22, 28:32], cells[0:4, 50:60] = 3, 7  # one whole, one in the corner
    (crops,) = window_batches([(image, cells, 0.08)], Window(16, 0.16, 0.24), 5)
    assert crops.shape == (2, 2, 16, 16)
    rows = (crops[:, 0] > 0).sum(axis=2)
    np.testing.assert_array_equal(rows[0], [0] * 5 + [4, 6, 6, 6, 6, 4] + [0] * 5)  # 4 px and 3 around, halved
    np.testing.assert_array_equal(rows[1], [0] * 7 + [7] * 4 + [0] * 5)  # nothing above: the image ends there
    half = list(window_batches([(image, cells, 0.16)] * 2, Window(16, 0.16, 0.0), 3))
    assert [len(part) for part in half] == [3, 1]
    np.testing.assert_array_equal(half[0][0, 0] > 0, np.pad(np.ones((4, 4), bool), 6))
    (up,) = window_batches([(image, cells, 0.32)], Window(16, 0.16, 0.0), 5)
    assert (up[0, 0] > 0).sum() == 64  # twice as large


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return write_subcell(tmp_path)


COUNT = 6
"""Images of the data set."""


def cells_of(folder: Path, count: int = COUNT) -> None:
    cells = np.zeros((64, 64), np.int32)
    cells[5:30, 4:40], cells[35:60, 40:64] = 1, 2
    for n in range(count - 1):  # the last image has none
        write_label_map(folder / "cells" / f"im{n:02}", cells)
    write_label_map(folder / "cells" / f"im{count - 1:02}", np.zeros((64, 64), np.int32))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = make_squares(tmp_path / "data", folds=2, count=COUNT)
    cells_of(folder)
    return folder


def asked(data: Path, out: Path, source: str, *more: str) -> list[str]:
    return ["--data", str(data), "--out", str(out), "--source", source, "--pixel_um", "0.16", "--device", "cpu", *more]


def joined(files: list[Path]) -> str:
    return "subcell=" + ",".join(map(str, files))


def test_a_published_network_scores_cells_without_a_run(data: Path, files: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "preds"
    assert infer(asked(data, out, joined(files), "--embeddings", "true", "--parts", "true")) == 0
    table, vectors = read_cells(out), pd.read_parquet(out / EMBEDDINGS)
    assert len(table) == len(vectors) == 2 * (COUNT - 1)
    image = np.zeros((4, SIZE, SIZE), np.uint8)  # red, yellow, blue, green; the cell and 2 px around it
    image[:, 18:47, 12:52] = DataSet.open(data).image(0)[[0, 3, 2, 1], 3:32, 2:42]
    with torch.no_grad():
        probs, embedding = read_subcell([encoder(), classifier(0), classifier(1)]).eval()(torch.from_numpy(image)[None])
    wanted = {
        name: float(probs[0][[k for k, to in enumerate(SUBCELL_TO_HPA) if to == name]].max()) for name in HPA_NAMES
    }
    first = table[(table.ID == "im00") & (table.cell_id == 1)].iloc[0]
    np.testing.assert_allclose([first[str(k)] for k in range(19)], list(wanted.values()), atol=1e-4)
    named = [f"subcell_{k}" for k in range(2 * WIDTH)]
    np.testing.assert_allclose(vectors.loc[0, named].to_numpy(float), embedding[0], atol=1e-3)
    pd.testing.assert_frame_equal(read_cells(out / "subcell"), table)
    record = read_json(out / "provenance.json")
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    assert record["published"]["subcell"]["sha256"] == digests
    assert record["published"]["subcell"]["seen"] == "unknown"
    assert (record["sources"], record["members"]) == ({"subcell": 1.0}, [])
    assert "run" not in record
    images = pd.read_csv(out / "images.csv")
    assert images["0"].between(0, 1).all()
    assert (images.n_cells == [2] * (COUNT - 1) + [0]).all()


def test_other_weights_make_the_result_out_of_date(data: Path, files: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "preds"
    assert infer(asked(data, out, joined(files))) == 0
    before = (out / "cells.csv").stat().st_mtime_ns
    assert infer(asked(data, out, joined(files))) == 0
    assert (out / "cells.csv").stat().st_mtime_ns == before
    torch.save(classifier(5), files[1])
    with pytest.raises(ConfigError, match="holds another result"):
        infer(asked(data, out, joined(files)))


def test_blended_with_a_run_it_takes_its_share(
    data: Path, files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = tmp_path / "run", tmp_path / "both"
    assert train(words(data, run, "--fold", "all", "--epochs", "1", "--feature_classifier.enabled", "false")) == 0
    plain = ["--run", str(run), "--oof", "true", "--crops.mode", "none", "--score.prior_rounds", "0", "--parts", "true"]
    capsys.readouterr()
    assert infer(asked(data, out, joined(files), *plain, "--source_share", "0.25")) == 0
    assert "what subcell learnt from is not on record" in capsys.readouterr().out
    assert read_json(out / "provenance.json")["sources"] == {"image": 0, "cam": 0.75, "subcell": 0.25}
    parts = {name: read_cells(out / name)["3"] for name in ("cam", "subcell")}
    np.testing.assert_allclose(read_cells(out)["3"], 0.75 * parts["cam"] + 0.25 * parts["subcell"], atol=1e-5)
    other = tmp_path / "vectors"
    assert infer(asked(data, other, joined(files), *plain, "--source_share", "0", "--embeddings", "true")) == 0
    assert "subcell_0" in pd.read_parquet(other / EMBEDDINGS)
    np.testing.assert_allclose(read_cells(other)["3"], parts["cam"], atol=1e-5)
    capsys.readouterr()
    blend = ["--preds", str(out), str(other), "--weights", "auto", "--data", str(data)]
    assert ensemble([*blend, "--out", str(tmp_path / "blend")]) == 0
    assert "what subcell learnt from" in capsys.readouterr().out


def test_curves_belong_to_the_published_network(
    data: Path, files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "preds"
    assert infer(asked(data, out, joined(files))) == 0
    assert calibrate(["--preds", str(out), "--data", str(data)]) == 0
    assert "what subcell learnt from" in capsys.readouterr().out
    truth = tmp_path / "truth.csv"
    truth.write_text("ID,cell,Label\nim00,1,0\nim01,2,1\n")
    assert evaluate(["--preds", str(out), "--truth", str(truth), "--join", "number"]) == 0
    assert "what subcell learnt from" in capsys.readouterr().out
    curves = ["--calibration", str(out / "calibration.json")]
    assert infer(asked(data, tmp_path / "calibrated", joined(files), *curves)) == 0
    with pytest.raises(DataError, match="made with other published networks"):
        infer(asked(data, tmp_path / "other", joined(files[:2]), *curves))


def test_in_a_notebook_it_scores_as_infer_does_with_a_run_and_without(
    data: Path, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsss.inference.one_image.SIZE", 64)
    image, cells = DataSet.open(data).image(0), DataSet.open(data).cells(0)
    assert infer(asked(data, tmp_path / "alone", joined(files))) == 0
    model = wsss.load(published=joined(files), pixel_um=0.16, device="cpu")
    alone = read_cells(tmp_path / "alone")
    found = model.predict(image, cells, name="im00").drop(columns="rle")
    pd.testing.assert_frame_equal(found, alone[alone.ID == "im00"], atol=1e-4)
    assert calibrate(["--preds", str(tmp_path / "alone"), "--data", str(data)]) == 0
    curves = tmp_path / "alone/calibration.json"
    with pytest.raises(DataError, match="made with other published networks"):
        wsss.load(published=joined(files[:2]), pixel_um=0.16, device="cpu", calibration=curves)
    wsss.load(published=joined(files), pixel_um=0.16, device="cpu", calibration=curves)
    run, both = tmp_path / "run", tmp_path / "both"
    few = ("copies=0", "weak.trees=4", "weak.folds=2", "weak.rounds=1")
    quick = [*(f"--feature_classifier.{text}" for text in few), "--epochs", "1", "--crops.mode", "none"]
    assert train(words(data, run, *quick)) == 0
    assert infer(asked(data, both, joined(files), "--run", str(run), "--source_share", "0.25")) == 0
    model = wsss.load(run, published=[joined(files)], published_share=0.25, pixel_um=0.16, device="cpu")
    blend = read_cells(both)
    found = model.predict(image, cells, name="im00").drop(columns="rle")
    pd.testing.assert_frame_equal(found, blend[blend.ID == "im00"], atol=1e-4)


def test_images_in_memory_have_the_channels_that_it_needs(files: list[Path]) -> None:
    with pytest.raises(ConfigError, match=r"nothing to load: pass the folder of a run, published="):
        wsss.load()
    with pytest.raises(ConfigError, match=r"needs microtubules .* which the image has not \(channels blue, green\)"):
        wsss.load(published=joined(files), channels=("blue", "green"), device="cpu")


def test_the_doctor_reads_its_files(files: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    told = examine_source(joined(files))
    assert told.level == "ok"
    digest = hashlib.sha256(files[0].read_bytes()).hexdigest()[:16]
    wanted = f"takes 4 channels, 28 of its 31 classes are counted; SHA-256 of encoder.pth {digest}, classifier_0.pth"
    assert told.text.startswith(wanted)
    files[1].write_bytes(b"cut short")
    for source, reason in (
        (joined(files), "classifier_0.pth"),
        ("subcell=no.pth", "no.pth does not exist"),
        ("x=y", "--source is"),
    ):
        told = examine_source(source)
        assert (told.level, reason in told.text, "\n" in told.text) == ("bad", True, False)
    assert doctor(["--source", joined(files)]) == 1
    assert "bad   subcell: " in capsys.readouterr().out


def test_the_densenet_is_a_source_beside_subcell(data: Path, files: list[Path], tmp_path: Path) -> None:
    """It knows no Negative, which is then that nothing else is there."""
    save_file(densenet(), tmp_path / "densenet.safetensors")
    out, small = tmp_path / "preds", make_squares(tmp_path / "small", folds=2, count=2)
    cells_of(small, 2)
    both = ["--data", str(small), "--out", str(out), "--device", "cpu", "--parts", "true", "--source", joined(files)]
    assert infer([*both, f"densenet={tmp_path / 'densenet.safetensors'}"]) == 0
    assert read_json(out / "provenance.json")["sources"] == {"subcell": 0.5, "densenet": 0.5}
    table = read_cells(out / "densenet")
    assert table["18"].between(0, 1e-3).all()
    mean = (table["4"] + read_cells(out / "subcell")["4"]) / 2
    np.testing.assert_allclose(read_cells(out)["4"], mean, atol=1e-5)


def test_weights_come_from_an_address_with_their_digest(
    data: Path, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(published, "MANNERS", Manners("wsss", retries=0))
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        base = f"http://127.0.0.1:{server.server_address[1]}"
        place, again = f"{base}/encoder.pth", f"{base}/classifier_0.pth#sha256={digests[1][:20].upper()}"
        assert infer(asked(data, tmp_path / "preds", f"subcell={place},{again}")) == 0
        assert f"pass {place}#sha256={digests[0]}" in capsys.readouterr().out
        with pytest.raises(DataError, match=f"has the SHA-256 {digests[0]}, expected {'0' * 64}: remove it"):
            infer(asked(data, tmp_path / "x", f"subcell={place}#sha256={'0' * 64},{again}"))
        with pytest.raises(
            ConfigError, match=r"classifier_9\.pth could not be fetched \(the server says 404 .*pass the file"
        ):
            infer(asked(data, tmp_path / "x", f"subcell={place},{base}/classifier_9.pth"))
        server.shutdown()
    assert infer(asked(data, tmp_path / "later", f"subcell={place},{again}")) == 0  # they are kept


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Say nothing."""


def test_a_whole_state_dict_in_one_file_will_do(data: Path, files: list[Path], tmp_path: Path) -> None:
    whole = encoder()
    for n in range(2):
        whole |= {f"classifiers.{n}.{int(name[0]) * 2 // 3}{name[1:]}": t for name, t in classifier(n).items()}
    save_file(whole, tmp_path / "whole.safetensors")
    for name, source in (("one", f"subcell={tmp_path / 'whole.safetensors'}"), ("three", joined(files))):
        assert infer(asked(data, tmp_path / name, source)) == 0
    pd.testing.assert_frame_equal(read_cells(tmp_path / "one"), read_cells(tmp_path / "three"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("subcel=a.pth", "--source is 'subcel=a.pth', expected subcell=ENCODER,CLASSIFIER"),
        ("subcell", "--source is 'subcell', expected"),
        ("densenet:bg=a.pth", "expected subcell"),
        ("subcell={encoder}#sha256=12", "with #sha256=DIGEST or without"),
        ("subcell={encoder}", "there is no classifier: name its file behind that of the encoder"),
        ("subcell={classifier_0}", "the weights do not make SubCell: they lack"),
        (
            "subcell={encoder},{short}",
            "the weights do not make SubCell: a classifier turns 256 values into 28, expected 256 into 31",
        ),
        ("subcell={encoder},{wide}", "a classifier turns 9 values into 31, expected 256 into 31"),
        ("subcell=http://[::1", "http://\\[::1 could not be fetched \\(the address is not one"),
        ("subcell={encoder},missing.pth", "missing.pth does not exist"),
        ("densenet={encoder}", "the checkpoint does not fit DenseNet"),
        ("densenet={encoder},{classifier_0}", "the DenseNet-121 is one file, got 2"),
        ("subcell:ybg={encoder},{classifier_0}", "takes 4 channels, expected ybg"),
        ("subcell={three},{classifier_0}", "takes one cell stain and .* has several: pass subcell:rbg"),
    ],
)
def test_what_does_not_fit_is_one_line(
    data: Path, files: list[Path], tmp_path: Path, source: str, message: str
) -> None:
    torch.save(encoder(3), tmp_path / "three.pth")
    torch.save({**classifier(0), "6.weight": torch.zeros(28, 256), "6.bias": torch.zeros(28)}, tmp_path / "short.pth")
    torch.save({**classifier(0), "0.weight": torch.zeros(512, 9)}, tmp_path / "wide.pth")
    names = {name: tmp_path / f"{name}.pth" for name in ("encoder", "classifier_0", "three", "short", "wide")}
    with pytest.raises((ConfigError, DataError), match=message) as caught:
        infer(asked(data, tmp_path / "x", source.format(**names)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--run is missing: pass the folder of a training, or a published network as --source"),
        (["--source", "subcell=a.pth", "--oof", "true"], "--oof needs a run"),
        (["--source", "subcell=a.pth", "--embeddings", "crops"], "--embeddings crops are those of a run's network"),
        (["--source", "subcell=a.pth", "subcell=b.pth"], "names a network twice"),
        (["--source", "subcell=a.pth", "--pixel_um", "0"], "pixel_um is 0"),
        (["--source", "subcell=a.pth", "--source_share", "2"], "source_share is 2"),
    ],
)
def test_what_needs_a_run_is_refused_without_one(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        infer(words)


def prepared(folder: Path, channels: tuple[str, ...], **more: Any) -> Path:
    images = {"a": np.random.default_rng(0).integers(0, 255, (len(channels), SIZE, SIZE)).astype(np.uint8)}
    create_dataset(folder, images, {}, Spec(size=SIZE, channels=channels, **more))
    cells = np.zeros((SIZE, SIZE), np.int32)
    cells[5:30, 4:40] = 1
    write_label_map(folder / "cells" / "a", cells)
    return folder


def test_channels_are_chosen_by_their_roles(tmp_path: Path) -> None:
    torch.save(classifier(0), tmp_path / "c.pth")
    for count in (2, 3):
        torch.save(encoder(count), tmp_path / f"{count}.pth")

    def planes(data: Path, name: str, count: int) -> list[int]:
        out = tmp_path / f"{data.name}-{name.replace(':', '-')}"
        assert infer(asked(data, out, f"{name}={tmp_path / f'{count}.pth'},{tmp_path / 'c.pth'}")) == 0
        found: list[int] = read_json(out / "provenance.json")["published"]["subcell"]["planes"]
        return found

    atlas = prepared(tmp_path / "atlas", ("red", "green", "blue", "yellow"))
    assert planes(atlas, "subcell", 2) == [2, 1]
    assert planes(atlas, "subcell:rbg", 3) == [0, 2, 1]
    assert planes(atlas, "subcell:ybg", 3) == [3, 2, 1]
    mine = prepared(tmp_path / "mine", ("GFP", "DAPI", "ER"), roles=("signal", "nucleus", "cell"))
    assert planes(mine, "subcell", 3) == [2, 1, 0]
    assert planes(mine, "subcell:ybg", 3) == [2, 1, 0]
    bare = prepared(tmp_path / "bare", ("GFP", "ER"), roles=("signal", "cell"))
    with pytest.raises(ConfigError, match=r"needs nuclei \(role nucleus\), which .*bare has not \(channels GFP, ER\)"):
        planes(bare, "subcell", 2)


@pytest.mark.parametrize(
    ("declared", "asked", "edge"), [("0.08", None, 8), ("0.08", 0.16, 16), ("", 0.16, 16), ("", None, 64)]
)
def test_cells_are_shown_at_their_declared_size(tmp_path: Path, declared: str, asked: float | None, edge: int) -> None:
    data = DataSet.open(prepared(tmp_path / "x", ("red", "green", "blue", "yellow")))
    data = replace(data, table=data.table.assign(pixel_size_um=[declared]))
    model = SimpleNamespace(name="", planes=(1,), pixel_um=asked, window=Window(SIZE, 0.16, 0.0))
    task = Task(data, ScoreConfig(), CropConfig(), choose_device("cpu"))
    cells = np.zeros((SIZE, SIZE), np.int32)
    cells[20:36, 20:36] = 1
    sample = Sample(0, np.full((4, SIZE, SIZE), 9, np.uint8), cells, cells, np.array([1], np.int32), (SIZE, SIZE))
    (crops,) = PublishedScores(cast(Any, model), [], task, 1.0).cut(Batch([sample], sample.image[None]))
    assert (crops[0, 0] > 0).any(axis=1).sum() == edge


def test_classes_are_matched_by_name(tmp_path: Path) -> None:
    torch.save(classifier(0), tmp_path / "c.pth")
    torch.save(encoder(), tmp_path / "e.pth")
    source, hpa = f"subcell={tmp_path / 'e.pth'},{tmp_path / 'c.pth'}", ("red", "green", "blue", "yellow")
    few = prepared(tmp_path / "few", hpa, classes=ClassList(("Mitochondria", "golgi-apparatus"), None))
    assert infer(asked(few, tmp_path / "preds", source)) == 0
    all_ = prepared(tmp_path / "all", hpa)
    assert infer(asked(all_, tmp_path / "whole", source)) == 0
    found, whole = read_cells(tmp_path / "preds"), read_cells(tmp_path / "whole")
    np.testing.assert_array_equal(found[["0", "1"]], whole[["14", "7"]])
    strange = prepared(tmp_path / "strange", hpa, classes=ClassList(("Mitochondria", "healthy"), None))
    with pytest.raises(ConfigError, match="has the class healthy, which the network does not know"):
        infer(asked(strange, tmp_path / "x", source))


def test_every_class_of_subcell_has_a_row_in_the_docs() -> None:
    text = (Path(__file__).parents[2] / "docs" / "published_networks.md").read_text()
    rows = dict(re.findall(r"^\| ([A-Z][^|]+?) \| ([^|]+?) \|$", text, re.MULTILINE))
    assert {name: rows.get(name) for name in SUBCELL_NAMES} == {
        name: to or "-" for name, to in zip(SUBCELL_NAMES, SUBCELL_TO_HPA, strict=True)
    }
