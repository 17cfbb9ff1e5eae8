"""Large images as tiles, with run-length text and polygons as masks."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile

from wsss.core.checks import DataError
from wsss.core.rle import encode_pairs
from wsss.data.folds import coverage_folds
from wsss.data.large import PolygonMask, RunMask, TileSet, open_set
from wsss.data.masks import Contrast, survey

SIZE = (90, 130)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_any_part_of_a_run_length_mask_is_that_of_the_whole(share: float) -> None:
    rng = np.random.default_rng(0)
    mask = rng.random(SIZE) < share
    found = RunMask(encode_pairs(mask), SIZE, "it")
    for y0, y1, x0, x1 in [(0, 90, 0, 130), (10, 40, 3, 77), (89, 90, 129, 130), (0, 1, 0, 130), (31, 90, 64, 65)]:
        assert np.array_equal(found.read(y0, y1, x0, x1), mask[y0:y1, x0:x1].astype(np.int32))


def feature(*rings: list[list[float]]) -> dict[str, object]:
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": list(rings)}}


def box(x0: float, y0: float, x1: float, y1: float) -> list[list[float]]:
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]


def test_polygons_with_holes_are_objects_and_any_part_is_that_of_the_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([feature(box(10, 20, 59, 69), box(30, 40, 39, 49)), feature(box(50, 60, 80, 80))]))
    mask = PolygonMask(path, SIZE)
    whole = mask.read(0, 90, 0, 130)
    assert (whole[25, 15], whole[45, 35], whole[65, 55], whole[5, 5]) == (1, 0, 2, 0)
    assert [(whole == k).sum() for k in (1, 2)] == [49 * 49 - 9 * 9 - 9 * 9, 30 * 20]
    for y0, y1, x0, x1 in [(0, 64, 0, 64), (40, 90, 33, 97), (0, 10, 0, 10)]:
        assert np.array_equal(mask.read(y0, y1, x0, x1), whole[y0:y1, x0:x1])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("nothing", "is not JSON"),
        ('[{"geometry": {"type": "Point", "coordinates": [1, 2]}}]', "no Polygon or MultiPolygon"),
        (json.dumps([feature(box(0, 0, 500, 20))]), "wide and 90 high"),
        (json.dumps([feature([[1, 1], [2, 2]])]), "no Polygon or MultiPolygon"),
        (json.dumps([feature([["a", "b"]] * 4)]), "no list of rings of x, y"),
        (json.dumps([feature(box(0, 0, 0.5, 0.4))]), "none of a pixel"),
        (json.dumps({"shapes": [], "imageHeight": 90, "imageWidth": 131}), "130 wide and 90 high"),
    ],
)
def test_broken_polygons_are_said_in_a_line(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DataError, match=said):
        PolygonMask(tmp_path / "a.json", SIZE)


@pytest.fixture
def kidneys(tmp_path: Path) -> Path:
    """Three large images, two with runs, one with polygons."""
    rng, rows = np.random.default_rng(0), ["id,encoding"]
    for k in range(3):
        mask = np.zeros(SIZE, bool)
        mask[20:50, 10 + 30 * k : 50 + 30 * k] = True
        pixels = rng.integers(0, 80, (*SIZE, 3)) + mask[..., None] * 120
        tifffile.imwrite(tmp_path / f"k{k}.tif", pixels.astype(np.uint8), tile=(32, 32), photometric="rgb")
        if k < 2:
            rows.append(f"k{k},{encode_pairs(mask)}")
    (tmp_path / "k2.json").write_text(json.dumps({"features": [feature(box(70, 20, 109, 49))]}))
    (tmp_path / "train.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_tiles_cover_every_image_and_stay_together_in_a_fold(kidneys: Path) -> None:
    tiles = open_set(kidneys, 3, 64)
    assert isinstance(tiles, TileSet)
    assert len(tiles) == 3 * 2 * 3
    assert tiles.ids[:3] == ["k0_0_0", "k0_0_64", "k0_0_66"]
    assert len(set(tiles.ids)) == len(tiles)
    assert all(tiles.image(i).shape == (3, 64, 64) for i in range(len(tiles)))
    assert all(tiles.label_map(i).shape == (64, 64) for i in range(len(tiles)))
    assert tiles.image(0)[0][tiles.label_map(0) > 0].min() >= 120
    folds = coverage_folds(survey(tiles).coverage, 3, 0, tiles.groups)
    assert [len(set(folds[tiles.groups == k])) for k in range(3)] == [1, 1, 1]
    assert len(set(folds)) == 3


def test_tiles_of_a_file_and_its_copy_stay_in_one_fold(kidneys: Path) -> None:
    shutil.copy(kidneys / "k0.tif", kidneys / "again.tif")
    tiles = open_set(kidneys, 3, 64)
    groups = dict(zip(tiles.ids, tiles.groups.tolist(), strict=True))
    assert groups["again_0_0"] == groups["k0_0_0"] == groups["k0_0_64"] != groups["k1_0_0"]


def test_the_tiles_of_an_image_have_its_contrast(kidneys: Path) -> None:
    tiles = open_set(kidneys, 3, 64)
    whole = tifffile.imread(kidneys / "k0.tif").transpose(2, 0, 1)
    contrasts = {tiles.contrast(i, tiles.image(i)) for i in range(6)}
    assert len(contrasts) == 1
    assert abs(contrasts.pop().high - Contrast.of(whole).high) < 8


def test_an_image_without_a_mask_can_only_be_predicted(kidneys: Path) -> None:
    (kidneys / "k2.json").unlink()
    tiles = open_set(kidneys, 3, 64)
    assert tiles.has_truth.tolist() == [True] * 12 + [False] * 6
    with pytest.raises(DataError, match=r"k2\.tif has no mask"):
        tiles.label_map(12)
    folds = coverage_folds(survey(tiles).coverage, 2, 0, tiles.groups)
    assert folds.tolist().count(-1) == 6


def test_what_does_not_belong_together_is_refused(kidneys: Path) -> None:
    (kidneys / "other.json").write_text("[]")
    with pytest.raises(DataError, match=r"other of the \.json files has no image"):
        open_set(kidneys, 3, 64)
    (kidneys / "other.json").unlink()
    (kidneys / "train.csv").write_text("id,encoding\nk0,1 99999\n")
    with pytest.raises(DataError, match=r"the encoding of k0 in .*runs to pixel 99999"):
        open_set(kidneys, 3, 64)
    (kidneys / "train.csv").unlink()
    with pytest.raises(DataError, match="has 3 channels, expected 1"):
        open_set(kidneys, 1, 64).image(0)


def test_what_lies_beside_large_images_is_none(kidneys: Path) -> None:
    (kidneys / "._k0.tif").write_bytes(b"of macOS")
    tifffile.imwrite(kidneys / "k1_mask.tif", np.zeros(SIZE, np.uint8))
    (kidneys / "k2.json").rename(kidneys / "k2.geojson")
    tiles = open_set(kidneys, 3, 64)
    assert isinstance(tiles, TileSet)
    assert tiles.images == ["k0", "k1", "k2"]
    assert set(tiles.truths) == {"k0", "k1", "k2"}
    for path in kidneys.glob("*.*s*"):
        path.unlink()
    with pytest.raises(DataError, match=r"no mask to learn from: add train.csv or <id>.json; small images go into"):
        survey(open_set(kidneys, 3, 64))
    (kidneys / "images").mkdir()
    (kidneys / "k0.tif").rename(kidneys / "images" / "k0.tif")
    assert open_set(kidneys, 3, 64).ids == ["k0"]


def test_objects_that_a_tile_cuts_do_not_count_for_the_least(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((128, 128), np.uint8))
    boxes = [box(10, 10, 19, 19), box(30, 10, 44, 19), box(60, 10, 69, 19), box(62, 90, 65, 93)]
    (tmp_path / "a.json").write_text(json.dumps([feature(one) for one in boxes]))
    found = survey(open_set(tmp_path, 1, 64))
    assert [areas.tolist() for areas in found.areas] == [[81, 126], [], [], []]
