"""Mask losses: known values, gradients, order, extremes, the ignore band, the switch."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from wsss.core.checks import ConfigError
from wsss.options.masks import LOSS_TERMS, MaskLossConfig
from wsss.training.losses import MaskLoss, ohem_term, one_vs_rest

torch.manual_seed(0)
TRUTH = torch.zeros(2, 1, 6, 7, dtype=torch.uint8)
TRUTH[0, 0, 1:4, 2:5] = 1
TRUTH[1, 0, 3:, :3] = 1
WEIGHTS = torch.rand(2, 1, 6, 7) + 0.5

VARIANTS = [
    *({"terms": {name: 1.0}} for name in LOSS_TERMS),
    {"terms": {"lovasz": 1.0}, "rectifier": "elu"},
    {"terms": {"lovasz": 1.0}, "rectifier": "elu", "symmetric": True, "per_image": False},
    {"terms": {"dice": 1.0}, "per_image": False},
    {"terms": {"bce": 0.5, "lovasz": 2.0}, "symmetric": True},
]
every_loss = pytest.mark.parametrize("options", VARIANTS, ids=str)


def build(options: dict[str, object]) -> Callable[..., Tensor]:
    loss = MaskLoss(MaskLossConfig(**options))  # type: ignore[arg-type]
    return lambda logits, truth=TRUTH: loss(logits, truth, weights=WEIGHTS.to(logits.device))["loss"]


@every_loss
def test_gradients_match_numeric_ones(options: dict[str, object]) -> None:
    loss = build(options)
    logits = torch.randn(2, 1, 6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    assert torch.autograd.gradcheck(lambda x: loss(x), logits.requires_grad_())


@every_loss
def test_the_better_mask_has_the_lower_loss(options: dict[str, object]) -> None:
    loss = build(options)
    right = 6.0 * (2 * TRUTH.float() - 1)
    shifted = right.roll(1, dims=3)
    assert loss(right) < loss(shifted) < loss(-right)


@every_loss
def test_gradient_steps_lead_to_the_mask(options: dict[str, object]) -> None:
    loss = build(options)
    logits = torch.zeros(2, 1, 6, 7, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        loss(logits).backward()
        optimizer.step()
    assert ((logits > 0) == (TRUTH > 0)).all()


@every_loss
@pytest.mark.parametrize("value", [0, 1, 255], ids=["empty", "full", "all ignored"])
def test_empty_full_and_ignored_masks_are_finite_in_any_precision(options: dict[str, object], value: int) -> None:
    sizes = [0.0, 1.0, 50.0, -50.0, 6e4, -6e4]
    for size, dtype in itertools.product(sizes, [torch.float32, torch.float16, torch.bfloat16]):
        logits = torch.full((2, 1, 6, 7), size, dtype=dtype, requires_grad=True)
        loss = build(options)(logits, torch.full_like(TRUTH, value))
        loss.backward()
        assert torch.isfinite(loss), (size, dtype)
        assert logits.grad is not None
        assert torch.isfinite(logits.grad).all(), (size, dtype)
        if value == 255:
            assert loss == 0
            assert (logits.grad == 0).all()


@every_loss
def test_ignored_pixels_change_nothing(options: dict[str, object]) -> None:
    loss = build(options)
    target = TRUTH.clone()
    target[:, :, 2:4, 1:6] = 255
    logits = torch.randn(2, 1, 6, 7).requires_grad_()
    other = logits.detach().clone()
    other[:, :, 2:4, 1:6] = 100.0
    found = loss(logits, target)
    found.backward()
    assert found.item() == pytest.approx(loss(other, target).item(), rel=1e-6)
    assert logits.grad is not None
    assert (logits.grad[:, :, 2:4, 1:6] == 0).all()


def of(terms: str, logits: list[float], truth: list[int], **options: object) -> float:
    shape = (1, 1, 1, len(logits))
    config = MaskLossConfig(terms={terms: 1.0}, **options)  # type: ignore[arg-type]
    weights = torch.tensor([1.0, 3.0] + [1.0] * (len(logits) - 2)).view(shape)
    target = torch.tensor(truth, dtype=torch.uint8).view(shape)
    return MaskLoss(config)(torch.tensor(logits).view(shape), target, weights=weights)["loss"].item()


def test_known_values() -> None:
    low, high = math.log1p(math.exp(-2)), math.log1p(math.exp(2))
    p = 1 / (1 + math.exp(-2))
    assert of("bce", [2.0, 2.0], [1, 0]) == pytest.approx((low + high) / 2)
    assert of("border", [2.0, 2.0], [1, 0]) == pytest.approx((low + 3 * high) / 4)
    assert of("ohem", [2.0, 2.0], [1, 0], ohem_share=0.5) == pytest.approx(high)
    assert of("focal", [2.0, 2.0], [1, 0]) == pytest.approx(((1 - p) ** 2 * low + p**2 * high) / 2)
    assert of("dice", [2.0, 2.0], [1, 0]) == pytest.approx(1 - (2 * p + 1) / (2 * p + 1 + 1))
    assert of("jaccard", [2.0, 2.0], [1, 0]) == pytest.approx(1 - (p + 1) / (2 * p + 1 - p + 1))
    # errors 3 (background) and -1 (object): the first alone makes IoU 1/2, the second does not count with relu
    assert of("lovasz", [2.0, 2.0], [1, 0]) == pytest.approx(3 / 2)
    elu = 4 * 0.5 + math.exp(-1) * 0.5
    assert of("lovasz", [2.0, 2.0], [1, 0], rectifier="elu") == pytest.approx(elu)
    assert of("lovasz", [2.0, 0.5], [1, 0], symmetric=True) == pytest.approx((1.5 / 2 + 1.5) / 2)


def test_hard_pixels_teach_what_most_pixels_show() -> None:
    """Of pixels with noise in their masks, a share of the hardest alone is least unsure with half for every pixel."""
    features = torch.tensor([1.0, -1.0]).repeat(100).view(1, 1, 20, 10)
    truth = (features > 0).float()
    truth.view(-1)[::7] = 1 - truth.view(-1)[::7]
    weight = torch.zeros((), requires_grad=True)
    for _ in range(100):
        loss = ohem_term(weight * features, truth, torch.ones_like(truth, dtype=torch.bool), 0.25)
        (slope,) = torch.autograd.grad(loss, weight)
        weight = (weight - 0.5 * slope).detach().requires_grad_()
    assert weight > 0.5


def test_lovasz_of_relu_is_that_of_segmentation_models_pytorch() -> None:
    from segmentation_models_pytorch.losses import LovaszLoss

    logits = torch.randn(2, 1, 6, 7)
    target = TRUTH.clone()
    target[0, 0, :2] = 255
    for per_image in (True, False):
        own = MaskLoss(MaskLossConfig(terms={"lovasz": 1.0}, per_image=per_image))(logits, target)["loss"]
        theirs = LovaszLoss("binary", per_image=per_image, ignore_index=255)(logits, target.long())
        assert own.item() == pytest.approx(theirs.item(), rel=1e-5)


def test_jaccard_of_a_whole_batch_is_that_of_segmentation_models_pytorch() -> None:
    from segmentation_models_pytorch.losses import JaccardLoss

    logits = torch.randn(2, 1, 6, 7)
    ours = MaskLoss(MaskLossConfig(terms={"jaccard": 1.0}, per_image=False))(logits, TRUTH)["loss"]
    assert ours.item() == pytest.approx(JaccardLoss("binary", smooth=1.0)(logits, TRUTH).item(), rel=1e-5)


def test_an_empty_mask_found_empty_costs_less_than_false_objects() -> None:
    empty = torch.zeros_like(TRUTH)
    for name in ("dice", "jaccard", "lovasz"):
        loss = build({"terms": {name: 1.0}})
        assert loss(torch.full((2, 1, 6, 7), -9.0), empty) < 0.05
        assert loss(torch.full((2, 1, 6, 7), 9.0), empty) > 0.9


def test_terms_are_weighed_and_switched_at_their_epoch() -> None:
    config = MaskLossConfig(terms={"bce": 1.0, "dice": 0.5}, later={"lovasz": 1.0}, switch=3)
    loss, logits = MaskLoss(config), torch.randn(2, 1, 6, 7)
    parts = loss(logits, TRUTH, epoch=2)
    assert set(parts) == {"loss", "bce", "dice"}
    assert parts["loss"].item() == pytest.approx((parts["bce"] + 0.5 * parts["dice"]).item())
    assert set(loss(logits, TRUTH, epoch=3)) == {"loss", "lovasz"}


def test_coarser_outputs_add_their_mean() -> None:
    loss, logits = MaskLoss(MaskLossConfig(side_weight=0.5)), torch.randn(2, 1, 6, 7)
    alone = loss(logits, TRUTH)["loss"]
    parts = loss(logits, TRUTH, side=[logits, logits])
    assert parts["side"].item() == pytest.approx(alone.item())
    assert parts["loss"].item() == pytest.approx(1.5 * alone.item())


def test_one_class_against_the_rest_is_the_softmax() -> None:
    logits = torch.randn(2, 3, 4, 4)
    assert torch.allclose(torch.sigmoid(one_vs_rest(logits)), logits.softmax(dim=1), atol=1e-6)


def test_softmax_targets_prefer_the_right_class() -> None:
    target = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    target[:, 1] = 1
    loss = MaskLoss(MaskLossConfig(terms={"bce": 1.0, "dice": 1.0, "lovasz": 1.0}), "softmax")
    good = loss(5 * target.float(), target)["loss"]
    assert good < loss(torch.zeros(1, 3, 2, 2), target)["loss"] < loss(-5 * target.float(), target)["loss"]


def test_wrong_options_name_what_was_expected() -> None:
    with pytest.raises(ConfigError, match=r"mask_loss.terms is 'dise'.*Did you mean 'dice'"):
        MaskLossConfig(terms={"dise": 1.0})
    with pytest.raises(ConfigError, match="belong together"):
        MaskLossConfig(switch=3)
    with pytest.raises(ValueError, match="needs pixel weights"):
        MaskLoss(MaskLossConfig(terms={"border": 1.0}))(torch.zeros(1, 1, 2, 2), TRUTH[:1, :, :2, :2])
    with pytest.raises(ValueError, match="must match"):
        MaskLoss(MaskLossConfig())(torch.zeros(1, 1, 2, 2), TRUTH)


def test_the_distance_is_learnt_as_a_share_and_the_mask_by_the_terms() -> None:
    target = torch.tensor([[[[0, 1, 1, 255]], [[0, 127, 254, 255]]]], dtype=torch.uint8)
    loss = MaskLoss(MaskLossConfig(terms={"dice": 1.0}), "distance")
    best = torch.logit(torch.tensor([[[[0.0, 1, 1, 0]], [[0, 0.5, 1, 0]]]]), eps=1e-6)
    parts = loss(best, target)
    assert parts["dice"] < 1e-4
    assert parts["distance"] == pytest.approx(np.log(2) / 3, abs=1e-3)  # the entropy of one half
    worse = best.clone()
    worse[0, 1, 0, 1] = 2.0
    assert loss(worse, target)["loss"] > parts["loss"]


@pytest.mark.parametrize(
    ("kind", "values", "holds"),
    [("binary", [[0, 1]], 1.0), ("binary", [[0, 255]], 0.0), ("softmax", [[1, 1], [0, 0], [0, 0]], 0.0)],
)
def test_an_image_with_a_pixel_of_an_object_holds_something(kind: str, values: list[list[int]], holds: float) -> None:
    target = torch.tensor(values, dtype=torch.uint8)[None, :, None]
    loss = MaskLoss(MaskLossConfig(terms={"bce": 1.0}, empty_weight=0.5), kind)
    logits, said = torch.zeros(target.shape), torch.tensor([3.0])
    parts = loss(logits, target, holds=said)
    assert parts["empty"] == pytest.approx(float(np.log1p(np.exp(-3 if holds else 3))), rel=1e-4)
    assert parts["loss"] == pytest.approx(float(loss(logits, target)["loss"] + 0.5 * parts["empty"]))
