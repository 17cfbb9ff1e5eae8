"""A trained run in a notebook, as a shared model, and as ONNX."""

import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from timm.layers import Conv2dSame

import wsss
from wsss import export, infer, train
from wsss.core.checks import ConfigError, DataError
from wsss.core.files import read_json
from wsss.data.build import Spec, create_dataset
from wsss.data.catalog import DataSet
from wsss.inference import hub
from wsss.inference.one_image import check_image

SIZE = 64
SCORES = [str(k) for k in range(19)]


def cells_map(number: int) -> np.ndarray:
    out = np.zeros((SIZE, SIZE), np.int32)
    out[2:30, 2:30], out[2:30, 30:60], out[34:60, 8 + number % 4 : 50] = 2, 5, 7
    return out


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train two folds for an epoch on eight noisy images, with given cells."""
    home = tmp_path_factory.mktemp("api")
    rng = np.random.default_rng(0)
    images = {f"im{n:02}": rng.integers(0, 200, (4, SIZE, SIZE), np.uint8) for n in range(8)}
    labels = {name: [k % 2] for k, name in enumerate(images)}
    create_dataset(home / "data", images, labels, Spec(size=SIZE, folds=2))
    (home / "data/cells").mkdir()
    for k, name in enumerate(images):
        Image.fromarray(cells_map(k).astype(np.uint16)).save(home / f"data/cells/{name}.png")
    words = f"--data {home}/data --run {home}/run --fold all --backbone test_resnet --weights none --crop 64 --batch 3"
    words += " --epochs 1 --workers 0 --device cpu --crops.size 32 --drs.mode fixed"
    few = ("copies 0", "weak.trees 8", "weak.folds 2", "weak.rounds 1")
    words += "".join(f" --feature_classifier.{text}" for text in few)
    train.main(words.split())
    infer.main(f"--data {home}/data --run {home}/run --out {home}/preds --device cpu".split())
    return home


def test_the_notebook_gives_the_very_scores_of_infer(home: Path) -> None:
    model, data = wsss.load(home / "run", device="cpu"), DataSet.open(home / "data")
    table = pd.read_parquet(home / "preds/cells.parquet")
    for i in (0, 5):
        found = model.predict(np.array(data.image(i)), cells_map(i), name=data.ids[i])
        wanted = table[table["ID"] == data.ids[i]].reset_index(drop=True)
        assert found.cell_id.tolist() == [2, 5, 7]
        plain = [column for column in wanted if column not in SCORES]
        pd.testing.assert_frame_equal(found[plain], wanted[plain])
        np.testing.assert_allclose(found[SCORES], wanted[SCORES], atol=2e-5)  # another batch size


def test_a_map_of_big_endian_numbers_is_an_image_too() -> None:
    image = np.arange(4 * 5 * 6, dtype=">u2").reshape(4, 5, 6) * 16
    np.testing.assert_array_equal(check_image(image, 4, 12), image // 16)


def test_channels_may_come_first_or_last_in_8_or_16_bits_or_as_floats(home: Path) -> None:
    model, data = wsss.load(home / "run", device="cpu"), DataSet.open(home / "data")
    image = np.array(data.image(3))
    wanted = model.predict(image, cells_map(3))
    others = [np.moveaxis(image, 0, 2), image.astype(np.uint16) << 8, image.astype(np.float32) / 255]
    for other in others:
        pd.testing.assert_frame_equal(model.predict(other, cells_map(3)), wanted)


def test_images_of_another_size_come_back_in_their_own_pixels(home: Path) -> None:
    model = wsss.load(home / "run/fold0", device="cpu")
    image = np.random.default_rng(1).integers(0, 255, (4, 90, 128), np.uint8)
    label_map = np.zeros((90, 128), np.int32)
    label_map[10:70, 20:100] = 300
    (row,) = model.predict(image, label_map).to_dict("records")
    assert (row["cell_id"], row["y0"], row["x0"], row["y1"], row["x1"]) == (300, 10, 20, 70, 100)
    assert (row["ImageHeight"], row["ImageWidth"], row["area_px"]) == (90, 128, 60 * 80)


def test_without_a_label_map_the_cells_are_found_by_their_stains(home: Path) -> None:
    model = wsss.load(home / "run", device="cpu")
    y, x = np.indices((96, 128))
    image = np.full((4, 96, 128), 5, np.uint8)
    for centre in ((30, 30), (60, 90)):
        away = np.hypot(y - centre[0], x - centre[1])
        image[2][away < 9] = 220
        image[0][away < 22] = image[3][away < 22] = 120
    found = model.predict(image)
    assert len(found) == 2
    assert sorted(zip(found.center_y.round(-1), found.center_x.round(-1), strict=True)) == [(30, 30), (60, 90)]
    assert len(model.predict(np.zeros((4, 50, 60), np.uint8))) == 0


@pytest.mark.parametrize(
    ("image", "label_map", "message"),
    [
        (np.zeros((3, 9, 9), np.uint8), None, r"shape \(3, 9, 9\), expected \(4, H, W\) or \(H, W, 4\)"),
        (np.zeros((4, 9, 4), np.uint8), None, "cannot be told"),
        (np.zeros((4, 9, 9), np.int64), None, "holds int64 values"),
        (np.full((4, 9, 9), 200.0), None, r"floats from 200 to 200, expected 0\.\.1"),
        (np.zeros((4, 9, 9), np.uint8), np.zeros((9, 8), int), r"label_map is \(9, 8\), expected the image's \(9, 9\)"),
    ],
)
def test_what_is_no_image_is_refused(home: Path, image: np.ndarray, label_map: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        wsss.load(home / "run/fold0", device="cpu").predict(image, label_map)


def test_a_shared_model_gives_the_same_scores_and_keeps_paths_and_ids_at_home(home: Path) -> None:
    out = home / "model"
    assert export.main(["--run", str(home / "run"), "--to", "huggingface", "--out", str(out)]) == 0
    features = {f"feature_classifier-fold{k}.safetensors" for k in (0, 1)}
    assert {path.name for path in out.iterdir()} == {
        ".wsss",
        "config.json",
        "model.safetensors",
        "README.md",
    } | features
    image = np.array(DataSet.open(home / "data").image(0))
    first, second = (wsss.load(home / where, device="cpu").predict(image, cells_map(0)) for where in ("run", "model"))
    pd.testing.assert_frame_equal(first, second)
    for path in (out / "config.json", out / "README.md"):
        assert str(home) not in path.read_text()
        assert "im00" not in path.read_text()


def test_the_model_card_tells_the_figures_of_the_runs_log(home: Path) -> None:
    export.main(["--run", str(home / "run"), "--to", "huggingface", "--out", str(home / "card")])
    card = (home / "card/README.md").read_text()
    assert card.startswith("---\nlibrary_name: wsss\n")
    for fold in (0, 1):
        log = pd.read_csv(home / f"run/fold{fold}/log.csv")
        assert f"| held out fold {fold} | 4 | 1 | {log.val_loss[0]:.4g} |" in card
    assert "- `18` Negative" in card


def test_a_model_of_another_tool_or_a_damaged_one_is_refused(home: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (tmp_path / "model.safetensors").write_bytes(b"no")
    with pytest.raises(DataError, match="not of a wsss model"):
        wsss.load(tmp_path)
    hub.save_model(wsss.load(home / "run", device="cpu").checkpoints, home / "run", tmp_path)
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"model\.safetensors is missing or damaged"):
        wsss.load(tmp_path)


def test_offline_push_and_pull_name_the_way_out(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def unreachable(*args: object, **more: object) -> None:
        raise huggingface_hub.errors.OfflineModeIsEnabled("no network")

    for name in ("create_repo", "upload_folder", "snapshot_download"):
        monkeypatch.setattr(huggingface_hub, name, unreachable)
    words = ["--run", str(home / "run"), "--to", "huggingface", "--out", str(home / "pushed"), "--push", "me/it"]
    with pytest.raises(ConfigError, match=r"me/it could not be uploaded \(no network\).*hf upload me/it"):
        export.main(words)
    assert read_json(home / "pushed/config.json")["library_name"] == "wsss", "the folder is complete all the same"
    with pytest.raises(ConfigError, match=r"hf:me/it could not be downloaded \(no network\)"):
        wsss.load("hf:me/it")


def test_push_uploads_the_three_files_and_pull_loads_them(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    called: dict[str, object] = {}
    monkeypatch.setattr(huggingface_hub, "create_repo", lambda name, **more: called.update(repo=name))
    monkeypatch.setattr(huggingface_hub, "upload_folder", lambda **more: called.update(more))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **more: str(home / "shared"))
    export.main(f"--run {home}/run --to huggingface --out {home}/shared --push me/it".split())
    assert (called["repo"], called["repo_id"], called["folder_path"]) == ("me/it", "me/it", home / "shared")
    assert len(wsss.load("hf:me/it", device="cpu").checkpoints) == 2


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["test_resnet", "tf_efficientnet_lite0"])
def test_onnx_agrees_with_pytorch_on_other_sizes_than_it_was_made_with(
    home: Path, tmp_path: Path, backbone: str
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    run = home / "run"
    if backbone != "test_resnet":
        words = f"--data {home}/data --run {tmp_path}/run --fold 0 --backbone {backbone} --weights none --epochs 1"
        train.main(f"{words} --crop 64 --batch 3 --workers 0 --device cpu --feature_classifier.enabled false".split())
        run = tmp_path / "run"
    start = time.process_time()
    assert export.main(f"--run {run}/fold0 --to onnx --out {tmp_path}/onnx".split()) == 0
    assert time.process_time() - start < 60
    session = onnxruntime.InferenceSession(tmp_path / "onnx/fold0.onnx", providers=["CPUExecutionProvider"])
    images = np.random.default_rng(2).random((5, 4, 96, 64), np.float32) * 255
    probs, cam = session.run(None, {"images": images})
    (checkpoint,) = wsss.load(run / "fold0", device="cpu").checkpoints
    with torch.no_grad():
        output = checkpoint.net(torch.from_numpy(images))
    np.testing.assert_allclose(probs, output.logits.sigmoid(), atol=1e-4)
    np.testing.assert_allclose(cam, output.cam, atol=1e-3)


@pytest.mark.parametrize("kernel", [3, 5, 6])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (4, 1), (1, 2)])
def test_fixed_padding_is_that_of_tensorflow_for_sizes_of_whole_strides(
    kernel: int, stride: int, dilation: int
) -> None:
    net = torch.nn.Sequential(Conv2dSame(4, 2, kernel, stride, dilation=dilation))
    images = torch.rand(2, 4, 64, 96)
    wanted = net(images)
    hub._fix_padding(net)
    assert not any(isinstance(module, Conv2dSame) for module in net.modules())
    torch.testing.assert_close(net(images), wanted)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds nothing, expected a run \(wsss train\)"):
        wsss.load(tmp_path)
    with pytest.raises(AttributeError, match="no attribute 'lood'"):
        wsss.lood  # noqa: B018
