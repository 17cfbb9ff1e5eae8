from pathlib import Path
from typing import Any

import pytest

from wsss.core.checks import ConfigError
from wsss.data.augment import alone, build_steps, load_recipe
from wsss.options.configs import CONFIGS


def build(*steps: dict[str, Any], channels: int = 4) -> list[Any]:
    return build_steps(steps, 48, channels)


@pytest.mark.parametrize(
    ("name", "channels"),
    [("hpa", 1), ("hpa", 3), ("hpa", 4), ("hard", 4), ("none", 4)],
)
def test_shipped_recipes_build(name: str, channels: int) -> None:
    assert build_steps(load_recipe(name), 48, channels)


def test_a_recipe_goes_by_name_or_by_file(tmp_path: Path) -> None:
    copy = tmp_path / "mine.yaml"
    copy.write_text((CONFIGS / "augment_hpa.yaml").read_text())
    assert load_recipe("hpa") == load_recipe(copy) == load_recipe(str(copy))
    assert [step["op"] for step in load_recipe("none")] == ["RandomCrop"]
    with pytest.raises(ConfigError, match=r"augment is 'hpaa', expected one of none, .*hpa.* Did you mean 'hpa'"):
        load_recipe("hpaa")


def test_the_recipe_has_the_published_order_and_probabilities() -> None:
    steps = load_recipe("hpa")
    assert [(s["op"], s.get("p", 1)) for s in steps] == [
        ("RandomCrop", 1),
        ("OneOf", 0.5),
        ("HorizontalFlip", 0.5),
        ("RandomRotate90", 1),
        ("OneOf", 0.5),
        ("OneOf", 0.5),
        ("OneOf", 0.25),
    ]
    assert [m["op"] for m in steps[1]["of"]] == ["GaussNoise", "CoarseDropout", "AdditiveNoise"]
    assert [m["weight"] for m in steps[4]["of"]] == [0.15, 0.75, 0.15, 0.10, 0.5]
    assert [m["op"] for m in steps[5]["of"]] == ["GaussianBlur", "MotionBlur", "MedianBlur"]


def test_the_hard_recipe_only_adds_to_the_published_one() -> None:
    plain, hard = (load_recipe(name) for name in ("hpa", "hard"))
    assert [step for step in hard if step in plain] == plain


def test_weights_of_a_group_are_shares() -> None:
    (group,) = build(
        {
            "op": "OneOf",
            "p": 0.5,
            "of": [{"op": "HorizontalFlip", "weight": 0.6}, {"op": "VerticalFlip", "weight": 0.2}],
        }
    )
    assert group.p == 0.5
    assert group.transforms_ps == pytest.approx([0.75, 0.25])


def test_a_border_goes_by_its_name_and_crop_by_its_word() -> None:
    crop, affine = build(
        {"op": "RandomCrop", "height": "crop", "width": "crop", "pad_if_needed": True},
        {"op": "Affine", "border_mode": "reflect_101"},
    )
    assert (crop.height, crop.width, affine.border_mode) == (48, 48, 4)


@pytest.mark.parametrize(
    ("step", "text"),
    [
        ({"op": "MedianBlurr"}, r"step 1 \(MedianBlurr\): unknown op. Did you mean 'MedianBlur'"),
        ({"op": "ProteinGian"}, "Did you mean 'ProteinGain'"),
        ({"op": "MedianBlur", "blur_limits": 3}, "unknown parameter 'blur_limits'. Did you mean 'blur_limit'"),
        ({"op": "GaussNoise", "var_limit": [5, 30]}, "unknown parameter 'var_limit'. Expected std_range"),
        ({"op": "CoarseDropout", "max_holes": 8}, "unknown parameter 'max_holes'"),
        ({"op": "ElasticTransform", "alpha_affine": 50}, "unknown parameter 'alpha_affine'"),
        ({"op": "HorizontalFlip", "always_apply": True}, "unknown parameter 'always_apply'"),
        ({"op": "Haze", "amount": 1}, "unknown parameter 'amount'. Did you mean 'amount_range'"),
        ({"op": "Haze", "amount_range": [0.5, 2]}, "upper end of amount_range is 2, expected from 0.5 to 1"),
        ({"op": "ShiftScaleRotate"}, "use Affine"),
        ({"op": "MedianBlur", "blur_limit": [4, 4]}, "blur_limit"),
        ({"op": "Affine", "border_mode": "reflect101"}, "Did you mean 'reflect_101'"),
        ({"op": "ToFloat"}, "makes float32"),
        ({"op": "ISONoise"}, "ISONoise"),
        ({"op": "ProteinGain", "channel": 7}, "channel is 7, expected from 0 to 3"),
        ({"op": "HorizontalFlip", "p": 1.5}, "p is 1.5, expected from 0 to 1"),
        ({"op": "HorizontalFlip", "p": "often"}, "p is 'often'"),
        ({"op": "HorizontalFlip", "weight": 1}, "use 'p'"),
        ({"op": "OneOf", "of": [{"op": "HorizontalFlip", "p": 1}]}, "use 'weight'"),
        ({"op": "OneOf", "of": [{"op": "HorizontalFlip", "weight": 0}]}, "all weights are 0"),
        ({"op": "OneOf", "of": []}, "expected a list of ops"),
        ({"op": "OneOf", "ops": []}, "unknown key 'ops'|'of' is None"),
        ({"op": "OneOf", "of": [{"op": "Blurr"}]}, "member 1 .*unknown op"),
        ("HorizontalFlip", "expected a mapping"),
    ],
)
def test_a_fault_in_a_recipe_is_named_in_one_line(step: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        build(step)
    assert "\n" not in str(caught.value)
    assert "step 1" in str(caught.value)


def test_a_recipe_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_recipe(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("- op: [")
    with pytest.raises(ConfigError, match="not YAML"):
        load_recipe(broken)
    broken.write_text("op: HorizontalFlip")
    with pytest.raises(ConfigError, match="expected a list"):
        load_recipe(broken)


def test_alone_gives_each_op_once_with_the_crop() -> None:
    found = alone(load_recipe("hpa"))
    assert len(found) == 16
    assert len({name for name, _ in found}) == 16
    assert [len(steps) for _, steps in found] == [1] + [2] * 15
    assert all(steps[0]["op"] == "RandomCrop" for _, steps in found)
