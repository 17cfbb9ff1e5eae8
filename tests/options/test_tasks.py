"""Options belong to their task; names of version 0.1.0 are taken; every option is read by the code of its task."""

import ast
import dataclasses
import sys
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from squares import make_squares, words

from wsss import cli, infer, pseudo, train
from wsss.cli import STAGES
from wsss.core.checks import ConfigError, DataError
from wsss.core.label_maps import write_label_map
from wsss.data.catalog import DataSet
from wsss.options import renamed as renaming
from wsss.options import train as train_options
from wsss.options.masks import MaskInferConfig
from wsss.options.parsing import read_options
from wsss.options.recipe import ClassifyRecipe, MapRecipe, MaskRecipe, Recipe, recipe_from
from wsss.runs.record import RunRecord, check_same_run

WSSS = Path(__file__).parents[2] / "wsss"


@pytest.fixture(autouse=True)
def unnoticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every test see the notices that are given once a process."""
    monkeypatch.setattr(renaming, "_noticed", set())


def read(*words: str) -> Any:
    return read_options("train", train_options, words)[0]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--task", "masks", "--puzzle.weight", "3"], "--puzzle.weight is an option of task classify, not of masks"),
        (["--task=maps", "--drs.mode=fixed"], "--drs.mode is an option of task classify, not of maps"),
        (["--unet.gates", "true"], "--unet.gates is an option of task masks and maps, not of classify"),
        (["--task", "maps", "--preview_every", "1"], "--preview_every is an option of task classify, not of maps"),
        (["--pseudo", "x"], "--pseudo is an option of task maps, not of classify"),
        (["--task", "maps", "--masks.folds", "3"], "--masks.folds is an option of task masks, not of maps"),
        (["--task", "boxes"], "task is 'boxes', expected one of classify, masks, maps"),
    ],
)
def test_an_option_of_another_task_is_refused_by_name(flags: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(*flags)


def test_a_file_chooses_the_task_and_its_options_are_looked_at_too(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("task: masks\nepochs: 2\noptim: {lr: 1e-3}\n")
    recipe = read("--config", str(path), "--masks.folds", "3")
    assert isinstance(recipe, MaskRecipe)
    assert (recipe.epochs, recipe.optim.lr, recipe.masks.folds) == (2, 1e-3, 3)
    path.write_text("task: masks\npuzzle: {side: 4}\n")
    with pytest.raises(ConfigError, match=r"--puzzle.side is an option of task classify, not of masks"):
        read("--config", str(path))


OLD = {
    "task": "masks",
    "epochs": 2,
    "output_stride": 32,
    "puzzle": {"side": 2, "weight": 0.5},
    "opinion": {"enabled": False, "copies": 2, "weak": {"rounds": 3, "balance": 0.5, "sharpen": 1.5}},
    "score": {"stage2_share": 0.5, "outlier_power": 0.0},
    "optim": {"lr": 1e-3},
}


def test_a_config_of_version_0_1_0_opens_with_one_line_of_notice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(OLD))
    assert read("--config", str(path)) == MaskRecipe(epochs=2, optim=dataclasses.replace(MaskRecipe().optim, lr=1e-3))
    (notice,) = capsys.readouterr().out.splitlines()
    assert notice.startswith(f"note: {path} has options of version 0.1.0: opinion is now feature_classifier")
    old = {
        **OLD,
        "task": "classify",
        "opinion": {"enabled": True, "copies": 1, "weak": {"balance": 0.5, "sharpen": 1.5}},
        "score": {"field_rounds": 3},
    }
    path.write_text(yaml.safe_dump(old))
    recipe = read("--config", str(path), "--score.stage2_share", "0.25")
    assert (recipe.feature_classifier.enabled, recipe.feature_classifier.copies) == (True, 1)
    assert (recipe.score.prior_rounds, recipe.score.crop_share) == (3, 0.25)
    assert recipe_from(old, "x") == dataclasses.replace(recipe, score=dataclasses.replace(recipe.score, crop_share=0.5))


def test_a_checkpoint_of_version_0_1_0_gives_the_recipe_of_its_task() -> None:
    assert recipe_from(OLD, "x") == MaskRecipe(epochs=2, optim=dataclasses.replace(MaskRecipe().optim, lr=1e-3))
    for recipe in (ClassifyRecipe(), MaskRecipe(), MapRecipe()):
        assert recipe_from(asdict(recipe), "x") == recipe
    with pytest.raises(DataError, match="has the option 'noise'"):
        recipe_from({"noise": 1}, "x")


@pytest.mark.parametrize("name", ["score.outlier_power", "cells.pooling", "self_training.enabled", "cells.weight"])
def test_an_option_that_is_gone_is_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"--{name} is gone, for .*: leave it out"):
        read(f"--{name}", "1")


GONE = {"cells": {"pooling": "none", "pieces": 0, "weight": 0.5}, "self_training": {"enabled": False, "rounds": 1}}


def test_what_is_gone_opens_where_it_was_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert recipe_from(GONE, "x") == ClassifyRecipe()
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(GONE | {"epochs": 3}))
    assert read("--config", str(path)).epochs == 3
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [("cells", "pooling", "lse"), ("cells", "pieces", 3), ("self_training", "enabled", True)],
)
def test_what_is_gone_is_refused_or_noted_where_it_was_on(
    group: str, name: str, value: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old: dict[str, Any] = {**GONE, group: {**GONE[group], name: value}}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(old))
    with pytest.raises(ConfigError, match=f"asks for {group}.{name} {value}, which is gone"):
        read("--config", str(path))
    if name == "pooling":  # its network gives other scores
        with pytest.raises(DataError, match=r"cells.pooling lse is gone"):
            recipe_from(old, "x")
        return
    assert recipe_from(old, "x") == ClassifyRecipe()
    assert f"{group}.{name} is gone" in capsys.readouterr().out
    if group == "cells":
        with pytest.raises(DataError, match=r"begun with cells.pieces 3, which is gone"):
            check_same_run({"recipe": old}, {})


@pytest.mark.parametrize("swapped", [False, True])
def test_a_run_does_not_go_on_where_channels_show_something_else(swapped: bool) -> None:
    plain = RunRecord(ClassifyRecipe(), 0, "", (), ("a", "b"))
    told = dataclasses.replace(plain, roles=("nucleus", "signal"))
    before, now = (told, plain) if swapped else (plain, told)
    with pytest.raises(DataError, match="begun with another roles"):
        check_same_run(before.meta(), now.meta())


@pytest.mark.parametrize("task", train_options.TASKS)
def test_help_is_short_and_the_rest_is_there_when_asked_for(task: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read("--task", task, "--help")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 150
    assert any("--epochs" in line for line in lines)
    assert any("--puzzle.*" in line for line in lines) == (task == "classify")
    with pytest.raises(SystemExit):
        read("--task", task, "--help", "optim")
    assert "--optim.lr (default: 0.0003)" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        read("--task", task, "--help", "all")
    text = capsys.readouterr().out
    assert "--optim.lr" in text
    assert not [odd for odd in ("\\x08", "<class", "default: )", "LIST_OF") if odd in text]


def test_an_early_stop_without_a_validation_loss_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a validation loss"):
        MapRecipe(optim=dataclasses.replace(MapRecipe().optim, early_stop=2))
    data = make_squares(tmp_path / "squares")
    with pytest.raises(ConfigError, match="needs a validation loss"):
        train.main(words(data, tmp_path / "run", "--fold", "none", "--optim.early_stop", "2"))


def leaves(kind: Any, above: str = "") -> Iterator[tuple[type, str]]:
    """Yield class and name of every option in a dataclass, groups by their members."""
    for declared in dataclasses.fields(kind):
        if dataclasses.is_dataclass(declared.default_factory):
            yield from leaves(declared.default_factory, f"{above}{declared.name}.")
        else:
            yield kind, declared.name


@cache
def attributes_read() -> set[str]:
    """Return the names of all attributes that code outside the options reads."""
    found: set[str] = set()
    for path in WSSS.rglob("*.py"):
        if path.parent.name != "options":
            found |= {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_every_option_is_read_somewhere(stage: str) -> None:
    module, known = cli.options_of(stage), attributes_read() | {"later", "switch", "terms", "cycles"}  # read by methods
    known |= {"warmup"}
    for options in getattr(module, "TASKS", {"": module.OPTIONS}).values():
        for option in options:
            unread = [name for _, name in leaves(option) if name not in known]
            assert not unread, f"{stage}: nothing reads {unread}"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, str]]:
    """Collect class and name of every option that code outside the options, dataclasses and parsing reads."""
    found: set[tuple[str, str]] = set()
    kinds = {kind for own in train_options.TASKS.values() for option in own for kind, _ in leaves(option)}
    kinds.add(MaskInferConfig)

    def watch(kind: type) -> None:
        names = {declared.name for declared in dataclasses.fields(kind)}

        def get(self: object, name: str) -> Any:
            if name in names:
                frame = sys._getframe(1)
                place = frame.f_code.co_filename
                own = "/options/" in place and frame.f_code.co_name == "__post_init__"
                if "/wsss/" in place and not own and not place.endswith("core/checks.py"):
                    found.add((kind.__name__, name))
            return object.__getattribute__(self, name)

        monkeypatch.setattr(kind, "__getattribute__", get, raising=False)

    for kind in kinds:
        watch(kind)
    return found


def unread(recipe: type[Recipe], asked: set[tuple[str, str]]) -> list[str]:
    """Return the options of a recipe, score and crops of infer aside, that nothing has asked for."""
    names = {own.__name__ for own in recipe.__mro__ if own is not object}
    return [
        f"{kind.__name__}.{name}"
        for kind, name in leaves(recipe)
        if not any((other, name) in asked for other in (names if kind is recipe else {kind.__name__}))
    ]


def test_a_training_and_an_inference_read_every_option_of_a_classifier(
    tmp_path: Path, asked: set[tuple[str, str]]
) -> None:
    data, run = with_cells(make_squares(tmp_path / "squares", folds=2, count=6)), tmp_path / "run"
    quick = ["--feature_classifier.weak.trees", "4", "--feature_classifier.weak.folds", "2"]
    fitted = ["--feature_classifier.enabled", "--feature_classifier.copies", "3", *quick]
    without = ["--feature_classifier.enabled", "false"]
    crops = ["--crops.mode", "stored", "--crops.size", "64"]
    once = ["--epochs", "1", "--optim.schedule", "cosine"]
    assert train.main(words(data, run, *once, *fitted, *crops)) == 0
    refined = ["--drs.mode", "fixed", "--drs.refine_from", str(run), "--loss.name", "asymmetric"]
    assert train.main(words(data, tmp_path / "second", *once, *refined, *without)) == 0
    still = ["--optim.lr", "1e-12", "--optim.floor", "0", "--optim.patience", "0"]  # a loss that stays where it is
    for schedule, flags in (("plateau", still), ("cyclic", ["--epochs", "1"])):
        flags = ["--loss.name", "focal", "--optim.schedule", schedule, "--optim.early_stop", "3", *flags]
        assert train.main(words(data, tmp_path / schedule, *flags, *without)) == 0
    rules = ["--crops.mode", "stored", "--score.feature_share", "0.5"]
    for region in ("topk", "lse", "quantile"):
        out = ["--out", str(tmp_path / region), "--score.region", region]
        assert infer.main(["--data", str(data), "--run", str(run), "--device", "cpu", *rules, *out]) == 0
    # score.nuclear_classes needs nuclei, unet_share a U-Net: tests/cells and tests/stages/test_pseudo_command.py
    assert set(unread(ClassifyRecipe, asked)) <= {"ScoreConfig.nuclear_classes", "ScoreConfig.unet_share"}


def with_cells(data: Path) -> Path:
    """Cut every image of a data set into four cells; return the data set."""
    cells = np.kron(np.arange(1, 5).reshape(2, 2), np.ones((32, 32))).astype(np.int32)
    for name in DataSet.open(data).ids:
        write_label_map(data / "cells" / name, cells)
    return data


def test_a_training_reads_every_option_of_maps(tmp_path: Path, asked: set[tuple[str, str]]) -> None:
    data, run, masks = (
        with_cells(make_squares(tmp_path / "squares", folds=2, count=6)),
        tmp_path / "run",
        tmp_path / "pseudo",
    )
    assert train.main(words(data, run, "--epochs", "1", "--feature_classifier.enabled", "false")) == 0
    views = ["--tta.views", "none", "--tta.scales", "[1.0]"]
    assert pseudo.main(["--data", str(data), "--run", str(run), "--out", str(masks), "--device", "cpu", *views]) == 0
    asked.clear()
    terms = "{bce: 1, dice: 1, jaccard: 1, focal: 1, ohem: 1, lovasz: 1}"
    slim = ["--unet.channels", "[8,8,8,4,4]", "--unet.deep_supervision", "true"]
    flags = ["--task", "maps", "--pseudo", str(masks), *slim, "--epochs", "2"]
    runs = {
        "cosine": ["--mask_loss.terms", terms, "--epochs", "1"],
        "cyclic": ["--mask_loss.later", "{dice: 1}", "--mask_loss.switch", "1"],
        "plateau": ["--epochs", "3", "--optim.lr", "1e-12", "--optim.floor", "0", "--optim.patience", "0"],
    }
    for name, own in runs.items():
        assert train.main(words(data, tmp_path / name, *flags, "--optim.schedule", name, *own)) == 0
    refused = {f"mask_loss.{name}": "1" for name in ("border_weight", "border_sigma", "empty_weight")}
    for name, value in refused.items():
        with pytest.raises(ConfigError, match=f"--{name} changes nothing in the task maps"):
            train.main(words(data, tmp_path / "other", *flags, f"--{name}", value))
    assert {name.partition(".")[2] for name in unread(MapRecipe, asked)} == {name.partition(".")[2] for name in refused}


def test_a_training_and_an_inference_read_every_option_of_masks(tmp_path: Path, asked: set[tuple[str, str]]) -> None:
    rng, data = np.random.default_rng(0), tmp_path / "squares"
    for kind in ("images", "masks"):
        (data / kind).mkdir(parents=True)
    for i in range(8):
        mask = np.zeros((40, 40), np.uint8)
        mask[i : i + 16, 4:20] = 255 * (i > 0)
        Image.fromarray((mask // 2 + rng.integers(0, 60, mask.shape)).astype(np.uint8)).save(data / f"images/{i}.png")
        Image.fromarray(mask).save(data / f"masks/{i}.png")
    terms = "{bce: 1, dice: 1, jaccard: 1, focal: 1, ohem: 1, border: 1, lovasz: 1}"
    slim = ["--unet.channels", "[8,8,8,4,4]", "--unet.deep_supervision", "true", "--unet.empty_head", "true"]
    flags = [*slim, "--task", "masks", "--masks.folds", "4", "--masks.target", "border", "--crop", "32"]
    still = ["--optim.lr", "1e-12", "--optim.floor", "0", "--optim.patience", "0"]
    runs = {
        "cosine": ["--epochs", "1", "--mask_loss.terms", terms],
        "plateau": [*still, "--optim.early_stop", "3", "--mask_loss.later", "{dice: 1}", "--mask_loss.switch", "1"],
        "cyclic": ["--epochs", "1"],
    }
    for name, own in runs.items():
        schedule = ["--optim.schedule", name]
        assert train.main(words(data, tmp_path / name, *flags, *schedule, *own)) == 0
    asking = ["--data", str(data), "--out", str(tmp_path / "preds"), "--device", "cpu", "--segmentation.tile", "32"]
    assert infer.main(["--run", str(tmp_path / "cosine"), *asking]) == 0
    # masks.tile is of large images, runs of submissions without objects: tests/stages/test_large_commands.py
    assert set(unread(MaskRecipe, asked)) <= {"MaskConfig.tile"}
    lacking = {name for kind, name in leaves(MaskInferConfig) if (kind.__name__, name) not in asked}
    assert not lacking
