import pytest

from wsss.core.checks import ConfigError
from wsss.options.scoring import PRESETS, ScoreConfig, preset


def test_defaults_are_the_published_recipe() -> None:
    assert preset("recipe") == ScoreConfig()
    assert (ScoreConfig().region, ScoreConfig().quantile, ScoreConfig().min_prob) == ("quantile", 0.99, 0.01)


def test_a_preset_takes_changes() -> None:
    assert preset("mean", crop_share=0.3).crop_share == 0.3
    assert preset("mean", crop_share=0.3).region == PRESETS["mean"].region


@pytest.mark.parametrize(
    ("option", "value"),
    [("region", "median"), ("negative", "none"), ("blend", "sum"), ("quantile", 1.5), ("top_share", 0.0)],
)
def test_an_option_out_of_range_is_named(option: str, value: object) -> None:
    with pytest.raises(ConfigError, match=option):
        preset("recipe", **{option: value})


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'recipe'"):
        preset("recipes")
