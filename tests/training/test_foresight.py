"""Memory told before the first step: what it takes, what is free, and the batch that fits."""

from pathlib import Path

import numpy as np
import pytest
import torch
from squares import make_job

from wsss.models import device as machine
from wsss.models.cam_net import build_cam_net
from wsss.models.device import choose_device, peak_bytes
from wsss.options.recipe import ClassifyRecipe
from wsss.training.fit import foresee
from wsss.training.loading import Batch
from wsss.training.state import TrainState
from wsss.training.tasks.classify import ClassifyLearner

CPU = choose_device("cpu")
BATCH = Batch(torch.zeros(8, 4, 64, 64, dtype=torch.uint8), torch.ones(8, 2), torch.arange(8))
MIB = 2**20


def test_the_peak_of_a_call_is_found_although_it_is_gone_at_the_end() -> None:
    def call() -> None:
        for _ in range(20):
            np.ones(64 * MIB, np.uint8).sum()

    assert 0.8 * 64 * MIB < peak_bytes(call, CPU) < 200 * MIB


@pytest.mark.parametrize(
    ("free", "said"),
    [
        (8000, "a step of 8 images takes about 0.9 GiB, 7.8 GiB are free on cpu"),
        (560, "too much. 4 would fit: pass --batch 4 --optim.accumulate 2, or lower --crop"),
        (150, "too much, even for one image: lower --crop, or choose a smaller --backbone"),
    ],
)
def test_what_a_step_takes_is_told_with_the_batch_that_fits(
    free: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One image takes 200 MiB here, each further one 100: 900 for eight; nine tenths of what is free may be taken."""
    recipe = ClassifyRecipe(backbone="test_resnet", weights="none", crop=64, batch=8)
    net = build_cam_net(recipe, channels=4, classes=2)
    learner = ClassifyLearner(make_job(recipe, CPU), TrainState(net, recipe, CPU), [])
    peaks = iter([200 * MIB, 300 * MIB])
    monkeypatch.setattr("wsss.training.fit.free_bytes", lambda device: free * MIB)
    monkeypatch.setattr("wsss.training.fit.peak_bytes", lambda call, device: call() or next(peaks))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    foresee(learner, BATCH)
    assert capsys.readouterr().out.strip().endswith(said)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())  # nothing was learnt
    assert all(p.grad is None for p in net.parameters())


def test_the_limit_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "max").write_text(f"{3 * MIB}\n")
    (tmp_path / "now").write_text(f"{MIB}\n")
    monkeypatch.setattr(machine, "MEMORY_LIMITS", (tmp_path / "max",))
    monkeypatch.setattr(machine, "MEMORY_USED", (tmp_path / "now",))
    assert machine.free_memory() == 2 * MIB
