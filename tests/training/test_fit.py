"""Training: resumed runs equal unbroken ones, bad batches are named, and a network learns."""

import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from squares import equal, final, make_squares, words

from wsss.core.checks import ConfigError, DataError
from wsss.runs.run_folder import load_checkpoint, save_checkpoint
from wsss.train import main
from wsss.training.tasks.classify import Validator

MORE = (
    "--optim.ema",
    "0.9",
    "--optim.accumulate",
    "2",
    "--optim.schedule",
    "cosine",
)  # all that a checkpoint must hold

FORK = multiprocessing.get_context("fork")  # a child that has nothing to import


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_squares(tmp_path_factory.mktemp("data") / "squares")


@pytest.fixture(scope="module")
def unbroken(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two epochs; tests that change it work on a copy."""
    run = tmp_path_factory.mktemp("runs") / "unbroken"
    assert main(words(data, run, *MORE)) == 0
    return run


@pytest.fixture
def copy(unbroken: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(unbroken, tmp_path / "copy"))


def test_a_run_leaves_what_it_promises(unbroken: Path) -> None:
    names = {path.name for path in (unbroken / "fold0").iterdir()}
    wanted = {"config.yaml", "train_ids.txt", "log.csv", "curves.png", "last.safetensors", "best.safetensors"}
    assert wanted <= names
    log = (unbroken / "fold0" / "log.csv").read_text().splitlines()
    assert len(log) == 3
    assert {"train_loss", "train_full", "train_tiles", "train_agreement", "val_loss", "val_f1", "val_map"} <= set(
        log[0].split(",")
    )


def test_neither_repeating_a_run_nor_its_workers_change_anything(data: Path, unbroken: Path, tmp_path: Path) -> None:
    assert main([*words(data, tmp_path / "run", *MORE), "--workers", "2"]) == 0
    assert equal(unbroken, tmp_path / "run")


def test_another_seed_gives_another_run(data: Path, unbroken: Path, tmp_path: Path) -> None:
    assert main(words(data, tmp_path / "run", *MORE, "--seed", "1")) == 0
    assert not equal(unbroken, tmp_path / "run")


def test_a_run_killed_and_then_interrupted_equals_the_unbroken_one(
    data: Path, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL as soon as a checkpoint within the epoch is there, Ctrl-C after the next one, then to the end."""

    def save_and_interrupt(path: Path, *content: Any) -> None:
        save_checkpoint(path, *content)
        signal.raise_signal(signal.SIGINT)
        monkeypatch.undo()

    run = tmp_path / "run"
    arguments = words(data, run, *MORE, "--save_every", "1")
    last = run / "fold0" / "last.safetensors"
    process = FORK.Process(target=main, args=(arguments,))
    process.start()
    while process.is_alive() and not last.exists():
        time.sleep(0.002)
    process.kill()
    process.join()
    assert load_checkpoint(last)[1]["progress"]["epoch"] < 2
    monkeypatch.setattr("wsss.runs.run_folder.save_checkpoint", save_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        main(arguments)
    assert load_checkpoint(last)[1]["progress"]["epoch"] < 2
    assert main(arguments) == 0
    assert equal(unbroken, run)


def test_a_run_killed_between_the_last_step_and_the_end_of_an_epoch_logs_the_same(
    data: Path, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise MemoryError

    run = tmp_path / "run"
    arguments = words(data, run, *MORE, "--save_every", "1")
    monkeypatch.setattr("wsss.training.fit._close_epoch", killed)
    with pytest.raises(MemoryError):
        main(arguments)
    monkeypatch.undo()
    (run / "fold0" / ".last.safetensors.abcdef01.part").write_text("of a save that was killed")
    assert main(arguments) == 0
    assert equal(unbroken, run)
    assert not list((run / "fold0").glob(".*.part"))


def test_another_recipe_is_refused_by_name(data: Path, unbroken: Path) -> None:
    with pytest.raises(DataError, match=r"another recipe: optim was lr was 0.0003, now 0.1"):
        main(words(data, unbroken, *MORE, "--optim.lr", "0.1"))


def test_another_cell_score_is_no_other_run(data: Path, copy: Path) -> None:
    assert main(words(data, copy, *MORE, "--score.region", "topk")) == 0


def test_a_run_from_before_an_option_goes_on(data: Path, copy: Path) -> None:
    last = copy / "fold0" / "last.safetensors"
    tensors, meta = load_checkpoint(last)
    for new in ("drs", "init_from", "sync_bn"):
        del meta["recipe"][new]
    del meta["recipe"]["optim"]["early_stop"]
    del meta["progress"]["since_best"]
    save_checkpoint(last, tensors, meta)
    assert main(words(data, copy, *MORE)) == 0


def test_a_run_that_lost_its_options_gets_them_again(data: Path, copy: Path) -> None:
    fold = copy / "fold0"
    kept = {name: (fold / name).read_bytes() for name in ("config.yaml", "train_ids.txt")}
    for name in kept:
        (fold / name).unlink()
    assert main(words(data, copy, *MORE)) == 0
    assert {name: (fold / name).read_bytes() for name in kept} == kept


def test_a_damaged_checkpoint_is_refused_and_the_one_before_offered(data: Path, copy: Path) -> None:
    last = copy / "fold0" / "last.safetensors"
    content = bytearray(last.read_bytes())
    content[-5] ^= 1
    last.write_bytes(content)
    with pytest.raises(DataError, match=r"damaged.*last.safetensors.previous"):
        main(words(data, copy, *MORE))


@pytest.fixture
def poisoned(copy: Path) -> Path:
    """The finished run, set back to its beginning, with weights whose sums overflow."""
    path = copy / "fold0" / "last.safetensors"
    tensors, meta = load_checkpoint(path)
    tensors["net.classifier.weight"][0] = 3e38
    meta["progress"]["epoch"] = 0
    save_checkpoint(path, tensors, meta)
    return copy


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_images(data: Path, poisoned: Path) -> None:
    with pytest.raises(DataError, match=r"epoch 1, step 1: the loss is not finite .* on images im\d\d"):
        main(words(data, poisoned, *MORE))


def test_bad_batches_may_be_skipped_up_to_a_number(data: Path, poisoned: Path) -> None:
    with pytest.raises(DataError, match="epoch 1, step 3"):
        main(words(data, poisoned, *MORE, "--bad_batches", "2"))


def test_ctrl_c_in_the_last_validation_ends_the_command(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def validate(self: Validator, net: Any) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGINT)
        return {"loss": 1.0}

    monkeypatch.setattr(Validator, "__call__", validate)
    with pytest.raises(KeyboardInterrupt):
        main(words(data, tmp_path / "run", "--fold", "all", "--epochs", "1"))
    assert final(tmp_path / "run")[1]["progress"]["epoch"] == 1  # type: ignore[index]
    assert not (tmp_path / "run" / "fold1").exists()


def test_a_fold_that_does_not_exist_is_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has folds 0 to 3"):
        main(words(data, tmp_path / "run", "--fold", "7"))


def test_tiles_that_do_not_fit_are_refused_before_training(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"stored at 64 px, expected a multiple of 96"):
        main([*words(data, tmp_path / "run", "--puzzle.side", "3"), "--crop", "96"])


def test_without_validation_the_last_weights_are_the_best(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    main(words(data, run, "--fold", "none", "--epochs", "1"))
    last, best = (load_checkpoint(run / "full" / f"{name}.safetensors")[0] for name in ("last", "best"))
    assert all(torch.equal(best[name], last[name]) for name in best)
    assert len((run / "full" / "train_ids.txt").read_text().splitlines()) == 12


def test_a_run_that_starts_over_keeps_no_snapshots_of_the_one_before(data: Path, tmp_path: Path) -> None:
    flags = words(data, tmp_path / "run", "--optim.schedule", "cosine")
    main([*flags, "--optim.cycles", "2"])
    assert (tmp_path / "run" / "fold0" / "snapshot2.safetensors").exists()
    main([*flags, "--resume", "never", "--epochs", "1"])
    assert not list((tmp_path / "run" / "fold0").glob("snapshot*"))


def test_a_network_learns_the_squares(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    main(words(data, run, "--epochs", "12", "--augment", "none", "--optim.lr", "0.003"))
    history = final(run, "best")[1]["progress"]["history"]  # type: ignore[index]
    assert min(row["val_loss"] for row in history) < 0.5 * history[0]["val_loss"]
