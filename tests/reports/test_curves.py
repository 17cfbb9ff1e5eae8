"""Curves of a training are drawn with and without validation, from any of its rows."""

from pathlib import Path

import numpy as np
from PIL import Image

from wsss.reports.figures import draw_curves, plot_curves, plot_range_test

ROWS = [
    {"epoch": n, "lr": 1e-3 / n, "train_loss": 2 / n, "train_full": 1 / n, "val_loss": 3 / n, "val_map": 1 - 1 / n}
    for n in (1, 2, 3)
]


def ink(path: Path) -> float:
    return float((np.asarray(Image.open(path).convert("L")) < 200).mean())


def test_curves_are_a_picture_with_more_in_it_for_more_figures(tmp_path: Path) -> None:
    plot_curves(ROWS, tmp_path / "all.png", "runs/x")
    bare = [{name: row[name] for name in ("epoch", "lr", "train_loss")} for row in ROWS]
    plot_curves(bare, tmp_path / "bare.png", "runs/x")
    assert ink(tmp_path / "all.png") > ink(tmp_path / "bare.png") > 0


def test_a_range_test_is_drawn_with_its_suggestion(tmp_path: Path) -> None:
    rows = [{"lr": 10.0**k, "loss": 1.0 + k, "smoothed": 1.0 + k} for k in range(4)]
    plot_range_test(rows, 10.0, tmp_path / "range.png")
    assert ink(tmp_path / "range.png") > 0


def test_the_validation_of_masks_is_drawn_without_the_losses_of_the_same_name() -> None:
    shared = {"lr": 1e-3, "train_loss": 1.0, "train_dice": 0.7, "val_loss": 1.0}
    rows = [{"epoch": n, **shared, "val_dice": 0.5, "val_threshold_mean": 0.4} for n in (1, 2)]
    panels = draw_curves(rows).axes
    assert [line.get_label() for line in panels[0].lines] == ["training loss", "validation loss"]
    assert [line.get_label() for line in panels[1].lines] == ["validation Dice", "validation mean over IoU .5 to .95"]
