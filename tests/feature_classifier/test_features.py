import numpy as np
import pytest
from forest_file import FEATURES

from wsss.core.channels import stains_of
from wsss.feature_classifier.features import DESCRIPTIONS, FieldPixels, cell_features, describe_features

DISK = np.hypot(*np.mgrid[-20:21, -20:21]) <= 20
NUCLEUS = np.hypot(*np.mgrid[-20:21, -20:21]) <= 8


def field(green: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Disks side by side, one for each pattern of green (41, 41) in [0, 1]; ids 3, 6, 9, ..."""
    width = 50 * len(green)
    image = np.zeros((4, 50, width), np.uint8)
    label_map = np.zeros((50, width), np.int32)
    texture = np.random.default_rng(0).integers(20, 120, (2, 41, 41))
    for i, pattern in enumerate(green):
        inside = (slice(4, 45), slice(50 * i + 4, 50 * i + 45))
        label_map[inside][DISK] = 3 * (i + 1)
        planes = (texture[0], pattern * 200, NUCLEUS * 180, texture[1])
        for channel, plane in enumerate(planes):
            image[channel][inside][DISK] = plane[DISK]
    return image, label_map


def column(table: np.ndarray, name: str) -> np.ndarray:
    return table[:, FEATURES.index(name)]


EVEN = np.full((41, 41), 0.5)
NUCLEAR = np.where(NUCLEUS, 0.9, 0.1)
EDGE = np.where(DISK & (np.hypot(*np.mgrid[-20:21, -20:21]) > 17), 0.9, 0.1)
SPOTS = np.where((np.add.outer(np.arange(41) % 8, np.zeros(41)) == 0) & (np.arange(41) % 8 == 0), 1.0, 0.1)


def test_every_feature_has_a_description_and_a_finite_column() -> None:
    table = cell_features(*field([EVEN, NUCLEAR]))
    assert table.shape == (2, len(FEATURES))
    assert table.dtype == np.float32
    assert np.isfinite(table).all()
    assert all(len(text) > 10 for text in DESCRIPTIONS.values())


def test_nuclear_protein_shows_in_the_nucleus_features() -> None:
    table = cell_features(*field([EVEN, NUCLEAR, EDGE]))
    for name in ("nucleus_to_cytoplasm", "nucleus_inner"):
        assert column(table, name).argmax() == 1, name
    assert column(table, "zone_5").argmin() == 1


def test_protein_at_the_edge_shows_in_the_edge_features() -> None:
    table = cell_features(*field([EVEN, NUCLEAR, EDGE]))
    for name in ("rim_mean", "rim_low", "edge_1", "zone_5", "excess_edge", "slope_2"):
        assert column(table, name).argmax() == 2, name


def test_spots_show_in_the_texture_features() -> None:
    table = cell_features(*field([EVEN, SPOTS]))
    for name in ("cytoplasm_texture_1", "cytoplasm_spots_1", "cytoplasm_grains_3", "cytoplasm_skew_1"):
        assert column(table, name).argmax() == 1, name


def test_pattern_features_hardly_change_when_the_stain_is_half_as_bright() -> None:
    bright = cell_features(*field([NUCLEAR, EDGE, SPOTS]))
    weak = cell_features(*field([NUCLEAR / 2, EDGE / 2, SPOTS / 2]))
    for name in ("nucleus_inner", "zone_5", "edge_1", "rim_mean", "cytoplasm_texture_2", "cytoplasm_explained"):
        np.testing.assert_allclose(column(weak, name), column(bright, name), rtol=0.1, atol=0.15, err_msg=name)
    assert (column(weak, "brightness") < column(bright, "brightness")).all()


def test_given_nuclei_take_the_place_of_estimated_ones() -> None:
    image, label_map = field([EDGE])
    nuclei = np.zeros_like(label_map)
    nuclei[4:24, 4:45] = 3
    for name in ("nucleus_depth", "nucleus_to_cytoplasm"):
        given, estimated = (column(cell_features(image, label_map, own), name)[0] for own in (nuclei, None))
        assert abs(given - estimated) > 0.3, name


def test_a_nucleus_is_estimated_as_one_part_without_holes() -> None:
    image, label_map = field([EVEN, EVEN])
    image[2, 20:28, 20:28] = 0  # a hole in the first nucleus
    image[2, 8:10, 70:72] = 255  # a speck in the second cell
    pixels = FieldPixels(image, label_map, None)
    mask = np.zeros(label_map.shape, bool)
    mask.ravel()[pixels.cells.order] = pixels.nucleus
    assert mask[24, 24]
    assert not mask[8:10, 70:72].any()


def test_quantiles_of_cells_without_a_chosen_pixel_are_nan() -> None:
    image, label_map = field([EVEN, EVEN, EVEN])
    pixels = FieldPixels(image, label_map, None)
    values = np.arange(len(pixels.owner), dtype=float)
    median = pixels.quantiles(values, (0.5,), pixels.owner != 2)[0]
    assert np.isnan(median[2])
    assert median[1] == np.median(values[pixels.owner == 1])


def test_tiny_cells_dark_images_and_full_maps_stay_finite() -> None:
    rng = np.random.default_rng(0)
    for image in (np.zeros((4, 12, 12), np.uint8), rng.integers(0, 256, (4, 12, 12), np.uint8)):
        one_pixel = np.zeros((12, 12), np.int32)
        one_pixel[3, 3] = 5
        for label_map, count in ((one_pixel, 1), (np.ones((12, 12), np.int32), 1), (0 * one_pixel, 0)):
            table = cell_features(image, label_map)
            assert table.shape == (count, len(FEATURES))
            assert np.isfinite(table).all()


def test_a_cell_that_reaches_opposite_borders_is_not_compared_with_its_other_end() -> None:
    image, label_map = np.zeros((4, 60, 60), np.uint8), np.zeros((60, 60), np.int32)
    image[1], label_map[:, 20:40] = 4 * np.arange(60)[:, None], 1
    assert column(cell_features(image, label_map, label_map * 0), "likeness_8")[0] > 0.999


def test_sizes_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match="expected"):
        cell_features(np.zeros((4, 5, 5), np.uint8), np.zeros((6, 5), np.int32))


SETS = {
    "one": (["DAPI"], ["nucleus"]),
    "whole cells": (["Phase"], ["cell"]),
    "three": (["DAPI", "GFP", "Tubulin"], ["nucleus", "signal", "cell"]),
    "five, two signals": (["DAPI", "GFP", "mCherry", "ER", "BF"], ["nucleus", "signal", "signal", "outline", ""]),
    "no roles": (["a", "b"], ["", ""]),
}


@pytest.mark.parametrize("kind", SETS)
def test_any_set_of_channels_has_features_named_by_its_channels(kind: str) -> None:
    channels, roles = SETS[kind]
    image, label_map = field([EVEN, NUCLEAR, EDGE, SPOTS])
    planes = {"nucleus": image[2], "signal": image[1], "cell": image[0], "outline": image[3], "": image[3] // 2}
    if "signal" not in roles:
        planes = dict.fromkeys(planes, image[1])
    views = stains_of(channels, roles)
    table = cell_features(np.stack([planes[role] for role in roles]), label_map, None, views)
    words = describe_features(views)
    assert table.shape == (4, len(words))
    assert np.isfinite(table).all()
    assert not any("protein" in text for text in words.values())
    varied = [name for name, values in zip(words, table.T, strict=True) if np.ptp(values) > 0]
    assert len(varied) > 0.6 * len(words), sorted(set(words) - set(varied))
    assert ("shape_area" in words) == ("signal" not in roles)
    assert any(name.startswith("mCherry: ") for name in words) == (kind == "five, two signals")
    if kind == "three":
        assert table[:, list(words).index("nucleus_to_cytoplasm")].argmax() == 1
        assert table[:, list(words).index("edge_1")].argmax() == 2


def test_features_of_the_shape_are_those_of_the_outline() -> None:
    label_map = np.zeros((40, 100), np.int32)
    label_map[5:15, 5:15] = 9
    label_map[5:10, 30:90] = 4
    views = stains_of(["DAPI"], ["nucleus"])
    table = cell_features(np.full((1, 40, 100), 90, np.uint8), label_map, None, views)
    area, eccentricity = (
        table[:, list(describe_features(views)).index(f"shape_{n}")] for n in ("area", "eccentricity")
    )
    np.testing.assert_allclose(np.exp(area), [300, 100])  # by rising id
    assert eccentricity[0] > 0.9 > eccentricity[1]
