from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from wsss.core.checks import DataError
from wsss.core.label_maps import find_label_map, given_maps, read_label_map, write_label_map

GAPS = np.array([[0, 7, 7], [300, 0, 65535]], np.int32)


@pytest.mark.parametrize(("top", "suffix"), [(65535, ".png"), (65536, ".tif"), (2**31 - 1, ".tif")])
def test_written_ids_come_back_and_large_ones_go_to_tiff(tmp_path: Path, top: int, suffix: str) -> None:
    label_map = np.array([[0, 256], [top, 3]], np.int32)
    path = write_label_map(tmp_path / "plate.1_A2", label_map)
    assert path == tmp_path / f"plate.1_A2{suffix}"
    found = read_label_map(find_label_map(tmp_path, "plate.1_A2"))
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, label_map)


def test_a_map_written_again_in_another_form_replaces_the_first(tmp_path: Path) -> None:
    write_label_map(tmp_path / "a", GAPS)
    write_label_map(tmp_path / "a", GAPS * 2)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]
    np.testing.assert_array_equal(read_label_map(find_label_map(tmp_path, "a")), GAPS * 2)


def test_every_form_that_users_give_is_read(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", GAPS.astype(np.uint64))
    np.savez_compressed(tmp_path / "b.npz", whatever=GAPS.astype(np.float32))
    tifffile.imwrite(tmp_path / "c.tiff", GAPS.astype(np.float64)[None], photometric="minisblack")
    cv2.imwrite(str(tmp_path / "d.png"), GAPS.astype(np.uint16))
    for name in "abcd":
        np.testing.assert_array_equal(read_label_map(find_label_map(tmp_path, name)), GAPS)


def test_8_bit_and_palette_and_binary_pngs_are_read(tmp_path: Path) -> None:
    small = np.array([[0, 1], [1, 0]], np.uint8)
    Image.fromarray(small * 7).save(tmp_path / "grey.png")
    palette = Image.fromarray(small * 7, "P")
    palette.putpalette([9, 9, 9] * 256)
    palette.save(tmp_path / "palette.png")
    Image.fromarray(small * 255).convert("1").save(tmp_path / "binary.png")
    assert read_label_map(tmp_path / "grey.png").max() == 7
    assert read_label_map(tmp_path / "palette.png").max() == 7
    np.testing.assert_array_equal(read_label_map(tmp_path / "binary.png"), small)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (np.array([[0.5, 1.0]]), "not whole numbers"),
        (np.array([[np.nan, 1.0]]), "not whole numbers"),
        (np.array([[-1, 2]]), "from -1 to 2"),
        (np.array([[2**31]]), "2147483648"),
        (np.zeros((4, 4, 3), np.uint8), "one plane"),
        (np.zeros((0, 4), np.int32), "one plane"),
        (np.array([["a"]]), "not whole numbers"),
    ],
)
def test_what_is_no_label_map_is_refused_by_name(tmp_path: Path, content: np.ndarray, words: str) -> None:
    np.save(tmp_path / "bad.npy", content)
    with pytest.raises(DataError, match=words) as caught:
        read_label_map(tmp_path / "bad.npy")
    assert "bad.npy" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_colour_pictures_pickles_and_archives_of_several_arrays_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), "red").save(tmp_path / "colour.png")
    np.save(tmp_path / "pickle.npy", np.array([{"a": 1}], object), allow_pickle=True)
    np.savez(tmp_path / "two.npz", a=GAPS, b=GAPS)
    (tmp_path / "cut.png").write_bytes((tmp_path / "colour.png").read_bytes()[:40])
    (tmp_path / "cut.npz").write_bytes((tmp_path / "two.npz").read_bytes()[:80])
    (tmp_path / "text.tif").write_text("no tiff")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(DataError, match=path.name):
            read_label_map(path)


def test_a_missing_map_names_image_and_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no label map of ab12"):
        find_label_map(tmp_path, "ab12")
    with pytest.raises(DataError, match="does not exist"):
        read_label_map(tmp_path / "ab12.png")


@pytest.mark.parametrize("other", ["a.tif", "a.PNG", "a.ome.tif"])
def test_two_label_maps_of_an_image_are_refused_where_a_folder_is_listed(tmp_path: Path, other: str) -> None:
    for name in ("a.png", "b.png", other):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"holds (a.png and|.* and a.png)"):
        given_maps(tmp_path)
