from pathlib import Path

import pytest

from wsss.core.checks import ConfigError
from wsss.options import train
from wsss.options.parsing import read_options
from wsss.options.recipe import ClassifyRecipe
from wsss.options.scoring import ScoreConfig

CONFIGS = Path(__file__).parents[2] / "configs"


def test_the_published_recipe_has_its_own_rules() -> None:
    recipe = read_options("train", train, ["--config", str(CONFIGS / "published_recipe.yaml")])[0]
    assert isinstance(recipe, ClassifyRecipe)
    rules = recipe.score
    assert (rules.region, rules.quantile, rules.relative, rules.min_prob) == ("quantile", 0.99, True, 0.01)
    assert (rules.min_ratio, rules.negative, rules.blend, rules.prior_rounds) == (0.02, "recipe", "mean", 0)
    assert recipe.feature_classifier.enabled is False


@pytest.mark.parametrize(
    ("option", "value"),
    [("region", "median"), ("negative", "none"), ("blend", "sum"), ("quantile", 1.5), ("top_share", 0.0)],
)
def test_an_option_out_of_range_is_named(option: str, value: object) -> None:
    with pytest.raises(ConfigError, match=option):
        ScoreConfig(**{option: value})  # type: ignore[arg-type]
