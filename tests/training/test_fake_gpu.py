"""Training and inference on a GPU that is not here: fake tensors, which have shapes, types and devices but no values.

They refuse to mix devices by themselves. A dispatch mode counts what makes the CPU wait for the GPU, and finds float64,
which GPUs are slow at. The backward pass itself needs a driver: gradients of the right shape stand in for it.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from squares import make_job, make_squares
from tiny_subcell import classifier, encoder
from torch import nn
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wsss.data.augment import build_augment
from wsss.data.catalog import DataSet
from wsss.inference.published import read_subcell
from wsss.inference.semantic import MaskPredictor
from wsss.inference.sources import PublishedScores, UnetScores
from wsss.models.augment import OPS, Drawn
from wsss.models.cam_net import build_cam_net, class_maps, crop_outputs
from wsss.models.device import Device
from wsss.models.unet import build_unet
from wsss.options.masks import MaskConfig, MaskInferConfig, MaskLossConfig
from wsss.options.recipe import (
    ClassifyRecipe,
    DrsConfig,
    LossConfig,
    MapRecipe,
    MaskRecipe,
    OptimConfig,
    PuzzleConfig,
    UnetRecipe,
)
from wsss.options.scoring import TtaConfig
from wsss.segmenters.cell_unet import CellUnet
from wsss.training.drawing import DrawnAugment, together
from wsss.training.fit import Learner
from wsss.training.loading import Batch
from wsss.training.state import TrainState
from wsss.training.tasks.classify import ClassifyLearner, Validator
from wsss.training.tasks.masks import MaskLearner
from wsss.training.watch import Preview

GPU = torch.device("cuda:0")
HALVES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
ATEN = torch.ops.aten
WAITS = {ATEN._local_scalar_dense.default, ATEN.nonzero.default, ATEN.masked_select.default, ATEN.equal.default}
COPIES = {ATEN._to_copy, ATEN.copy_, ATEN.to}
"""What moves tensors; `to` is seen whole in inference mode only."""
BACK = "cuda:0 to cpu"
every_half = pytest.mark.parametrize(
    "half",
    ["fp32", pytest.param("bf16", marks=pytest.mark.slow), "fp16"],  # fp16 scales its gradients too
)
BASE = ClassifyRecipe(backbone="test_resnet", weights="none", crop=64, batch=2)
PLAIN = replace(BASE, puzzle=PuzzleConfig(side=1))

VARIANTS = {
    "plain": PLAIN,
    "puzzle": replace(BASE, optim=OptimConfig(ema=0.9, clip=1.0)),
    "puzzle of features": replace(BASE, puzzle=PuzzleConfig(maps="features")),
    "weighted focal": replace(
        PLAIN, loss=LossConfig("focal", class_weights=[1.0, 2.0]), optim=OptimConfig("adamw", accumulate=2)
    ),
    "asymmetric": replace(PLAIN, loss=LossConfig("asymmetric")),
    "DRS": replace(PLAIN, drs=DrsConfig(mode="fixed", extra=1)),
    "learned DRS, refined": replace(PLAIN, drs=DrsConfig(mode="learned", after="activations")),
}
NETWORKS = ("plain", "DRS", "learned DRS, refined")
"""Variants that differ in what is left of them for predictions."""
TERMS = [{"bce": 1.0, "dice": 1.0}, {"lovasz": 1.0, "ohem": 1.0}, {"jaccard": 1.0, "focal": 1.0, "border": 1.0}]


class Watch(TorchDispatchMode):
    """Count what the GPU is waited for, and note float64 on it, but for single numbers (the scale of fp16)."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.doubles: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        on_gpu = any(isinstance(leaf, torch.Tensor) and leaf.device == GPU for leaf in tree_leaves((args, kwargs)))
        if func in WAITS and on_gpu:
            self.waits.append(str(func))
        if func is ATEN._local_scalar_dense.default:
            return 0.5
        result = func(*args, **kwargs)
        if isinstance(result, torch.Tensor) and func.overloadpacket in COPIES:
            source = args[1] if func is ATEN.copy_.default else args[0]
            patient = any(arg is True for arg in args) or kwargs.get("non_blocking", False)
            if source.device != result.device and not (patient and result.device == GPU):
                self.waits.append(f"{source.device} to {result.device}")
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.device == GPU and leaf.dtype == torch.float64 and leaf.ndim:
                self.doubles.append(str(func))
        return result


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorMode]:
    """Make tensors fake, and PyTorch believe in a GPU."""
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr(Device, "settle", lambda self, net: net)
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) as mode:  # the nodes of a graph ask the driver
        yield mode


def settle(net: nn.Module, mode: FakeTensorMode) -> Any:
    """Put a network that was built on the CPU on the GPU that is not here."""
    for module in net.modules():
        for name, p in module._parameters.items():
            if p is not None:
                module._parameters[name] = nn.Parameter(mode.from_tensor(p.data).to(GPU), p.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = mode.from_tensor(buffer).to(GPU)
    return net


@pytest.fixture(scope="module")
def build() -> Callable[..., nn.Module]:
    """Build networks outside of the fake mode."""

    def built(recipe: ClassifyRecipe, classes: int = 2) -> nn.Module:
        with torch.enable_grad(), fake_tensor.unset_fake_temporarily():
            return build_cam_net(recipe, channels=4, classes=classes)

    return built


def built_unet(recipe: UnetRecipe, outputs: int) -> nn.Module:
    """Build a U-Net outside of the fake mode."""
    with torch.enable_grad(), fake_tensor.unset_fake_temporarily():
        return build_unet(recipe, channels=4, outputs=outputs)


def stand_in(net: nn.Module) -> Callable[..., None]:
    def backward(loss: torch.Tensor) -> None:
        assert loss.dtype == torch.float32
        for p in net.parameters():
            p.grad = torch.empty_like(p) if p.requires_grad else None

    return backward


def take_step(learner: Learner, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Take a step that updates the weights; return what the GPU was waited for."""
    monkeypatch.setattr(torch.Tensor, "backward", stand_in(learner.state.net))
    learner.state.progress.step = learner.job.recipe.optim.accumulate - 1
    with Watch() as watch:
        outcome = learner.step(batch, 1.0, 4)
    assert outcome.finite
    assert learner.state.optimizer.state
    assert not watch.doubles
    return watch.waits


@every_half
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_waits_once(
    variant: str, half: str, gpu: FakeTensorMode, build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, device = VARIANTS[variant], Device(GPU, HALVES[half])
    state = TrainState(settle(build(recipe), gpu), recipe, device)
    teacher = settle(build(PLAIN), gpu).eval() if "refined" in variant else None
    learner = ClassifyLearner(make_job(recipe, device, teacher=teacher), state, [])
    batch = Batch(torch.zeros(2, 4, 64, 64, dtype=torch.uint8), torch.ones(2, 2), torch.arange(2))
    assert take_step(learner, batch, monkeypatch) == [BACK]


@pytest.fixture(scope="module")
def drawn() -> list[Drawn]:
    """Draw all ops but one for the images of a batch of 60."""
    augment = DrawnAugment(build_augment("hard", 64))
    steps = together([augment(np.zeros((4, 64, 64), np.uint8), seed)[1] for seed in range(60)])
    assert {step.op for step in steps} == set(OPS) - {"turn over"}
    return steps


@every_half
def test_a_step_with_augmentation_on_the_device_waits_once(
    half: str, drawn: list[Drawn], gpu: FakeTensorMode, build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(GPU, HALVES[half])
    learner = ClassifyLearner(make_job(PLAIN, device), TrainState(settle(build(PLAIN), gpu), PLAIN, device), [])
    batch = Batch(torch.zeros(60, 4, 64, 64, dtype=torch.uint8), torch.ones(60, 2), torch.arange(60), drawn)
    assert take_step(learner, batch, monkeypatch) == [BACK]


@every_half
@pytest.mark.parametrize("terms", TERMS, ids=lambda terms: " and ".join(terms))
@pytest.mark.parametrize("target", ["binary", "softmax"])
def test_a_step_of_a_unet_waits_once(
    target: str, terms: dict[str, float], half: str, gpu: FakeTensorMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks = MaskConfig(target=target)  # type: ignore[arg-type]
    loss = MaskLossConfig(terms=terms)
    recipe = MaskRecipe(backbone="test_resnet", weights="none", crop=64, batch=2, masks=masks, mask_loss=loss)
    device = Device(GPU, HALVES[half])
    state = TrainState(settle(built_unet(recipe, masks.outputs), gpu), recipe, device)
    learner = MaskLearner(make_job(recipe, device), state, [])
    targets = torch.zeros(2, masks.outputs + ("border" in terms), 64, 64, dtype=torch.uint8)
    batch = Batch(torch.zeros(2, 4, 64, 64, dtype=torch.uint8), targets, torch.arange(2))
    assert take_step(learner, batch, monkeypatch) == [BACK]


@every_half
def test_a_step_of_class_maps_from_pseudo_masks_waits_once(
    half: str, gpu: FakeTensorMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, device = MapRecipe(backbone="test_resnet", weights="none", crop=64, batch=2), Device(GPU, HALVES[half])
    state = TrainState(settle(built_unet(recipe, 2), gpu), recipe, device)
    learner = MaskLearner(make_job(recipe, device), state, [])
    targets = torch.zeros(2, 2, 64, 64, dtype=torch.uint8)
    batch = Batch(torch.zeros(2, 4, 64, 64, dtype=torch.uint8), targets, torch.arange(2))
    assert take_step(learner, batch, monkeypatch) == [BACK]


@pytest.fixture
def empty_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give fake tensors that are back in the main memory something to be read."""
    kinds = {torch.uint8: np.uint8, torch.int32: np.int32, torch.float32: np.float32}

    def numpy(tensor: torch.Tensor) -> np.ndarray:
        assert tensor.device.type == "cpu"
        return np.zeros(tuple(tensor.shape), kinds[tensor.dtype])

    monkeypatch.setattr(torch.Tensor, "numpy", numpy)
    monkeypatch.setattr(FakeTensor, "tolist", lambda tensor: numpy(tensor.cpu()).tolist())


@pytest.mark.usefixtures("empty_arrays")
@every_half
@pytest.mark.parametrize("variant", NETWORKS)
def test_maps_views_and_crops_stay_on_the_gpu_until_they_are_done(
    variant: str, half: str, gpu: FakeTensorMode, build: Any
) -> None:
    net, device = settle(build(VARIANTS[variant]), gpu).eval(), Device(GPU, HALVES[half])
    images = np.zeros((2, 4, 64, 64), np.uint8)
    with Watch() as watch:
        maps, probs = class_maps(net, images, device, TtaConfig(views="flips", scales=[1.5]))
        assert (maps.shape, probs.shape) == ((2, 2, 3, 3), (2, 2))
        outputs, features = crop_outputs(net, [images, images[:1]], device)
        assert (len(outputs), features.shape) == (3, (3, net.classifier.in_channels))
    assert watch.waits == [BACK] * 10  # maps and probabilities of four views, and what two batches of crops give
    assert not watch.doubles


@pytest.mark.usefixtures("empty_arrays")
@every_half
@pytest.mark.parametrize("target", ["binary", "softmax"])
def test_so_do_the_maps_of_a_unet_and_its_views(target: str, half: str, gpu: FakeTensorMode) -> None:
    masks, device = MaskConfig(target=target), Device(GPU, HALVES[half])  # type: ignore[arg-type]
    recipe = MaskRecipe(backbone="test_resnet", weights="none", masks=masks)
    member: Any = SimpleNamespace(net=settle(built_unet(recipe, masks.outputs), gpu).eval(), recipe=recipe)
    predictor = MaskPredictor([member], MaskInferConfig(tta="flips", scales=[0.75]), device)
    with Watch() as watch:
        assert predictor.parts(np.zeros((2, 4, 64, 96), np.uint8)).shape == (2, masks.outputs, 64, 96)
    assert watch.waits == [BACK]
    assert not watch.doubles


@pytest.mark.usefixtures("empty_arrays")
@every_half
def test_so_do_class_maps_of_a_unet_and_the_stains_of_cells(half: str, gpu: FakeTensorMode) -> None:
    device = Device(GPU, HALVES[half])
    net = settle(built_unet(MapRecipe(backbone="test_resnet", weights="none"), 2), gpu).eval()
    scores: Any = SimpleNamespace(task=SimpleNamespace(device=device))
    segmenter: Any = SimpleNamespace(net=net, device=device)
    images = np.zeros((2, 4, 64, 96), np.uint8)
    with Watch() as watch:
        assert UnetScores._ask(scores, net, images, slice(None)).shape[:2] == (2, 2)
        assert CellUnet._run(segmenter, images).shape == (2, 2, 64, 96)
    assert watch.waits == [BACK] * 2
    assert not watch.doubles


@pytest.mark.usefixtures("empty_arrays")
@every_half
def test_so_do_published_networks(half: str, gpu: FakeTensorMode) -> None:
    with torch.enable_grad(), fake_tensor.unset_fake_temporarily():
        net = read_subcell([encoder(), classifier(0)])
    model = SimpleNamespace(net=settle(net, gpu).eval(), to_classes=lambda probs: probs)
    scores: Any = SimpleNamespace(task=SimpleNamespace(device=Device(GPU, HALVES[half])), model=model)
    with Watch() as watch:
        probs, vectors = PublishedScores._ask(scores, np.zeros((2, 4, 64, 64), np.uint8), slice(0, 2))
    assert (len(probs), len(vectors)) == (2, 2)
    assert watch.waits == [BACK] * 2
    assert not watch.doubles


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """Open a data set of squares."""
    return DataSet.open(make_squares(tmp_path_factory.mktemp("data") / "squares"))


@pytest.mark.usefixtures("empty_arrays")
@pytest.mark.filterwarnings("ignore:.*pin_memory")
@every_half
def test_validation_and_its_pictures_wait_once_for_a_batch_and_what_is_shown(
    half: str, data: DataSet, gpu: FakeTensorMode, build: Any, tmp_path: Path
) -> None:
    net, device = settle(build(BASE, len(data.classes)), gpu), Device(GPU, HALVES[half])
    validator = Validator(data, np.arange(4), BASE, device)
    with Watch() as watch:
        assert set(validator(net)) >= {"loss", "f1", "map"}
    assert watch.waits == [BACK] * 4  # losses and probabilities of two batches
    with Watch() as watch:
        Preview(data, np.arange(4), device, tmp_path, every=1)(net, {"epoch": 1})
    assert set(watch.waits) == {BACK}
    assert not watch.doubles
    assert (tmp_path / "preview" / "epoch001.png").exists()
