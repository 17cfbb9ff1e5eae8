"""Splitting, merging and the siamese view."""

import pytest
import torch

from wsss.models.cam_net import CamNet, PuzzleCam, build_cam_net, merge, split
from wsss.options.recipe import ClassifyRecipe


@pytest.fixture(scope="module")
def net() -> CamNet:
    torch.manual_seed(0)
    return build_cam_net(ClassifyRecipe(backbone="test_resnet", weights="none"), channels=4, classes=5).eval()


@pytest.mark.parametrize("side", [1, 2, 3])
def test_split_then_merge_gives_the_image_back(side: int) -> None:
    images = torch.rand(3, 4, 12, 18)
    assert torch.equal(merge(split(images, side), side), images)


def test_tiles_of_an_image_come_row_by_row() -> None:
    image = torch.arange(16.0).view(1, 1, 4, 4)
    corners = split(image, 2)[:, 0, 0, 0]
    assert corners.tolist() == [0, 2, 8, 10]


def test_a_last_batch_of_one_merges(net: CamNet) -> None:
    assert PuzzleCam(net, 2)(torch.zeros(1, 4, 64, 64, dtype=torch.uint8)).tiles is not None


@pytest.mark.parametrize("side", [2, 5])
def test_sizes_that_do_not_divide_are_refused(net: CamNet, side: int) -> None:
    with pytest.raises(ValueError, match="divide"):
        PuzzleCam(net, side)(torch.zeros(1, 4, 96, 96, dtype=torch.uint8))


def test_logits_are_the_means_of_the_maps(net: CamNet) -> None:
    images = torch.randint(0, 255, (2, 4, 64, 64), dtype=torch.uint8)
    output = PuzzleCam(net, 2)(images)
    for view in (output.full, output.tiles):
        assert torch.allclose(view.logits, view.cam.mean(dim=(2, 3)))


def test_swapping_pooling_and_classifier_changes_no_logit(net: CamNet) -> None:
    images = torch.randint(0, 255, (2, 4, 64, 64), dtype=torch.uint8)
    output = net(images)
    pooled = output.features.mean(dim=(2, 3))
    assert torch.allclose(output.logits, pooled @ net.classifier.weight[:, :, 0, 0].T, atol=1e-5)


def test_images_are_standardised_once_by_the_network(net: CamNet) -> None:
    mean = net.mean.expand(1, -1, 64, 64)
    flat = net(mean).features
    assert torch.allclose(flat, net.backbone.forward_features(torch.zeros(1, 4, 64, 64)), atol=1e-4)


def test_one_tile_is_no_puzzle(net: CamNet) -> None:
    assert PuzzleCam(net, 1)(torch.zeros(1, 4, 32, 32, dtype=torch.uint8)).tiles is None
