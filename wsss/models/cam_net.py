"""The classifier whose class maps are its class activation maps; its views in inference and training (Puzzle-CAM).

With Discriminative Region Suppression, no pixel of an activation may exceed a share of the channel's peak: the
strongest parts of an object then leave room for the weaker ones, and class maps cover more of it. Source: Kim, Han and
Kim, Discriminative Region Suppression (arXiv 2103.07246); method, section 3.
"""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsss.core.checks import ConfigError, install
from wsss.models.backbone import Backbone, build_backbone, fast_layout, pretrained_config
from wsss.models.device import Device, check_outputs, in_parts
from wsss.options.recipe import ClassifyRecipe, DrsConfig
from wsss.options.scoring import TtaConfig

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


class CamOutput(NamedTuple):
    """Output of a CAM network for a batch."""

    logits: Tensor
    """(B, K) before the sigmoid: the mean of each class map."""
    cam: Tensor
    """(B, K, h, w) raw class maps."""
    features: Tensor
    """(B, C, h, w) below the classifier."""


class CamNet(nn.Module):
    """A backbone, a 1x1 convolution to one map a class, and the mean of each map as its logit.

    Classifier and pooling are swapped against the usual network, which gives the same logits, and maps for free.
    Images come as stored (uint8 or float, 0..255); standardisation is the network's own. Weights and maps lie in
    memory channels last, which convolutions on CPUs and on tensor cores prefer.

    Args:
        backbone: a timm model, its feature channels and the statistics of its input.
        classes: K.
        drop_rate: dropout on the features.
        neck: layers between backbone and classifier.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, backbone: Backbone, classes: int, drop_rate: float = 0.0, neck: nn.Sequential | None = None
    ) -> None:
        super().__init__()
        self.backbone, self.layout = backbone.model, fast_layout(backbone.model)
        self.neck = nn.Sequential() if neck is None else neck
        self.dropout = nn.Dropout2d(drop_rate)
        self.classifier = nn.Conv2d(backbone.features, classes, kernel_size=1, bias=False)
        self.register_buffer("mean", torch.tensor(backbone.statistics.mean).view(-1, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(backbone.statistics.std).view(-1, 1, 1) * 255)

    def forward(self, images: Tensor) -> CamOutput:
        """Classify (B, channels, H, W) images of 0..255."""
        x = ((images.to(self.mean.dtype) - self.mean) / self.std).contiguous(memory_format=self.layout)
        features = self.neck(cast(Any, self.backbone).forward_features(x))  # (B, C, h, w)
        cam = self.classifier(self.dropout(features))  # (B, K, h, w)
        return CamOutput(cam.float().mean(dim=(2, 3)), cam, features)

    def new_parameters(self) -> set[nn.Parameter]:
        """Return the parameters that no pretrained weights hold: classifier, neck, learnt suppression."""
        gates = [module for module in self.backbone.modules() if isinstance(module, Suppress)]
        return {p for module in (self.classifier, self.neck, *gates) for p in module.parameters()}


def build_cam_net(recipe: ClassifyRecipe, *, channels: int, classes: int, pretrained: bool = True) -> CamNet:
    """Build the network of a recipe; `pretrained` False leaves the weights random, for loading a checkpoint.

    Raises:
        ConfigError: see `build_backbone`; or the backbone gives no (B, C, h, w) features.
    """
    backbone = build_backbone(
        recipe.backbone,
        channels=channels,
        weights=recipe.weights if pretrained else "none",
        stem=recipe.stem,
        stride=recipe.output_stride,
    )
    add_drs(backbone.model, recipe.drs, channels=channels)
    neck, features = build_neck(backbone, recipe.drs)
    net = CamNet(replace(backbone, features=features), classes, recipe.drop_rate, neck)
    return net.to(memory_format=net.layout)


STEP = 32
"""Edges of resized images are multiples of it, so that the maps of every size cover just the image."""
View = tuple[int, bool]
"""Quarter turns, then whether to flip left and right."""

AS_IT_IS: View = (0, False)
VIEWS: dict[str, tuple[View, ...]] = {
    "none": (AS_IT_IS,),
    "mirror": (AS_IT_IS, (0, True)),
    "flips": (AS_IT_IS, (0, True), (2, False), (2, True)),
    "turns": tuple((turns, flip) for turns in range(4) for flip in (False, True)),
}
"""By `MaskInferConfig.tta`; half a turn with and without a flip are the flip of both axes and that of one."""


def apply(images: Tensor, view: View) -> Tensor:
    """Turn and flip (..., H, W); `undo` takes it back."""
    turns, flip = view
    turned = torch.rot90(images, turns, (-2, -1))
    return turned.flip(-1) if flip else turned


def undo(maps: Tensor, view: View) -> Tensor:
    """Take back what `apply` did to the image the maps are of."""
    turns, flip = view
    return torch.rot90(maps.flip(-1) if flip else maps, -turns, (-2, -1))


def resize_images(pixels: Tensor, size: list[int]) -> Tensor:
    """Resize (B, C, H, W) images, or maps, bilinearly."""
    return F.interpolate(pixels, size=size, mode="bilinear", align_corners=False, antialias=True)


def resized(images: np.ndarray, scale: float) -> np.ndarray:
    """Return (B, C, H, W) uint8 images at about `scale` of their size: edges are multiples of 32 px, at least one."""
    size = [max(STEP, round(edge * scale / STEP) * STEP) for edge in images.shape[2:]]
    if scale == 1 or size == list(images.shape[2:]):
        return images
    return resize_images(torch.from_numpy(images).float(), size).round().clamp(0, 255).to(torch.uint8).numpy()


def _view(array: np.ndarray, view: View) -> np.ndarray:
    if view == AS_IT_IS:
        return array
    return apply(torch.from_numpy(np.ascontiguousarray(array)), view).contiguous().numpy()


ONE_VIEW = TtaConfig()
"""The image as it is."""


@torch.no_grad()
def class_maps(
    net: CamNet, images: np.ndarray, device: Device, config: TtaConfig = ONE_VIEW
) -> tuple[np.ndarray, np.ndarray]:
    """Average the raw class maps and the probabilities of several views.

    Args:
        images: (B, C, H, W) uint8, B at least 1; seen in parts where memory does not hold all.

    Returns:
        (B, K, h, w) and (B, K) float32; h and w are those of the maps at the first of `config.scales`.
    """

    def see(pixels: np.ndarray, rows: slice) -> tuple[Tensor, Tensor]:
        output = see_images(net, device.put(torch.from_numpy(pixels[rows])), device)
        seen = output.cam.float().cpu(), output.logits.sigmoid().cpu()
        check_outputs(*seen)
        return seen

    maps, probs = [], []
    for scale in config.scales:
        sized = resized(images, scale)
        for view in VIEWS[config.views]:
            pixels = _view(sized, view)
            parts = zip(*in_parts(net, pixels.shape, partial(see, pixels)), strict=True)
            cam, view_probs = (torch.cat(of_parts) for of_parts in parts)
            maps.append(undo(cam, view))
            probs.append(view_probs)
    size = list(maps[0].shape[2:])
    same = [cam if list(cam.shape[2:]) == size else resize_images(cam, size) for cam in maps]
    return torch.stack(same).mean(dim=0).numpy(), torch.stack(probs).mean(dim=0).numpy()


def see_images(net: CamNet, images: Tensor, device: Device) -> CamOutput:
    """Return the output for (B, C, H, W) images on the device."""
    with device.autocast():
        output: CamOutput = net(images)
    return output


@torch.no_grad()
def crop_outputs(
    net: CamNet, batches: Iterable[np.ndarray], device: Device, config: TtaConfig = ONE_VIEW
) -> tuple[np.ndarray, np.ndarray]:
    """Average probabilities (N, K) and features (N, D) float32 of crops over the views at their own size.

    The features are the mean over each crop of what the classifier sees.

    Args:
        net: in evaluation mode.
        batches: of crops, (n, C, s, s) uint8 each; there may be none. They are seen in parts where memory does not
            hold all of one.
    """
    width, classes = net.classifier.in_channels, net.classifier.out_channels

    def see(crops: np.ndarray, rows: slice) -> np.ndarray:
        output = see_images(net, device.put(torch.from_numpy(crops[rows])), device)
        pooled = output.features.float().mean(dim=(2, 3))
        both = torch.cat([output.logits.float().sigmoid(), pooled], dim=1).cpu()  # one wait for the device
        check_outputs(both)
        return np.asarray(both.numpy())

    tables = [np.zeros((0, classes + width), np.float32)]
    for batch in batches:
        views = (_view(batch, view) for view in VIEWS[config.views])
        tables.append(np.mean([np.concatenate(in_parts(net, one.shape, partial(see, one))) for one in views], axis=0))
    table = np.concatenate(tables)
    return table[:, :classes], table[:, classes:]


class SiameseOutput(NamedTuple):
    """The two views of a batch."""

    full: CamOutput
    """Of the whole images."""
    tiles: CamOutput | None
    """Of the tiles, merged to the shapes of `full`; None without a puzzle."""

    def views(self, maps: str) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor] | None]:
        """Return (logits, maps) of both views; the maps are the features where `maps` is 'features'."""
        pick = (lambda o: (o.logits, o.features)) if maps == "features" else (lambda o: (o.logits, o.cam))
        return pick(self.full), None if self.tiles is None else pick(self.tiles)


class PuzzleCam(nn.Module):
    """The training view of a `CamNet`: whole image and side x side tiles through the same weights.

    Source: Jo and Yu, Puzzle-CAM (arXiv 2101.11253), with the recipe's changes (method, section 2).

    Args:
        side: tiles per side; 1 for no tiles.
    """

    def __init__(self, net: CamNet, side: int = 2) -> None:
        super().__init__()
        self.net, self.side = net, side

    def forward(self, images: Tensor) -> SiameseOutput:
        """See (B, C, H, W) images, H and W divisible by side x stride."""
        full = self.net(images)
        return SiameseOutput(full, None if self.side == 1 else self._see_tiles(images, full))

    def _see_tiles(self, images: Tensor, full: CamOutput) -> CamOutput:
        tiles = self.net(split(images, self.side))  # on (B*s*s, C, H/s, W/s)
        cam = merge(tiles.cam, self.side)
        if cam.shape != full.cam.shape:
            raise ValueError(
                f"merged maps are {tuple(cam.shape)}, full maps {tuple(full.cam.shape)}: the image's height and width "
                f"must divide by {self.side} x the network's stride, got {tuple(images.shape)}"
            )
        return CamOutput(cam.float().mean(dim=(2, 3)), cam, merge(tiles.features, self.side))


def split(images: Tensor, side: int) -> Tensor:
    """Cut (B, C, H, W) into (B*side*side, C, H/side, W/side), row by row, an image's tiles together.

    Raises:
        ValueError: H or W does not divide by `side`.
    """
    b, c, h, w = images.shape
    if h % side or w % side:
        raise ValueError(f"images of {h} x {w} do not divide into {side} x {side} equal tiles")
    grid = images.reshape(b, c, side, h // side, side, w // side)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(b * side * side, c, h // side, w // side)


def merge(tiles: Tensor, side: int) -> Tensor:
    """Put (B*side*side, C, h, w) tiles back to (B, C, h*side, w*side); undoes `split`.

    Raises:
        ValueError: the number of tiles does not divide by side * side.
    """
    n, c, h, w = tiles.shape
    if n % (side * side):
        raise ValueError(f"{n} tiles are no whole number of images of {side} x {side} tiles")
    grid = tiles.reshape(n // (side * side), side, side, c, h, w)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(n // (side * side), c, side * h, side * w)


class InOpenVino(nn.Module):
    """A `CamNet` for inference, computed by OpenVINO in float32.

    Args:
        net: in evaluation mode, on the CPU.

    Raises:
        ConfigError: openvino is not installed.
    """

    def __init__(self, net: CamNet) -> None:
        super().__init__()
        try:
            import openvino  # an extra
        except ImportError as error:
            raise ConfigError(f"--runtime openvino needs openvino: {install('openvino')}.") from error
        self.classifier = net.classifier
        example = torch.zeros(2, net.mean.shape[0], 64, 96, dtype=torch.uint8)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's tracer warns of sizes that it takes for fixed; no output is
            model = openvino.convert_model(net, example_input=example)
        hints = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
        self._compiled = openvino.Core().compile_model(model, "CPU", hints)

    def forward(self, images: Tensor) -> CamOutput:
        """Classify (B, channels, H, W) uint8 images of any size."""
        found = self._compiled(images.contiguous().numpy())
        return CamOutput(*(torch.from_numpy(found[k]) for k in range(3)))


def check_runtime(device: Device) -> None:
    """Refuse a device, or an arithmetic, that OpenVINO is not for.

    Raises:
        ConfigError: it is a GPU, or in half precision.
    """
    if device.is_cuda or device.half is not None:
        raise ConfigError("--runtime openvino computes on the CPU in fp32: pass --device cpu, leave --precision out.")
