"""The adapter, against a stand-in with the signatures of cellpose 4."""

import inspect
import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch

from wsss.core.checks import ConfigError
from wsss.models.device import Device
from wsss.segmenters import BackendOptions, Field, NetworkBackend, make_backend, packages


class CellposeModel:
    made: dict[str, Any] = {}

    def __init__(
        self,
        gpu: bool = False,
        pretrained_model: str = "cpsam_v2",
        model_type: str | None = None,
        diam_mean: float | None = None,
        device: torch.device | None = None,
        nchan: int | None = None,
        use_bfloat16: bool = True,
    ) -> None:
        CellposeModel.made = {"gpu": gpu, "model": pretrained_model, "device": device, "half": use_bfloat16}

    def eval(
        self,
        x: list[np.ndarray],
        batch_size: int = 8,
        resample: bool = True,
        channels: None = None,
        channel_axis: int | None = None,
        **more: object,
    ) -> tuple[list[np.ndarray], list[Any], list[Any]]:
        """Label the left and the right half of what is bright in any channel."""
        assert channel_axis == -1
        assert not more
        assert all(image.shape[2] == 3 for image in x)
        bright = [image.max(axis=2) > 100 for image in x]
        masks = [np.where(b, 1 + (np.arange(b.shape[1]) >= b.shape[1] // 2), 0).astype(np.uint16) for b in bright]
        return masks, [None] * len(x), [None] * len(x)


@pytest.fixture(autouse=True)
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    models = ModuleType("cellpose.models")
    models.CellposeModel = CellposeModel  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cellpose", ModuleType("cellpose"))
    monkeypatch.setitem(sys.modules, "cellpose.models", models)


def two_cells() -> Field:
    image = np.zeros((4, 20, 60), np.uint8)
    image[0, 2:18, 2:26] = image[3, 2:18, 34:58] = 200
    image[1] = 255
    image[2, 8:12, 10:15] = image[2, 8:12, 40:50] = 220
    return Field("a", image, 80, 240, 60)


def test_cells_and_nuclei_share_their_ids() -> None:
    backend = make_backend("cellpose", BackendOptions(device="cpu"))
    assert isinstance(backend, NetworkBackend)
    finishes = backend.segment_batch([two_cells(), two_cells()])
    assert len(finishes) == 2
    found = pickle.loads(pickle.dumps(finishes[0]))()
    assert found.cells.shape == (20, 60)
    assert found.cells.dtype == found.nuclei.dtype == np.int32
    assert (found.cells[2:18, 2:26] == 1).all()
    assert (found.cells[2:18, 34:58] == 2).all()
    assert (found.cells > 0).sum() == 2 * 16 * 24, "green, the protein of interest, has no say"
    np.testing.assert_array_equal(np.bincount(found.nuclei.ravel())[1:], [20, 40])


def test_a_file_of_weights_is_checked_and_handed_over(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no file"):
        make_backend("cellpose", BackendOptions(weights=tmp_path / "none", device="cpu"))
    (tmp_path / "model").touch()
    make_backend("cellpose", BackendOptions(weights=tmp_path / "model", device="cpu"))
    assert CellposeModel.made == {
        "gpu": False,
        "model": str(tmp_path / "model"),
        "device": torch.device("cpu"),
        "half": False,
    }


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16, None])
def test_a_gpu_computes_in_bf16_only_where_it_does_so_natively(
    half: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "choose_device", lambda _: Device(torch.device("cuda:0"), half))
    make_backend("cellpose")
    assert CellposeModel.made["gpu"]
    assert CellposeModel.made["half"] is (half is torch.bfloat16)


def test_no_network_and_no_package_are_one_line_each(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(self: object, **options: object) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr(CellposeModel, "__init__", offline)
    with pytest.raises(ConfigError, match=r"could not fetch .* --weights FILE"):
        make_backend("cellpose")
    monkeypatch.setitem(sys.modules, "cellpose.models", None)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[cellpose\]'"):
        make_backend("cellpose")


def test_the_stand_in_has_the_signature_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cellpose", "cellpose.models"):
        monkeypatch.delitem(sys.modules, name)
    models = pytest.importorskip("cellpose.models")
    real = inspect.signature(models.CellposeModel).parameters
    assert {"gpu", "pretrained_model", "device", "use_bfloat16"} <= set(real)
    assert "channel_axis" in inspect.signature(models.CellposeModel.eval).parameters
