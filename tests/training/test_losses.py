"""Losses: known values, and that they mean what they say."""

import math
from collections.abc import Callable
from typing import get_args, get_type_hints

import pytest
import torch
import torch.nn.functional as F
from segmentation_models_pytorch.losses import FocalLoss
from timm.loss import AsymmetricLossMultiLabel
from torch import Tensor

from wsss.options.recipe import LossConfig, PuzzleConfig
from wsss.training.losses import ComboLoss, agreement, asymmetric, bce, build_classify, focal, ramp_weight

LOGITS = torch.tensor([[2.0, -1.0, 0.0], [-3.0, 0.5, 4.0]])
LABELS = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])

NAMES = get_args(get_type_hints(LossConfig)["name"])
FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "bce": bce,
    "focal": lambda x, y: focal(x, y, 2.0),
    "asymmetric": lambda x, y: asymmetric(x, y, 4.0, 0.05),
}
"""The function behind each name, with the default options."""


def test_bce_of_zero_is_log_two() -> None:
    assert bce(torch.zeros(1, 1), torch.ones(1, 1)).item() == pytest.approx(math.log(2))


def test_focal_and_asymmetric_without_their_changes_are_bce() -> None:
    assert torch.allclose(focal(LOGITS, LABELS, 0.0), bce(LOGITS, LABELS))
    assert torch.allclose(asymmetric(LOGITS, LABELS, 0.0, 0.0), bce(LOGITS, LABELS), atol=1e-5)


def test_focal_known_value() -> None:
    assert focal(torch.zeros(1, 1), torch.ones(1, 1), 2.0).item() == pytest.approx(0.25 * math.log(2))


def test_of_hard_labels_focal_is_that_of_segmentation_models_pytorch_and_asymmetric_that_of_timm() -> None:
    theirs = FocalLoss("multilabel", gamma=2.0)(LOGITS, LABELS)
    assert focal(LOGITS, LABELS, 2.0).mean().item() == pytest.approx(theirs.item(), rel=1e-5)
    theirs = AsymmetricLossMultiLabel(gamma_neg=4, gamma_pos=0, clip=0.05)(LOGITS, LABELS)  # a sum over classes
    assert asymmetric(LOGITS, LABELS, 4.0, 0.05).sum(dim=1).mean().item() == pytest.approx(theirs.item(), rel=1e-4)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_has_a_gradient_where_it_is_sure(gamma: float) -> None:
    logits = torch.tensor([[20.0, -20.0, 200.0, -200.0]], requires_grad=True)
    focal(logits, torch.tensor([[1.0, 0.0, 1.0, 0.0]]), gamma).sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_asymmetric_forgives_sure_absent_classes() -> None:
    assert asymmetric(torch.tensor([[-4.0]]), torch.zeros(1, 1), 4.0, 0.05).item() == 0


@pytest.mark.parametrize("name", NAMES)
def test_the_better_answer_costs_less_and_extremes_stay_finite(name: str) -> None:
    loss = build_classify(LossConfig(name=name))  # type: ignore[arg-type]
    good, bad = loss(8 * (LABELS - 0.5), LABELS), loss(-8 * (LABELS - 0.5), LABELS)
    assert good < bad
    assert torch.isfinite(loss(torch.tensor([[1e4, -1e4, 0.0]]), torch.tensor([[0.0, 1.0, 1.0]])))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_match_numeric_ones(name: str) -> None:
    logits = LOGITS.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: FUNCTIONS[name](x, LABELS.double()).sum(), logits)


@pytest.mark.parametrize("name", NAMES)
def test_each_name_chooses_its_function(name: str) -> None:
    chosen = build_classify(LossConfig(name=name))(LOGITS, LABELS)  # type: ignore[arg-type]
    assert chosen.item() == pytest.approx(FUNCTIONS[name](LOGITS, LABELS).mean().item())


def test_smoothing_moves_targets_to_the_middle() -> None:
    smooth = build_classify(LossConfig(smoothing=0.2))(LOGITS, LABELS)
    assert smooth.item() == pytest.approx(bce(LOGITS, LABELS * 0.8 + 0.1).mean().item())


def test_class_weights_weigh_columns() -> None:
    only_last = build_classify(LossConfig(class_weights=[0.0, 0.0, 1.0]))(LOGITS, LABELS)
    assert only_last.item() == pytest.approx(bce(LOGITS, LABELS)[:, 2].sum().item() / 6)


FULL = torch.tensor([[[[1.0, -1.0]], [[2.0, 2.0]]]])  # (1, 2, 1, 2)
MERGED = torch.tensor([[[[0.0, -3.0]], [[2.0, 1.0]]]])
PRESENT = torch.tensor([[1.0, 0.0]])


@pytest.mark.parametrize(
    ("config", "value"),
    [
        (PuzzleConfig(), (1 + 2 + 0 + 1) / 4),
        (PuzzleConfig(distance="l2"), (1 + 4 + 0 + 1) / 4),
        (PuzzleConfig(maps="relu"), (1 + 0 + 0 + 1) / 4),
        (PuzzleConfig(classes="labels"), (1 + 2) / 4),
        (PuzzleConfig(classes="present"), (1 + 2) / 2),
    ],
)
def test_agreement_known_values(config: PuzzleConfig, value: float) -> None:
    assert agreement(FULL, MERGED, PRESENT, config).item() == pytest.approx(value)


def test_agreement_without_any_label_is_zero() -> None:
    assert agreement(FULL, MERGED, torch.zeros(1, 2), PuzzleConfig(classes="present")).item() == 0


@pytest.mark.parametrize(("stop", "sides"), [("none", (True, True)), ("full", (False, True)), ("tiles", (True, False))])
def test_stop_gradient_fixes_one_side(stop: str, sides: tuple[bool, bool]) -> None:
    full, merged = FULL.clone().requires_grad_(), MERGED.clone().requires_grad_()
    agreement(full, merged, PRESENT, PuzzleConfig(stop_gradient=stop)).backward()  # type: ignore[arg-type]
    assert (full.grad is not None, merged.grad is not None) == sides


def test_ramp_rises_linearly_to_the_weight() -> None:
    config = PuzzleConfig(weight=4, ramp=0.5)
    assert [ramp_weight(config, p) for p in (0, 0.25, 0.5, 1)] == [0, 2, 4, 4]


def test_combo_loss_is_the_sum_of_its_named_parts() -> None:
    parts = ComboLoss(LossConfig(), PuzzleConfig(weight=0.25))((LOGITS, FULL), (LOGITS + 1, MERGED), LABELS)
    expected = F.binary_cross_entropy_with_logits(LOGITS, LABELS)
    expected += F.binary_cross_entropy_with_logits(LOGITS + 1, LABELS) + 0.25 * 1.0
    assert parts["loss"].item() == pytest.approx(expected.item())
    assert set(parts) == {"loss", "full", "tiles", "agreement"}


def test_without_tiles_the_loss_is_the_plain_classifiers() -> None:
    parts = ComboLoss(LossConfig(), PuzzleConfig())((LOGITS, FULL), None, LABELS)
    assert parts["loss"].item() == pytest.approx(bce(LOGITS, LABELS).mean().item())
