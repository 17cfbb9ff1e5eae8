"""Test-time augmentation: each view is undone exactly on the output, views are averaged, and absent by default."""

import numpy as np
import pytest
import torch

from wsss.core.checks import ConfigError
from wsss.core.device import choose_device
from wsss.inference.views import VIEWS, apply, predict_views, resized, undo, view_crop_probs, view_maps
from wsss.models.cam_net import CamNet, build_cam_net, class_maps, crop_probs
from wsss.options.recipe import ClassifyRecipe
from wsss.options.scoring import TtaConfig

CPU = choose_device("cpu")
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 4, 96, 96), np.uint8)


@pytest.fixture(scope="module")
def net() -> CamNet:
    torch.manual_seed(0)
    recipe = ClassifyRecipe(backbone="test_resnet", weights="none")
    return build_cam_net(recipe, channels=4, classes=3, pretrained=False).eval()


def test_without_views_nothing_changes(net: CamNet) -> None:
    plain, found = class_maps(net, IMAGES, CPU), view_maps(net, IMAGES, CPU, TtaConfig())
    np.testing.assert_array_equal(found[0], plain[0])
    np.testing.assert_array_equal(found[1], plain[1])
    np.testing.assert_array_equal(view_crop_probs(net, [IMAGES], CPU, TtaConfig()), crop_probs(net, [IMAGES], CPU))


@pytest.mark.parametrize("kind", ["flips", "turns"])
def test_a_turned_image_gives_the_turned_maps(net: CamNet, kind: str) -> None:
    config = TtaConfig(views=kind)  # type: ignore[arg-type]
    maps, probs = view_maps(net, IMAGES, CPU, config)
    half_turn = np.ascontiguousarray(IMAGES[..., ::-1, ::-1])
    turned, turned_probs = view_maps(net, half_turn, CPU, config)
    np.testing.assert_allclose(turned[..., ::-1, ::-1], maps, atol=1e-5)
    np.testing.assert_allclose(turned_probs, probs, atol=1e-6)
    plain, _ = class_maps(net, half_turn, CPU)
    assert np.abs(plain[..., ::-1, ::-1] - maps).max() > 1e-3  # the network alone does not do that


def test_views_and_scales_are_averaged(net: CamNet) -> None:
    at = {scale: view_maps(net, IMAGES, CPU, TtaConfig(scales=[scale])) for scale in (1.0, 2.0)}
    maps, probs = view_maps(net, IMAGES, CPU, TtaConfig(scales=[1.0, 2.0]))
    np.testing.assert_allclose(probs, (at[1.0][1] + at[2.0][1]) / 2, atol=1e-6)
    assert maps.shape == at[1.0][0].shape
    assert at[2.0][0].shape[2] == 2 * maps.shape[2]
    crops = view_crop_probs(net, [IMAGES], CPU, TtaConfig(views="flips"))
    each = [crop_probs(net, [np.ascontiguousarray(own)], CPU) for own in _flips(IMAGES)]
    np.testing.assert_allclose(crops, np.mean(each, axis=0), atol=1e-6)


def _flips(images: np.ndarray) -> list[np.ndarray]:
    return [images, images[..., ::-1], images[..., ::-1, :], images[..., ::-1, ::-1]]


def test_sizes_are_multiples_of_32_px() -> None:
    assert resized(IMAGES, 0.75).shape == (2, 4, 64, 64)
    assert resized(IMAGES, 0.01).shape == (2, 4, 32, 32)
    assert resized(IMAGES, 1.0) is IMAGES
    assert np.abs(resized(np.full_like(IMAGES, 77), 1.5).astype(int) - 77).max() == 0


def test_cells_are_turned_with_their_image(net: CamNet, monkeypatch: pytest.MonkeyPatch) -> None:
    label_map = np.zeros((96, 96), np.int32)
    label_map[:20, 50:] = 7
    seen = []

    def note(net: CamNet, images: np.ndarray, device: object, cells: list[np.ndarray | None]) -> object:
        seen.append(cells)
        return class_maps(net, images, CPU)

    monkeypatch.setattr("wsss.inference.views.class_maps", note)
    view_maps(net, IMAGES, CPU, TtaConfig(views="turns", scales=[1.0, 2.0]), [label_map, None])
    assert len(seen) == 2 * len(VIEWS["turns"])
    assert all(cells[1] is None for cells in seen)
    assert all(cells[0].sum() == label_map.sum() for cells in seen[:8])
    assert all(cells[0].sum() == 4 * label_map.sum() for cells in seen[8:])
    assert len({cells[0].tobytes() for cells in seen[:8]}) == 8


def test_no_scale_at_all_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"tta\.scales is empty"):
        TtaConfig(scales=[])


IMAGE = torch.rand(1, 2, 5, 8)


@pytest.mark.parametrize("kind", VIEWS)
def test_every_view_is_undone_and_all_differ(kind: str) -> None:
    seen = {tuple(apply(IMAGE, view).flatten().tolist()) for view in VIEWS[kind]}
    assert len(seen) == len(VIEWS[kind]) == {"none": 1, "flips": 4, "turns": 8}[kind]
    for view in VIEWS[kind]:
        assert torch.equal(undo(apply(IMAGE, view), view), IMAGE)


@pytest.mark.parametrize("kind", VIEWS)
def test_a_pixelwise_network_gives_the_same_with_and_without_views(kind: str) -> None:
    assert torch.allclose(predict_views(lambda x: 1 - x, IMAGE, kind), 1 - IMAGE, atol=1e-6)


def test_a_network_that_looks_left_is_averaged_over_its_views() -> None:
    def left(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[..., :1], x[..., :-1]], dim=-1)

    found = predict_views(left, IMAGE, "flips")
    right = left(IMAGE.flip(-1)).flip(-1)
    assert torch.allclose(found, (left(IMAGE) + right) / 2, atol=1e-6)


def test_sizes_are_undone_too() -> None:
    smooth = torch.linspace(0, 1, 32).expand(1, 1, 32, 32)
    seen: list[torch.Size] = []

    def note(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.shape[2:])
        return x

    found = predict_views(note, smooth, scales=(0.5, 1.0, 1.5))
    assert seen == [(16, 16), (32, 32), (48, 48)]
    assert found.shape == smooth.shape
    assert (found - smooth).abs().max() < 0.02
