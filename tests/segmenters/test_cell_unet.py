from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from wsss.core.checks import ConfigError, DataError
from wsss.data.synthetic import Look, draw_field
from wsss.metrics.instances import match_pairs, overlap
from wsss.segmenters import UNET_WEIGHTS, BackendOptions, Field, NetworkBackend, make_backend
from wsss.segmenters.cell_unet import CellUnet, label_field


@pytest.fixture(scope="module")
def backend() -> CellUnet:
    made = make_backend("unet", BackendOptions(device="cpu"))
    assert isinstance(made, CellUnet)
    assert isinstance(made, NetworkBackend)
    return made


def field(image: np.ndarray) -> Field:
    return Field("x", image, *image.shape[1:], max(image.shape[1:]))


def found(backend: CellUnet, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    maps = backend.segment_batch([field(image)])[0]()
    assert maps.nuclei is not None
    return maps.cells, maps.nuclei


def test_the_weights_come_with_the_package_and_are_small() -> None:
    assert UNET_WEIGHTS.stat().st_size <= 2 * 2**20


@pytest.mark.parametrize(("size", "cell"), [(256, 0.26), (384, 0.15), (640, 0.12)])
def test_cells_of_drawn_fields_are_found_at_any_scale(backend: CellUnet, size: int, cell: float) -> None:
    drawn = draw_field(np.random.default_rng(70), size, [16], Look(cell=cell))
    cells, nuclei = found(backend, drawn.image)
    assert cells.shape == (size, size)
    for own, true in ((cells, drawn.label_map), (nuclei, drawn.nuclei)):
        iou = overlap(own, true).iou
        right = (match_pairs(iou, 0.6) >= 0).sum()
        assert 2 * right / sum(iou.shape) > 0.8


def test_nuclei_lie_within_the_cells_of_the_same_id(backend: CellUnet) -> None:
    cells, nuclei = found(backend, draw_field(np.random.default_rng(3), 256, [16]).image)
    np.testing.assert_array_equal(cells[nuclei > 0], nuclei[nuclei > 0])
    assert sorted(np.unique(nuclei)) == list(range(cells.max() + 1))


def test_the_protein_of_interest_is_not_looked_at(backend: CellUnet) -> None:
    image = draw_field(np.random.default_rng(4), 256, [16]).image
    other = image.copy()
    other[1] = 255 - other[1]
    np.testing.assert_array_equal(found(backend, image)[0], found(backend, other)[0])


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (60, 40)])
@pytest.mark.parametrize("value", [0, 255])
def test_flat_images_have_no_cells(backend: CellUnet, shape: tuple[int, int], value: int) -> None:
    cells, nuclei = found(backend, np.full((4, *shape), value, np.uint8))
    assert cells.shape == nuclei.shape == shape
    assert not cells.any()


def test_noise_without_cells_is_not_taken_for_cells(backend: CellUnet) -> None:
    noise = np.random.default_rng(1).poisson(3, (4, 256, 256)).astype(np.uint8)
    assert found(backend, noise)[0].max() == 0


def test_fields_of_several_sizes_pass_in_one_batch(backend: CellUnet) -> None:
    images = [draw_field(np.random.default_rng(5), size, [16]).image for size in (128, 192, 128)]
    images[1] = images[1][:, :100]
    finishes = backend.segment_batch([field(image) for image in images])
    assert [finish().cells.shape for finish in finishes] == [(128, 128), (100, 192), (128, 128)]
    assert backend.segment_batch([]) == []


def disks(shape: tuple[int, int], radius: int, *centres: tuple[int, int]) -> np.ndarray:
    y, x = np.indices(shape)
    return np.any([(y - a) ** 2 + (x - b) ** 2 <= radius**2 for a, b in centres], axis=0)


def test_maps_of_two_cells_that_touch_become_two_cells() -> None:
    maps = np.zeros((2, 60, 100), np.uint8)
    maps[0, 10:50, 10:90] = 255
    maps[:, :, 49:51] = np.array([0, 255], np.uint8)[:, None, None] * (maps[0, :, 49:51] > 0)
    nucleus = np.where(disks((120, 200), 12, (60, 60), (60, 140)), 200, 10).astype(np.uint8)
    cells = label_field(maps, nucleus).cells
    assert cells.shape == (120, 200)
    assert np.unique(cells).tolist() == [0, 1, 2]
    assert (cells[30:90, 30:90] == cells[60, 60]).all()
    assert (cells[30:90, 110:170] == cells[60, 140]).all()


def test_nuclei_are_those_of_the_stain_with_their_nucleoli() -> None:
    maps = np.zeros((2, 60, 60), np.uint8)
    maps[0, 5:55, 5:55] = 255
    nucleus = np.where(disks((60, 60), 11, (30, 30)) & ~disks((60, 60), 2, (30, 30)), 200, 10).astype(np.uint8)
    found = label_field(maps, nucleus)
    assert found.nuclei is not None
    assert (found.nuclei[24:37, 24:37] == 1).all()  # the nucleolus is dark in blue
    assert (found.cells[8:52, 8:52] == 1).all()


def test_wrong_weights_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no file"):
        make_backend("unet", BackendOptions(weights=tmp_path / "none"))
    (tmp_path / "text").write_text("no tensors")
    with pytest.raises(DataError, match="holds no weights of the cell U-Net"):
        make_backend("unet", BackendOptions(weights=tmp_path / "text"))
    save_file({"a": np.zeros(1, np.float32)}, tmp_path / "other")
    with pytest.raises(DataError, match="does not name test_resnet"):
        make_backend("unet", BackendOptions(weights=tmp_path / "other"))
