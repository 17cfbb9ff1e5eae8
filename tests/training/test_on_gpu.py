"""What needs a GPU: the same numbers as on the CPU, in every arithmetic; memory that is really too small."""

from functools import partial
from pathlib import Path

import pytest
import torch

from wsss.core.checks import ConfigError
from wsss.models.cam_net import build_cam_net
from wsss.models.device import choose_device, peak_bytes
from wsss.options.recipe import ClassifyRecipe, OptimConfig
from wsss.runs.record import RunRecord
from wsss.runs.run_folder import RunFolder
from wsss.training.loading import Batch
from wsss.training.state import Job, TrainState
from wsss.training.tasks.classify import ClassifyLearner

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

BATCH = Batch(torch.randint(0, 255, (8, 4, 64, 64), dtype=torch.uint8), torch.ones(8, 2), torch.arange(8))


def make_learner(device: str, precision: str = "fp32", **optim: object) -> ClassifyLearner:
    recipe = ClassifyRecipe(backbone="test_resnet", weights="none", crop=64, batch=8, optim=OptimConfig(**optim))  # type: ignore[arg-type]
    torch.manual_seed(0)
    place = choose_device(device, precision)
    net = build_cam_net(recipe, channels=4, classes=2)
    job = Job(recipe, place, RunFolder(Path()), RunRecord(recipe, None, "", (), ("red", "green", "blue", "yellow")), [])
    return ClassifyLearner(job, TrainState(net, recipe, place), [])


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("optim", [{"clip": 1.0, "ema": 0.9}, {"name": "sgd"}], ids=["adamw", "sgd"])
def test_a_step_is_that_of_the_cpu(precision: str, optim: dict[str, object]) -> None:
    if precision == "bf16" and choose_device("cuda").half is not torch.bfloat16:
        pytest.skip("this GPU does not compute in bf16")
    values = []
    for learner in (make_learner("cpu", **optim), make_learner("cuda", precision, **optim)):
        values.append([learner.step(BATCH, 1.0, 10).values["loss"] for _ in range(3)])
    assert values[1] == pytest.approx(values[0], abs=0.05)


def test_memory_that_is_too_small_is_told_with_the_batch_that_fits() -> None:
    learner = make_learner("cuda")
    need = peak_bytes(partial(learner.rehearse, BATCH), learner.job.device)
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + need / 2) / total)
    large = Batch(BATCH.images.repeat(32, 1, 1, 1), BATCH.labels.repeat(32, 1), torch.arange(256))
    try:
        with pytest.raises(ConfigError, match=r"too small for 256 images .*(would fit: pass --batch|even for one)"):
            learner.step(large, 1.0, 1)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
