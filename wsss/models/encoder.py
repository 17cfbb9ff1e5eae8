"""Encoders of mask networks: any timm or segmentation_models_pytorch model, or a custom module.

A custom module is named as backbone by 'package.module:Class'. It is built with the number of channels as its only
argument and turns (B, channels, H, W) standardised images into maps from fine to coarse, whose strides are whole
numbers; it may declare `mean` and `std` of its input, in 0..1, as tuples of three.
"""

import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, Literal, Protocol

import segmentation_models_pytorch as smp
import timm
import torch
from torch import Tensor, nn

from wsss.core.checks import ConfigError, nearest
from wsss.core.files import digest_file, digest_json
from wsss.core.hub import SHORT_NAMES, out_of_reach, quick_hub
from wsss.core.reading import one_line
from wsss.models.backbone import (
    MISFITS,
    InputStatistics,
    freeze_unused,
    load_pretrained,
    pretrained_state,
    whole_state,
)
from wsss.models.weights import strip

PLAIN = InputStatistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""ImageNet's, for models that declare none."""


@dataclass(frozen=True)
class Scale:
    """One of an encoder's maps."""

    channels: int
    stride: int
    """Input pixels per pixel of the map."""


class _WithImage(nn.Module):
    """A custom module with the interface of the libraries' encoders: the image first, then its maps."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> list[Tensor]:
        return [images, *self.model(images)]


@dataclass(frozen=True)
class Encoder:
    """A model whose forward turns (B, channels, H, W) into maps from fine to coarse, the image itself first."""

    model: nn.Module
    scales: tuple[Scale, ...]
    """Of the maps after the first one."""
    statistics: InputStatistics
    """Of the input."""


def build_encoder(
    name: str,
    *,
    channels: int,
    weights: str = "none",
    stem: Literal["mean", "timm"] = "mean",
    depth: int = 5,
    stem_pool: bool = True,
) -> Encoder:
    """Build an encoder for standardised images.

    Args:
        name: timm's name, a short one of `backbone`, or one of segmentation_models_pytorch; timm's go first. Or
            'package.module:Class', see the head of this module.
        weights: hub, package, none; or a file: of the three-channel model, or the best.safetensors of a run.
        stem: rule for the kernels of channels after the third, see `stem_kernel` (models of timm).
        depth: number of scales, each half the one before.
        stem_pool: False takes the stem's pooling out.

    Raises:
        ConfigError: unknown model, one without scales or without stem pooling, weights not to be had.
        DataError: the weights do not fit.
    """
    full = SHORT_NAMES.get(name, name)
    if is_custom(name):
        return _build_custom(name, channels, weights, stem, stem_pool=stem_pool)
    if timm.is_model(full):
        model = _build(f"tu-{full}", channels, depth)
        state = pretrained_state(full, weights)
        if state is not None:
            load_encoder(model, state, stem, (weights, f"backbone {name}"), whole_state(full))
    elif full in smp.encoders.get_encoder_names():
        model = _build_smp(full, channels, depth, weights)
    else:
        known = [*SHORT_NAMES, *timm.list_models(), *smp.encoders.get_encoder_names()]
        raise ConfigError(
            f"backbone '{name}' is neither of timm nor of segmentation_models_pytorch.{nearest(name, known)}"
        )
    if not stem_pool:
        _drop_stem_pool(model, name)
    return Encoder(model, _scales(model, name, channels), _statistics(full, channels))


def _build_custom(name: str, channels: int, weights: str, stem: Literal["mean", "timm"], *, stem_pool: bool) -> Encoder:
    """Build the encoder that a class of the user makes."""
    if weights in ("hub", "package"):
        raise ConfigError(f"no {weights} carries weights of {name}: pass --weights none or a file.")
    if not stem_pool:
        raise ConfigError("unet.stem_pool false is for models of libraries: leave it out.")
    plain = custom_class(name)(channels)
    if weights != "none":
        load_encoder(plain, pretrained_state(name, weights) or {}, stem, (weights, f"backbone {name}"))
    model = _WithImage(plain)
    scales = _scales(model, name, channels)
    strides = [1, *(scale.stride for scale in scales)]
    if not scales or any(not coarse or coarse % fine for fine, coarse in pairwise(strides)):
        raise ConfigError(
            f"backbone '{name}' gives maps of strides {strides[1:]}, expected one or more from fine to coarse, each a "
            "multiple of the one before."
        )
    statistics = InputStatistics(getattr(plain, "mean", PLAIN.mean), getattr(plain, "std", PLAIN.std))
    return Encoder(model, scales, statistics.for_channels(channels))


def _build(name: str, channels: int, depth: int) -> nn.Module:
    try:
        model: nn.Module = smp.encoders.get_encoder(name, in_channels=channels, depth=depth, weights=None)
    except MISFITS as error:
        plain = name.removeprefix("tu-")
        raise ConfigError(
            f"backbone '{plain}' gives no {depth} scales of maps ({one_line(error)}): choose another."
        ) from error
    return model


def _build_smp(name: str, channels: int, depth: int, weights: str) -> nn.Module:
    """Build an encoder that only segmentation_models_pytorch has; the stem follows that library's rule."""
    if weights == "package":
        raise ConfigError(f"no package carries weights of {name}: pass --weights hub, none or a file.")
    if weights == "hub":
        try:
            known = smp.encoders.encoders[name]["pretrained_settings"]
            with quick_hub():
                model: nn.Module = smp.encoders.get_encoder(
                    name, in_channels=channels, depth=depth, weights=next(iter(known))
                )
        except Exception as error:  # each hub client has its own errors for 'offline'
            raise out_of_reach(name, error) from error
        return model
    if weights == "none":
        return _build(name, channels, depth)
    model = _build(name, 3, depth)
    load_encoder(model, pretrained_state(name, weights) or {}, "timm", (weights, f"backbone {name}"))
    model.set_in_channels(channels, pretrained=True)  # type: ignore[operator]
    return model


def load_encoder(
    model: nn.Module,
    state: dict[str, Tensor],
    stem: Literal["mean", "timm"],
    called: tuple[str, str],
    whole: Mapping[str, Tensor] | None = None,
) -> None:
    """Load a classifier's weights into an encoder; the names differ in dots and prefixes alone. See `load_pretrained`.

    Weights of a trained run are known by their names, of a classifier 'net.backbone.' and of a mask network
    'net.encoder.'.

    Raises:
        DataError: tensors are missing, have another shape or are left over; they are named.
    """
    state = strip(state, "net.encoder.") or state
    first = next((name for name, tensor in model.state_dict().items() if tensor.ndim == 4), "")
    load_pretrained(model, state, first_conv=first, stem=stem, whole=whole or {}, key=_plain, called=called)


def _plain(name: str) -> str:
    return name.removeprefix("model.").replace(".", "_")


def _drop_stem_pool(model: nn.Module, name: str) -> None:
    for path, module in model.named_modules():
        if isinstance(module, nn.MaxPool2d):
            parent, _, child = path.rpartition(".")
            setattr(model.get_submodule(parent), child, nn.Identity())
            return
    raise ConfigError(f"backbone '{name}' has no pooling in its stem to drop: leave unet.stem_pool at true.")


def _scales(model: nn.Module, name: str, channels: int) -> tuple[Scale, ...]:
    """Return the scales of an encoder by trying it on an empty image; freeze what is in none of its maps."""
    size, was_training = 64, model.training
    try:
        maps: list[Tensor] = model.eval()(torch.zeros(1, channels, size, size))
    except MISFITS as error:
        raise ConfigError(
            f"backbone '{name}' takes no image of any size ({one_line(error)}): choose another."
        ) from error
    if any(size % scale.shape[2] or scale.shape[2] != scale.shape[3] for scale in maps[1:]):
        edges = [tuple(scale.shape[2:]) for scale in maps[1:]]
        raise ConfigError(f"backbone '{name}' makes maps of {edges} from {size} x {size} px, expected whole fractions.")
    freeze_unused(model, [scale for scale in maps[1:] if scale.requires_grad])
    model.train(was_training)
    return tuple(Scale(scale.shape[1], size // scale.shape[2]) for scale in maps[1:])


def _statistics(name: str, channels: int) -> InputStatistics:
    """Return what the pretrained weights declare; channels after the third take the first one's."""
    config: Any = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    declared = PLAIN if config is None else InputStatistics(tuple(config.mean), tuple(config.std))
    return declared.for_channels(channels)


_INSTALLED = ("site-packages", "dist-packages")
_OURS = Path(__file__).resolve().parents[1]


class EncoderClass(Protocol):
    """A custom encoder: a class of modules."""

    def __call__(self, channels: int) -> nn.Module:
        """Build it for images with this number of channels."""


def is_custom(backbone: str) -> bool:
    """Whether a backbone is a class of the user's, not one of a library."""
    return ":" in backbone


def custom_class(name: str) -> EncoderClass:
    """Import the class that 'package.module:Class' names.

    Raises:
        ConfigError: there is none, or it is no class of torch.nn.Module.
    """
    attribute = name.partition(":")[2]
    kind = getattr(_module(name), attribute, None)
    if kind is None:
        raise ConfigError(f"backbone '{name}' cannot be imported (there is no {attribute}): check its name.")
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):  # nothing else is called
        raise ConfigError(f"backbone '{name}' is no class of torch.nn.Module.")
    return kind


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name.partition(":")[0])
    except (ImportError, ValueError, SyntaxError) as error:
        raise ConfigError(
            f"backbone '{name}' cannot be imported ({one_line(error)}): expected package.module:Class."
        ) from error


def source_digest(name: str) -> str:
    """Return the digest of the source code of a custom encoder: its module, and what that imports from beside it."""
    module = _module(name)
    top = sys.modules[module.__name__.partition(".")[0]]
    home = Path(top.__file__ or module.__file__ or ".").resolve().parent
    return digest_json({str(path.relative_to(home)): digest_file(path) for path in _files_below(home, module)})


def _files_below(home: Path, module: ModuleType) -> list[Path]:
    """Return the files in a folder that a module, and those it uses from there, were loaded from."""
    found: set[Path] = set()
    parts = module.__name__.split(".")
    queue = [sys.modules.get(".".join(parts[:k])) for k in range(1, len(parts) + 1)]
    while queue:
        one = queue.pop()
        path = Path(getattr(one, "__file__", None) or "").resolve()
        if one is None or path in found or not _is_own(path, home):
            continue
        found.add(path)
        for value in list(vars(one).values()):
            if isinstance(value, ModuleType):
                queue.append(value)
            elif isinstance(value, type | FunctionType):
                queue.append(sys.modules.get(value.__module__))
    return sorted(found)


def _is_own(path: Path, home: Path) -> bool:
    """Whether a file is of the user's own code: below `home`, and neither of an installed library nor of wsss."""
    if not path.is_file() or not path.is_relative_to(home) or path.is_relative_to(_OURS):
        return False
    inside = path.relative_to(home).parts
    return not any(name in inside for name in _INSTALLED) and (home.name not in _INSTALLED or len(inside) == 1)
