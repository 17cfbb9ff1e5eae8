"""Training at its edges: gradients that are no numbers, classes without images, a batch of one, a damaged image."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from squares import SIZE, final, make_squares, words

from wsss.core.checks import ConfigError, DataError, UserError
from wsss.data.build import Spec, create_dataset
from wsss.data.catalog import DataSet
from wsss.models.cam_net import CamNet
from wsss.train import main
from wsss.training.tasks.classify import ClassifyLearner

SLOW, param = pytest.mark.slow, pytest.param


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_squares(tmp_path_factory.mktemp("data") / "squares")


@pytest.fixture
def steep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every third batch's loss, a finite number, a gradient that is none."""
    losses, calls = ClassifyLearner.losses, itertools.count(1)

    def steeper(self: ClassifyLearner, *arguments: Any) -> dict[str, torch.Tensor]:
        parts = losses(self, *arguments)
        if next(calls) % 3 == 0:
            parts["loss"] = parts["loss"] + (parts["loss"] * 0).sqrt()
        return parts

    monkeypatch.setattr(ClassifyLearner, "losses", steeper)


def is_finite(run: Path) -> bool:
    return all(bool(torch.isfinite(tensor.double()).all()) for tensor in final(run)[0].values())


@pytest.mark.usefixtures("steep")
@pytest.mark.parametrize("more", [[], param(["--optim.clip", "1"], marks=SLOW)], ids=["plain", "clipped"])
def test_a_gradient_that_is_not_finite_stops_the_run_before_it_is_learnt(
    data: Path, tmp_path: Path, more: list[str]
) -> None:
    with pytest.raises(DataError, match=r"epoch 1, step 3: the gradient of the loss is not finite .* on images im\d\d"):
        main(words(data, tmp_path / "run", "--save_every", "1", *more))
    assert is_finite(tmp_path / "run")


@pytest.mark.parametrize(("bad", "learnt"), [([1], 2), ([0, 1, 2], 0)])
def test_bad_batches_that_are_skipped_are_in_no_mean_and_no_batch_norm(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: list[int], learnt: int
) -> None:
    forward, seen = ClassifyLearner.losses, []

    def overflowing(self: ClassifyLearner, model: Any, batch: Any, done: float) -> dict[str, torch.Tensor]:
        step = self.state.progress.step
        is_bad = self.foreseen and self.state.progress.epoch == 0 and step in bad
        images = batch.images.float() * (1e38 if is_bad else 1.0)
        parts = forward(self, model, batch._replace(images=images), done)
        if self.foreseen and self.state.progress.epoch == 0 and not is_bad:
            seen.append(float(parts["loss"].detach()))
        return parts

    monkeypatch.setattr(ClassifyLearner, "losses", overflowing)
    assert main(words(data, tmp_path / "run", "--bad_batches", "3")) == 0
    assert is_finite(tmp_path / "run")
    first, second = final(tmp_path / "run")[1]["progress"]["history"]  # type: ignore[index]
    assert len(seen) == learnt
    assert first["train_loss"] == (pytest.approx(np.mean(seen)) if seen else pytest.approx(np.nan, nan_ok=True))
    assert np.isfinite([first["val_loss"], second["train_loss"], second["val_loss"]]).all()


@SLOW
@pytest.mark.usefixtures("steep")
def test_batches_with_such_gradients_may_be_skipped(data: Path, tmp_path: Path) -> None:
    assert main(words(data, tmp_path / "run", "--bad_batches", "9")) == 0
    assert is_finite(tmp_path / "run")


def test_a_network_whose_outputs_are_no_numbers_in_the_end_is_told_in_one_line(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = CamNet.forward

    def wrong(self: CamNet, *arguments: Any) -> Any:
        output = forward(self, *arguments)
        return output if self.training else output._replace(logits=output.logits * torch.nan)

    monkeypatch.setattr(CamNet, "forward", wrong)
    with pytest.raises(DataError, match=r"no epoch ended with a finite validation loss.*lower optim\.lr"):
        main(words(data, tmp_path / "run", "--epochs", "1"))
    assert is_finite(tmp_path / "run")


@pytest.fixture(scope="module")
def rare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine images of three folds; class 5 is on one image only, so two folds hold none of it and one trains without."""
    rng = np.random.default_rng(0)
    images = {f"im{n}": rng.integers(0, 200, (4, SIZE, SIZE), dtype=np.uint8) for n in range(9)}
    labels = {name: [n % 2] if n else [5] for n, name in enumerate(images)}
    return create_dataset(tmp_path_factory.mktemp("data") / "rare", images, labels, Spec(size=SIZE, folds=3))


@pytest.mark.parametrize("held_out", [True, param(False, marks=SLOW)], ids=["held out", "trained on"])
def test_a_class_may_be_missing_on_either_side_of_a_fold(rare: Path, tmp_path: Path, held_out: bool) -> None:
    data = DataSet.open(rare)
    own = int(data.folds()[data.ids.index("im0")])
    fold = own if held_out else (own + 1) % 3
    assert main(words(rare, tmp_path / "run", "--fold", str(fold), "--epochs", "1", "--sampler.balanced", "true")) == 0
    log = pd.read_csv(tmp_path / "run" / f"fold{fold}" / "log.csv")
    assert np.isfinite(log[["train_loss", "val_loss"]]).all(axis=None)
    assert log[["val_map", "val_f1"]].stack().between(0, 1).all()


@pytest.mark.parametrize("more", [param([], marks=SLOW), ["--puzzle.side", "1"]], ids=["tiles", "no tiles"])
def test_a_batch_may_be_one_image(data: Path, tmp_path: Path, more: list[str]) -> None:
    assert main([*words(data, tmp_path / "run", "--epochs", "1", *more), "--batch", "1"]) == 0
    assert is_finite(tmp_path / "run")


@pytest.mark.parametrize("workers", [param("0", marks=SLOW), "1"])
def test_an_image_damaged_in_the_store_stops_the_training_in_one_line(tmp_path: Path, workers: str) -> None:
    data = make_squares(tmp_path / "squares")
    shard = next((data / "shards").iterdir())
    content = bytearray(shard.read_bytes())
    for k in range(12):
        content[-1 - k * 4 * SIZE * SIZE] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match=r"^im\d\d is damaged in .*stored pixels do not match") as caught:
        main([*words(data, tmp_path / "run"), "--workers", workers])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("lr_find", ["true", "false"])
def test_an_augmentation_that_does_not_go_is_told_in_one_line_by_loaders_too(
    data: Path, tmp_path: Path, lr_find: str
) -> None:
    steps = tmp_path / "steps.yaml"
    steps.write_text("- {op: CenterCrop, height: 32, width: 32}\n")
    flags = ["--augment", str(steps), "--lr_find", lr_find]
    with pytest.raises(
        ConfigError, match=r"^the augmentation recipe gives 32 x 32 pixels, expected 64 x 64: begin"
    ) as told:
        main([*words(data, tmp_path / "run", *flags), "--workers", "1"])
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", ["best.safetensors", "config.yaml", "log.csv", "last.safetensors"])
def test_a_file_of_the_name_of_a_result_in_a_new_run_folder_is_kept(data: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / "run" / "fold0" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(UserError):
        main(words(data, tmp_path / "run", "--epochs", "1"))
    assert path.read_text() == "mine"
