import numpy as np
import pytest

from wsss.cells.field_pixels import FieldPixels
from wsss.feature_classifier.features import DESCRIPTIONS, FEATURES, cell_features

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


def test_sizes_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match="expected"):
        cell_features(np.zeros((4, 5, 5), np.uint8), np.zeros((6, 5), np.int32))
