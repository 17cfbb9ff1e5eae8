"""Discriminative Region Suppression: no pixel of an activation may exceed a share of the channel's peak.

The strongest parts of an object then leave room for the weaker ones, and class maps cover more of it.
Source: Kim, Han and Kim, Discriminative Region Suppression (arXiv 2103.07246); method, section 3.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from wsss.core.checks import ConfigError
from wsss.models.backbone import Backbone, pretrained_config
from wsss.options.recipe import DrsConfig

ACTIVATIONS = frozenset(
    {"ReLU", "ReLU6", "LeakyReLU", "PReLU", "ELU", "SiLU", "Swish", "SwishMe", "GELU", "GELUTanh", "QuickGELU"}
    | {"Mish", "MishMe", "Hardswish", "HardSwish", "HardSwishMe", "HardMish", "HardMishMe"}
)
"""Classes of torch and timm that count as activations; gates such as Sigmoid do not."""

EXTRA_FEATURES = 512
"""Channels of the extra convolutions, as in the paper."""


class Suppress(nn.Module):
    """x = relu(x), then min(x, delta x peak), the peak being that of each image and channel.

    Args:
        channels: of the maps.
        delta: share of the peak, fixed; None learns it for each image and channel, sigmoid(W mean(x)), from .5 on.
    """

    def __init__(self, channels: int, delta: float | None) -> None:
        super().__init__()
        self.delta = 1.0 if delta is None else delta
        self.gate: nn.Linear | None = None
        if delta is None:
            self.gate = nn.Linear(channels, channels, bias=False)
            nn.init.zeros_(self.gate.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Suppress the peaks of (B, C, h, w) maps."""
        x = x.relu()
        peak = x.amax(dim=(2, 3), keepdim=True)  # (B, C, 1, 1)
        if self.gate is None:
            return torch.minimum(x, peak * self.delta)
        return torch.minimum(x, peak * self.gate(x.mean(dim=(2, 3))).sigmoid()[:, :, None, None])


def build_suppress(channels: int, config: DrsConfig) -> Suppress:
    """Build the module that `config` asks for."""
    return Suppress(channels, config.delta if config.mode == "fixed" else None)


def add_drs(backbone_model: nn.Module, config: DrsConfig, *, channels: int = 4) -> list[str]:
    """Put a `Suppress` behind activations of a timm CNN, in place; its weights keep their names.

    Only activations of maps count: those of squeeze-and-excitation gates (1 x 1) stay as they are.

    Args:
        backbone_model: a timm model with `forward_features`.

    Returns:
        the names of the activations that are followed by one now, in the order of the forward pass.

    Raises:
        ConfigError: it has no such activations, or shares one between maps of different width.
    """
    if config.mode == "none":
        return []
    places = _find_places(backbone_model, config.after, channels)
    if not places:
        raise ConfigError(f"{type(backbone_model).__name__} has no activations for DRS: choose another backbone.")
    for name, widths in places.items():
        if config.mode == "learned" and len(widths) > 1:
            raise ConfigError(
                f"{name} serves maps of {sorted(widths)} channels: use drs.mode fixed with this backbone."
            )
        parent, _, child = name.rpartition(".")
        activation = backbone_model.get_submodule(name)
        suppress = build_suppress(min(widths), config)
        # A plain ReLU gives way: Suppress begins with one. Anything else stays in front.
        follower = suppress if type(activation) is nn.ReLU else nn.Sequential(activation, suppress)
        setattr(backbone_model.get_submodule(parent), child, follower)
    return list(places)


def _find_places(model: nn.Module, after: str, channels: int) -> dict[str, set[int]]:
    """Run the model once; return the activations to follow, in order, with the widths of their maps."""
    calls: list[tuple[str, int]] = []
    ends: list[int] = []
    stages = {info["module"] for info in _feature_info(model)} if after == "stages" else set()

    def note(name: str, output: Tensor) -> None:
        if name in activations and output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
            calls.append((name, output.shape[1]))
        if name in stages:
            ends.append(len(calls))

    activations = {name for name, module in model.named_modules() if type(module).__name__ in ACTIVATIONS}
    with _watched(model, activations | stages, note):
        cast(Any, model).forward_features(torch.zeros(1, channels, 64, 64))
    chosen = {name for name, _ in calls}
    if after == "stages":
        chosen = {calls[end - 1][0] for end in ends if end}
    places: dict[str, set[int]] = {}
    for name, width in calls:
        if name in chosen:
            places.setdefault(name, set()).add(width)
    return places


def _feature_info(model: nn.Module) -> list[dict[str, Any]]:
    info = getattr(model, "feature_info", None)
    if not isinstance(info, list) or not info:
        name = pretrained_config(model).get("architecture", type(model).__name__)
        raise ConfigError(f"timm does not list the stages of {name}: pass --drs.after activations.")
    return info


@contextmanager
def _watched(model: nn.Module, names: set[str], note: Any) -> Iterator[None]:
    """Call note(name, output) whenever one of the modules `names` has run, without gradients, in eval mode."""
    was_training = model.training
    hooks = [
        model.get_submodule(name).register_forward_hook(lambda module, args, output, name=name: note(name, output))
        for name in sorted(names)
    ]
    try:
        with torch.no_grad():
            model.eval()
            yield
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()


def build_neck(backbone: Backbone, config: DrsConfig) -> tuple[nn.Sequential, int]:
    """Build the extra 3 x 3 convolutions below the classifier (none by default); return them and their width."""
    layers: list[nn.Module] = []
    width = backbone.features
    for _ in range(config.extra if config.mode != "none" else 0):
        layers += [nn.Conv2d(width, EXTRA_FEATURES, kernel_size=3, padding=1), build_suppress(EXTRA_FEATURES, config)]
        width = EXTRA_FEATURES
    return nn.Sequential(*layers), width
