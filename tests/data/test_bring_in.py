"""Images as other tools leave them: tinted pictures, named channels, lists of paths, OME-Zarr."""

import json
import os
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from wsss.core.checks import DataError
from wsss.core.tiff import parse_choice
from wsss.data.image_files import find_images, read_path_list
from wsss.data.pixels import TINTS, check_headers, read_header, read_image, signal_of

CHANNELS = ("red", "green", "blue", "yellow")


def planes(seed: int = 0, size: tuple[int, int] = (32, 48)) -> np.ndarray:
    """Return four smooth planes, as microscopes make them."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 6)).astype(np.uint8)
    return np.stack([np.asarray(Image.fromarray(p).resize(size[::-1], Image.Resampling.BICUBIC)) for p in coarse])


def tinted(plane: np.ndarray, channel: str) -> Image.Image:
    out = np.zeros((*plane.shape, 3), np.uint8)
    for k in TINTS[channel]:
        out[..., k] = plane
    return Image.fromarray(out)


def test_tinted_jpegs_of_the_public_atlas_give_their_channel(tmp_path: Path) -> None:
    image = planes()
    for channel, plane in zip(CHANNELS, image, strict=True):
        tinted(plane, channel).save(tmp_path / f"10_1_A1_2_{channel}.jpg", quality=95)
    (files,) = find_images(tmp_path, CHANNELS).images
    found, depth = read_image([tmp_path / name for name in files.names], 4, names=files.channels)
    assert depth == "8"
    assert np.abs(found.astype(int) - image).mean() < 4, "JPEG loses a little"


def test_tinted_pngs_are_exact_and_grey_ones_still_are(tmp_path: Path) -> None:
    image = planes()
    paths = [tmp_path / f"a_{channel}.png" for channel in CHANNELS]
    for path, channel, plane in zip(paths, CHANNELS, image, strict=True):
        tinted(plane, channel).save(path)
    Image.fromarray(np.stack([image[2]] * 3, axis=-1)).save(paths[2])
    np.testing.assert_array_equal(read_image(paths, 4, names=CHANNELS)[0], image)


@pytest.mark.parametrize(
    ("channel", "other"),
    [("red", "green"), ("green", "yellow"), ("yellow", "red"), ("blue", "yellow"), ("dapi", "blue")],
)
def test_a_picture_of_another_colour_is_not_taken_for_the_channel(channel: str, other: str) -> None:
    with pytest.raises(DataError, match="is a colour image"):
        signal_of(np.asarray(tinted(planes()[0], other)), channel, "a.jpg")


def test_a_composite_is_not_taken_for_a_channel() -> None:
    with pytest.raises(DataError, match="not red alone"):
        signal_of(np.moveaxis(planes()[:3], 0, -1), "red", "a.jpg")


def test_channels_of_an_ome_tiff_are_found_by_name_in_any_order(tmp_path: Path) -> None:
    image = planes()
    order = [2, 0, 3, 1]
    data = np.concatenate([image[order], image[:1] // 2])  # and one more channel
    names = [CHANNELS[k].title() for k in order] + ["Brightfield"]
    path = tmp_path / "x.ome.tif"
    tifffile.imwrite(path, data, metadata={"axes": "CYX", "Channel": {"Name": names}})
    (files,) = find_images(tmp_path, CHANNELS).images
    assert files.ID == "x"
    header = check_headers([path], 4, CHANNELS)
    assert (header.height, header.width) == (32, 48)
    np.testing.assert_array_equal(read_image([path], 4, names=files.channels)[0], image)


def test_other_channel_names_are_refused_with_the_way_out_and_found_when_told(tmp_path: Path) -> None:
    image, path = planes(), tmp_path / "x.ome.tif"
    names = ["DAPI", "Cy3", "GFP", "Cy5"]
    tifffile.imwrite(path, image, metadata={"axes": "CYX", "Channel": {"Name": names}})
    with pytest.raises(DataError, match=r"calls its channels DAPI, Cy3, GFP, Cy5, expected red.*--channels red=NAME"):
        read_image([path], 4, names=CHANNELS)
    found = read_image([path], 4, names=("Cy3", "GFP", "DAPI", "Cy5"))[0]
    np.testing.assert_array_equal(found, image[[1, 2, 0, 3]])


@pytest.mark.parametrize("kind", ["plain", "imagej", "numbered", "pages"])
def test_multi_page_tiffs_without_names_are_taken_in_order(tmp_path: Path, kind: str) -> None:
    image, path = planes(), tmp_path / "x.tif"
    if kind == "imagej":
        tifffile.imwrite(path, image, imagej=True, metadata={"axes": "CYX", "Labels": ["a.tif"] * 4})
    elif kind == "numbered":
        tifffile.imwrite(path, image, ome=True, metadata={"axes": "CYX", "Channel": {"Name": ["C:1", "2", "", "ch 4"]}})
    elif kind == "pages":
        with tifffile.TiffWriter(path) as writer:
            for plane in image:
                writer.write(plane, contiguous=True, photometric="minisblack")
    else:
        tifffile.imwrite(path, image, photometric="minisblack")
    np.testing.assert_array_equal(read_image([path], 4, names=CHANNELS)[0], image)


def test_imagej_labels_that_name_channels_are_used(tmp_path: Path) -> None:
    image, path = planes(), tmp_path / "x.tif"
    labels = ["yellow", "blue", "green", "red"]
    tifffile.imwrite(path, image[::-1], imagej=True, metadata={"axes": "CYX", "Labels": labels})
    found = read_image([path], 4, names=CHANNELS)[0]
    np.testing.assert_array_equal(found, np.stack([image[::-1][labels.index(name)] for name in CHANNELS]))


def test_names_of_some_channels_that_stand_elsewhere_are_not_passed_over(tmp_path: Path) -> None:
    image, path = planes(), tmp_path / "x.tif"
    tifffile.imwrite(path, image, imagej=True, metadata={"axes": "CYX", "Labels": ["s1 GFP", "s1 DAPI", "", ""]})
    with pytest.raises(DataError, match="calls its channels s1 GFP, s1 DAPI"):
        read_image([path], 4, names=("DAPI", "GFP", "Cy3", "Cy5"))
    np.testing.assert_array_equal(read_image([path], 2, names=("DAPI", "GFP"))[0], image[[1, 0]])
    names = ["Alexa 488", "Alexa 568", "Alexa 647", "DAPI"]
    tifffile.imwrite(path, image, ome=True, metadata={"axes": "CYX", "Channel": {"Name": names}})
    np.testing.assert_array_equal(read_image([path], 2, names=("DAPI", "488"))[0], image[[3, 0]])


def write_list(folder: Path, text: str) -> Path:
    (folder / "path_list.csv").write_text(text)
    return folder / "path_list.csv"


HEADER = "r_image,y_image,b_image,g_image,output_folder,output_prefix\n"


def test_a_path_list_gives_images_in_our_order_of_channels(tmp_path: Path) -> None:
    path = write_list(
        tmp_path, HEADER + "a/r.png,a\\y.png,a/b.png,a/g.png,out,exp/cell2_\nr.tif,y.tif,b.tif,w_green.ome.tif,,\n"
    )
    found = read_path_list(path, CHANNELS).images
    assert [image.ID for image in found] == ["exp_cell2", "w"]
    assert found[0].names == ("a/r.png", "a/g.png", "a/b.png", "a/y.png")
    assert found[0].channels == CHANNELS


def test_channels_in_another_order_are_those_of_their_columns(tmp_path: Path) -> None:
    path = write_list(tmp_path, HEADER + "r.png,y.png,b.png,g.png,out,x\n")
    for channels, wanted in ((("Green", "blue", "yellow", "red"), "gbyr"), (("DAPI", "red", "GFP", "ER"), "grby")):
        (image,) = read_path_list(path, channels).images
        assert image.names == tuple(f"{letter}.png" for letter in wanted)


@pytest.mark.parametrize("header", ["", "#" + HEADER, "\ufeff" + HEADER])
def test_the_header_may_be_missing_or_commented_out(tmp_path: Path, header: str) -> None:
    (image,) = read_path_list(write_list(tmp_path, header + "r.png,y.png,b.png,g.png,out,x\n"), CHANNELS).images
    assert (image.ID, image.names) == ("x", ("r.png", "g.png", "b.png", "y.png"))


def test_a_channel_left_empty_is_named_with_its_row(tmp_path: Path) -> None:
    (image,) = read_path_list(write_list(tmp_path, HEADER + "r.png,,b.png,g.png,out,x\n"), CHANNELS).images
    assert image.reason == "channel yellow is missing (row 2)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER, "lists no images"),
        ("r_image,b_image\na,b\n", "lacks the column"),
        (HEADER + "a.png,a.png,a.png,a.png,,x\n" * 2, "'?x'? come twice"),
        (HEADER + "a.png,a.png,a.png,a.png,,../x\n", "has a path in it"),
    ],
)
def test_a_list_that_is_none_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_path_list(write_list(tmp_path, text), CHANNELS)


@pytest.mark.parametrize("version", [2, 3])
def test_ome_zarr_is_read_with_its_channel_names(tmp_path: Path, version: int) -> None:
    zarr = pytest.importorskip("zarr")
    image = planes()
    group = zarr.open_group(tmp_path / "x.ome.zarr", mode="w", zarr_format=version)
    group.create_array("0", data=image[::-1][None, :, None], chunks=(1, 1, 1, 16, 16))
    facts = {
        "multiscales": [{"axes": [{"name": n} for n in "tczyx"], "datasets": [{"path": "0"}]}],
        "omero": {"channels": [{"label": name} for name in CHANNELS[::-1]]},
    }
    group.attrs.update(facts if version == 2 else {"ome": facts})
    (files,) = find_images(tmp_path, CHANNELS).images
    assert (files.ID, files.names) == ("x", ("x.ome.zarr",))
    np.testing.assert_array_equal(read_image([tmp_path / "x.ome.zarr"], 4, names=CHANNELS)[0], image)
    group.attrs.clear()
    with pytest.raises(DataError, match=r"x\.ome\.zarr"):
        check_headers([tmp_path / "x.ome.zarr"], 4, CHANNELS)


def write_zarr(path: Path, pixels: np.ndarray, axes: str, version: int, **options: object) -> None:
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(path, mode="w", zarr_format=version)
    group.create_array("0", data=pixels, **options)
    facts = {"multiscales": [{"axes": [{"name": n} for n in axes], "datasets": [{"path": "0"}]}]}
    group.attrs.update(facts if version == 2 else {"ome": facts})


def test_an_ome_zarr_as_bioformats2raw_writes_it_is_read(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    image, path = planes().astype(np.uint16) * 16, tmp_path / "x.zarr"
    zarr.open_group(path, mode="w", zarr_format=2).attrs["bioformats2raw.layout"] = 3
    write_zarr(path / "0", image.astype(">u2"), "cyx", 2)
    group = zarr.open_group(path / "0", mode="a")
    sized = {"axes": [{"name": n, "unit": "nanometer"} for n in "cyx"]}
    sized |= {"datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1, 40, 40]}]}]}
    group.attrs["multiscales"] = [sized | {"coordinateTransformations": [{"type": "scale", "scale": [1, 2, 2]}]}]
    np.testing.assert_array_equal(read_image([path], 4, bits=12)[0], image // 16)
    assert read_header(path).pixel_um == pytest.approx(0.08)
    write_zarr(path / "1", image, "cyx", 2)
    with pytest.raises(DataError, match=r"x\.zarr holds 2 images \(series\), expected one"):
        read_image([path], 4)


@pytest.mark.parametrize("version", [2, 3])
def test_the_stacks_of_ome_zarr_are_chosen_from(tmp_path: Path, version: int) -> None:
    image = planes()
    write_zarr(tmp_path / "x.zarr", np.stack([image, image // 2]), "zcyx", version)
    with pytest.raises(DataError, match=r"x\.zarr is a stack \(Z .*2 planes.*--plane N"):
        read_image([tmp_path / "x.zarr"], 4)
    found = read_image([tmp_path / "x.zarr"], 4, choice=parse_choice("2", ""))[0]
    np.testing.assert_array_equal(found, image // 2)
    found = read_image([tmp_path / "x.zarr"], 4, choice=parse_choice("", "max"))[0]
    np.testing.assert_array_equal(found, image)


def test_metadata_of_ome_zarr_of_other_writers_say_what_is_meant(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    image, path = planes(), tmp_path / "x.zarr"

    def read(**facts: object) -> np.ndarray:
        zarr.open_group(path, mode="a").attrs.update(facts)
        return read_image([path], 4, names=CHANNELS)[0]

    write_zarr(path, image[None, :, None], "tczyx", 2)
    np.testing.assert_array_equal(read(multiscales=[{"datasets": [{"path": "0"}]}]), image)  # 0.1 names no axes
    zarr.open_group(path, mode="a").create_array("1", data=image[None, :, None, ::2, ::2])
    scales = [{"type": "scale", "scale": [1, 1, 1, edge, edge]} for edge in (1, 2)]
    levels = [{"path": str(k), "coordinateTransformations": [scale]} for k, scale in enumerate(scales)]
    np.testing.assert_array_equal(read(multiscales=[{"datasets": levels[::-1]}]), image)
    assert read_header(path).pixel_um == 0
    with pytest.raises(DataError, match="calls its channels blue, green, , "):  # two of four have a name
        read(omero={"channels": [{"label": "blue"}, {"label": "green"}]})
    write_zarr(path, image, "cyx", 2)
    axes = [{"name": "slice", "type": "space"}, {"name": "y"}, {"name": "x"}]
    with pytest.raises(DataError, match=r"is a stack \(Z"):
        read(multiscales=[{"axes": axes, "datasets": [{"path": "0"}]}])
    zarr.open_array(tmp_path / "y.zarr", mode="w", shape=(4, 8, 8), dtype="u1")
    with pytest.raises(DataError, match=r"y\.zarr is no OME-Zarr image"):
        read_image([tmp_path / "y.zarr"], 4)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"shape": [4, 2**20, 2**20]}, "has the shape .*numbers are refused"),
        ({"shape": [2**40, 16, 16]}, f"has {2**40} planes, more than .* are refused"),
        ({"shape": [2**16, 2**10, 2**10]}, "has the shape"),
        ({"shape": [4, 8000, 8000]}, "has 4000000 chunks of .*save it in larger ones"),
        ({"shape": [4, 16, 16], "chunks": [4, 2**15, 2**15]}, "has the chunks"),
        ({"shape": [4, 0, 16]}, "has no pixels"),
    ],
)
def test_an_ome_zarr_of_too_many_numbers_or_chunks_is_refused_from_its_header(
    tmp_path: Path, entry: dict[str, list[int]], message: str
) -> None:
    write_zarr(tmp_path / "x.zarr", planes()[:, :8, :8], "cyx", 2, chunks=(1, 8, 8))
    array = tmp_path / "x.zarr/0/.zarray"
    array.write_text(json.dumps(json.loads(array.read_text()) | entry))
    with pytest.raises(DataError, match=rf"x\.zarr {message}"):
        read_image([tmp_path / "x.zarr"], 4)


def test_an_ome_zarr_unpickles_nothing_and_stays_in_its_folder(tmp_path: Path) -> None:
    write_zarr(tmp_path / "x.zarr", planes(), "cyx", 2)
    array = tmp_path / "x.zarr/0/.zarray"
    good = array.read_text()
    array.write_text(good.replace('"filters": null', '"filters": [{"id": "pickle"}]'))
    assert "pickle" in array.read_text()
    with pytest.raises(DataError, match="packed by pickle"):
        read_image([tmp_path / "x.zarr"], 4)
    array.write_text(good)
    group = tmp_path / "x.zarr/.zattrs"
    group.write_text(group.read_text().replace('"path": "0"', '"path": "../other"'))
    with pytest.raises(DataError, match="outside its own folder"):
        read_image([tmp_path / "x.zarr"], 4)
    os.mkfifo(tmp_path / "x.zarr/0/0.0.0.part")
    with pytest.raises(DataError, match="is no ordinary file"):
        read_image([tmp_path / "x.zarr"], 4)


@pytest.mark.parametrize(
    ("names", "channels", "expected", "note"),
    [
        (["s1_DAPI_GFP.png", "s2_DAPI_GFP.png"], "DAPI,GFP", {"s1_DAPI_GFP": 1, "s2_DAPI_GFP": 1}, ""),
        (["p_red_green_blue_yellow.png"], ",".join(CHANNELS), {"p_red_green_blue_yellow": 1}, ""),
        (["x_red_red.png", "x_red_green.png"], "red,green", {"x_red": 2}, ""),
        (["A01F001Z01C01.png", "A01F001Z01C02.png"], "C01,C02", {"A01F001Z01": 2}, ""),
        (["A01F001Z01C01.png", "A01F001Z01C02.png"], "DAPI", {"A01F001Z01C01": 1, "A01F001Z01C02": 1}, "DAPI=C01"),
        (["a_DAPI_000.png", "a_GFP_000.png"], "DNA", {"a_DAPI_000": 1, "a_GFP_000": 1}, "DNA=DAPI_000"),
        (["a_DAPI_1.png", "a_GFP_1.png", "a_DAPI_2.png", "a_GFP_2.png"], "DAPI", {}, "rename the files as <ID>_DAPI"),
        (["DAPI_a.png", "GFP_a.png"], "DAPI", {"DAPI_a": 1, "GFP_a": 1}, "rename the files as <ID>_DAPI"),
    ],
)
def test_names_of_channels_in_names_of_files(
    names: list[str], channels: str, expected: dict[str, int], note: str, tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"")
    found = find_images(tmp_path, tuple(channels.split(",")))
    if expected:
        assert {image.ID: len(image.names) for image in found.images} == expected
    assert not any(image.reason for image in found.images)
    assert (note in " ".join(found.notes)) if note else not found.notes


def test_dots_per_inch_are_no_size_of_pixels_and_a_transparent_colour_is_no_channel(tmp_path: Path) -> None:
    image = planes()
    for unit, per_unit in (("inch", 300), ("cm", 118), ("cm", 28)):
        words, resolution = {"axes": "CYX", "unit": unit}, (per_unit, per_unit)
        tifffile.imwrite(tmp_path / "x.tif", image, imagej=True, metadata=words, resolution=resolution)
        assert read_header(tmp_path / "x.tif").pixel_um == 0
    cv2.imwrite(str(tmp_path / "x.png"), np.moveaxis(image[2::-1], 0, -1).astype(np.uint16) * 257)
    content = (tmp_path / "x.png").read_bytes()
    chunk = b"tRNS" + image[:3, 0, 0].astype(">u2").tobytes()
    at = content.index(b"IDAT") - 4
    chunk = len(chunk[4:]).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    (tmp_path / "x.png").write_bytes(content[:at] + chunk + content[at:])
    np.testing.assert_array_equal(read_image([tmp_path / "x.png"], 3, names=CHANNELS[:3])[0], image[:3])
