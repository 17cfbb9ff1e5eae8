"""Test-time augmentation: each view is undone exactly on the output, views are averaged, and absent by default."""

import numpy as np
import pytest
import torch
from scipy.special import expit

from wsss.models.cam_net import CamNet, build_cam_net, class_maps, crop_outputs, resized, see_images
from wsss.models.device import choose_device
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
    with torch.no_grad():
        plain = see_images(net, torch.from_numpy(IMAGES), CPU)
    maps, probs = class_maps(net, IMAGES, CPU)
    np.testing.assert_array_equal(maps, plain.cam.numpy())
    np.testing.assert_array_equal(probs, plain.logits.sigmoid().numpy())
    np.testing.assert_array_equal(crop_outputs(net, [IMAGES], CPU)[0], probs)


@pytest.mark.parametrize("kind", ["flips", "turns"])
def test_a_turned_image_gives_the_turned_maps(net: CamNet, kind: str) -> None:
    config = TtaConfig(views=kind)  # type: ignore[arg-type]
    maps, probs = class_maps(net, IMAGES, CPU, config)
    half_turn = np.ascontiguousarray(IMAGES[..., ::-1, ::-1])
    turned, turned_probs = class_maps(net, half_turn, CPU, config)
    np.testing.assert_allclose(turned[..., ::-1, ::-1], maps, atol=1e-5)
    np.testing.assert_allclose(turned_probs, probs, atol=1e-6)
    plain, _ = class_maps(net, half_turn, CPU)
    assert np.abs(plain[..., ::-1, ::-1] - maps).max() > 1e-3  # the network alone does not do that


def test_views_and_scales_are_averaged(net: CamNet) -> None:
    at = {scale: class_maps(net, IMAGES, CPU, TtaConfig(scales=[scale])) for scale in (1.0, 2.0)}
    maps, probs = class_maps(net, IMAGES, CPU, TtaConfig(scales=[1.0, 2.0]))
    np.testing.assert_allclose(probs, (at[1.0][1] + at[2.0][1]) / 2, atol=1e-6)
    assert maps.shape == at[1.0][0].shape
    assert at[2.0][0].shape[2] == 2 * maps.shape[2]
    crops, features = crop_outputs(net, [IMAGES], CPU, TtaConfig(views="flips"))
    each = [crop_outputs(net, [np.ascontiguousarray(view)], CPU) for view in _flips(IMAGES)]
    np.testing.assert_allclose(crops, np.mean([probs for probs, _ in each], axis=0), atol=1e-6)
    np.testing.assert_allclose(features, np.mean([pooled for _, pooled in each], axis=0), atol=1e-5)


def test_pooled_features_are_what_the_classifier_sees(net: CamNet) -> None:
    probs, features = crop_outputs(net, [IMAGES, IMAGES[:1]], CPU)
    weights = net.classifier.weight[:, :, 0, 0].detach().numpy()
    np.testing.assert_allclose(expit(features @ weights.T), probs, atol=1e-5)
    assert features.std(axis=0).max() > 0


def _flips(images: np.ndarray) -> list[np.ndarray]:
    return [images, images[..., ::-1], images[..., ::-1, :], images[..., ::-1, ::-1]]


def test_sizes_are_multiples_of_32_px() -> None:
    assert resized(IMAGES, 0.75).shape == (2, 4, 64, 64)
    assert resized(IMAGES, 0.01).shape == (2, 4, 32, 32)
    assert resized(IMAGES, 1.0) is IMAGES
    assert np.abs(resized(np.full_like(IMAGES, 77), 1.5).astype(int) - 77).max() == 0
