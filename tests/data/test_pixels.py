import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from wsss.core.checks import DataError
from wsss.data.pixels import read_header, read_image

GREY = (np.add.outer(np.arange(20), np.arange(31)) * 5 % 256).astype(np.uint8)


def png(path: Path, array: np.ndarray) -> Path:
    Image.fromarray(array).save(path)
    return path


def tiff(path: Path, array: np.ndarray, **options: object) -> Path:
    tifffile.imwrite(path, array, **options)
    return path


def read(path: Path, bits: int | None = None) -> tuple[np.ndarray, str]:
    return read_image([path] * 4, 4, bits)


@pytest.mark.parametrize("stretch", [1, 4, 16, 64, 256, 257])
@pytest.mark.parametrize("kind", [png, tiff])
def test_8_bit_values_come_back_exactly_from_16_bit_files(tmp_path: Path, kind, stretch: int) -> None:
    suffix = "png" if kind is png else "tif"
    image, depth = read(kind(tmp_path / f"a.{suffix}", GREY.astype(np.uint16) * stretch))
    assert (image == GREY).all()
    assert depth == {1: "8", 4: "10", 16: "12", 64: "14", 256: "16", 257: "16"}[stretch]


def test_the_depth_is_decided_over_all_planes_together(tmp_path: Path) -> None:
    dim = png(tmp_path / "dim.png", np.full((4, 4), 256, np.uint16))
    bright = png(tmp_path / "bright.png", np.full((4, 4), 65535, np.uint16))
    image, depth = read_image([dim, dim, dim, bright], 4)
    assert depth == "16"
    assert image[:, 0, 0].tolist() == [1, 1, 1, 255]


def test_a_value_above_the_given_depth_is_refused(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", np.full((4, 4), 5000, np.uint16))
    with pytest.raises(DataError, match="5000, too large for 12 bits: see --bits"):
        read(path, 12)


def test_planes_of_different_types_are_refused(tmp_path: Path) -> None:
    paths = [png(tmp_path / "a.png", GREY)] * 3 + [png(tmp_path / "b.png", GREY.astype(np.uint16))]
    with pytest.raises(DataError, match="different types"):
        read_image(paths, 4)


def test_planes_of_different_sizes_are_named(tmp_path: Path) -> None:
    paths = [png(tmp_path / "a.png", GREY)] * 3 + [png(tmp_path / "b.png", GREY[:9])]
    with pytest.raises(DataError, match=r"b\.png is 9 x 31, a\.png is 20 x 31"):
        read_image(paths, 4)


def test_grey_saved_as_rgb_counts_as_grey_and_colour_is_refused(tmp_path: Path) -> None:
    rgb = np.repeat(GREY[..., None], 3, 2)
    assert (read(png(tmp_path / "a.png", rgb))[0] == GREY).all()
    rgb[0, 0, 1] += 1
    with pytest.raises(DataError, match=r"b\.png is a colour image"):
        read(png(tmp_path / "b.png", rgb))


def test_16_bit_colour_png_is_not_cut_to_8_bit(tmp_path: Path) -> None:
    import imagecodecs

    path = tmp_path / "a.png"
    planes = np.stack([GREY.astype(np.uint16) * k for k in (1, 2, 3, 250)], axis=-1)
    path.write_bytes(imagecodecs.png_encode(planes))
    image, depth = read_image([path], 4, names=("red", "green", "blue", "alpha"))
    assert depth == "16"
    assert (image[3] == (GREY.astype(np.uint16) * 250) >> 8).all()


def test_merged_files_give_channels_in_order(tmp_path: Path) -> None:
    merged = np.stack([GREY, GREY // 2, GREY // 3, GREY // 4])
    last = tiff(tmp_path / "b.tif", np.moveaxis(merged, 0, -1).copy(), photometric="minisblack", planarconfig="contig")
    first = tiff(tmp_path / "c.tif", merged, photometric="minisblack")
    for path in (last, first):
        assert (read_image([path], 4)[0] == merged).all()


def test_a_wanted_channel_that_comes_twice_is_refused(tmp_path: Path) -> None:
    names = {"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP", "dapi"]}}
    tifffile.imwrite(tmp_path / "a.ome.tif", np.zeros((3, 8, 8), np.uint8), ome=True, metadata=names)
    with pytest.raises(DataError, match="several channels of the name DAPI"):
        read_image([tmp_path / "a.ome.tif"], 2, None, ("GFP", "DAPI"))
    assert read_image([tmp_path / "a.ome.tif"], 1, None, ("GFP",))[0].shape == (1, 8, 8)


def test_floats_in_0_to_1_are_scaled_and_others_refused(tmp_path: Path) -> None:
    image, depth = read(tiff(tmp_path / "a.tif", (GREY / 255).astype(np.float32)))
    assert (image == GREY).all()
    assert depth == "float"
    for value, text in (
        (1.5, "expected 0..1"),
        (-0.1, "expected 0..1"),
        (np.nan, "not finite"),
        (np.inf, "not finite"),
    ):
        with pytest.raises(DataError, match=text):
            read(tiff(tmp_path / "b.tif", np.array([[0, value]], np.float32)))


@pytest.mark.parametrize("dtype", [np.int16, np.uint32, np.int8, np.complex64])
def test_other_types_are_refused_by_name(tmp_path: Path, dtype: type) -> None:
    with pytest.raises(DataError, match=np.dtype(dtype).name):
        read(tiff(tmp_path / "a.tif", GREY.astype(dtype), photometric="minisblack"))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_palettes_that_only_show_intensities_are_read(suffix: str, tmp_path: Path) -> None:
    """Microscopes save a grey picture with a palette of greys, or of the stain's colour."""
    plane, ramp = np.arange(60, dtype=np.uint8).reshape(6, 10) * 4, np.arange(256)[:, None]
    palettes = {
        "grey": ramp * [1, 1, 1],
        "green": ramp * [0, 1, 0],
        "cyan": ramp * [0, 1, 1],
        "backwards": 255 - ramp * [1, 1, 1],
    }
    for name, colours in palettes.items():
        picture = Image.fromarray(plane, "P")
        picture.putpalette(colours.astype(np.uint8).tobytes())
        picture.save(tmp_path / f"{name}{suffix}")
        wanted = 255 - plane if name == "backwards" else plane
        np.testing.assert_array_equal(read_image([tmp_path / f"{name}{suffix}"], 1)[0][0], wanted)
        assert read_header(tmp_path / f"{name}{suffix}").samples == 1


def test_palette_and_bilevel_images_are_refused(tmp_path: Path) -> None:
    of_colours = Image.fromarray(GREY, "P")
    of_colours.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
    of_colours.save(tmp_path / "p.png")
    Image.fromarray(GREY).convert("1").save(tmp_path / "b.png")
    Image.fromarray(np.repeat(GREY[..., None], 4, 2), mode="CMYK").save(tmp_path / "c.jpg")
    for name, text in (("p.png", "palette"), ("b.png", "1 bit"), ("c.jpg", "CMYK")):
        with pytest.raises(DataError, match=text):
            read(tmp_path / name)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5000), (1, 7), (7, 1)])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_extreme_shapes_are_read(tmp_path: Path, shape: tuple[int, int], suffix: str) -> None:
    kind = png if suffix == "png" else tiff
    assert read(kind(tmp_path / f"a.{suffix}", np.full(shape, 3, np.uint8)))[0].shape == (4, *shape)


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg")
    png(tmp_path / "a.png", noise)
    tiff(tmp_path / "a.tif", noise)
    tiff(tmp_path / "z.tif", noise, compression="zlib", rowsperstrip=8)
    for name in ("a.jpg", "a.png", "a.tif", "z.tif"):
        whole = (tmp_path / name).read_bytes()
        for part in (0, 10, len(whole) // 2, len(whole) - 30):
            cut = tmp_path / f"cut{Path(name).suffix}"
            cut.write_bytes(whole[:part])
            with pytest.raises(DataError, match="cut"):
                read(cut)


def test_mutated_files_are_read_or_refused_but_never_crash(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(GREY).save(tmp_path / "a.jpg")
    png(tmp_path / "a.png", GREY)
    tiff(tmp_path / "a.tif", GREY, compression="zlib", rowsperstrip=8)
    refused = []
    for k in range(150):
        name = ("a.jpg", "a.png", "a.tif")[k % 3]
        content = bytearray((tmp_path / name).read_bytes())
        for at in rng.integers(0, len(content), 5):
            content[at] ^= 1 << rng.integers(8)
        mutant = tmp_path / f"mutant{Path(name).suffix}"
        mutant.write_bytes(content)
        try:
            assert read(mutant)[0].dtype == np.uint8
        except DataError as error:
            refused.append(str(error))
    assert len(refused) > 75
    assert all("mutant" in text and "\n" not in text for text in refused)


@pytest.mark.parametrize("edge", [12_000, 100_000])
def test_a_decompression_bomb_is_refused_from_its_header(tmp_path: Path, edge: int) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", edge, edge, 8, 0, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(bomb)
    with pytest.raises(DataError, match=r"bomb\.png .* (refused|bomb)"):
        read(tmp_path / "bomb.png")


def test_a_tiff_without_its_pixels_is_not_filled_with_zeros(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", np.full((40, 40), 9, np.uint8), compression="zlib", rowsperstrip=10)
    with tifffile.TiffFile(path) as file:
        counts = file.pages[0].tags["StripByteCounts"]
        at, size = counts.valueoffset, {3: 2, 4: 4}[counts.dtype.value]
    content = bytearray(path.read_bytes())
    content[at : at + size] = bytes(size)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.tif"):
        read(path)
