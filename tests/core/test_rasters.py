"""What a file says of its pixels counts, and no file opens another or starts a program."""

import io
import os
import struct
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from wsss.core.checks import ConfigError, DataError
from wsss.core.label_maps import find_label_map, read_label_map
from wsss.core.rasters import open_raster, turn
from wsss.core.tiff import PlaneChoice, in_um, parse_choice
from wsss.data.image_files import find_images
from wsss.data.large import LargeImage
from wsss.data.masks import read_mask, read_picture
from wsss.data.pixels import read_header, read_image

GREY = (np.add.outer(np.arange(20), np.arange(31)) * 5 % 251).astype(np.uint8)
STACK = np.stack([GREY, GREY // 2, GREY // 3, GREY // 4])
MASK = np.zeros((20, 31), np.uint8)
MASK[2:9, 3:7] = 255
PLAIN = {"photometric": "minisblack"}


def tiff(path: Path, pixels: np.ndarray, **options: object) -> Path:
    tifffile.imwrite(path, pixels, **options)
    return path


STACKS = {
    "imagej": {"imagej": True, "metadata": {"axes": "ZYX"}},
    "imagej_time": {"imagej": True, "metadata": {"axes": "TYX"}},
    "ome": {"ome": True, "metadata": {"axes": "ZYX"}},
    "ome_time": {"ome": True, "metadata": {"axes": "TYX"}},
    "shaped": {"metadata": {"axes": "ZYX"}, **PLAIN},
}


@pytest.mark.parametrize("kind", STACKS)
def test_z_and_time_are_never_channels(tmp_path: Path, kind: str) -> None:
    path = tiff(tmp_path / "a.tif", STACK, **STACKS[kind])
    axis = "T" if "time" in kind else "Z"
    with pytest.raises(DataError, match=rf"a\.tif is a stack \({axis} .*4 planes.*--plane N \(1 to 4\), --project max"):
        read_image([path], 4)
    np.testing.assert_array_equal(read_image([path], 1, choice=parse_choice("3", ""))[0], STACK[2:3])
    np.testing.assert_array_equal(read_image([path], 1, choice=parse_choice(f"{axis}=3", ""))[0], STACK[2:3])
    np.testing.assert_array_equal(read_image([path], 1, choice=parse_choice("", "max"))[0][0], STACK.max(axis=0))
    mean = read_image([path], 1, choice=parse_choice("", "mean"))[0][0]
    np.testing.assert_array_equal(mean, np.rint(STACK.mean(axis=0)))
    with pytest.raises(DataError, match="has 4 planes along"):
        read_image([path], 1, choice=parse_choice("5", ""))


@pytest.mark.parametrize("kind", STACKS)
def test_stacks_are_no_label_map_mask_picture_or_large_image_either(tmp_path: Path, kind: str) -> None:
    path = tiff(tmp_path / "a.tif", STACK, **STACKS[kind])
    for read in (read_label_map, lambda p: read_mask(p, GREY.shape, p), lambda p: read_picture(p, 1), LargeImage):
        with pytest.raises(DataError, match=r"a\.tif is a stack"):
            read(path)


@pytest.mark.parametrize("form", ["ome", "imagej"])
def test_channels_of_a_stack_stay_channels(tmp_path: Path, form: str) -> None:
    pixels = np.stack([STACK, STACK // 2, STACK // 3])  # Z, C
    path = tiff(tmp_path / "a.tif", pixels, **{form: True}, metadata={"axes": "ZCYX"})
    with pytest.raises(DataError, match="is a stack"):
        read_image([path], 4)
    np.testing.assert_array_equal(read_image([path], 4, choice=parse_choice("2", ""))[0], pixels[1])
    np.testing.assert_array_equal(read_image([path], 4, choice=parse_choice("", "max"))[0], pixels.max(axis=0))


def test_two_axes_are_chosen_by_name(tmp_path: Path) -> None:
    pixels = np.stack([STACK, STACK // 2])  # T, Z
    path = tiff(tmp_path / "a.ome.tif", pixels, metadata={"axes": "TZYX"})
    found = read_image([path], 1, choice=parse_choice("T=2,Z=3", ""))[0]
    np.testing.assert_array_equal(found, pixels[1, 2:3])
    found = read_image([path], 1, choice=parse_choice("T=2", "max"))[0]
    np.testing.assert_array_equal(found[0], pixels[1].max(axis=0))
    with pytest.raises(DataError, match=r"Z=3,T=1"):
        read_image([path], 1, choice=parse_choice("2", ""))


def test_pages_without_a_name_are_channels_unless_one_is_chosen(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", STACK, **PLAIN)
    np.testing.assert_array_equal(read_image([path], 4)[0], STACK)
    np.testing.assert_array_equal(read_image([path], 1, choice=parse_choice("2", ""))[0], STACK[1:2])


@pytest.mark.parametrize("text", ["0", "-1", "x", "Z=", "Z=1,2", "ZZ=1", "1,2", "Z=1,Z=2"])
def test_a_plane_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--plane"):
        parse_choice(text, "")
    assert parse_choice("z=2, t=1", "").planes == (("Z", 2), ("T", 1))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_orientation_counts_for_images_and_masks_alike(tmp_path: Path, orientation: int, suffix: str) -> None:
    upright = np.kron(np.arange(12).reshape(3, 4) % 2 * 255, np.ones((16, 16))).astype(np.uint8)
    upright[:16, :16] = 255
    inverse = {6: 8, 8: 6}.get(orientation, orientation)
    stored, path = turn(upright, inverse), tmp_path / f"a.{suffix}"
    if suffix == "tif":
        tifffile.imwrite(path, stored, extratags=[(274, 3, 1, orientation, True)], **PLAIN)
    else:
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(stored).save(path, exif=exif, quality=95)
    header = read_header(path)
    assert (header.height, header.width) == upright.shape
    assert np.abs(read_image([path], 1)[0][0].astype(int) - upright).max() < 20
    assert np.abs(read_picture(path, 3)[0].astype(int) - upright).max() < 20
    if suffix != "jpg":
        np.testing.assert_array_equal(read_mask(path, upright.shape, path), upright > 0)
        np.testing.assert_array_equal(read_label_map(path), upright)
    if suffix == "tif" and orientation > 1:
        with pytest.raises(DataError, match="turned or mirrored"):
            LargeImage(path)


XMP = {
    "attribute": '<rdf:Description tiff:Orientation="6"/>',
    "apostrophes": "<rdf:Description tiff:Orientation = '6'/>",
    "element": "<tiff:Orientation>6</tiff:Orientation>",
}
EXIF_6 = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"


def png_told(folder: Path, stored: np.ndarray, kind: bytes, content: bytes, *, late: bool = False) -> Path:
    """Write a PNG with one more chunk, before its pixels or behind them."""
    Image.fromarray(stored).save(folder / "plain.png")
    plain = (folder / "plain.png").read_bytes()
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    at = plain.index(b"IEND") - 4 if late else 33
    path = folder / "a.png"
    path.write_bytes(plain[:at] + chunk + plain[at:])
    return path


@pytest.mark.parametrize("xmp", XMP)
@pytest.mark.parametrize("kind", ["iTXt", "packed iTXt", "zTXt", "jpg", "tif"])
def test_orientation_of_xmp_counts_where_exif_has_none(tmp_path: Path, kind: str, xmp: str) -> None:
    stored, packet, path = np.zeros((16, 32), np.uint8), XMP[xmp].encode(), tmp_path / f"a.{kind}"
    stored[:8, :8] = 200
    key = b"XML:com.adobe.xmp\0"
    if kind == "tif":
        tifffile.imwrite(path, stored, extratags=[(700, 1, len(packet), packet, True)], **PLAIN)
    elif kind == "jpg":
        Image.fromarray(stored).save(path, xmp=packet, quality=95)
    elif kind == "zTXt":
        path = png_told(tmp_path, stored, b"zTXt", key + b"\0" + zlib.compress(packet))
    else:
        packed = kind != "iTXt"
        text = bytes([packed]) + b"\0en\0\0" + (zlib.compress(packet) if packed else packet)
        path = png_told(tmp_path, stored, b"iTXt", key + text, late=True)
    np.testing.assert_allclose(read_picture(path, 1)[0], turn(stored, 6), atol=20)
    header = read_header(path)
    assert (header.height, header.width) == (32, 16)


def test_exif_of_a_png_counts_as_chunk_and_as_text_and_before_xmp(tmp_path: Path) -> None:
    stored = np.zeros((16, 32), np.uint8)
    stored[:8, :8] = 200
    plain = EXIF_6.hex().encode()
    raw = b"\nexif\n      26\n" + plain + b"\n"
    for kind, content in (
        (b"eXIf", EXIF_6),
        (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw)),
        (b"tEXt", b"Raw profile type APP1\0" + raw.replace(plain, (b"Exif\0\0" + EXIF_6).hex().encode())),
    ):
        for late in (False, True):
            path = png_told(tmp_path, stored, kind, content, late=late)
            np.testing.assert_array_equal(read_label_map(path), turn(stored, 6))
    packet = b"XML:com.adobe.xmp\0\0\0\0\0" + XMP["element"].replace("6", "3").encode()
    path.write_bytes(png_told(tmp_path, stored, b"eXIf", EXIF_6).read_bytes())
    whole = path.read_bytes()
    chunk = struct.pack(">I", len(packet)) + b"iTXt" + packet + struct.pack(">I", zlib.crc32(b"iTXt" + packet))
    path.write_bytes(whole[:33] + chunk + whole[33:])
    np.testing.assert_array_equal(read_label_map(path), turn(stored, 6))


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (b"zTXt", b"XML:com.adobe.xmp\0\0no zlib"),
        (b"iTXt", b"XML:com.adobe.xmp"),
        (b"zTXt", b"XML:com.adobe.xmp\0\0" + zlib.compress(bytes(10**6))),
        (b"tEXt", b"Raw profile type exif\0\nexif\n 4\nxyz"),
        (b"tEXt", b""),
    ],
)
def test_broken_metadata_of_a_png_says_nothing(tmp_path: Path, kind: bytes, content: bytes) -> None:
    stored = np.arange(64, dtype=np.uint8).reshape(4, 16)
    np.testing.assert_array_equal(read_label_map(png_told(tmp_path, stored, kind, content)), stored)


def test_what_is_declared_transparent_is_no_channel(tmp_path: Path) -> None:
    rgba = np.moveaxis(STACK, 0, -1).copy()
    Image.fromarray(rgba).save(tmp_path / "a.png")
    tiff(tmp_path / "b.tif", rgba, photometric="rgb", extrasamples=["unassalpha"])
    tiff(tmp_path / "c.tif", STACK, photometric="minisblack", planarconfig="separate", extrasamples=[0, 0, 2])
    for name in ("a.png", "b.tif", "c.tif"):
        np.testing.assert_array_equal(read_image([tmp_path / name], 3)[0], STACK[:3])
        with pytest.raises(DataError, match="3 channels and transparency, which is none, expected 4"):
            read_image([tmp_path / name], 4)
    with pytest.raises(DataError, match=r"pass --channels red,green,blue,yellow=alpha"):
        read_image([tmp_path / "a.png"], 4, names=("red", "green", "blue", "yellow"))
    found = read_image([tmp_path / "a.png"], 4, names=("red", "green", "blue", "alpha"))[0]
    np.testing.assert_array_equal(found, STACK)
    assert LargeImage(tmp_path / "b.tif").channels == 3
    np.testing.assert_array_equal(LargeImage(tmp_path / "b.tif").read(2, 9, 3, 8), STACK[:3, 2:9, 3:8])
    Image.fromarray(np.stack([MASK, GREY], axis=-1)).save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png", MASK.shape, tmp_path), MASK > 0)
    np.testing.assert_array_equal(read_label_map(tmp_path / "m.png"), MASK)


def test_samples_that_are_not_declared_transparent_are_channels(tmp_path: Path) -> None:
    pixels = np.moveaxis(STACK, 0, -1).copy()
    path = tiff(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["unspecified"])
    np.testing.assert_array_equal(read_image([path], 4)[0], STACK)


def test_where_0_is_white_images_are_inverted_and_numbers_are_not(tmp_path: Path) -> None:
    for dtype in (np.uint8, np.uint16):
        image = tiff(tmp_path / "a.tif", np.iinfo(dtype).max - GREY.astype(dtype), photometric="miniswhite")
        np.testing.assert_array_equal(read_image([image], 1, 8)[0][0], GREY)
    image = tiff(tmp_path / "a.tif", 255 - GREY, photometric="miniswhite")
    np.testing.assert_array_equal(read_picture(image, 1)[0], GREY)
    np.testing.assert_array_equal(LargeImage(image).read(0, 20, 0, 31)[0], GREY)
    mask = tiff(tmp_path / "m.tif", MASK, photometric="miniswhite")  # ImageJ: 255 is the object, whatever is shown
    np.testing.assert_array_equal(read_label_map(mask) > 0, MASK > 0)
    np.testing.assert_array_equal(read_mask(mask, MASK.shape, mask), MASK > 0)


@pytest.mark.parametrize("program", ["tifffile.py", "scanner"])
def test_a_mask_of_bool_is_what_tifffile_saved_and_black_on_white_elsewhere(tmp_path: Path, program: str) -> None:
    path = tiff(tmp_path / "a.tif", MASK > 0, photometric="miniswhite", software=program)
    wanted = (MASK > 0) == (program == "tifffile.py")
    np.testing.assert_array_equal(read_label_map(path), wanted)
    np.testing.assert_array_equal(read_mask(path, MASK.shape, path), wanted)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_keep_their_numbers(tmp_path: Path, bits: int) -> None:
    numbers = (GREY % 2**bits).astype(np.uint8)
    path = tmp_path / "a.png"
    write_png(path, numbers, bits)
    np.testing.assert_array_equal(read_label_map(path), numbers)
    np.testing.assert_array_equal(read_picture(path, 1)[0], numbers * (255 // (2**bits - 1)))


def write_png(path: Path, numbers: np.ndarray, bits: int) -> None:
    """Write a grey PNG of fewer than 8 bits, which Pillow does not."""
    rows = b""
    for row in numbers:
        text = "".join(f"{value:0{bits}b}" for value in row)
        text += "0" * (-len(text) % 8)
        rows += b"\0" + bytes(int(text[k : k + 8], 2) for k in range(0, len(text), 8))
    head = struct.pack(">IIBBBBB", numbers.shape[1], numbers.shape[0], bits, 0, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    packed = (struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))


def test_a_tiff_of_12_bits_says_so(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", GREY.astype(np.uint16) << 2, bitspersample=12, photometric="minisblack")
    image, depth = read_image([path], 1, 16)
    assert depth == "12"
    np.testing.assert_array_equal(image[0], GREY >> 2)


def test_palettes_of_masks_are_greys_or_places(tmp_path: Path) -> None:
    numbers = (MASK > 0).astype(np.uint8)
    for name, colours in (
        ("grey", [0, 0, 0, 255, 255, 255]),
        ("swapped", [255, 255, 255, 0, 0, 0]),
        ("red", [0, 0, 0, 128, 0, 0]),
    ):
        picture = Image.fromarray(numbers, "P")
        picture.putpalette(colours)
        picture.save(tmp_path / f"{name}.png")
    for name, wanted in (("grey", MASK > 0), ("swapped", MASK == 0), ("red", MASK > 0)):
        np.testing.assert_array_equal(read_mask(tmp_path / f"{name}.png", MASK.shape, tmp_path), wanted)


def test_an_rgb_picture_of_greys_is_a_mask_and_a_label_map(tmp_path: Path) -> None:
    mask = np.repeat(MASK[..., None], 4, axis=-1)
    mask[..., 3] = 255
    for samples, name in ((3, "a.png"), (4, "b.png"), (3, "c.tif"), (3, "d.bmp")):
        Image.fromarray(mask[..., :samples]).save(tmp_path / name)
        np.testing.assert_array_equal(read_label_map(tmp_path / name), MASK)
        np.testing.assert_array_equal(read_mask(tmp_path / name, MASK.shape, tmp_path), MASK > 0)


def test_two_colours_of_which_either_may_be_the_object_are_refused(tmp_path: Path) -> None:
    picture = Image.fromarray((MASK > 0).astype(np.uint8), "P")
    picture.putpalette([255, 0, 0, 0, 0, 0])
    picture.save(tmp_path / "a.png")
    with pytest.raises(DataError, match="colour 0 is not the darkest"):
        read_mask(tmp_path / "a.png", MASK.shape, tmp_path)
    picture.putpalette([0, 0, 0, 255, 255, 255])
    picture.save(tmp_path / "a.bmp")  # 8 bits and two colours: Pillow reads zeros
    with pytest.raises(DataError, match="save it as PNG"):
        read_label_map(tmp_path / "a.bmp")


@pytest.mark.parametrize("name", ["A.TIF", "A.Tiff", "A.ome.tif", "A.OME.TIF", "A.PNG", "A.bmp"])
def test_images_and_masks_may_have_the_same_endings(tmp_path: Path, name: str) -> None:
    if "tif" in name.lower():
        tiff(tmp_path / name, GREY, **({"ome": True} if "ome" in name.lower() else PLAIN))
    else:
        Image.fromarray(GREY).save(tmp_path / name)
    assert [image.ID for image in find_images(tmp_path, ("grey",)).images] == ["A"]
    np.testing.assert_array_equal(read_label_map(find_label_map(tmp_path, "A")), GREY)


PROGRAM = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n"


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg", "a.bmp"])
def test_an_eps_starts_no_program(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*args: object, **kwargs: object) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "Popen", started)
    monkeypatch.setattr(os, "system", started)
    path = tmp_path / name
    path.write_text(PROGRAM)
    readers = [
        lambda p: read_image([p], 1),
        lambda p: read_picture(p, 1),
        lambda p: read_mask(p, (20, 20), p),
        LargeImage,
    ]
    for read in [*readers, *([] if name == "a.jpg" else [read_label_map])]:
        with pytest.raises(DataError, match=name) as caught:
            read(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.npy", "a.npz"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    readers = [read_label_map, lambda p: read_picture(p, 1), lambda p: read_image([p], 1), LargeImage]
    for read in readers:
        with pytest.raises(DataError, match=name):
            read(tmp_path / name)


def ome_set(folder: Path, other: str, *, companion: bool = False, ending: str = ".ome.tif") -> None:
    """Write a set of two OME-TIFFs, one channel each; the second is called `other` in the XML of both."""
    blocks = "".join(
        f'<TiffData FirstC="{c}" IFD="0" PlaneCount="1"><UUID FileName="{name}">urn:uuid:{c}</UUID></TiffData>'
        for c, name in enumerate((f"s_a{ending}", other))
    )
    channels = "".join(f'<Channel ID="Channel:0:{c}" Name="{name}"/>' for c, name in enumerate(("DAPI", "GFP")))
    body = (
        '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="31" SizeY="20" SizeC="2" '
        f'SizeZ="1" SizeT="1">{channels}{blocks}</Pixels></Image>'
    )
    head = 'xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"'
    for c, name in enumerate((f"s_a{ending}", f"s_b{ending}")):
        inside = f'<BinaryOnly MetadataFile="s.companion.ome" UUID="urn:uuid:{c}"/>' if companion else body
        text = f'<?xml version="1.0"?><OME {head} UUID="urn:uuid:{c}">{inside}</OME>'
        tifffile.imwrite(folder / name, STACK[c], description=text, metadata=None, **PLAIN)
    if companion:
        (folder / "s.companion.ome").write_text(f'<?xml version="1.0"?><OME {head}>{body}</OME>')


@pytest.mark.parametrize(("companion", "ending"), [(False, ".ome.tif"), (True, ".ome.tif"), (False, ".TIFF")])
def test_the_files_of_an_ome_set_are_one_image(tmp_path: Path, companion: bool, ending: str) -> None:
    ome_set(tmp_path, f"s_b{ending}", companion=companion, ending=ending)
    found = find_images(tmp_path, ("DAPI", "GFP"))
    assert [(image.ID, image.names, image.companions) for image in found.images] == [
        ("s_a", (f"s_a{ending}",), (f"s_b{ending}",))
    ]
    assert "s_a" in found.notes[0]
    image, _ = read_image([tmp_path / f"s_a{ending}"], 2, names=("GFP", "DAPI"))
    np.testing.assert_array_equal(image, STACK[[1, 0]])
    (tmp_path / f"s_b{ending}").unlink()
    with pytest.raises(DataError, match=rf"s_a{ending} belongs with s_b{ending}, which is not beside it"):
        read_image([tmp_path / f"s_a{ending}"], 2, names=("GFP", "DAPI"))


def test_an_ome_set_that_lacks_a_file_is_still_one_image(tmp_path: Path) -> None:
    ome_set(tmp_path, "s_b.ome.tif")
    for place in tmp_path.iterdir():
        text = tifffile.tiffcomment(place).replace('SizeC="2"', 'SizeC="3"')
        lost = '<TiffData FirstC="2" IFD="0" PlaneCount="1"><UUID FileName="s_c.ome.tif">urn:uuid:2</UUID></TiffData>'
        tifffile.tiffcomment(place, text.replace("</Pixels>", f"{lost}</Pixels>"))
    assert [image.ID for image in find_images(tmp_path, ("DAPI", "GFP")).images] == ["s_a"]


@pytest.mark.parametrize("other", ["../outside.tif", "/tmp/outside.tif", "sub/outside.tif", "..", "C:\\\\x.tif"])
def test_an_ome_tiff_opens_no_file_outside_its_folder(tmp_path: Path, other: str) -> None:
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    for place in (tmp_path, folder / "sub"):
        tiff(place / "outside.tif", GREY)
    ome_set(folder, other)
    with pytest.raises(DataError, match=r"s_a\.ome\.tif names the file .* outside its own folder"):
        read_image([folder / "s_a.ome.tif"], 2)


def test_an_ome_tiff_that_names_a_pipe_or_a_link_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    ome_set(folder, "pipe.ome.tif")
    os.mkfifo(folder / "pipe.ome.tif")
    with pytest.raises(DataError, match="is no ordinary file"):
        read_image([folder / "s_a.ome.tif"], 2)
    (folder / "pipe.ome.tif").unlink()
    tiff(tmp_path / "outside.tif", GREY)
    (folder / "pipe.ome.tif").symlink_to(tmp_path / "outside.tif")
    with pytest.raises(DataError, match="a link to another folder"):
        read_image([folder / "s_a.ome.tif"], 2)


def test_a_renamed_ome_tiff_is_read(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.ome.tif", STACK, metadata={"axes": "CYX"})
    path.rename(tmp_path / "b.ome.tif")
    np.testing.assert_array_equal(read_image([tmp_path / "b.ome.tif"], 4)[0], STACK)


def test_one_opener_reads_content_in_memory_too() -> None:
    stream = io.BytesIO()
    Image.fromarray(GREY).save(stream, "PNG")
    with open_raster(stream.getvalue()) as raster:
        np.testing.assert_array_equal(raster.shown()[..., 0], GREY)
    with pytest.raises(DataError, match="the picture is no PNG"), open_raster(PROGRAM.encode()):
        pass


def test_a_choice_is_true_when_something_is_chosen() -> None:
    assert not PlaneChoice()
    assert parse_choice("1", "")
    assert parse_choice("", "max")


@pytest.mark.parametrize(
    ("length", "unit", "edge"),
    [("80", "nm", 0.08), (0.65, "\u03bcm", 0.65), ("2", "pixel", 0), ("-1", "um", 0), ("inf", "um", 0), ("a", "um", 0)],
)
def test_the_edge_of_a_pixel_is_in_micrometres_or_not_known(length: float | str, unit: str, edge: float) -> None:
    assert in_um(length, unit) == pytest.approx(edge)
