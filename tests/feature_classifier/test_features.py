import numpy as np
import pytest

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
    for name in ("nucleus_to_cytoplasm", "nucleus_share", "with_blue", "ring_inner"):
        assert column(table, name).argmax() == 1, name


def test_protein_at_the_edge_shows_in_the_membrane_features() -> None:
    table = cell_features(*field([EVEN, NUCLEAR, EDGE]))
    for name in ("membrane", "ring_outer"):
        assert column(table, name).argmax() == 2, name


def test_spots_show_in_the_texture_features() -> None:
    table = cell_features(*field([EVEN, NUCLEAR, SPOTS]))
    for name in ("spots", "granularity", "green_q99"):
        assert column(table, name).argmax() == 2, name


def test_pattern_features_hardly_change_when_the_stain_is_half_as_bright() -> None:
    bright = cell_features(*field([NUCLEAR, EDGE, SPOTS]))
    weak = cell_features(*field([NUCLEAR / 2, EDGE / 2, SPOTS / 2]))
    for name in ("nucleus_to_cytoplasm", "membrane", "ring_outer", "with_blue", "green_variation", "spots"):
        np.testing.assert_allclose(column(weak, name), column(bright, name), rtol=0.1, atol=0.1, err_msg=name)
    assert (column(weak, "green_mean") < column(bright, "green_mean")).all()


def test_given_nuclei_take_the_place_of_estimated_ones() -> None:
    image, label_map = field([EVEN])
    nuclei = np.zeros_like(label_map)
    nuclei[4:24, 4:45] = 3
    area = column(cell_features(image, label_map, nuclei), "nucleus_area")
    assert area[0] == pytest.approx(np.mean(nuclei[label_map > 0] > 0))


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
