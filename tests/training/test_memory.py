"""Memory that is too small: training names the batch that fits, prediction goes on with parts of the batch."""

import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from memory_limit import MemoryLimit
from squares import make_job, make_squares, words

from wsss.core.checks import ConfigError
from wsss.data.catalog import DataSet
from wsss.inference.semantic import MaskPredictor
from wsss.models.cam_net import CamNet, build_cam_net, class_maps, crop_outputs
from wsss.models.device import MemoryFull, attempt, choose_device
from wsss.models.unet import build_unet
from wsss.options.masks import MaskInferConfig
from wsss.options.recipe import ClassifyRecipe, MaskRecipe, OptimConfig
from wsss.options.scoring import TtaConfig
from wsss.training.fit import Learner
from wsss.training.loading import Batch
from wsss.training.state import TrainState
from wsss.training.tasks.classify import ClassifyLearner, Validator

CPU = choose_device("cpu")
BATCH = Batch(torch.zeros(8, 4, 64, 64, dtype=torch.uint8), torch.ones(8, 2), torch.arange(8))
RECIPE = ClassifyRecipe(backbone="test_resnet", weights="none", crop=64, batch=8)


def make_learner(recipe: ClassifyRecipe = RECIPE) -> Learner:
    net = build_cam_net(recipe, channels=4, classes=2)
    return ClassifyLearner(make_job(recipe, CPU), TrainState(net, recipe, CPU), [])


def needed(images: int, recipe: ClassifyRecipe = RECIPE) -> int:
    """Return the bytes of a step, beside those of the weights."""
    with MemoryLimit() as memory:
        make_learner(recipe).rehearse(BATCH.first(images))
    return memory.peak


def advice(learner: Learner, limit: float) -> str:
    with MemoryLimit(limit), pytest.raises(ConfigError) as caught:
        learner.step(BATCH, 1.0, 1)
    return str(caught.value)


@pytest.mark.parametrize("fits", [2, 4])
@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_training_that_does_not_fit_is_told_the_batch_that_does(fits: int, name: str) -> None:
    optim = OptimConfig(name=name)  # type: ignore[arg-type]
    recipe = ClassifyRecipe(backbone="test_resnet", weights="none", crop=64, batch=8, optim=optim)
    said = advice(make_learner(recipe), 1.01 * needed(fits, recipe))
    assert f"too small for 8 images of 64 px at a time (CUDA out of memory. Tried to allocate.); {fits} would" in said
    assert f"pass --batch {fits} --optim.accumulate {8 // fits}" in said


def test_nor_does_memory_that_runs_out_in_the_backward_pass_or_a_later_step_escape() -> None:
    learner = make_learner()
    learner.step(BATCH.first(1), 1.0, 1)  # Adam's moments are there from now on
    with MemoryLimit() as memory:
        learner.rehearse(BATCH)
    assert "4 would fit" in advice(learner, memory.peak - 1)  # all but the very peak
    assert "even for one: lower --crop" in advice(learner, 10_000)


def test_an_attempt_that_fails_leaves_nothing_behind() -> None:
    learner = make_learner()
    with MemoryLimit(1.01 * needed(2)) as memory:
        with pytest.raises(MemoryFull):
            attempt(partial(learner.rehearse, BATCH))
        learner.state.optimizer.zero_grad(set_to_none=True)
        assert memory.live == 0
    with pytest.raises(RuntimeError, match="no memory at all"), MemoryLimit():
        attempt(partial(refuse, "no memory at all"))  # another error stays what it is


def refuse(text: str) -> None:
    raise RuntimeError(text)


@pytest.fixture
def net() -> CamNet:
    return build_cam_net(RECIPE, channels=4, classes=2).eval()


IMAGES = np.random.default_rng(0).integers(0, 255, (8, 4, 64, 64), np.uint8)


def test_images_that_do_not_fit_at_once_are_seen_in_parts(net: CamNet, capsys: pytest.CaptureFixture[str]) -> None:
    with MemoryLimit() as memory:
        whole = class_maps(net, IMAGES, CPU)
    with MemoryLimit(memory.peak / 2.5) as small:
        parts = class_maps(net, IMAGES, CPU)
        class_maps(net, IMAGES, CPU, TtaConfig(views="flips"))
    assert small.refusals == 2  # 8 and 4; what fits is remembered
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    told = capsys.readouterr().out.splitlines()
    assert told == [
        "memory is too small for 8 images of 64 x 64 px at a time: going on with 4",
        "memory is too small for 4 images of 64 x 64 px at a time: going on with 2",
    ]


def test_so_are_crops_whatever_the_size_of_the_last_batch(net: CamNet) -> None:
    batches = [IMAGES, IMAGES[:5], IMAGES[:1]]
    with MemoryLimit() as memory:
        whole = crop_outputs(net, batches, CPU)[0]
    with MemoryLimit(memory.peak / 2) as small:
        parts = crop_outputs(net, batches, CPU)[0]
    assert small.refusals
    np.testing.assert_allclose(whole, parts, atol=1e-5)


def test_so_are_tiles_of_masks(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = MaskRecipe(backbone="test_resnet", weights="none")
    unet: Any = SimpleNamespace(net=build_unet(recipe, channels=4, outputs=1).eval(), recipe=recipe)
    predictor = MaskPredictor([unet], MaskInferConfig(), CPU)
    with MemoryLimit() as memory:
        whole = predictor.parts(IMAGES)
    with MemoryLimit(memory.peak / 1.5) as small:
        np.testing.assert_allclose(predictor.parts(IMAGES), whole, atol=1e-5)
    assert small.refusals == 1
    assert "8 images of 64 x 64 px at a time: going on with 4" in capsys.readouterr().out


def test_so_are_the_images_of_a_validation(tmp_path: Path) -> None:
    data = DataSet.open(make_squares(tmp_path / "squares"))
    net = build_cam_net(RECIPE, channels=4, classes=len(data.classes))
    validate = Validator(data, np.arange(12), RECIPE, CPU)
    with MemoryLimit() as memory:
        whole = validate(net)
    with MemoryLimit(memory.peak / 1.5) as small:
        assert validate(net) == pytest.approx(whole, rel=1e-4)
    assert small.refusals == 1


def test_where_a_single_image_does_not_fit_there_is_advice(net: CamNet) -> None:
    with MemoryLimit(1000), pytest.raises(ConfigError, match=r"for 1 images of 64 x 64 px .*pass --precision bf16"):
        class_maps(net, IMAGES, CPU)


ONE_FULL = """
import sys
from pathlib import Path
from wsss import cli
from wsss.training.tasks.classify import ClassifyLearner as Learner
from wsss.train import main
import torch

losses = Learner.losses
def small(self, model, batch, done):
    if self.job.world.rank == 1 and len(batch.images) > 1:
        Path(__file__).with_name("full").touch()
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")
    return losses(self, model, batch, done)
Learner.losses = small
cli.run(main, sys.argv[1:])
"""


@pytest.mark.slow
def test_one_process_without_memory_ends_all_within_a_minute(tmp_path: Path) -> None:
    (tmp_path / "one_full.py").write_text(ONE_FULL)
    data = make_squares(tmp_path / "squares")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*command, "--", str(tmp_path / "one_full.py"), *words(data, tmp_path / "run", "--batch", "4")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode != 0
    assert time.time() - (tmp_path / "full").stat().st_mtime < 60
    assert "1 would fit: pass --batch 2 --optim.accumulate 2" in done.stderr
