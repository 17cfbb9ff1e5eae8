"""The adapter, against a stand-in with the signatures of hpacellseg and pytorch_zoo; see docs/segmentation.md."""

import os
import pickle
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from convert_hpacellseg import convert_pickle
from safetensors import safe_open
from skimage import transform

from wsss.core.checks import ConfigError, DataError
from wsss.segmenters import BackendOptions, Field, NetworkBackend, make_backend
from wsss.segmenters.packages import CELLS, NUCLEI, HpaCellSeg, build_network, load_network


class DPNUnet(torch.nn.Module):
    """A network of one layer under the name, and with the constructor, of the real one."""

    def __init__(self, target_channel_num: int, input_channel_num: int = 3, encoder_name: str = "dpn92") -> None:
        super().__init__()
        sys.modules["pytorch_zoo.abstract_model"].encoder_params[encoder_name]["init_op"](in_channels=3)
        assert sys.modules["pytorch_zoo.abstract_model"].encoder_params[encoder_name]["url"] is None
        self.target_channel_num, self.input_channel_num = target_channel_num, input_channel_num
        self.final = torch.nn.Sequential(torch.nn.Conv2d(input_channel_num, target_channel_num, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.final(x)


DPNUnet.__module__ = "pytorch_zoo.unet"


def dpn92(in_channels: int, target_channel_num: int = 1000, pretrained: str | None = "imagenet+5k") -> None:
    assert pretrained is None, "the real one would fetch ImageNet weights here"


class CellSegmentator:
    """The methods that are used, with the real signatures; the maps are bright where the planes are."""

    def __init__(
        self,
        nuclei_model: Any = "./nuclei_model.pth",
        cell_model: Any = "./cell_model.pth",
        scale_factor: float = 0.25,
        device: str = "cuda",
        padding: bool = False,
        multi_channel_model: bool = True,
    ) -> None:
        assert isinstance(nuclei_model, torch.nn.Module), "a path would be unpickled"
        assert not nuclei_model.training
        assert not cell_model.training
        assert (scale_factor, device, padding) == (1, "cpu", True)
        self.multi_channel_model = multi_channel_model
        self.calls: list[int] = []

    def pred_nuclei(self, images: list[np.ndarray]) -> list[np.ndarray]:
        self.calls.append(len(images))
        return [self._maps(np.dstack((image,) * 3)) for image in images]

    def pred_cells(self, images: list[Any], precombined: bool = False) -> list[np.ndarray]:
        microtubules, er, nuclei = images
        assert not precombined
        assert (er is not None) == self.multi_channel_model
        return [self._maps(np.dstack(planes)) for planes in zip(microtubules, er or nuclei, nuclei, strict=True)]

    def _maps(self, image: np.ndarray) -> np.ndarray:
        scaled = sys.modules["hpacellseg.cellsegmentator"].transform.rescale(image, 1, multichannel=True)
        body = np.round(255 * scaled.max(axis=2)).astype(np.uint8)
        return np.dstack((np.zeros_like(body), np.zeros_like(body), body))


@pytest.fixture(autouse=True)
def packages(monkeypatch: pytest.MonkeyPatch) -> None:
    params = {"dpn92": {"filters": [64], "init_op": dpn92, "url": "http://nowhere.invalid/dpn92.pth"}}
    modules = {
        "hpacellseg": {},
        "hpacellseg.cellsegmentator": {"CellSegmentator": CellSegmentator, "transform": transform},
        "pytorch_zoo": {},
        "pytorch_zoo.abstract_model": {"encoder_params": params},
        "pytorch_zoo.dpn": {"dpn92": dpn92},
        "pytorch_zoo.unet": {"DPNUnet": DPNUnet},
    }
    for name, content in modules.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.save(build_network(3, 3), tmp_path / "nuclei.pth")
    torch.save(torch.nn.DataParallel(build_network(3, 3)), tmp_path / "cells.pth")
    convert_pickle(tmp_path / "nuclei.pth", tmp_path / "out" / NUCLEI, er=False)
    convert_pickle(tmp_path / "cells.pth", tmp_path / "out" / CELLS)
    return tmp_path / "out"


def field(height: int, width: int) -> Field:
    """Draw two cells of a tenth of the longer side as radius."""
    edge = max(height, width)
    image = np.zeros((4, height, width), np.uint8)
    rows, columns = np.ogrid[:height, :width]
    for x in (width // 4, 3 * width // 4):
        away = np.hypot(rows - height // 2, columns - x)
        image[0][away < 0.1 * edge] = image[3][away < 0.1 * edge] = 200
        image[2][away < 0.04 * edge] = 250
    return Field("a", image, height * 4, width * 4, edge)


@pytest.mark.parametrize("shape", [(512, 512), (512, 400), (384, 512), (128, 256), (700, 1024)])
def test_cells_are_found_in_fields_of_any_size_and_aspect(weights: Path, shape: tuple[int, int]) -> None:
    backend = make_backend("hpacellseg", BackendOptions(weights=weights, device="cpu"))
    assert isinstance(backend, NetworkBackend)
    (finish,) = backend.segment_batch([field(*shape)])
    found = pickle.loads(pickle.dumps(finish))()
    assert found.cells.shape == found.nuclei.shape == shape
    assert found.cells.max() == found.nuclei.max() == 2
    assert found.cells[shape[0] // 2, shape[1] // 4] != found.cells[shape[0] // 2, 3 * shape[1] // 4]


def test_a_store_of_512_reaches_the_networks_as_it_is_and_once(weights: Path) -> None:
    backend = HpaCellSeg(weights, "cpu")
    fields = [field(512, 512), field(300, 512)]
    finishes = backend.segment_batch(fields)
    assert backend.net.calls == [2]
    for one, finish in zip(fields, finishes, strict=True):
        np.testing.assert_array_equal(finish.args[0][..., 2], one.image[2])


def test_the_two_channel_model_gets_no_yellow(weights: Path, tmp_path: Path) -> None:
    convert_pickle(tmp_path / "cells.pth", weights / CELLS, er=False)
    assert not HpaCellSeg(weights, "cpu").with_er
    assert HpaCellSeg(weights, "cpu").segment_batch([field(64, 64)])[0]().cells.shape == (64, 64)


def test_converted_weights_are_those_of_the_pickle_without_its_wrapping(weights: Path, tmp_path: Path) -> None:
    pickled = torch.load(tmp_path / "cells.pth", weights_only=False).module
    network, er = load_network(weights / CELLS)
    assert er
    for name, tensor in pickled.state_dict().items():
        assert torch.equal(tensor, network.state_dict()[name])
    with safe_open(weights / CELLS, framework="pt") as file:
        assert "pytorch_zoo.unet.DPNUnet" in file.metadata()["wsss"]


def test_pickles_of_anything_else_are_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Conv2d(2, 2, 1), tmp_path / "part.pth")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "linear.pth")
    (tmp_path / "text.pth").write_text("<html>")
    said = {"part": "Conv2d, expected", "linear": "Linear, which is no part", "text": "is no pickle", "none": "exist"}
    for name, words in said.items():
        with pytest.raises(DataError, match=words):
            convert_pickle(tmp_path / f"{name}.pth", tmp_path / "out" / NUCLEI)
    assert not (tmp_path / "out").exists()


class Harmful:
    """What would make a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def test_a_pickle_that_runs_code_is_refused_and_runs_none(tmp_path: Path) -> None:
    network = build_network(3, 3)
    network.more = Harmful(tmp_path / "made")  # type: ignore[assignment]
    torch.save(network, tmp_path / "nuclei.pth")
    with pytest.raises(DataError, match=r"it names \w+\.mkdir, which is no part"):
        convert_pickle(tmp_path / "nuclei.pth", tmp_path / "out" / NUCLEI)
    assert not (tmp_path / "made").exists()


def test_a_pickle_is_never_loaded_in_place_of_converted_weights(weights: Path, tmp_path: Path) -> None:
    (weights / CELLS).write_bytes((tmp_path / "cells.pth").read_bytes())
    with pytest.raises(DataError, match="no safetensors file"):
        make_backend("hpacellseg", BackendOptions(weights=weights))


def test_missing_weights_and_a_missing_package_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="needs --weights FOLDER"):
        make_backend("hpacellseg")
    with pytest.raises(ConfigError, match=r"nuclei\.safetensors does not exist"):
        make_backend("hpacellseg", BackendOptions(weights=tmp_path))
    monkeypatch.setitem(sys.modules, "hpacellseg.cellsegmentator", None)
    with pytest.raises(ConfigError, match="pip install"):
        make_backend("hpacellseg", BackendOptions(weights=tmp_path))


def test_too_little_memory_on_the_gpu_is_one_line(weights: Path) -> None:
    backend = HpaCellSeg(weights, "cpu")

    def full(images: list[np.ndarray]) -> list[np.ndarray]:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    backend.net = SimpleNamespace(pred_nuclei=full)
    with pytest.raises(ConfigError, match="--device cpu"):
        backend.segment_batch([field(64, 64)])
