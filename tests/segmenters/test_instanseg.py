"""The adapter, against a stand-in with the signatures of instanseg-torch 0.1."""

import pickle
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from wsss.core.checks import ConfigError
from wsss.segmenters import BackendOptions, Field, NetworkBackend, make_backend


class InstanSeg:
    made: tuple[Any, ...] = ()
    pixel_sizes: list[float] = []

    def __init__(
        self,
        model_type: Any = "brightfield_nuclei",
        device: str | None = None,
        image_reader: str = "auto",
        verbosity: int = 1,
        channels_last: bool = True,
    ) -> None:
        InstanSeg.made = (model_type, device, verbosity)
        InstanSeg.pixel_sizes = []

    def eval_small_image(
        self,
        image: np.ndarray,
        pixel_size: float | None = None,
        normalise: bool = True,
        return_image_tensor: bool = True,
        target: str = "all_outputs",
        rescale_output: bool = True,
        **kwargs: object,
    ) -> torch.Tensor:
        """Take the first channel for nuclei and any channel for cells."""
        assert not return_image_tensor
        assert image.shape[0] == 3
        assert pixel_size is not None
        self.pixel_sizes.append(pixel_size)
        half = np.arange(image.shape[2]) >= image.shape[2] // 2
        nuclei, cells = image[0] > 100, image.max(axis=0) > 100
        return torch.from_numpy(np.stack([nuclei * (2 - half), cells * (1 + half)])[None].astype(np.float32))


@pytest.fixture(autouse=True)
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("instanseg")
    module.InstanSeg = InstanSeg  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "instanseg", module)


def two_cells() -> Field:
    image = np.zeros((4, 20, 64), np.uint8)
    image[0, 2:18, 2:26] = image[3, 2:18, 36:60] = 200
    image[1] = 255
    image[2, 8:12, 10:15] = image[2, 8:12, 40:50] = 220
    return Field("a", image, 640, 2048, 64)


def test_nuclei_get_the_ids_of_their_cells() -> None:
    backend = make_backend("instanseg", BackendOptions(device="cpu"))
    assert isinstance(backend, NetworkBackend)
    found = pickle.loads(pickle.dumps(backend.segment_batch([two_cells()])[0]))()
    assert found.cells.shape == (20, 64)
    assert (found.cells > 0).sum() == 2 * 16 * 24, "green, the protein of interest, has no say"
    np.testing.assert_array_equal(np.bincount(found.nuclei.ravel())[1:], [20, 40])
    assert (found.nuclei[found.nuclei > 0] == found.cells[found.nuclei > 0]).all()
    assert InstanSeg.made == ("fluorescence_nuclei_and_cells", "cpu", 0)


def test_the_pixel_size_is_that_of_the_stored_image() -> None:
    for given, declared, stored in ((None, None, 0.08 * 32), (0.1, 0.5, 3.2), (None, 0.5, 16)):
        backend = make_backend("instanseg", BackendOptions(device="cpu", pixel_um=given))
        assert isinstance(backend, NetworkBackend)
        backend.segment_batch([replace(two_cells(), pixel_um=declared)])
        assert InstanSeg.pixel_sizes == [pytest.approx(stored)]


def test_wrong_weights_no_network_and_no_package_are_one_line_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wrong.pt").write_text("<html>")
    with pytest.raises(ConfigError, match="no TorchScript file"):
        make_backend("instanseg", BackendOptions(weights=tmp_path / "wrong.pt", device="cpu"))

    def offline(self: object, *given: object, **options: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(InstanSeg, "__init__", offline)
    with pytest.raises(ConfigError, match=r"could not fetch .* --weights FILE"):
        make_backend("instanseg")
    monkeypatch.setitem(sys.modules, "instanseg", None)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[instanseg\]'"):
        make_backend("instanseg")
