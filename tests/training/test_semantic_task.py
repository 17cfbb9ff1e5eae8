"""Batches and validation of masks."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from wsss.data.augment import build_augment
from wsss.data.masks import MaskSet
from wsss.models.device import choose_device
from wsss.models.unet import MaskOutput
from wsss.options.masks import MaskConfig
from wsss.options.recipe import MaskRecipe
from wsss.training.loading import EpochLoader
from wsss.training.state import World
from wsss.training.tasks.masks import MaskValidator, mask_loader


class Squares(MaskSet):
    """Ten images of 16 x 16; those with an even number hold nothing, the others a bright square."""

    def __init__(self) -> None:
        self.channels = 1

    def __len__(self) -> int:
        return 10

    def image(self, i: int) -> np.ndarray:
        return (self.label_map(i)[None] * 200).astype(np.uint8)

    def label_map(self, i: int) -> np.ndarray:
        out = np.zeros((16, 16), np.int32)
        out[2 : 2 + i, 3:12] = i % 2
        return out

    def ignored(self, i: int) -> np.ndarray:
        return np.zeros((16, 16), bool)


def loader(world: World | None = None, **masks: object) -> EpochLoader:
    recipe = MaskRecipe(batch=3, masks=MaskConfig(**masks))  # type: ignore[arg-type]
    empty = np.arange(10) % 2 == 0
    augment = build_augment("none", 16, channels=1)
    return mask_loader(Squares(), np.arange(10), empty, recipe, augment, world=world)


@pytest.mark.parametrize(("share", "empties"), [(1.0, 5), (0.4, 2), (0.0, 0)])
def test_an_epoch_draws_every_image_with_objects_and_a_share_of_the_empty(share: float, empties: int) -> None:
    batches = loader(empty_share=share)
    for epoch in range(3):
        drawn = torch.cat([batch[2] for batch in batches.epoch(epoch)])
        assert sorted(drawn[drawn % 2 == 1].tolist()) == [1, 3, 5, 7, 9]
        assert (drawn % 2 == 0).sum() == empties
        assert len(set(drawn.tolist())) == 5 + empties
        assert sum(batches.sizes(step)[1] for step in range(batches.steps)) == 5 + empties


def test_an_epoch_goes_on_from_any_batch_and_differs_from_the_next() -> None:
    batches = loader(empty_share=0.4)
    whole = [batch[2].tolist() for batch in batches.epoch(1)]
    assert [batch[2].tolist() for batch in batches.epoch(1, start=1)] == whole[1:]
    assert [batch[2].tolist() for batch in batches.epoch(2)] != whole


def test_processes_share_every_batch() -> None:
    parts = [list(loader(World(rank=rank, size=2)).epoch(0)) for rank in (0, 1)]
    whole = list(loader().epoch(0))
    for batch, first, second in zip(whole, *parts, strict=True):
        assert batch[2].tolist()[::2] == first[2].tolist()
        assert (batch[2].tolist()[1::2] or batch[2].tolist()[:1]) == second[2].tolist()


class Bright(nn.Module):
    """Finds what is bright."""

    def forward(self, images: Tensor) -> MaskOutput:
        return MaskOutput((images.float() - 100) / 10, ())


def test_a_perfect_network_validates_perfectly() -> None:
    figures = MaskValidator(Squares(), np.arange(10), MaskRecipe(), choose_device("cpu"))(Bright())
    assert figures["iou"] == figures["dice"] == figures["threshold_mean"] == 1
    assert figures["loss"] < 0.01


def test_validation_does_not_depend_on_the_number_of_processes() -> None:
    recipe, device = MaskRecipe(), choose_device("cpu")
    indices = np.array([1, 3, 4, 8])
    whole = MaskValidator(Squares(), indices, recipe, device)
    assert MaskValidator(Squares(), indices, recipe, device, World(rank=1, size=2)).indices.tolist() == [3, 8]
    assert whole.indices.tolist() == indices.tolist()


def test_a_process_without_an_image_to_validate_on_gets_the_figures_of_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(World, "gather", lambda self, rows: np.concatenate([rows, np.ones((1, rows.shape[1]))]))
    idle = MaskValidator(Squares(), np.array([1]), MaskRecipe(), choose_device("cpu"), World(rank=1, size=2))
    assert set(idle(Bright()).values()) == {1.0}
