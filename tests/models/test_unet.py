"""Mask networks: every tiny encoder, every decoder option, odd sizes, weights from elsewhere."""

from functools import cache
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from wsss.core.checks import ConfigError, DataError
from wsss.inference.semantic import emptied
from wsss.models.backbone import fast_layout
from wsss.models.encoder import build_encoder
from wsss.models.unet import Unet, build_unet, convolve_hypercolumn, cut_back, fill_to_multiple
from wsss.options.masks import UnetConfig
from wsss.options.recipe import ClassifyRecipe, MaskRecipe

SLIM = [16, 12, 8, 8, 4]


def unet(backbone: str = "test_resnet", outputs: int = 2, channels: int = 4, **options: object) -> Unet:
    torch.manual_seed(0)
    config = UnetConfig(**{"channels": SLIM, **options})  # type: ignore[arg-type]
    return build_unet(MaskRecipe(backbone=backbone, weights="none", unet=config), channels=channels, outputs=outputs)


@cache
def still(backbone: str, channels: int) -> Unet:
    """Return a network that tests share, as none changes it."""
    return unet(backbone, channels=channels).eval()


@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet", "test_convnext", "resnet18", "mobileone_s0"])
class TestEveryEncoder:
    @pytest.mark.parametrize("channels", [1, 3, 4])
    def test_masks_have_the_images_size(self, backbone: str, channels: int) -> None:
        with torch.no_grad():
            output = still(backbone, channels)(torch.randint(0, 256, (2, channels, 64, 96), dtype=torch.uint8))
        assert output.logits.shape == (2, 2, 64, 96)
        assert output.side == ()

    @pytest.mark.parametrize("size", [(101, 101), (33, 70)])
    def test_sizes_off_the_stride_are_handled(self, backbone: str, size: tuple[int, int]) -> None:
        with torch.no_grad():
            assert still(backbone, 4)(torch.zeros(1, 4, *size)).logits.shape == (1, 2, *size)

    def test_every_parameter_learns(self, backbone: str) -> None:
        net = unet(backbone, attention="scse", gates=True, hypercolumn=True, deep_supervision=True)
        output = net(torch.rand(2, 4, 64, 64) * 255)
        (output.logits.square().mean() + sum(own.square().mean() for own in output.side)).backward()
        assert [name for name, p in net.named_parameters() if p.requires_grad and p.grad is None] == []

    def test_saved_weights_give_the_same_masks(self, backbone: str) -> None:
        first, second = still(backbone, 4), unet(backbone)
        image = torch.rand(1, 4, 64, 64) * 255
        with torch.no_grad():
            for parameter in second.parameters():
                parameter += 0.1
            second.load_state_dict(first.state_dict())
            assert torch.equal(first(image).logits, second.eval()(image).logits)


@pytest.mark.parametrize("upsample", ["nearest", "bilinear", "transposed"])
@pytest.mark.parametrize("attention", ["none", "scse", "cbam"])
@pytest.mark.parametrize("extras", [{}, {"gates": True, "hypercolumn": True, "stem_pool": False}], ids=str)
def test_every_decoder_gives_masks_of_the_images_size(upsample: str, attention: str, extras: dict[str, object]) -> None:
    net = unet(upsample=upsample, attention=attention, deep_supervision=True, **extras)
    output = net(torch.rand(2, 4, 50, 38) * 255)
    assert output.logits.shape == (2, 2, 50, 38)
    assert [tuple(own.shape) for own in output.side] == [(2, 2, 50, 38)] * 4


@pytest.mark.parametrize("attention", ["none", "scse", "cbam"])
def test_masks_are_as_sure_in_prediction_as_in_training(attention: str) -> None:
    """Maps that gates have made small leave batch norms with a scale that they find too late."""
    net, image = unet(attention=attention), torch.rand(4, 4, 64, 64) * 255
    with torch.no_grad():
        learning = torch.stack([net(image).logits.std() for _ in range(30)])
        assert net.eval()(image).logits.std() > 0.6 * learning.mean()


def test_without_the_stems_pooling_the_encoder_is_twice_as_fine() -> None:
    kept, dropped = (build_encoder("test_resnet", channels=3, stem_pool=keep) for keep in (True, False))
    assert [scale.stride for scale in kept.scales] == [2, 4, 8, 16, 32]
    assert [scale.stride for scale in dropped.scales] == [2, 2, 4, 8, 16]


def test_the_empty_head_says_one_logit_an_image() -> None:
    output = unet(empty_head=True)(torch.rand(3, 4, 40, 40) * 255)
    assert output.holds is not None
    assert output.holds.shape == (3,)
    assert unet()(torch.rand(2, 4, 40, 40)).holds is None


def test_unlikely_images_are_emptied() -> None:
    maps, holds = torch.rand(2, 3, 4, 5), torch.tensor([0.5, 0.4])
    for target, nothing in (("border", [0, 0, 0]), ("softmax", [20, 0, 0])):
        found = emptied(maps, holds, target, 0.5)
        assert torch.equal(found[0], maps[0])
        assert found[1].sum(dim=(1, 2)).tolist() == nothing


@pytest.mark.parametrize("outputs", [1, 3])
def test_a_hypercolumn_is_the_convolution_of_all_scales_enlarged_and_joined(outputs: int) -> None:
    maps = [torch.randn(2, c, h, w, dtype=torch.float64) for c, h, w in ((8, 4, 6), (5, 8, 12), (3, 32, 48))]
    output = torch.nn.Conv2d(16, outputs, 3, padding=1).double()
    enlarged = [torch.nn.functional.interpolate(own, (32, 48), mode="bilinear") for own in maps]
    assert torch.allclose(convolve_hypercolumn(maps, output), output(torch.cat(enlarged, dim=1)))


def test_images_seen_through_strided_1x1_kernels_do_not_lie_channels_last() -> None:
    layouts = {name: fast_layout(timm.create_model(name)) for name in ("mobileone_s0", "test_resnet", "resnet18")}
    assert layouts["mobileone_s0"] == torch.contiguous_format
    assert layouts["test_resnet"] == layouts["resnet18"] == torch.channels_last


def test_no_pooling_to_drop_is_said() -> None:
    with pytest.raises(ConfigError, match="no pooling in its stem"):
        build_encoder("test_efficientnet", channels=3, stem_pool=False)


@pytest.mark.parametrize("size", [(101, 101), (500, 388), (3, 5), (64, 32)])
def test_filling_then_cutting_gives_the_image_back(size: tuple[int, int]) -> None:
    image = torch.rand(1, 2, *size)
    filled = fill_to_multiple(image, 32)
    assert all(edge % 32 == 0 for edge in filled.shape[2:])
    assert torch.equal(cut_back(filled, size), image)


def test_a_network_learns_one_mask() -> None:
    net = unet(outputs=1, channels=1)
    image = torch.zeros(1, 1, 37, 37)
    image[:, :, 8:20, 12:30] = 200
    truth = (image > 0).float()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(net(image).logits, truth).backward()
        optimizer.step()
    assert ((net(image).logits > 0) == (truth > 0)).float().mean() > 0.97


def test_weights_of_a_file_reach_the_encoder_with_the_stem_widened(tmp_path: Path) -> None:
    torch.manual_seed(3)
    for name, deep in (("test_resnet", "layer1.0.conv1.weight"), ("test_convnext", "stages.1.blocks.0.mlp.fc1.weight")):
        source = timm.create_model(name, num_classes=5).state_dict()
        save_file(source, tmp_path / f"{name}.safetensors")
        model = build_encoder(name, channels=4, weights=str(tmp_path / f"{name}.safetensors")).model
        own = {key.removeprefix("model.").replace(".", "_"): value for key, value in model.state_dict().items()}
        assert torch.equal(own[deep.replace(".", "_")], source[deep])
        first = next(value for value in model.state_dict().values() if value.ndim == 4)
        stem = next(value for value in source.values() if value.ndim == 4)
        assert torch.equal(first[:, :3], stem)
        assert torch.allclose(first[:, 3], stem.mean(dim=1))


def test_a_trained_classifiers_backbone_reaches_the_encoder(tmp_path: Path) -> None:
    from wsss.models.cam_net import build_cam_net

    classifier = build_cam_net(ClassifyRecipe(backbone="test_resnet", weights="none"), channels=4, classes=3)
    path = tmp_path / "best.safetensors"
    save_file({f"net.{name}": value.contiguous() for name, value in classifier.state_dict().items()}, path)
    encoder = build_encoder("test_resnet", channels=4, weights=str(path)).model.state_dict()
    for name, value in classifier.backbone.state_dict().items():
        assert torch.equal(encoder[f"model.{name}"], value)


def test_weights_of_another_network_are_refused_by_name(tmp_path: Path) -> None:
    save_file(timm.create_model("test_efficientnet").state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(DataError, match=r"other\.safetensors does not fit backbone \S+: missing"):
        build_encoder("test_resnet", channels=3, weights=str(tmp_path / "other.safetensors"))


def test_wrong_encoders_and_channels_are_named() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'resnet34'"):
        build_encoder("resnet34x", channels=3)
    with pytest.raises(ConfigError, match="choose another"):
        build_encoder("test_vit", channels=3)
    with pytest.raises(ConfigError, match=r"unet.channels has 6 numbers"):
        Unet(build_encoder("test_resnet", channels=3), 1, UnetConfig([8] * 6))
