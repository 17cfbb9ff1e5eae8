"""Cells cut out for training: the same crops as stage 2 sees, and batch norms that stay with whole images."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from wsss.cells.instances import cell_crops
from wsss.core.checks import ConfigError
from wsss.losses.classify import ComboLoss
from wsss.models.cam_net import CamNet, build_cam_net
from wsss.models.puzzle import PuzzleCam, cut_pieces, still_norms
from wsss.options.recipe import CellTrainConfig, ClassifyRecipe
from wsss.options.scoring import CropConfig

SIZE = 64


def recipe(pooling: str = "noisy_or", pieces: int = 2) -> ClassifyRecipe:
    cells = CellTrainConfig(pooling, pieces=pieces, piece_size=SIZE)  # type: ignore[arg-type]
    return ClassifyRecipe(
        backbone="test_resnet", weights="none", crop=SIZE, cells=cells, crops=CropConfig("stored", SIZE)
    )


def make_net(pooling: str = "noisy_or") -> CamNet:
    torch.manual_seed(0)
    return build_cam_net(recipe(pooling), channels=4, classes=5)


@pytest.fixture
def images() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, 256, (2, 4, SIZE, SIZE), generator=generator, dtype=torch.uint8)


@pytest.fixture
def cells() -> Tensor:
    """Two cells in the first image, one of them at its edge; none in the second."""
    found = torch.zeros(2, SIZE, SIZE, dtype=torch.int32)
    found[0, 3:20, 10:31] = 1
    found[0, 30:64, 40:64] = 2
    found[0, 35:40, 40:50] = 0  # not convex
    return found


def test_pieces_are_the_crops_of_stage_2(images: Tensor, cells: Tensor) -> None:
    found = cut_pieces(images, cells, 3, 40)
    assert found.slots.tolist() == [0, 1]
    assert found.present.tolist() == [[True, True, False], [False, False, False]]
    _, crops = next(cell_crops(images[0].numpy(), cells[0].numpy(), CropConfig("stored", 40)))
    assert np.array_equal(found.crops.numpy(), crops)


def test_cells_larger_than_the_window_are_shrunk_into_it() -> None:
    smooth = torch.linspace(50, 200, SIZE).expand(1, 4, SIZE, SIZE)
    cells = torch.zeros(1, SIZE, SIZE, dtype=torch.int32)
    cells[0, 2:62, 10:50] = 1
    found = cut_pieces(smooth, cells, 1, 32).crops.numpy()
    _, crops = next(cell_crops(smooth[0].byte().numpy(), cells[0].numpy(), CropConfig("stored", 32)))
    inside = crops > 60  # the edges are blurred in other ways
    assert 0.3 < inside.mean() < 0.8
    assert np.abs(found - crops)[inside].mean() < 4


def test_without_any_cell_a_black_crop_stands_in(images: Tensor) -> None:
    found = cut_pieces(images, torch.zeros(2, SIZE, SIZE, dtype=torch.int32), 2, 32)
    assert found.crops.shape == (1, 4, 32, 32)
    assert not found.crops.any()
    assert not found.present.any()


@pytest.mark.parametrize("pooling", ["none", "noisy_or", "attention"])
def test_a_cell_that_is_the_whole_image_agrees_with_itself(images: Tensor, pooling: str) -> None:
    model = PuzzleCam(make_net(pooling), 1, pieces=1, piece_size=SIZE).eval()
    output = model(images, torch.ones(2, SIZE, SIZE, dtype=torch.int32))
    assert output.pieces is not None
    assert torch.allclose(output.pieces.full, output.pieces.alone, atol=1e-5)
    parts = ComboLoss(recipe(pooling).loss, recipe(pooling).puzzle, recipe(pooling).cells)(
        *output.views("raw"), torch.ones(2, 5), pieces=output.pieces
    )
    assert parts["cell_agreement"].item() == pytest.approx(0, abs=1e-5)
    if output.pieces.logits is not None:
        assert torch.allclose(output.pieces.logits, output.full.logits, atol=1e-5)


def test_cells_that_differ_alone_cost(images: Tensor, cells: Tensor) -> None:
    output = PuzzleCam(make_net(), 1, pieces=2, piece_size=SIZE).eval()(images, cells)
    gap = (output.pieces.full - output.pieces.alone).abs()
    assert (gap[0].amax(dim=0) > 1e-3).all()
    assert not gap[1].any()  # the image without cells


def test_pieces_take_the_place_of_their_cells_in_the_bag(images: Tensor, cells: Tensor) -> None:
    output = PuzzleCam(make_net(), 1, pieces=1, piece_size=SIZE).eval()(images, cells)
    both = PuzzleCam(make_net(), 1, pieces=2, piece_size=SIZE).eval()(images, cells).pieces
    first, second = output.pieces.alone[0, :, 0, 0], both.full[0, :, 1, 0]
    expected = 1 - (1 - first.sigmoid()) * (1 - second.sigmoid())
    assert torch.allclose(output.pieces.logits[0].sigmoid(), expected, atol=1e-5)


def test_every_weight_learns_and_every_part_has_its_name(images: Tensor, cells: Tensor) -> None:
    chosen = recipe("attention")
    net = make_net("attention")
    loss = ComboLoss(chosen.loss, chosen.puzzle, chosen.cells)
    output = PuzzleCam(net, 2, 2, SIZE)(images, cells)
    parts = loss(*output.views("raw"), torch.ones(2, 5), pieces=output.pieces)
    assert list(parts) == loss.names
    assert {"pieces", "cell_agreement"} < set(parts)
    parts["loss"].backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
    assert net.pool is not None
    assert set(net.pool.parameters()) <= net.new_parameters()


def test_batch_norms_stay_with_whole_images() -> None:
    net = nn.Sequential(nn.BatchNorm2d(2), nn.Sequential(nn.BatchNorm2d(2).eval()))
    with still_norms(net):
        net(torch.randn(3, 2, 4, 4) + 10)
    assert not net[0].running_mean.any()
    assert net[0].training
    assert not net[1][0].training  # as it was


def test_without_cells_the_model_is_what_it_was(images: Tensor) -> None:
    plain = PuzzleCam(make_net("none"), 2).eval()(images)
    knowing = PuzzleCam(make_net("none"), 2, 2, SIZE).eval()(images)
    assert plain.pieces is knowing.pieces is None
    assert torch.equal(plain.full.logits, knowing.full.logits)


def test_pieces_that_stage_2_would_cut_otherwise_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"pass --crops.mode stored --crops.size 96 --crops.margin 0"):
        ClassifyRecipe(cells=CellTrainConfig(pieces=4))
