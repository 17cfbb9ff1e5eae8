"""The learning rate over a run."""

import pytest
import torch

from wsss.core.checks import ConfigError
from wsss.models.cam_net import build_cam_net
from wsss.models.device import choose_device
from wsss.options.recipe import ClassifyRecipe, OptimConfig
from wsss.training.state import LearningRate, TrainState


def test_the_cyclic_rate_is_that_of_torch() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    theirs = torch.optim.lr_scheduler.CyclicLR(optimizer, base_lr=0.02, max_lr=0.2, step_size_up=5)
    ours = LearningRate(OptimConfig(schedule="cyclic", lr=0.2, cycle_low=0.1, cycles=3))
    for step in range(30):
        assert ours.at(step / 30) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6)
        optimizer.step()
        theirs.step()
    assert ours.at(1.0) == pytest.approx(0.02)


def test_a_rate_below_the_floor_is_taken_as_it_is() -> None:
    for schedule in ("constant", "plateau", "cosine"):
        assert LearningRate(OptimConfig(schedule=schedule, lr=1e-7)).at(0.5) == 1e-7  # type: ignore[arg-type]
    assert LearningRate(OptimConfig(schedule="cosine", lr=1e-3)).at(1.0) == 1e-6


def test_triangles_follow_a_warm_up_and_end_with_snapshots() -> None:
    rate = LearningRate(OptimConfig(schedule="cyclic", lr=1.0, cycles=2, warmup=0.2))
    assert [rate.at(share) for share in (0.1, 0.2, 0.4, 0.6, 0.8)] == pytest.approx([0.5, 0.1, 1.0, 0.1, 1.0])
    assert [rate.cycle_ended(epoch, 10) for epoch in range(1, 11)] == [0, 0, 0, 0, 0, 1, 0, 0, 0, 2]


def test_triangles_must_end_with_an_epoch() -> None:
    with pytest.raises(ConfigError, match="end within an epoch"):
        ClassifyRecipe(epochs=10, optim=OptimConfig(schedule="cyclic", cycles=3))


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_what_the_optimiser_keeps_is_laid_out_as_its_weights_after_a_resume_too(name: str) -> None:
    """The fused optimisers of a GPU refuse anything else; a file keeps no layout."""
    recipe = ClassifyRecipe(backbone="test_resnet", weights="none", optim=OptimConfig(name=name))  # type: ignore[arg-type]
    first, other = (
        TrainState(build_cam_net(recipe, channels=4, classes=2), recipe, choose_device("cpu")) for _ in range(2)
    )
    first.net(torch.zeros(1, 4, 64, 64)).logits.sum().backward()
    first.optimizer.step()
    other.restore({key: tensor.detach().contiguous() for key, tensor in first.tensors().items()}, first.meta())
    kept = [(p, tensor) for p, slots in other.optimizer.state.items() for tensor in slots.values() if tensor.ndim]
    assert len(kept) >= len(list(other.net.parameters()))
    assert {tensor.stride() == p.stride() for p, tensor in kept} == {True}
