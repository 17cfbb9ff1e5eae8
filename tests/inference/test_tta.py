"""Views of an image: each is undone exactly, and they are averaged."""

import pytest
import torch

from wsss.inference.views import VIEWS, apply, predict_views, undo

IMAGE = torch.rand(1, 2, 5, 8)


@pytest.mark.parametrize("kind", VIEWS)
def test_every_view_is_undone_and_all_differ(kind: str) -> None:
    seen = {tuple(apply(IMAGE, view).flatten().tolist()) for view in VIEWS[kind]}
    assert len(seen) == len(VIEWS[kind]) == {"none": 1, "flips": 4, "turns": 8}[kind]
    for view in VIEWS[kind]:
        assert torch.equal(undo(apply(IMAGE, view), view), IMAGE)


@pytest.mark.parametrize("kind", VIEWS)
def test_a_pixelwise_network_gives_the_same_with_and_without_views(kind: str) -> None:
    assert torch.allclose(predict_views(lambda x: 1 - x, IMAGE, kind), 1 - IMAGE, atol=1e-6)


def test_a_network_that_looks_left_is_averaged_over_its_views() -> None:
    def left(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[..., :1], x[..., :-1]], dim=-1)

    found = predict_views(left, IMAGE, "flips")
    right = left(IMAGE.flip(-1)).flip(-1)
    assert torch.allclose(found, (left(IMAGE) + right) / 2, atol=1e-6)


def test_sizes_are_undone_too() -> None:
    smooth = torch.linspace(0, 1, 32).expand(1, 1, 32, 32)
    seen: list[torch.Size] = []

    def note(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.shape[2:])
        return x

    found = predict_views(note, smooth, scales=(0.5, 1.0, 1.5))
    assert seen == [(16, 16), (32, 32), (48, 48)]
    assert found.shape == smooth.shape
    assert (found - smooth).abs().max() < 0.02
