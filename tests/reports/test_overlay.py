"""Overlay pictures: colours stay with their classes, outlines with their cells, pages hold everything."""

import numpy as np
import pytest
from skimage.color import rgb2lab

from wsss.core.channels import tint_names
from wsss.core.labels import HPA_NAMES
from wsss.reports.figures import NO_CLASS, colour, ink_on, short_names
from wsss.reports.overlay import (
    Note,
    Panel,
    composite,
    contact_sheet,
    describe,
    describe_truth,
    fit,
    heat,
    mark_cells,
    overlay_page,
)


def two_cells(size: int = 120) -> np.ndarray:
    """Cells 7 and 90000, touching in the middle."""
    label_map = np.zeros((size, size), np.int32)
    label_map[10:-10, 10 : size // 2] = 7
    label_map[10:-10, size // 2 : -10] = 90000
    return label_map


def test_the_colours_of_the_19_classes_are_told_apart() -> None:
    lab = rgb2lab(np.array([*(colour(k) for k in range(len(HPA_NAMES))), NO_CLASS])[None] / 255)[0]
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=-1) + 1e3 * np.eye(len(lab))
    assert distance.min() > 20
    assert lab[:, 0].min() > 40, "too dark for a dark picture"


def test_classes_beyond_the_19_have_colours_too() -> None:
    assert len({colour(k) for k in range(60)}) == 60


def test_short_names_are_distinct_and_short() -> None:
    alike = ("spots in the nucleus", "spots in the cytosol", "spots", "phenotype10", "phenotype11", "My own class", "")
    for names in (HPA_NAMES, alike, ("x", *(f"a long name {k}{'b' * k}" for k in range(9)))):
        short = short_names(names)
        assert len(set(short)) == len(names)
        assert max(map(len, short)) <= 8
    assert short_names(alike)[:2] == ("nucleus", "cytosol")


def test_ink_is_dark_on_light_and_light_on_dark() -> None:
    assert ink_on((255, 230, 0)) == (0, 0, 0)
    assert ink_on((90, 20, 120)) == (255, 255, 255)


def test_composite_shows_the_protein_green_and_keeps_an_empty_channel_dark() -> None:
    image = np.zeros((4, 40, 40), np.uint8)
    image[1, 10:20, 10:20] = 200
    image[0] = np.random.default_rng(0).integers(0, 4, (40, 40))
    picture = composite(image)
    assert picture[15, 15, 1] > 200
    assert picture[15, 15, 1] > 2 * picture[15, 15, 0]
    assert picture[30:].max() < 40


def test_composite_of_other_channels_is_grey() -> None:
    picture = composite(np.full((1, 8, 8), 9, np.uint8) * np.arange(8, dtype=np.uint8), ("phase",))
    assert np.array_equal(picture[..., 0], picture[..., 2])


def test_a_channel_without_a_role_beside_others_is_left_out_of_pictures() -> None:
    channels, roles = ("DAPI", "GFP", "Phase"), ("nucleus", "signal", "")
    assert tint_names(channels, roles) == ("blue", "green", "")
    assert tint_names(channels, ("", "", "")) == channels
    assert tint_names(("red", "green", "blue"), ("", "", "nucleus")) == ("red", "green", "blue")
    image = np.stack(
        [np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8), np.arange(64, dtype=np.uint8).reshape(8, 8)]
    )
    assert not composite(image, ("blue", "green", "")).any()


def test_outlines_take_the_class_colour_and_stay_inside_their_cell() -> None:
    label_map = two_cells()
    black = np.zeros((*label_map.shape, 3), np.uint8)
    picture = mark_cells(black, label_map, {7: Note((6,), "ER 0.9")}, text=False)
    assert tuple(picture[10, 30]) == colour(6)
    assert tuple(picture[60, 59]) == colour(6)
    assert tuple(picture[60, 60]) == NO_CLASS
    assert not picture[label_map == 0].any()
    assert not picture[60, 35].any()
    assert not black.any(), "the given picture is left as it was"


def test_text_is_written_on_large_cells_and_left_out_on_tiny_ones() -> None:
    label_map = two_cells()
    label_map[:5, :5] = 3
    black = np.zeros((*label_map.shape, 3), np.uint8)
    notes = {7: Note((0,), "Nucpl 0.90"), 3: Note((2,), "Nucleoli 0.80")}
    bare, full = (mark_cells(black, label_map, notes, text=text) for text in (False, True))
    changed = (bare != full).any(axis=-1)
    assert changed[label_map == 7].any()
    assert not changed[label_map == 3].any()


def test_a_map_without_cells_leaves_the_picture() -> None:
    picture = np.full((20, 30, 3), 5, np.uint8)
    assert np.array_equal(mark_cells(picture, np.zeros((20, 30), np.int32), {}), picture)


def test_notes_say_the_classes_that_are_sure_and_all_true_ones() -> None:
    scores = np.array([0.1, 0.8, 0.6])
    assert describe(scores, HPA_NAMES, 0.7) == Note((1,), "NucMem 0.80")
    assert describe(scores, HPA_NAMES, 0.6) == Note((1, 2), "NucMem Nucleoli")
    assert describe(scores, HPA_NAMES, 0.9) == Note((), "NucMem? 0.80")
    assert describe_truth([6, 14], HPA_NAMES) == Note((6, 14), "ER Mito")


def test_two_classes_give_two_lines_and_no_class_a_pale_thin_one() -> None:
    label_map = two_cells()
    black = np.zeros((*label_map.shape, 3), np.uint8)
    both = mark_cells(black, label_map, {7: Note((6, 0), "ER Nucpl")}, text=False)
    assert {tuple(pixel) for pixel in both[label_map == 7]} == {colour(6), colour(0), (0, 0, 0)}
    assert tuple(both[10, 30]) == colour(6)
    unsure = mark_cells(black, label_map, {7: Note((), "ER? 0.10")}, text=False)
    assert tuple(unsure[10, 30]) == NO_CLASS
    assert not unsure[11, 30].any()


def test_heat_warms_the_picture_only_where_the_map_is_high() -> None:
    image = np.full((4, 64, 64), 30, np.uint8)
    cam = np.zeros((8, 8), np.float32)
    cam[:, 4:] = 1
    picture = heat(image, cam).astype(int)
    assert np.ptp(picture[32, 5]) == 0
    assert picture[32, 60].sum() > picture[32, 5].sum() + 100


@pytest.mark.parametrize("shape", [(256, 256), (90, 300), (1500, 700)])
def test_fit_keeps_aspect_and_cell_numbers(shape: tuple[int, int]) -> None:
    label_map = np.zeros(shape, np.int32)
    label_map[: shape[0] // 2] = 70001
    out = fit(label_map, 512, labels=True)
    assert max(out.shape) == 512
    assert out.shape[0] / out.shape[1] == pytest.approx(shape[0] / shape[1], rel=0.02)
    assert set(np.unique(out)) == {0, 70001}
    assert fit(np.zeros((*shape, 3), np.uint8), 512).shape == (*out.shape, 3)


def test_a_page_holds_its_panels_side_by_side_and_a_legend_below() -> None:
    red = np.full((200, 300, 3), (250, 0, 0), np.uint8)
    plain = overlay_page("a", [Panel(red, "one"), Panel(red, "two")], [], HPA_NAMES)
    keyed = overlay_page("a", [Panel(red, "one"), Panel(red, "two")], range(19), HPA_NAMES)
    assert (plain == (250, 0, 0)).all(axis=-1).sum() == 2 * 200 * 300
    assert keyed.shape[1] == plain.shape[1] > 600
    for k in range(19):
        assert (keyed[plain.shape[0] :] == colour(k)).all(axis=-1).sum() > 100


def test_a_long_title_is_broken_into_lines() -> None:
    panel = [Panel(np.zeros((50, 300, 3), np.uint8), "")]
    short, long = (overlay_page("word " * n, panel, [], HPA_NAMES) for n in (1, 60))
    assert long.shape[0] > short.shape[0] + 50
    assert long.shape[1] == short.shape[1]


def test_a_contact_sheet_puts_every_panel_in_its_row() -> None:
    panels = [Panel(np.full((30, 40, 3), (200, 10 * i, 0), np.uint8), f"image {i} " * 9) for i in range(7)]
    sheet = contact_sheet(panels, [0], HPA_NAMES, columns=3)
    keyed = contact_sheet(panels, [0], HPA_NAMES, columns=3, pale="no class")
    assert (keyed == NO_CLASS).all(axis=-1).sum() > (sheet == NO_CLASS).all(axis=-1).sum() + 50
    for panel in panels:
        assert (sheet == panel.picture[0, 0]).all(axis=-1).sum() == 30 * 40
