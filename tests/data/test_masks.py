"""Mask sets: the layouts, and one line for every fault."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from wsss.core.checks import DataError
from wsss.core.rle import encode_pairs
from wsss.data.folds import coverage_folds
from wsss.data.masks import Contrast, open_masks, stack_objects, survey

MASK = np.zeros((6, 5), bool)
MASK[1:4, 2:4] = True


def save(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def grey(mask: np.ndarray) -> np.ndarray:
    return mask.astype(np.uint8) * 255


@pytest.fixture
def salt(tmp_path: Path) -> Path:
    for name in ("b", "a"):
        save(tmp_path / "images" / f"{name}.png", np.full((6, 5), 7, np.uint8))
    (tmp_path / "train.csv").write_text(f"id,rle_mask\na,\nb,{encode_pairs(MASK)}\n")
    (tmp_path / "depths.csv").write_text("id,z\na,3\nb,4\nother,5\n")
    return tmp_path


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        save(tmp_path / "images" / f"{name}.png", np.full((6, 5, 3), 9, np.uint8))
        save(tmp_path / "masks" / f"{name}.png", grey(MASK))
    save(tmp_path / "ignore" / "b.png", grey(~MASK))
    return tmp_path


@pytest.fixture
def bowl(tmp_path: Path) -> Path:
    save(tmp_path / "x1" / "images" / "x1.png", np.full((6, 5, 4), 200, np.uint8))
    for k, box in enumerate([(slice(0, 4), slice(0, 4)), (slice(3, 5), slice(3, 5))]):
        one = np.zeros((6, 5), np.uint8)
        one[box] = 255
        save(tmp_path / "x1" / "masks" / f"{k}.png", one)
    save(tmp_path / "x2" / "images" / "x2.png", np.zeros((3, 3), np.uint8))
    return tmp_path


def test_the_salt_layout_is_read(salt: Path) -> None:
    masks = open_masks(salt, channels=1)
    assert masks.ids == ["a", "b"]
    assert masks.image(0).shape == (1, 6, 5)
    assert not masks.label_map(0).any()
    assert np.array_equal(masks.label_map(1), MASK)


def test_folders_are_read_with_what_must_not_count(folders: Path) -> None:
    masks = open_masks(folders)
    assert masks.image(1).shape == (3, 6, 5)
    assert np.array_equal(masks.label_map(0), MASK)
    assert not masks.ignored(0).any()
    assert np.array_equal(masks.ignored(1), ~MASK)


def test_masks_may_be_named_after_their_images_with_an_ending(folders: Path) -> None:
    (folders / "masks" / "a.png").rename(folders / "masks" / "a_mask.png")
    assert open_masks(folders).items[0].masks == (folders / "masks" / "a_mask.png",)
    save(folders / "masks" / "a_labels.png", grey(MASK))
    with pytest.raises(DataError, match=r"a_labels.png and a_mask.png: expected one file"):
        open_masks(folders)


def test_the_bowls_layout_keeps_overlapping_objects_apart(bowl: Path) -> None:
    masks = open_masks(bowl)
    assert masks.has_truth.tolist() == [True, False]
    found = masks.label_map(0)
    assert found[3, 3] == 2
    assert (found == 1).sum() == 15
    assert (found == 2).sum() == 4


def test_an_image_without_masks_cannot_be_learnt_from(bowl: Path) -> None:
    with pytest.raises(DataError, match="has no mask"):
        open_masks(bowl).label_map(1)


def test_a_smaller_object_inside_a_larger_one_survives() -> None:
    inner = np.zeros((4, 4), bool)
    inner[1, 1] = True
    assert (stack_objects([inner, np.ones((4, 4), bool)], (4, 4)) == 1).sum() == 1


def fault(folder: Path, *, image: int = 0) -> str:
    with pytest.raises(DataError) as caught:
        open_masks(folder).label_map(image)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_mask_of_another_size_is_refused(folders: Path) -> None:
    save(folders / "masks" / "a.png", grey(MASK.T))
    assert "a.png is 5 x 6, its image" in fault(folders)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16])
@pytest.mark.parametrize("top", [1, 255, 65535])
def test_masks_of_0_and_1_255_or_65535_are_read(folders: Path, dtype: type, top: int) -> None:
    if top > np.iinfo(np.uint8).max and dtype is not np.uint16:
        pytest.skip("no such value")
    mask = MASK if dtype is bool else MASK.astype(dtype) * dtype(top)
    save(folders / "masks" / "a.png", mask)
    assert np.array_equal(open_masks(folders).label_map(0), MASK)


def test_other_values_are_refused_with_the_values(folders: Path) -> None:
    save(folders / "masks" / "a.png", MASK.astype(np.uint8) * 38)
    assert "holds the values 0, 38, expected 0 and one of 1, 255 and 65535" in fault(folders)


def test_colour_masks_and_images_of_floats_are_refused(folders: Path) -> None:
    save(folders / "masks" / "a.png", MASK[..., None] * np.array([255, 0, 0], np.uint8))
    assert "is a picture of colours, expected a grey one" in fault(folders)
    (folders / "images" / "a.png").unlink()
    tifffile.imwrite(folders / "images" / "a.tif", np.zeros((6, 5), np.float32))
    assert "of kind 1 x float32, expected one of uint8 or uint16, grey or colour" in fault(folders)


def test_an_image_of_16_bits_goes_from_its_darkest_to_its_brightest(folders: Path) -> None:
    bright = np.linspace(1200, 1200 + 60, 3000).reshape(60, 50).astype(np.uint16)
    bright[0, 0] = 65535
    (folders / "images" / "a.png").unlink()
    tifffile.imwrite(folders / "images" / "a.tif", bright)
    found = open_masks(folders, channels=1).image(0)
    assert found.shape == (1, 60, 50)
    assert (np.diff(found[0].ravel().astype(int)) >= 0)[1:].all()
    assert [found.min(), np.median(found), found.max()] == [0, pytest.approx(127, abs=3), 255]


def test_label_maps_in_objects_are_read_before_masks(folders: Path) -> None:
    label_map = np.kron(np.array([[7, 300], [0, 2]], np.uint16), np.ones((3, 2), np.uint16))[:, [0, 0, 1, 2, 3]]
    for name in ("a.tif", "b_cp_masks.tiff"):
        (folders / "objects").mkdir(exist_ok=True)
        tifffile.imwrite(folders / "objects" / name, label_map)
    masks = open_masks(folders, channels=1)
    numbered = np.select([label_map == 2, label_map == 7, label_map == 300], [1, 2, 3])
    assert np.array_equal(masks.label_map(0), numbered)
    assert np.array_equal(masks.label_map(1), numbered)
    assert masks.ignored(1).any()
    (folders / "train.csv").write_text("id,rle_mask\na,1 2\nb,1 2\n")
    assert np.array_equal(open_masks(folders, channels=1).label_map(0), numbered)


def test_the_numbers_of_objects_may_be_large_and_one_of_many_objects_in_pieces(folders: Path) -> None:
    numbers = np.array([[1, 0, 2, 0, 3], [0] * 5, [1, 0, 1, 0, 0], [0] * 5, [0] * 5, [0] * 5])
    for name in "ab":
        (folders / "objects").mkdir(exist_ok=True)
        tifffile.imwrite(folders / "objects" / f"{name}.tif", numbers.astype(np.uint32) * 700_000_000)
    masks = open_masks(folders, channels=1)
    assert np.array_equal(masks.label_map(0), numbers)
    assert survey(masks).areas[1].tolist() == [3, 1, 1]


@pytest.mark.parametrize(
    ("label_map", "message"),
    [
        (MASK[:5], r"a\.png is 5 x 5, its image .* is 6 x 5"),
        (np.outer([1, 0, 1, 0, 1, 0], [255, 0, 255, 0, 255]), "one label is many pieces .*; masks belong in masks/"),
        (
            1 + MASK.astype(int),
            r"one label \(1\) covers most of the border: .* background; masks belong in masks/",
        ),
    ],
)
def test_a_map_that_numbers_no_objects_is_refused(folders: Path, label_map: np.ndarray, message: str) -> None:
    save(folders / "objects" / "b.png", MASK.astype(np.uint8))
    save(folders / "objects" / "a.png", label_map.astype(np.uint8))
    with pytest.raises(DataError, match=message):
        open_masks(folders, channels=1).label_map(0)


def test_label_maps_of_other_forms_are_named(folders: Path) -> None:
    (folders / "objects").mkdir()
    picture = Image.fromarray(MASK.astype(np.uint8), "P")
    picture.putpalette([255, 0, 0, 0, 0, 0])  # the darkest colour is not that of the background
    picture.save(folders / "objects" / "a.png")
    np.save(folders / "objects" / "b_seg.npy", {"masks": MASK}, allow_pickle=True)
    for i, message in enumerate((r"a\.png: the pixels are places in a table of colours", r"b_seg\.npy holds pickled")):
        with pytest.raises(DataError, match=message):
            open_masks(folders, channels=1).label_map(i)
    (folders / "objects" / "b_seg.npy").rename(folders / "objects" / "b.jpg")
    with pytest.raises(DataError, match=r"b\.jpg is no form of label map"):
        open_masks(folders, channels=1).label_map(1)


def test_a_map_without_image_is_named(folders: Path) -> None:
    for name in "abc":
        save(folders / "objects" / f"{name}.png", MASK.astype(np.uint8))
    with pytest.raises(DataError, match=r"c of objects/ is not in images/"):
        open_masks(folders)


def test_a_file_that_is_no_picture_is_refused(folders: Path) -> None:
    (folders / "masks" / "a.png").write_bytes(b"nothing")
    assert "is no PNG, JPEG, TIFF or BMP file" in fault(folders)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,rle_mask\na,\nb,29 3\n", "the rle_mask of b in .* runs to pixel 31"),
        ("id,rle_mask\na,\nb,1 2 3\n", "the rle_mask of b in .* has 3 numbers"),
        ("id,rle_mask\na,\n", "b of images/ is not in train.csv"),
        ("id,rle_mask\na,\nb,\nc,\n", "c of train.csv is not in images/"),
        ("id,rle_mask\na,\nb,\nb,\n", "names b more than once"),
        ("id,mask\na,\nb,\n", "lacks the column.*rle_mask"),
    ],
)
def test_faults_of_the_table_are_one_line(salt: Path, text: str, message: str) -> None:
    (salt / "train.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        open_masks(salt).label_map(1)


def test_ids_without_partner_are_named(salt: Path, tmp_path: Path) -> None:
    (salt / "depths.csv").write_text("id,z\na,3\n")
    with pytest.raises(DataError, match=r"b of train.csv is not in depths.csv"):
        open_masks(salt)


def test_a_mask_without_image_is_named(folders: Path) -> None:
    (folders / "images" / "a.png").unlink()
    with pytest.raises(DataError, match=r"a of masks/ is not in images/"):
        open_masks(folders)


def test_two_files_of_one_id_and_no_layout_are_refused(folders: Path, tmp_path: Path) -> None:
    save(folders / "images" / "a.jpg", np.zeros((6, 5, 3), np.uint8))
    with pytest.raises(DataError, match="one file of each ID"):
        open_masks(folders)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="choose the folder above"):
        open_masks(tmp_path / "empty")
    with pytest.raises(DataError, match="does not exist"):
        open_masks(tmp_path / "nowhere")


def test_the_salt_competitions_own_files_are_read(tmp_path: Path) -> None:
    for name, mask in (("a", MASK.astype(np.uint16) * 65535), ("empty", np.zeros((6, 5), np.uint8))):
        save(tmp_path / "images" / f"{name}.png", np.full((6, 5, 3), 9, np.uint8))
        save(tmp_path / "masks" / f"{name}.png", mask)
    (tmp_path / "train.csv").write_text(f"id,rle_mask\na.png,{encode_pairs(MASK)}\nempty,\n")
    masks = open_masks(tmp_path, channels=1)
    assert masks.image(0).shape == (1, 6, 5)
    np.testing.assert_array_equal(masks.label_map(0) > 0, MASK)
    assert not masks.label_map(1).any()


def test_image_and_mask_may_differ_in_their_endings(tmp_path: Path) -> None:
    save(tmp_path / "images" / "A.png", np.full((6, 5), 9, np.uint8))
    save(tmp_path / "masks" / "A.TIF", grey(MASK))
    np.testing.assert_array_equal(open_masks(tmp_path).label_map(0), MASK)


def test_a_stretched_image_goes_from_black_to_white_and_has_a_dark_ground() -> None:
    dim = np.full((1, 20, 20), 10, np.uint8)
    dim[0, :5] = 40
    np.testing.assert_array_equal(Contrast.of(dim).apply(dim), np.where(dim == 40, 255, 0))
    bright = 255 - dim
    np.testing.assert_array_equal(Contrast.of(bright).apply(bright), np.where(dim == 40, 255, 0))


def test_an_image_of_one_grey_is_stretched_to_black() -> None:
    flat = np.full((3, 8, 8), 77, np.uint8)
    assert not Contrast.of(flat).apply(flat).any()


def test_copies_of_an_image_in_whatever_file_stay_in_one_fold(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (6, 5), np.uint8) for _ in range(7)]
    pictures += [pictures[2], np.zeros((6, 5), np.uint8), np.zeros((6, 5), np.uint8)]
    for k, picture in enumerate(pictures):
        save(tmp_path / "masks" / f"i{k}.png", grey(MASK))
        save(tmp_path / "images" / f"i{k}.{'png' if k != 7 else 'tif'}", picture)
    masks = open_masks(tmp_path, channels=1)
    folds = [coverage_folds(survey(masks).coverage, 5, seed, masks.groups) for seed in range(5)]
    assert all(one[2] == one[7] for one in folds)
    assert masks.twins["i2"] == masks.twins["i7"]
    assert len(set(masks.twins.values())) == 9  # blank images show nothing, and are no copies
    assert np.array_equal(open_masks(tmp_path, channels=1).groups, masks.groups)  # also before they are surveyed
