"""OpenVINO in the place of PyTorch: the same scores, for fields and crops of any size; refusals need no OpenVINO."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from squares import make_squares, words

from wsss.core.checks import ConfigError
from wsss.infer import main as infer
from wsss.models.cam_net import CamNet, InOpenVino, build_cam_net, check_runtime, class_maps, crop_outputs
from wsss.models.device import Device, choose_device
from wsss.options.infer import InferOptions
from wsss.options.recipe import ClassifyRecipe
from wsss.segment import main as segment
from wsss.train import main as train

CPU = choose_device("cpu")
RECIPE = ClassifyRecipe(backbone="test_resnet", weights="none")


@pytest.fixture
def net() -> CamNet:
    return build_cam_net(RECIPE, channels=4, classes=3).eval()


def test_fields_and_crops_of_any_size_get_the_same_scores(net: CamNet) -> None:
    pytest.importorskip("openvino")
    fast, rng = InOpenVino(net), np.random.default_rng(0)
    for count, height, width in ((1, 64, 64), (3, 96, 128)):
        images = rng.integers(0, 256, (count, 4, height, width), np.uint8)
        for one, other in zip(class_maps(net, images, CPU), class_maps(fast, images, CPU), strict=True):  # type: ignore[arg-type]
            np.testing.assert_allclose(one, other, atol=1e-4)
        for one, other in zip(crop_outputs(net, [images], CPU), crop_outputs(fast, [images], CPU), strict=True):  # type: ignore[arg-type]
            np.testing.assert_allclose(one, other, atol=1e-4)


def test_infer_takes_it_and_says_so(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    data = make_squares(tmp_path / "data", folds=2, count=6)
    assert segment(["--data", str(data), "--workers", "0", "--backend", "classical"]) == 0
    assert train(words(data, tmp_path / "run", "--epochs", "1", "--feature_classifier.enabled", "false")) == 0
    asked = ["--data", str(data), "--run", str(tmp_path / "run"), "--device", "cpu", "--crops.size", "32"]
    assert infer([*asked, "--out", str(tmp_path / "plain")]) == 0
    assert infer([*asked, "--out", str(tmp_path / "fast"), "--runtime", "openvino"]) == 0
    plain, fast = (pd.read_parquet(tmp_path / name / "cells.parquet")[["0", "1"]] for name in ("plain", "fast"))
    assert len(plain)
    np.testing.assert_allclose(plain, fast, atol=1e-4)
    assert '"runtime": "openvino' in (tmp_path / "fast" / "provenance.json").read_text()
    with pytest.raises(ConfigError, match="runtime"):
        infer([*asked, "--out", str(tmp_path / "fast")])


def test_what_it_is_not_for_is_refused(net: CamNet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ConfigError, match=r"pip install -e '.\[openvino\]'"):
        InOpenVino(net)
    for device in (Device(torch.device("cuda")), Device(torch.device("cpu"), torch.bfloat16)):
        with pytest.raises(ConfigError, match="on the CPU in fp32"):
            check_runtime(device)
    with pytest.raises(ConfigError, match="--runtime changes nothing without --run"):
        InferOptions(source=["densenet=x.pth"], runtime="openvino")
