"""Large images: any part of any kind of file is what it is in memory."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from wsss.core.checks import DataError
from wsss.data.large import LargeImage
from wsss.data.masks import read_picture

PIXELS = np.random.default_rng(0).integers(0, 256, (150, 210, 3), dtype=np.uint8)
PARTS = [(0, 150, 0, 210), (10, 70, 50, 130), (100, 150, 200, 210), (0, 1, 0, 1)]


def write(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.tif"
    if kind == "npy":
        np.save(path.with_suffix(".npy"), PIXELS)
        return path.with_suffix(".npy")
    options = {"tiled": {"tile": (64, 32)}, "packed": {"tile": (64, 32), "compression": "zlib"}}
    options |= {"strips": {"rowsperstrip": 40, "compression": "zlib"}, "plain": {}}
    tifffile.imwrite(path, PIXELS, photometric="rgb", **options[kind])
    return path


@pytest.mark.parametrize("kind", ["npy", "plain", "tiled", "packed", "strips"])
def test_any_part_is_that_of_the_whole(tmp_path: Path, kind: str) -> None:
    image = LargeImage(write(tmp_path, kind))
    assert (image.size, image.channels) == ((150, 210), 3)
    for y0, y1, x0, x1 in PARTS:
        assert np.array_equal(image.read(y0, y1, x0, x1), PIXELS[y0:y1, x0:x1].transpose(2, 0, 1))


def test_grey_and_channels_first_are_understood(tmp_path: Path) -> None:
    np.save(tmp_path / "grey.npy", PIXELS[..., 0])
    np.save(tmp_path / "first.npy", PIXELS.transpose(2, 0, 1))
    assert LargeImage(tmp_path / "grey.npy").read(5, 9, 2, 4).shape == (1, 4, 2)
    assert np.array_equal(LargeImage(tmp_path / "first.npy").read(5, 9, 2, 4), PIXELS[5:9, 2:4].transpose(2, 0, 1))


@pytest.mark.parametrize("kind", ["npy", "plain", "big_endian", "packed", "white_is_0"])
def test_16_bits_are_stretched_as_in_images_that_are_read_at_once(tmp_path: Path, kind: str) -> None:
    deep = np.random.default_rng(0).normal(3000, 200, (128, 120)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "small.tif", deep)
    options = {"big_endian": {"byteorder": ">"}, "packed": {"tile": (64, 32), "compression": "zlib"}}
    options |= {"white_is_0": {"photometric": "miniswhite"}}
    path = tmp_path / f"a.{'npy' if kind == 'npy' else 'tif'}"
    if kind == "npy":
        np.save(path, deep)
    else:
        tifffile.imwrite(path, 65535 - deep if kind == "white_is_0" else deep, **options.get(kind, {}))
    whole = read_picture(tmp_path / "small.tif", 1)
    assert (whole.min(), whole.max()) == (0, 255)
    assert np.array_equal(LargeImage(path).read(10, 70, 50, 120), whole[:, 10:70, 50:120])


def test_other_kinds_are_refused_in_one_line(tmp_path: Path) -> None:
    np.save(tmp_path / "deep.npy", PIXELS.astype(np.int16))
    with pytest.raises(DataError, match=r"int16 of shape .*, expected uint8 or uint16"):
        LargeImage(tmp_path / "deep.npy")
    (tmp_path / "broken.tif").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"broken\.tif cannot be read"):
        LargeImage(tmp_path / "broken.tif")
