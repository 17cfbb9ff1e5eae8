"""Two processes of a hand-written script: every backbone takes steps, and process 0 may take its time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from squares import final, make_squares, words

from wsss.models.backbone import build_backbone
from wsss.models.encoder import build_encoder
from wsss.models.unet import build_unet
from wsss.options.recipe import MapRecipe

BACKBONES = [
    *("resnet18", "seresnext50_32x4d", "resnetv2_50", "res2net50_26w_4s", "skresnet18", "densenet121", "vgg11"),
    *("tf_efficientnet_lite0", "tf_efficientnetv2_b0", "mnasnet_050", "fbnetc_100", "mixnet_s", "tinynet_e"),
    *("mobilenetv3_small_050", "mobilenetv4_conv_small_050", "lcnet_035", "ghostnet_050", "ghostnetv2_100"),
    *("repghostnet_050", "hgnetv2_b0", "hgnet_tiny", "edgenext_xx_small", "convnext_atto", "convnextv2_atto"),
    *("regnety_002", "rexnet_100", "cspresnet50", "ese_vovnet19b_dw", "dla34", "starnet_s1", "eca_nfnet_l0"),
]


@pytest.mark.parametrize("name", ["test_convnext", "mobilenetv4_conv_small_050", "ghostnet_050"])
def test_what_the_maps_do_not_use_is_frozen_and_stays_in_the_state_dict(name: str) -> None:
    model = build_backbone(name).model.train()
    model.forward_features(torch.rand(2, 4, 64, 64)).sum().backward()  # type: ignore[operator]
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())
    frozen = [path for path, p in model.named_parameters() if not p.requires_grad]
    assert frozen
    assert all("head" in path for path in frozen)
    assert set(frozen) <= set(model.state_dict())


def test_a_shallow_encoder_has_gradients_for_all_that_it_trains() -> None:
    for name, depth in (("resnet18", 5), ("mobilenetv4_conv_small_050", 4)):
        assert build_encoder(name, channels=4, depth=depth).scales
    net = build_unet(MapRecipe(backbone="resnet18", weights="none"), channels=4, outputs=2).train()
    net(torch.rand(2, 4, 64, 64)).logits.sum().backward()
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)


def two(tmp_path: Path, script: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a script in two processes."""
    path = tmp_path / "script.py"
    path.write_text(script)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--", str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *arguments], env=environment, capture_output=True, text=True, timeout=900, check=False
    )


STEPS = """
import sys
from pathlib import Path
import torch
from wsss.models.device import choose_device
from wsss.options.recipe import ClassifyRecipe, PuzzleConfig
from wsss.runs.record import RunRecord
from wsss.runs.run_folder import RunFolder
from wsss.training.state import join_processes
from wsss.training.loading import Batch
from wsss.training.state import Job, TrainState
from wsss.training.tasks.classify import ClassifyLearner
from wsss.models.cam_net import build_cam_net

batch = Batch(torch.randint(0, 255, (2, 4, 64, 64), dtype=torch.uint8), torch.ones(2, 2), torch.arange(2))
failed = []
with join_processes("cpu") as world:
    for name in sys.argv[1:]:
        recipe = ClassifyRecipe(backbone=name, weights="none", crop=64, puzzle=PuzzleConfig(side=1))
        state = TrainState(build_cam_net(recipe, channels=4, classes=2), recipe, choose_device("cpu"))
        world.spread(state.net)
        record = RunRecord(recipe, 0, "", (), ())
        job = Job(recipe, choose_device("cpu"), RunFolder(Path()), record, [], world=world)
        learner = ClassifyLearner(job, state, [])
        try:
            outcomes = [learner.step(batch, 0.5, 2) for _ in range(2)]
        except RuntimeError as error:
            failed.append(f"{name}: {str(error)[:200]}")
    if world.leads:
        print(len(sys.argv) - 1 - len(failed), "passed", *failed, sep="\\n")
"""


@pytest.mark.slow
def test_thirty_backbones_take_two_steps_in_two_processes(tmp_path: Path) -> None:
    done = two(tmp_path, STEPS, *BACKBONES)
    assert done.stdout.splitlines() == [str(len(BACKBONES)), "passed"], done.stderr[-3000:]


SLOW_LEADER = """
import sys, time
from datetime import timedelta
from wsss import cli
from wsss.training import state
from wsss.training.watch import Preview
from wsss.train import main

state.TIMEOUT = timedelta(seconds=15)
draw = Preview.__call__
def slowly(self, net, row):
    if row["epoch"] == 1:
        time.sleep(40)
    draw(self, net, row)
Preview.__call__ = slowly
cli.run(main, sys.argv[1:])
"""


@pytest.mark.slow
def test_the_others_wait_for_process_0_as_long_as_it_takes(tmp_path: Path) -> None:
    data = make_squares(tmp_path / "squares")
    done = two(tmp_path, SLOW_LEADER, *words(data, tmp_path / "run", "--preview_every", "1", "--batch", "4"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert final(tmp_path / "run")[1]["progress"]["epoch"] == 2  # type: ignore[index]
