"""Every shipped YAML file is a recipe that its stage takes."""

from pathlib import Path

import pytest

from wsss import configs
from wsss.core.checks import ConfigError
from wsss.data.augment import build_augment
from wsss.options import train
from wsss.options.configs import about, augmentations, recipes
from wsss.options.parsing import read_options
from wsss.options.recipe import Recipe

CONFIGS = Path(__file__).parents[1] / "configs"
AUGMENTS = sorted(CONFIGS.glob("augment_*.yaml"))
RECIPES = sorted(set(CONFIGS.glob("*.yaml")) - set(AUGMENTS))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_a_recipe_is_taken_by_train(path: Path) -> None:
    recipe, _ = read_options("train", train, ["--config", str(path)])
    assert isinstance(recipe, Recipe)


@pytest.mark.parametrize("path", AUGMENTS, ids=lambda p: p.stem)
def test_an_augmentation_can_be_built(path: Path) -> None:
    assert build_augment(path, 64).crop == 64


@pytest.mark.parametrize("word", ["--config=published_recipe", "--config=published_recipe.yaml"])
def test_a_recipe_is_found_by_name_from_any_folder(word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    by_file, _ = read_options("train", train, ["--config", str(CONFIGS / "published_recipe.yaml")])
    assert read_options("train", train, [word])[0] == by_file
    assert read_options("train", train, word.split("="))[0] == by_file
    (tmp_path / "published_recipe").write_text("backbone: resnet50\n")
    assert read_options("train", train, ["--config", "published_recipe"])[0].backbone == "resnet50", (
        "a file there is comes first"
    )


def test_the_task_is_that_of_the_named_recipe() -> None:
    assert read_options("train", train, ["--config", "unet_salt"])[0].task == "masks"


def test_an_unknown_recipe_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'natural_cells'"):
        read_options("train", train, ["--config", "natural_cell"])
    with pytest.raises(ConfigError, match="Did you mean 'hpa'"):
        build_augment("hap", 64)


def test_every_recipe_is_listed_with_what_it_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert configs.main([]) == 0
    shown = capsys.readouterr().out
    for name, path in (recipes() | augmentations()).items():
        assert f" {name} " in shown
        assert 20 < len(about(path)) < 130, (
            f"{path.name} begins with a comment whose first sentence says what it is for"
        )
    assert configs.main(["--show", "natural_cells"]) == 0
    assert capsys.readouterr().out.rstrip() == (CONFIGS / "natural_cells.yaml").read_text().rstrip()
