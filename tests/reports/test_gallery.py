"""Fields and crops of the report."""

import base64
import gzip
import io
import json

import numpy as np
from PIL import Image, ImageDraw

from wsss.reports.page import FieldCell, crop_uri, outline_paths, pack_field


def cells_map() -> np.ndarray:
    out = np.zeros((40, 60), np.int32)
    out[5:30, 5:25] = 3
    out[10:20, 10:18] = 0
    out[5:30, 30:50] = 70_000
    return out


def filled(path: str, shape: tuple[int, int]) -> np.ndarray:
    """Fill an outline by the even-odd rule, as the page does."""
    inside = np.zeros(shape, bool)
    for ring in path.strip("MZ").split("ZM"):
        points = [tuple(float(part) - 0.5 for part in point.split()) for point in ring.split("L")]
        sheet = Image.new("1", shape[::-1])
        ImageDraw.Draw(sheet).polygon(points, fill=1)
        inside ^= np.asarray(sheet)
    return inside


def test_outlines_follow_the_cells_and_their_holes() -> None:
    found = cells_map()
    paths = outline_paths(found)
    assert set(paths) == {3, 70_000}
    for cell, path in paths.items():
        mask, own = found == cell, filled(path, found.shape)
        assert (mask & own).sum() / (mask | own).sum() > 0.9
    assert not filled(paths[3], found.shape)[15, 14]


def test_a_packed_field_holds_a_picture_a_channel_and_every_cell() -> None:
    planes = np.random.default_rng(0).integers(0, 255, (4, 40, 60), np.uint8)
    cells = [FieldCell(3, [0.25, 1.0], 420, True, [1]), FieldCell(9, [0.0, 0.5], 4, False, None)]
    content = json.loads(gzip.decompress(base64.b64decode(pack_field(planes, cells_map(), cells, 120, 50))))
    sizes = [Image.open(io.BytesIO(base64.b64decode(text))).size for text in content["planes"]]
    assert sizes == [(120, 80)] * 4
    first, second = content["cells"]
    assert (first["id"], first["scores"], first["truth"], first["border"]) == (3, [250, 1000], [1], True)
    assert first["path"].startswith("M")
    assert second["path"] == "", "a cell that the map does not show"


def test_a_crop_shows_the_cell_in_the_middle_and_a_missing_cell_gives_none() -> None:
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[5:30, 30:50] = 200
    uri = crop_uri(picture, cells_map(), 70_000, 0, 90)
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))
    assert shown[shown.shape[0] // 2, shown.shape[1] // 2].min() > 150
    assert shown[2, shown.shape[1] // 2].max() < 60
    assert crop_uri(picture, cells_map(), 5, 0, 90) == ""
