"""The refinement term of DRS."""

import torch

from wsss.training.losses import keep_winners, present_maps, refinement

# Two classes on a 1 x 3 map: the first wins at the first pixel, the second at the last.
TEACHER = torch.tensor([[[[4.0, 1.0, -3.0]], [[1.0, 1.0, 2.0]]]])
BOTH = torch.ones(1, 2)


def test_present_maps_have_a_peak_of_one_and_absent_ones_are_empty() -> None:
    maps = present_maps(TEACHER, torch.tensor([[1.0, 0.0]]))
    assert torch.allclose(maps[0, 0], torch.tensor([[1.0, 0.25, 0.0]]), atol=1e-4)
    assert maps[0, 1].abs().sum() == 0


def test_only_the_strongest_class_of_each_pixel_is_kept() -> None:
    kept = keep_winners(torch.tensor([[[[0.9, 0.2]], [[0.5, 0.4]]]]))
    assert torch.allclose(kept, torch.tensor([[[[0.9, 0.0]], [[0.0, 0.4]]]]))


def test_the_loss_is_the_mean_square_over_pixels_and_present_classes() -> None:
    # targets: [1, 0, 0] (class 1 wins the middle with .5 against .25) and [0, .5, 1]
    second = torch.tensor([[[[2.0, 2.0, 0.0]], [[0.0, 1.0, 1.0]]]])  # maps [1, 1, 0] and [0, 1, 1]
    expected = ((1 / 3) + (0.25 / 3)) / 2
    assert abs(refinement(second, TEACHER, BOTH).item() - expected) < 1e-4


def test_absent_classes_cost_nothing_and_learn_nothing() -> None:
    cam = torch.rand(1, 2, 2, 2, requires_grad=True)
    refinement(cam, torch.rand(1, 2, 2, 2), torch.tensor([[1.0, 0.0]])).backward()
    assert cam.grad is not None
    assert cam.grad[0, 1].abs().sum() == 0
    assert cam.grad[0, 0].abs().sum() > 0


def test_no_label_at_all_is_a_loss_of_zero() -> None:
    assert refinement(TEACHER, TEACHER, torch.zeros(1, 2)).item() == 0


def test_the_first_network_may_have_another_stride() -> None:
    coarse = torch.rand(2, 2, 3, 3)
    fine = torch.nn.functional.interpolate(coarse, (6, 6), mode="bilinear")
    cam, labels = torch.rand(2, 2, 6, 6), torch.ones(2, 2)
    assert torch.equal(refinement(cam, coarse, labels), refinement(cam, fine, labels))
