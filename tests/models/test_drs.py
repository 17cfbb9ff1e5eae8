"""Region suppression: known small tensors, gradients, where it is put, what it leaves alone."""

import pytest
import torch
from torch import nn

from wsss.core.checks import ConfigError
from wsss.models.backbone import build_backbone
from wsss.models.cam_net import CamNet, Suppress, add_drs, build_cam_net
from wsss.options.recipe import ClassifyRecipe, DrsConfig

MAP = torch.tensor([[-2.0, 1.0], [4.0, 10.0]]).view(1, 1, 2, 2)


def net(backbone: str = "test_resnet", **drs: object) -> CamNet:
    recipe = ClassifyRecipe(backbone=backbone, weights="none", drs=DrsConfig(**drs))  # type: ignore[arg-type]
    return build_cam_net(recipe, channels=4, classes=3)


def test_a_fixed_share_cuts_the_peak_and_leaves_the_rest() -> None:
    assert Suppress(1, 0.55)(MAP).flatten().tolist() == [0, 1, 4, 5.5]


def test_each_image_and_channel_has_its_own_peak() -> None:
    x = torch.stack([MAP[0], 2 * MAP[0]]).repeat(1, 2, 1, 1)  # (2, 2, 2, 2)
    x[:, 1] *= 10
    out = Suppress(2, 0.5)(x)
    assert out.amax(dim=(2, 3)).tolist() == [[5, 50], [10, 100]]


def test_a_learnt_share_is_the_sigmoid_of_a_product_with_the_means() -> None:
    module = Suppress(2, None)
    assert isinstance(module.gate, nn.Linear)
    assert module.gate.weight.shape == (2, 2)
    assert module.gate.bias is None
    assert module(MAP.repeat(1, 2, 1, 1)).amax().item() == 5  # starts at one half
    with torch.no_grad():
        module.gate.weight.copy_(torch.tensor([[0.2, 0.0], [0.0, -0.2]]))
    shares = module(MAP.repeat(1, 2, 1, 1)).amax(dim=(2, 3)) / 10
    expected = torch.sigmoid(torch.tensor([[0.2, -0.2]]) * 3.75)  # the mean of relu(MAP) is 15 / 4
    assert torch.allclose(shares, expected)


def test_gradients_agree_with_finite_differences() -> None:
    torch.manual_seed(0)
    for delta in (0.55, None):
        module = Suppress(3, delta).double()
        for p in module.parameters():
            nn.init.normal_(p)
        x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(module, (x,))


def test_the_learnt_share_learns() -> None:
    model = net(mode="learned")
    model(torch.rand(2, 4, 64, 64) * 255).logits.sum().backward()
    gates = [m.gate for m in model.modules() if isinstance(m, Suppress)]
    assert all(gate is not None and gate.weight.grad.abs().sum() > 0 for gate in gates)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vgg16", ["features.3", "features.8", "features.15", "features.22", "features.29"]),
        ("test_resnet", ["act1", "layer1.0.act2", "layer2.0.act2", "layer3.0.act2", "layer4.0.act2"]),
    ],
)
def test_after_stages_means_the_last_activation_of_each(name: str, expected: list[str]) -> None:
    found = add_drs(build_backbone(name).model, DrsConfig(mode="fixed", after="stages"))
    assert [place.replace("act3", "act2") for place in found] == expected


def test_after_activations_is_every_one_of_vgg() -> None:
    assert len(add_drs(build_backbone("vgg11").model, DrsConfig(mode="fixed", after="activations"))) == 8


@pytest.mark.parametrize("name", ["test_efficientnet", "test_byobnet", "seresnet18", "tf_efficientnet_lite0"])
@pytest.mark.parametrize("after", ["stages", "activations"])
def test_it_goes_into_other_networks_and_leaves_gates_and_names_alone(name: str, after: str) -> None:
    plain, drs = build_backbone(name).model, build_backbone(name).model
    found = add_drs(drs, DrsConfig(mode="fixed", after=after))  # type: ignore[arg-type]
    assert found
    assert not [place for place in found if ".se." in place or "gate" in place]
    assert list(plain.state_dict()) == list(drs.state_dict())
    drs.load_state_dict(plain.state_dict())
    x = torch.randn(1, 4, 64, 64)
    a, b = (model.eval().forward_features(x) for model in (plain, drs))
    assert a.shape == b.shape
    assert not torch.equal(a, b)


def test_mode_none_changes_nothing() -> None:
    model = build_backbone("test_resnet").model
    assert add_drs(model, DrsConfig()) == []


def test_a_shared_activation_can_not_learn_shares_for_several_widths() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU()
            self.conv = nn.Conv2d(4, 8, 1)

        def forward_features(self, x: torch.Tensor) -> torch.Tensor:
            return self.act(self.conv(self.act(x)))

    with pytest.raises(ConfigError, match=r"drs\.mode fixed"):
        add_drs(Shared(), DrsConfig(mode="learned", after="activations"))
    assert add_drs(Shared(), DrsConfig(mode="fixed", after="activations")) == ["act"]


def test_extra_convolutions_stand_below_the_classifier() -> None:
    model = net(mode="learned", extra=2)
    assert model.classifier.in_channels == 512
    assert model(torch.rand(1, 4, 64, 64)).cam.shape == (1, 3, 2, 2)
    new = {id(p) for p in model.new_parameters()}
    assert {id(p) for p in model.neck.parameters()} <= new
    assert id(model.backbone.conv1[0].weight if hasattr(model.backbone.conv1, "__getitem__") else 0) not in new


def test_the_state_dict_goes_from_one_to_another() -> None:
    torch.manual_seed(0)
    first, second = net(mode="learned", extra=1).eval(), net(mode="learned", extra=1).eval()
    second.load_state_dict(first.state_dict())
    x = torch.rand(1, 4, 64, 64) * 255
    assert torch.equal(first(x).cam, second(x).cam)


@pytest.mark.parametrize(("stride", "side"), [(32, 2), (16, 4), (8, 8)])
def test_vgg_has_the_output_stride_that_was_asked_for(stride: int, side: int) -> None:
    model = build_backbone("vgg11", stride=stride).model
    assert model.forward_features(torch.zeros(1, 4, 64, 64)).shape == (1, 512, side, side)


def test_a_dilated_vgg_keeps_the_field_of_view_of_its_convolutions() -> None:
    convolutions = [m for m in build_backbone("vgg11", stride=8).model.features if isinstance(m, nn.Conv2d)]
    assert [m.dilation[0] for m in convolutions] == [1, 1, 1, 1, 1, 1, 2, 2]
