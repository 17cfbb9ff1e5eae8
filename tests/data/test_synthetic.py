"""Synthetic fields: reproducible, consistent with their labels, and each pattern where it belongs in the cell."""

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import ndimage

from wsss.core.checks import ConfigError
from wsss.core.labels import HPA_CHANNELS, HPA_NAMES
from wsss.data.synthetic import Field, Look, assign, choose_classes, draw_field, write_fields
from wsss.data.synthetic_cells import MITOTIC, NEGATIVE, PATTERNS, curves, dots, draw, noise, pick

CLEAN = Look(lost=0, several=0)


@cache
def field_of(k: int, size: int = 160) -> Field:
    return draw_field(np.random.default_rng([7, k]), size, [k], CLEAN)


def regions(field: Field, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (nucleus, cytoplasm, edge) of the cells that show class k, as bool masks."""
    ids = [i for i, labels in enumerate(field.cell_labels, start=1) if k in labels]
    cells = np.isin(field.label_map, ids)
    nucleus = np.isin(field.nuclei, ids)
    inner = np.zeros_like(cells)
    for i in ids:
        inner |= ndimage.binary_erosion(field.label_map == i, iterations=2, border_value=1)
    return nucleus, cells & ~nucleus, cells & ~inner


def test_there_is_a_pattern_for_every_class_in_the_order_of_their_names() -> None:
    assert len(PATTERNS) == len(HPA_NAMES)
    assert HPA_NAMES[MITOTIC] == "Mitotic spindle"
    assert HPA_NAMES[NEGATIVE].startswith("Negative")
    words = ("nucleoplasm", "membrane", "nucleoli", "fibrillar", "speckles", "bodies", "reticulum", "golgi")
    assert all(w in p.__name__ for w, p in zip(words, PATTERNS, strict=False))


def test_the_same_seed_gives_the_same_field_and_another_seed_another() -> None:
    first, again, other = (draw_field(np.random.default_rng(s), 96, [0, 14]) for s in (3, 3, 4))
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.label_map, again.label_map)
    assert first.cell_labels == again.cell_labels
    assert not np.array_equal(first.image, other.image)


def test_every_cell_is_in_the_map_with_its_nucleus_inside() -> None:
    field = draw_field(np.random.default_rng(1), 256, [2, 17])
    numbers = np.arange(1, len(field.cell_labels) + 1)
    assert 8 <= len(numbers) <= 20
    assert np.array_equal(np.unique(field.label_map), [0, *numbers])
    assert np.array_equal(np.unique(field.nuclei), [0, *numbers])
    inside = field.nuclei > 0
    assert np.array_equal(field.nuclei[inside], field.label_map[inside])
    assert field.image.shape == (4, 256, 256)
    assert field.image.dtype == np.uint8


def test_some_cells_touch_and_some_are_cut_by_the_border() -> None:
    label_map = draw_field(np.random.default_rng(1), 256, [0]).label_map
    left, right = label_map[:, :-1], label_map[:, 1:]
    assert ((left != right) & (left > 0) & (right > 0)).any()
    assert len(np.unique(np.concatenate([label_map[0], label_map[-1], label_map[:, 0], label_map[:, -1]]))) > 2


@pytest.mark.parametrize("k", range(6))
def test_a_nuclear_protein_is_brighter_in_the_nucleus_than_around_it(k: int) -> None:
    field = field_of(k)
    nucleus, cytoplasm, _ = regions(field, k)
    green = field.image[1].astype(float)
    assert np.percentile(green[nucleus], 95) > 1.8 * np.percentile(green[cytoplasm], 95)


@pytest.mark.parametrize("k", [6, 7, 8, 10, 12, 14, 15, 16, 17])
def test_a_cytoplasmic_protein_leaves_the_nucleus_dark(k: int) -> None:
    field = field_of(k)
    nucleus, cytoplasm, _ = regions(field, k)
    core = ndimage.binary_erosion(nucleus, iterations=2)
    green = field.image[1].astype(float)
    assert np.percentile(green[cytoplasm], 99.8) > 1.5 * np.percentile(green[core], 99.8)


def test_plasma_membrane_is_brightest_along_the_edge_of_the_cell() -> None:
    field = field_of(13)
    _, cytoplasm, edge = regions(field, 13)
    assert field.image[1][edge].mean() > 2 * field.image[1][cytoplasm & ~edge].mean()


@pytest.mark.parametrize(("k", "channel"), [(6, 3), (10, 0)])
def test_er_and_microtubules_follow_their_reference_stains(k: int, channel: int) -> None:
    field = field_of(k)
    _, cytoplasm, _ = regions(field, k)
    likeness = np.corrcoef(field.image[1][cytoplasm], field.image[channel][cytoplasm])[0, 1]
    unlike = np.corrcoef(field.image[1][cytoplasm], field.image[3 - channel][cytoplasm])[0, 1]
    assert likeness > max(0.6, unlike + 0.2)


def test_a_negative_field_is_much_darker_in_green_than_any_other() -> None:
    dark = np.percentile(field_of(NEGATIVE).image[1], 99.8)
    assert all(np.percentile(field_of(k).image[1], 99.8) > 2.5 * dark for k in range(NEGATIVE))


def test_a_dividing_cell_has_a_smaller_and_brighter_nucleus() -> None:
    field = draw_field(np.random.default_rng(2), 256, [MITOTIC, 16], CLEAN)
    dividing, _, _ = regions(field, MITOTIC)
    resting, _, _ = regions(field, 16)
    count = [sum(k in ids for ids in field.cell_labels) for k in (MITOTIC, 16)]
    assert count[0] < count[1]
    assert dividing.sum() / count[0] < 0.5 * resting.sum() / count[1]
    assert np.median(field.image[2][dividing]) > np.median(field.image[2][resting])


def test_the_size_of_cells_follows_the_look() -> None:
    small, large = (draw_field(np.random.default_rng(0), 192, [0], Look(cell=c)) for c in (0.15, 0.4))
    assert len(small.cell_labels) > 3 * len(large.cell_labels)


def test_every_class_of_a_field_is_shown_and_lost_cells_are_no_image_label() -> None:
    labels = assign(400, [3, 9], Look(lost=0.25, several=0.4), np.random.default_rng(0))
    assert {k for ids in labels for k in ids} == {3, 9, NEGATIVE}
    assert 0.18 < sum(ids == [NEGATIVE] for ids in labels) / 400 < 0.32
    assert any(ids == [3, 9] for ids in labels)
    assert draw_field(np.random.default_rng(0), 128, [3, 9], Look(lost=0.5)).image_labels == [3, 9]
    assert draw_field(np.random.default_rng(0), 64, [NEGATIVE]).image_labels == [NEGATIVE]


def test_as_many_cells_show_several_classes_as_in_fields_labelled_by_hand() -> None:
    for classes, wanted in (([3, 9], 0.39), ([3, 9, 13], 0.19)):
        cells = [ids for i in range(300) for ids in assign(12, classes, Look(), np.random.default_rng(i))]
        assert abs(sum(len(ids) == len(classes) for ids in cells) / len(cells) - wanted) < 0.05


def test_each_class_leads_a_field_equally_often() -> None:
    pool = (0, 4, 13, NEGATIVE)
    chosen = [choose_classes(i, 5, pool, np.random.default_rng(i)) for i in range(40)]
    assert [sum(c[0] == k for c in chosen) for k in pool] == [10, 10, 10, 10]
    assert all(c == [NEGATIVE] for c in chosen if NEGATIVE in c)
    assert all(1 <= len(c) == len(set(c)) <= 3 for c in chosen)


def test_written_fields_have_the_competition_s_layout_and_are_told_apart_by_seed(tmp_path: Path) -> None:
    truth = write_fields(tmp_path, 3, 64, 2, classes=[0, 16], prefix="val", workers=0)
    weak = pd.read_csv(tmp_path / "train.csv", dtype=str)
    assert weak["ID"].tolist() == ["val02_00000", "val02_00001", "val02_00002"]
    read = pd.read_csv(tmp_path / "cells_truth.csv", dtype={"Label": str})
    assert read.equals(truth.astype(read.dtypes.to_dict()))
    for name, label in zip(weak["ID"], weak["Label"], strict=True):
        planes = [np.asarray(Image.open(tmp_path / "images" / f"{name}_{c}.png")) for c in HPA_CHANNELS]
        assert {(p.shape, p.dtype) for p in planes} == {((64, 64), np.dtype(np.uint8))}
        mask = np.asarray(Image.open(tmp_path / "masks" / f"{name}.png"))
        mine = read[read["ID"] == name]
        assert mine["cell"].tolist() == [int(i) for i in np.unique(mask) if i]
        shown = {k for text in mine["Label"] for k in text.split("|")} - {str(NEGATIVE)}
        assert set(label.split("|")) == (shown or {str(NEGATIVE)})


def test_a_longer_set_begins_with_the_shorter_one(tmp_path: Path) -> None:
    write_fields(tmp_path / "short", 1, 64, 9, workers=0)
    write_fields(tmp_path / "long", 2, 64, 9, workers=1)
    name = "images/train09_00000_green.png"
    assert (tmp_path / "short" / name).read_bytes() == (tmp_path / "long" / name).read_bytes()


def test_a_look_outside_its_range_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="cell"):
        Look(cell=0.9)
    with pytest.raises(ConfigError, match="size"):
        draw_field(np.random.default_rng(0), 20, [0])


def test_a_point_between_pixels_is_shared_and_points_outside_are_lost() -> None:
    picture = draw((3, 3), np.array([[1.0, 0.5], [9.0, 9.0]]), 2.0)
    assert np.allclose(picture, [[0, 0, 0], [1, 1, 0], [0, 0, 0]])


def test_dots_have_their_height_at_their_centre() -> None:
    picture = dots((7, 9), np.array([[3, 2], [3, 7]]), np.array([0.5, 0.7]), np.array([1.0, 2.0]))
    assert picture[3, 2] == pytest.approx(1, abs=1e-3)
    assert picture[3, 7] == pytest.approx(2, abs=1e-3)


def test_curves_without_wobble_are_straight_and_of_the_asked_length() -> None:
    path = curves(np.array([[5.0, 5.0]]), np.array([0.0]), 4, 0.5, 0.0, np.random.default_rng(0))
    assert np.allclose(path[0, :, 0], 5)
    assert path[0, -1, 1] == pytest.approx(9)


def test_noise_keeps_its_contrast_at_any_scale() -> None:
    assert all(0.7 < noise((200, 200), s, np.random.default_rng(0)).std() < 1.3 for s in (1, 3, 6))


def test_picking_from_an_empty_mask_gives_no_points() -> None:
    assert pick(np.zeros((3, 3), bool), 5, np.random.default_rng(0)).shape == (0, 2)
