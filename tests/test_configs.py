"""Every shipped YAML file is a recipe that its stage takes."""

from pathlib import Path

import pytest

from wsss.data.augment import build_augment
from wsss.options import train
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
