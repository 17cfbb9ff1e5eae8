from pathlib import Path

import numpy as np
import pytest
import tifffile

from wsss.core.checks import DataError
from wsss.data.image_files import find_images
from wsss.data.pixels import read_image

CHANNELS = ("red", "green", "blue", "yellow")


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).touch()
    return folder


def planes(ID: str, suffix: str = "png") -> list[str]:
    return [f"{ID}_{channel}.{suffix}" for channel in CHANNELS]


def test_finds_planes_and_merged_files_sorted_and_ignores_others(tmp_path: Path) -> None:
    touch(tmp_path, *planes("b"), *planes("a_1", "TIF"), "c.tiff", "notes.txt", ".DS_Store", "._b_red.png")
    found = find_images(tmp_path, CHANNELS)
    assert [image.ID for image in found.images] == ["a_1", "b", "c"]
    assert found.images[0].names == tuple(planes("a_1", "TIF"))
    assert found.images[2].names == ("c.tiff",)
    assert not any(image.reason for image in found.images)


def test_channels_of_files_are_found_in_any_case_and_with_an_underscore_in_their_name(tmp_path: Path) -> None:
    folder = touch(tmp_path, "a_dapi.tif", "a_w2_GFP.tif", "b_DAPI.tif", "b_W2_gfp.tif", "c_dapi.tif", "c_DAPI.tif")
    found = find_images(folder, ("DAPI", "w2_GFP")).images
    assert [image.names for image in found[:2]] == [("a_dapi.tif", "a_w2_GFP.tif"), ("b_DAPI.tif", "b_W2_gfp.tif")]
    assert found[2].ID == "c"
    assert "several files" in found[2].reason


def test_a_preview_beside_the_planes_is_extra_not_an_image(tmp_path: Path) -> None:
    found = find_images(touch(tmp_path, *planes("a"), "a_composite.png"), CHANNELS)
    assert [image.ID for image in found.images] == ["a"]
    assert found.notes == ["1 files are no channel of their image, not read: a_composite.png."]


def test_a_missing_channel_is_named(tmp_path: Path) -> None:
    (image,) = find_images(touch(tmp_path, *planes("a")[:3]), CHANNELS).images
    assert image.reason == "channel yellow is missing (a_yellow.*)"


@pytest.mark.parametrize("more", ["a_red.jpg", "a.png"])
def test_a_channel_there_twice_is_named(tmp_path: Path, more: str) -> None:
    (image,) = find_images(touch(tmp_path, *planes("a"), more), CHANNELS).images
    assert more in image.reason


def test_ids_equal_but_for_case_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'AB' and 'ab'"):
        find_images(touch(tmp_path, *planes("AB"), *planes("ab")), CHANNELS)


def test_files_equal_but_for_unicode_form_are_one_image_with_each_channel_twice(tmp_path: Path) -> None:
    (image,) = find_images(touch(tmp_path, *planes("\u00e9"), *planes("e\u0301")), CHANNELS).images
    assert image.ID == "\u00e9"
    assert "several files for one channel" in image.reason


@pytest.mark.parametrize("ID", ["a\nb", "x" * 201, "a..b"])
def test_a_name_that_cannot_be_an_id_is_refused_in_one_line(tmp_path: Path, ID: str) -> None:
    with pytest.raises(DataError) as error:
        find_images(touch(tmp_path, f"{ID}_red.png"), CHANNELS)
    assert "\n" not in str(error.value)


def test_an_empty_or_absent_folder_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ID_red\.png"):
        find_images(tmp_path, CHANNELS)
    with pytest.raises(DataError, match="pass a folder of images"):
        find_images(tmp_path / "nowhere", CHANNELS)


def test_labels_of_imagej_that_contradict_the_order_are_refused(tmp_path: Path) -> None:
    path, pixels = tmp_path / "a.tif", np.arange(512).reshape(2, 16, 16).astype(np.uint8)
    for labels, right in ((["GFP", "Hoechst"], False), (["Hoechst", "GFP"], True), (["c:1/2", "c:2/2"], True)):
        tifffile.imwrite(path, pixels, imagej=True, metadata={"axes": "CYX", "Labels": labels})
        if right:
            np.testing.assert_array_equal(read_image([path], 2, names=["DAPI", "GFP"])[0], pixels)
        else:
            with pytest.raises(DataError, match="calls its channels GFP, Hoechst, expected DAPI, GFP"):
                read_image([path], 2, names=["DAPI", "GFP"])
