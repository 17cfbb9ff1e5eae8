"""Pooling over cells: against plain loops, and what must not matter."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wsss.models.cell_pool import CellPool, cell_means, cell_weights, is_present, noisy_or
from wsss.options.recipe import CellTrainConfig

REAL = ["noisy_or", "lse", "attention"]
K = 3


def blocks(*ids: int) -> Tensor:
    """A label map of 16 x 16 with a cell of 6 x 6 in up to four corners, background between them."""
    cells = torch.zeros(16, 16, dtype=torch.int32)
    for number, (y, x) in zip(ids, [(0, 0), (0, 9), (9, 0), (9, 9)], strict=False):
        cells[y : y + 6, x : x + 6] = number
    return cells


def make_pool(name: str, **more: float) -> CellPool:
    torch.manual_seed(1)
    pool = CellPool(CellTrainConfig(name, **more), features=5, classes=K)  # type: ignore[arg-type]
    if pool.attention is not None:
        torch.nn.init.normal_(pool.attention.weight)
    return pool


def pool_maps(pool: CellPool, cam: Tensor, features: Tensor, cells: Tensor) -> Tensor:
    weights = cell_weights(cells, cam.shape[2:])
    found: Tensor = pool(cell_means(pool.maps(cam, features), weights), is_present(weights))
    return found


@pytest.fixture
def maps() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, K, 4, 5, generator=generator), torch.randn(2, 5, 4, 5, generator=generator)


@pytest.mark.parametrize("size", [(4, 5), (16, 16), (3, 1)])
def test_the_mean_of_a_cell_is_that_of_the_resized_map(size: tuple[int, int]) -> None:
    cells = torch.stack([blocks(1, 2, 3), blocks(2, 1)])
    maps = torch.randn(2, K, *size)
    found = cell_means(maps, cell_weights(cells, size))
    full = F.interpolate(maps, (16, 16), mode="bilinear", align_corners=False)
    for b in range(2):
        for number in cells[b].unique()[1:].tolist():
            expected = full[b][:, cells[b] == number].mean(dim=1)
            assert torch.allclose(found[b, number - 1], expected, atol=1e-5)


def test_numbers_without_pixels_are_no_cells() -> None:
    weights = cell_weights(torch.stack([blocks(1, 4), blocks(1)]), (4, 4))
    assert is_present(weights).tolist() == [[True, False, False, True], [True, False, False, False]]
    assert torch.allclose(weights.sum(dim=2), is_present(weights).float())


@pytest.mark.parametrize("name", REAL)
def test_an_image_without_cells_keeps_the_mean_of_its_maps(name: str, maps: tuple[Tensor, Tensor]) -> None:
    cam, features = maps
    found = pool_maps(make_pool(name), cam, features, torch.stack([blocks(), blocks(1, 2)]))
    assert torch.allclose(found[0], cam[0].mean(dim=(1, 2)), atol=1e-5)
    assert not torch.allclose(found[1], cam[1].mean(dim=(1, 2)), atol=1e-2)


@pytest.mark.parametrize("name", REAL)
def test_neither_the_order_of_cells_nor_gaps_nor_other_images_matter(name: str, maps: tuple[Tensor, Tensor]) -> None:
    cam, features = maps
    pool = make_pool(name)
    first = pool_maps(pool, cam[:1], features[:1], blocks(1, 2, 3)[None])
    again = pool_maps(pool, cam, features, torch.stack([blocks(3, 1, 9), blocks(4, 5, 6, 7)]))
    assert torch.allclose(first[0], again[0], atol=1e-5)


@pytest.mark.parametrize("name", REAL)
def test_the_background_does_not_matter(name: str) -> None:
    cells = blocks(1, 2)[None]
    cam, features = torch.randn(1, K, 16, 16), torch.randn(1, 5, 16, 16)
    other = torch.where(cells[:, None] > 0, cam, 100.0)
    pool = make_pool(name)
    assert torch.allclose(pool_maps(pool, cam, features, cells), pool_maps(pool, other, features, cells), atol=1e-4)


def test_noisy_or_is_one_minus_the_product_of_complements() -> None:
    logits = torch.randn(2, 4, K) * 3
    present = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0]]).bool()
    found = noisy_or(logits, present.unsqueeze(2)).sigmoid()
    for b in range(2):
        for k in range(K):
            none = 1.0
            for m in range(4):
                none *= 1 - float(logits[b, m, k].sigmoid()) if present[b, m] else 1
            assert float(found[b, k]) == pytest.approx(1 - none, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("logit", [-60.0, -20.0, -1.0, 0.0, 5.0, 60.0])
def test_noisy_or_of_one_cell_is_the_cell_however_sure(logit: float) -> None:
    cell = torch.full((1, 1, 1), logit, requires_grad=True)
    pooled = noisy_or(cell, torch.ones(1, 1, 1, dtype=torch.bool))
    pooled.sum().backward()
    assert pooled.item() == pytest.approx(logit, rel=1e-4, abs=1e-6)
    assert cell.grad is not None
    assert cell.grad.item() == pytest.approx(1.0, rel=1e-3)


def test_log_sum_exp_lies_between_mean_and_maximum() -> None:
    values, present = torch.tensor([[[0.0], [1.0], [5.0], [99.0]]]), torch.tensor([[True, True, True, False]])
    soft, middle, hard = (CellPool(CellTrainConfig("lse", s), 1, 1)(values, present).item() for s in (1e-3, 1.0, 100.0))
    assert soft == pytest.approx(2.0, abs=0.01)
    assert middle == pytest.approx((torch.tensor([0.0, 1.0, 5.0]).exp().mean().log()).item(), rel=1e-5)
    assert hard == pytest.approx(5.0, abs=0.02)


def test_attention_begins_as_the_mean_and_can_choose_a_cell() -> None:
    pool = CellPool(CellTrainConfig("attention"), features=5, classes=1)
    assert pool.attention is not None
    assert not pool.attention.weight.any()
    values = torch.tensor([[[1.0, 0.0], [3.0, 0.0], [8.0, 0.0]]])
    present = torch.tensor([[True, True, False]])
    assert pool(values, present).item() == pytest.approx(2.0)
    values[0, 1, 1] = 50.0
    assert pool(values, present).item() == pytest.approx(3.0)


@pytest.mark.parametrize("name", REAL)
def test_gradients_match_numeric_ones(name: str) -> None:
    pool = make_pool(name)
    values = torch.randn(2, 3, 2 * K, dtype=torch.double, requires_grad=True)
    present = torch.tensor([[True, True, True], [True, False, True]])
    assert torch.autograd.gradcheck(lambda x: pool(x, present), values)
