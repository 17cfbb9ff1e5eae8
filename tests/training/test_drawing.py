"""Augmentation where the network computes, against the CPU's with the same drawn values."""

import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from albumentations.augmentations.geometric.functional import generate_displacement_fields
from squares import equal, make_squares, words

from wsss import train
from wsss.core.checks import ConfigError
from wsss.data.augment import CROP_ALONE, Step, alone, build_augment, load_recipe
from wsss.data.catalog import DataSet
from wsss.models import augment
from wsss.models.augment import augment_batch, normals, smooth_shift
from wsss.models.device import Device
from wsss.options.configs import augmentations
from wsss.options.recipe import ClassifyRecipe
from wsss.training.drawing import DRAWS, DrawnAugment, together
from wsss.training.tasks.classify import train_loader

CROP, SEEDS = 96, 8
NOISY = {"GaussNoise", "AdditiveNoise", "PhotonNoise"}
ALONE = {
    f"{recipe}: {name}": steps
    for recipe in ("hpa", "hard", "nuclei")
    for name, steps in alone(load_recipe(recipe))[1:]
    if name not in NOISY | {"ElasticTransform"}
}


def textured(channels: int = 4, size: int = 112) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (size, size, channels), np.uint8)
    blurred = cv2.GaussianBlur(noise, (0, 0), 2).reshape(size, size, channels).astype(float)
    return np.ascontiguousarray((blurred * 6 - 640).clip(0, 255).astype(np.uint8).transpose(2, 0, 1))


def both(steps: list[Step] | str, image: np.ndarray, seeds: Any = range(SEEDS)) -> tuple[np.ndarray, np.ndarray]:
    """Return what the CPU makes of an image, and a batch of tensors; (n, C, CROP, CROP) int."""
    here = build_augment(steps, CROP, channels=len(image))
    crops, draws = zip(*(DrawnAugment(here)(image, seed) for seed in seeds), strict=True)
    there = augment_batch(torch.from_numpy(np.stack(crops)), together(draws))
    return np.stack([here(image, seed) for seed in seeds]).astype(int), there.numpy().astype(int)


def test_every_op_of_the_shipped_recipes_is_there() -> None:
    for name in augmentations():
        for step in load_recipe(name)[1:]:
            assert {op["op"] for op in step.get("of", [step])} <= set(DRAWS)


@pytest.mark.parametrize("op", ALONE)
@pytest.mark.parametrize("channels", [1, 4, 5])
def test_an_op_gives_the_levels_of_the_cpu(op: str, channels: int) -> None:
    image = textured(channels)
    here, there = both(ALONE[op], image)
    assert np.abs(here - there).max() <= 1
    assert np.abs(here - there).mean() < 0.1
    changed = (here != both([CROP_ALONE], image)[0]).mean(axis=(1, 2, 3)) > 0
    assert changed.mean() >= 0.5


@pytest.mark.parametrize("border", ["constant", "replicate", "reflect_101"])
def test_what_lies_beyond_the_edge_is_as_on_the_cpu(border: str) -> None:
    step = {"op": "Affine", "rotate": [-180, 180], "scale": [0.5, 1.5], "keep_ratio": True, "border_mode": border}
    here, there = both([CROP_ALONE, step], textured())
    assert np.abs(here - there).max() <= 1


@pytest.mark.parametrize(
    "step",
    [
        {"op": "VerticalFlip"},
        {"op": "RandomBrightnessContrast", "brightness_by_max": True},
        {"op": "CoarseDropout", "num_holes_range": [1, 5], "fill": 77},
        {"op": "GaussianBlur", "blur_limit": [3, 7], "sigma_limit": [0.5, 3]},
        {"op": "MotionBlur", "blur_limit": [3, 9]},
    ],
    ids=lambda step: str(step["op"]),
)
def test_so_it_is_with_other_values(step: Step) -> None:
    here, there = both([CROP_ALONE, {**step, "p": 1.0}], textured(), range(20))
    assert np.abs(here - there).max() <= 1


@pytest.mark.parametrize("op", sorted(NOISY))
def test_noise_is_added_as_on_the_cpu(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def of_opencv(seeds: torch.Tensor, shape: Any) -> torch.Tensor:
        fields = []
        for seed in seeds.tolist():
            cv2.setRNGSeed(seed)
            if op == "PhotonNoise":
                fields.append(cv2.randn(np.empty(np.prod(shape), np.float32), np.zeros(1), np.ones(1)).reshape(shape))
            else:
                field = cv2.randn(np.empty((*shape[1:], shape[0])), np.zeros(4), np.ones(4))
                fields.append(field.transpose(2, 0, 1).astype(np.float32))
        return torch.from_numpy(np.stack(fields))

    monkeypatch.setattr(augment, "normals", of_opencv)
    here, there = both(dict(alone(load_recipe("hard")))[op], textured())
    assert np.abs(here - there).max() <= 1
    assert np.mean(here != there) < 1e-3  # those whose sum is a whole level but for the last digit


def test_an_elastic_transform_moves_as_far_as_on_the_cpu() -> None:
    values = {"same_dxdy": True, "kernel_size": (0, 0), "noise_distribution": "gaussian"}
    there, _ = generate_displacement_fields((200, 160), 550, 12, **values, random_generator=np.random.default_rng(3))
    noise = np.random.default_rng(3).standard_normal((1, 1, 200, 160), np.float32)
    here = smooth_shift(torch.from_numpy(noise), 550, 12)[0, 0].numpy()
    assert np.abs(here - there).max() < 0.01
    assert there.std() > 2
    steps = dict(alone(load_recipe("hpa")))["ElasticTransform"]
    ramp = np.stack([np.tile(np.arange(CROP, dtype=np.uint8) * 2, (CROP, 1))] * 4)
    spread = [(out - ramp)[:, :, 20:-20, 20:-20].std() for out in both(steps, ramp, range(20))]
    assert spread[1] == pytest.approx(spread[0], rel=0.2)


def test_normals_are_normal_and_go_by_seed_and_place_alone() -> None:
    noise = normals(torch.tensor([5, 6, 5]), (3, 101, 99))
    assert torch.equal(noise[0], noise[2])
    assert torch.equal(noise[1:2], normals(torch.tensor([6]), (3, 101, 99)))
    first, second = noise[0].double(), noise[1].double()
    for one in (first, second):
        assert abs(one.mean()) < 0.02
        assert abs(one.std() - 1) < 0.02
        assert abs((one**4).mean() - 3) < 0.15
    for other in (second, first.roll(1, 2), first.roll(1, 1), first.roll(1, 0)):
        assert abs((first * other).mean()) < 0.02
    assert noise.abs().max() < 7


@pytest.mark.parametrize("recipe", ["hpa", "hard", "flips"])
@pytest.mark.parametrize("channels", [2, 4])
def test_a_seed_chooses_the_same_ops_and_values_as_on_the_cpu(recipe: str, channels: int) -> None:
    drawn = DrawnAugment(build_augment(recipe, CROP, channels=channels))
    image = textured(channels)
    quiet = [seed for seed in range(60) if not {d.op for d in drawn(image, seed)[1]} & RANDOM]
    assert len(quiet) > 8
    here, there = both(recipe, image, quiet)
    apart = np.abs(here - there)
    assert apart.mean() < 0.2
    assert np.quantile(apart, 0.999) <= 2  # a level more or less is spread by what follows


RANDOM = {"add noise", "add photons", "crumple"}


def test_after_noise_too() -> None:
    steps = [CROP_ALONE, {"op": "OneOf", "of": [{"op": "GaussNoise", "std_range": [0, 0]}]}, *load_recipe("flips")[1:]]
    here, there = both(steps, textured(), range(20))
    assert np.abs(here - there).max() <= 2


def test_ops_are_as_frequent_as_the_recipe_says() -> None:
    drawn, image = DrawnAugment(build_augment("hpa", 32)), np.zeros((4, 40, 40), np.uint8)
    count = 1500
    found = Counter(draw.op for seed in range(count) for draw in drawn(image, seed)[1])
    wanted = {"add noise": 1 / 3, "drop": 1 / 6, "flip": 0.5, "turn": 1, "stretch": 0.5 * 0.15 / 1.7}
    wanted |= {"affine": 0.5 * 1.25 / 1.7, "crumple": 0.5 * 0.15 / 1.7, "bend": 0.5 * 0.1 / 1.7}
    wanted |= {"blur": 1 / 6, "convolve": 1 / 6, "median": 1 / 6, "look up": 0.125, "brighten": 0.125}
    assert set(found) == set(wanted)
    for op, share in wanted.items():
        assert found[op] / count == pytest.approx(share, abs=4 * (share * (1 - share) / count) ** 0.5 + 1e-9), op


def test_an_image_does_not_depend_on_the_others_of_its_batch() -> None:
    drawn, image = DrawnAugment(build_augment("hard", CROP)), textured()
    crops, draws = zip(*(drawn(image, seed) for seed in range(24)), strict=True)
    whole = augment_batch(torch.from_numpy(np.stack(crops)), together(draws))
    for seed in reversed(range(24)):
        (crop, alone_drawn) = pickle.loads(pickle.dumps(drawn))(image, seed)
        one = augment_batch(torch.from_numpy(crop)[None], together([alone_drawn]))
        assert (one[0].int() - whole[seed].int()).abs().max() <= 1
    assert np.array_equal(crops[0], drawn(image, 0)[0])


@pytest.mark.parametrize("shape", [(40, 50), (96, 96), (97, 60)])
def test_a_small_image_is_padded_as_on_the_cpu(shape: tuple[int, int]) -> None:
    image = np.full((4, *shape), 200, np.uint8)
    here, there = both([CROP_ALONE], image)
    assert np.array_equal(here, there)


def test_batches_do_not_depend_on_workers_and_are_taken_up_in_the_middle(tmp_path: Path) -> None:
    data = DataSet.open(make_squares(tmp_path / "data"))
    recipe = ClassifyRecipe(batch=3, crop=64, augment_device="device", weights="none", backbone="test_resnet")
    device = Device(torch.device("cpu"))

    def batches(workers: int, start: int = 0) -> list[torch.Tensor]:
        loader = train_loader(data, np.arange(12), recipe, workers=workers)
        return [batch.on(device).images for batch in loader.epoch(1, start)]

    whole = batches(0)
    assert len(whole) == 4
    assert all(torch.equal(a, b) for a, b in zip(whole, batches(2), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(whole[2:], batches(0, 2), strict=True))
    plain = train_loader(data, np.arange(12), ClassifyRecipe(batch=3, crop=64), workers=0)
    assert [b.indices.tolist() for b in plain.epoch(1)] == [
        b.indices.tolist() for b in train_loader(data, np.arange(12), recipe).epoch(1)
    ]


def test_a_training_is_the_same_with_any_workers(tmp_path: Path) -> None:
    data = make_squares(tmp_path / "data")
    device = ["--augment_device", "device", "--fold", "0", "--feature_classifier.enabled", "false"]
    for run, workers in (("whole", "0"), ("loaded", "2")):
        train.main(words(data, tmp_path / run, *device, "--workers", workers))
    assert equal(tmp_path / "whole", tmp_path / "loaded")
    train.main(words(data, tmp_path / "cpu", *device[2:]))
    assert not equal(tmp_path / "whole", tmp_path / "cpu")


@pytest.mark.parametrize(
    ("steps", "named"),
    [
        ([CROP_ALONE, {"op": "Posterize"}], "the op Posterize"),
        ([CROP_ALONE, {"op": "OneOf", "of": [{"op": "CLAHE"}]}], "the op CLAHE"),
        ([CROP_ALONE, {"op": "Affine", "border_mode": "wrap"}], "Affine with border_mode: 3"),
        ([CROP_ALONE, {"op": "AdditiveNoise"}], "AdditiveNoise with noise_type: uniform"),
        ([CROP_ALONE, {"op": "CoarseDropout", "fill": "random"}], "CoarseDropout with fill: random"),
        ([{"op": "HorizontalFlip"}], "does not begin with RandomCrop"),
        ([CROP_ALONE, CROP_ALONE], "the op RandomCrop"),
    ],
)
def test_what_a_device_cannot_do_is_refused_by_name(steps: list[Step], named: str) -> None:
    with pytest.raises(ConfigError, match=named) as refusal:
        DrawnAugment(build_augment(steps, 32, channels=3))
    assert "pass --augment_device cpu" in str(refusal.value)
    assert "\n" not in str(refusal.value)
