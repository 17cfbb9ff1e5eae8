import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
from composing.cells import CLEAN, EDGE, HARD, NATURAL, CellBank, Style, compose_field, draw, photograph

from wsss.core.checks import DataError

NEGATIVE = 18


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Round cells of two classes: green in the middle (0), green all over (16)."""
    folder = tmp_path_factory.mktemp("bank")
    (folder / "cells").mkdir()
    radius = np.hypot(*np.mgrid[-70:70, -60:60])
    body, middle = radius < 55, radius < 20
    flat = np.where(body, 120, 0)
    for name, green in (("a", np.where(middle, 200, 0)), ("b", np.where(body, 150, 0))):
        strip = np.hstack([flat, green, np.where(middle, 180, 0), flat, body * 255])
        cv2.imwrite(str(folder / f"cells/{name}.png"), strip.astype(np.uint8))
    (folder / "cells.csv").write_text("cell,label,split\na,0,train\nb,16,train\na,0,val\n")
    return folder


def test_every_cell_has_its_own_number_and_truth(cells: Path) -> None:
    bank = CellBank(cells, "train")
    field = compose_field(bank, CLEAN, NEGATIVE, np.random.default_rng(1))
    assert field.image.shape == (4, EDGE, EDGE)
    assert field.image.dtype == np.uint8
    assert np.unique(field.label_map).tolist() == list(range(len(field.truth) + 1))
    assert set(field.labels) == ({label for (label,) in field.truth} - {NEGATIVE} or {NEGATIVE})


def test_negative_cells_are_dark_and_not_told_by_the_image_label(cells: Path) -> None:
    style = Style(lost=0.5, empty=0)
    field = compose_field(CellBank(cells, "train"), style, NEGATIVE, np.random.default_rng(2))
    assert [NEGATIVE] in field.truth
    assert NEGATIVE not in field.labels
    mean = [field.image[1][field.label_map == k].mean() for k in range(1, len(field.truth) + 1)]
    dark = [m for m, labels in zip(mean, field.truth, strict=True) if labels == [NEGATIVE]]
    assert max(dark) < min(m for m, labels in zip(mean, field.truth, strict=True) if labels != [NEGATIVE])


def test_a_field_of_lost_cells_is_labelled_negative(cells: Path) -> None:
    field = compose_field(CellBank(cells, "val"), Style(empty=1), NEGATIVE, np.random.default_rng(0))
    assert field.labels == [NEGATIVE]
    assert all(labels == [NEGATIVE] for labels in field.truth)


def contacts(label_map: np.ndarray) -> int:
    a, b = label_map[:, :-8], label_map[:, 8:]
    return int(((a != b) & (a > 0) & (b > 0)).sum())


def test_packed_cells_touch_more_than_strewn_ones(cells: Path) -> None:
    bank, counts = CellBank(cells, "train"), {}
    for packing in (0.0, 20.0):
        style = Style(cells=(14, 14), packing=packing)
        fields = [compose_field(bank, style, NEGATIVE, np.random.default_rng(seed)) for seed in range(2)]
        counts[packing] = sum(contacts(field.label_map) for field in fields)
    assert counts[20.0] > 2 * counts[0.0]


def test_cells_may_hide_a_part_of_others_only_where_the_style_says_so(cells: Path) -> None:
    shown = []
    for cover in (0.02, 0.3):
        style = Style(cells=(200, 200), packing=5, cover=cover)
        field = compose_field(CellBank(cells, "train"), style, NEGATIVE, np.random.default_rng(3))
        shown.append((field.label_map > 0).mean())
    assert shown[1] > shown[0] + 0.05


def test_fewer_photons_mean_more_noise() -> None:
    light = np.full((4, 64, 64), 100, np.float32)
    spread = [photograph(light, Style(photons=(p, p)), np.random.default_rng(0)).std() for p in (0.2, 5)]
    assert spread[0] > 3 * spread[1]


def test_the_same_seed_gives_the_same_field(cells: Path) -> None:
    first, second = (compose_field(CellBank(cells, "val"), HARD, NEGATIVE, np.random.default_rng(5)) for _ in range(2))
    assert (first.image == second.image).all()
    assert first.truth == second.truth


def test_a_split_without_cells_is_refused(cells: Path) -> None:
    with pytest.raises(DataError, match="no cell of the split 'test'"):
        CellBank(cells, "test")


def test_a_cell_of_two_classes_shows_both_proteins_in_their_places(cells: Path) -> None:
    rng = np.random.default_rng(0)
    radius = np.hypot(*np.mgrid[-70:70, -60:60])
    middle, around = radius < 15, (radius > 30) & (radius < 50)
    level = {}
    for labels in ([0], [16], [0, 16]):
        cell, mask = draw(CellBank(cells, "train"), labels, rng)
        assert mask.sum() == (radius < 55).sum()
        green = cell[1] if cell.shape[1:] == radius.shape else np.rot90(cell[1])
        level[tuple(labels)] = green[middle].mean(), green[around].mean()
    assert level[0,][1] == 0
    assert level[16,][0] == pytest.approx(level[16,][1], rel=0.05)
    assert level[0, 16][0] > 1.5 * level[0, 16][1] > 30


def test_natural_fields_have_cells_of_several_classes(cells: Path) -> None:
    style = dataclasses.replace(NATURAL, cells=(6, 8), empty=0, lost=0)
    fields = [compose_field(CellBank(cells, "train"), style, NEGATIVE, np.random.default_rng([1, k])) for k in range(4)]
    for field in fields:
        assert field.labels == sorted({label for labels in field.truth for label in labels})
    shown = [len(labels) for field in fields if len(field.labels) == 2 for labels in field.truth]
    assert set(shown) == {1, 2}
