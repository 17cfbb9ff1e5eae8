"""The prepare stage on images as other tools leave them."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from wsss import prepare
from wsss.core.channels import split_channel, unnamed_channels
from wsss.core.checks import ConfigError, DataError
from wsss.data.catalog import DataSet, Shards
from wsss.data.image_files import ImageFiles
from wsss.data.source import Source, stamps
from wsss.data.tables import match_labels

CHANNELS = ("red", "green", "blue", "yellow")


def planes(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (4, 32, 32), np.uint8)


def run(images: Path, out: Path, *more: str) -> DataSet:
    words = ["--images", str(images), "--out", str(out), "--size", "32", "--workers", "0", *more]
    assert prepare.main(words) == 0
    return DataSet.open(out)


def test_a_path_list_is_prepared_from_files_of_any_name(tmp_path: Path) -> None:
    wanted = {"cell1": planes(1), "exp_cell2": planes(2)}
    rows = ["r_image,y_image,b_image,g_image,output_prefix"]
    (tmp_path / "raw").mkdir()
    for number, (prefix, image) in enumerate(zip(("cell1_", "exp/cell2"), wanted.values(), strict=True)):
        names = [f"raw/{number}{letter}.png" for letter in "mpne"]
        for name, plane in zip(names, image, strict=True):
            Image.fromarray(plane).save(tmp_path / name)
        red, green, blue, yellow = names
        rows.append(f"{red},{yellow},{blue},{tmp_path / green},{prefix}")
    (tmp_path / "path_list.csv").write_text("\n".join(rows) + "\n")
    data = run(tmp_path / "path_list.csv", tmp_path / "data")
    assert data.ids == list(wanted)
    for i, image in enumerate(wanted.values()):
        np.testing.assert_array_equal(data.image(i), image)


def test_channels_named_otherwise_in_the_files_keep_the_data_sets_own_names(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    first, second = planes(1), planes(2)
    tifffile.imwrite(tmp_path / "in/a.ome.tif", first, metadata={"axes": "CYX", "Channel": {"Name": list("DCGX")}})
    for letter, plane in zip("DCGX", second, strict=True):
        Image.fromarray(plane).save(tmp_path / f"in/b_{letter}.png")
    data = run(tmp_path / "in", tmp_path / "data", "--channels", "red=C,green=G,blue=D,yellow=X")
    assert (data.ids, data.channels) == (["a", "b"], CHANNELS)
    np.testing.assert_array_equal(data.image(0), first[[1, 2, 0, 3]])
    np.testing.assert_array_equal(data.image(1), second[[1, 2, 0, 3]])


GUID = "7107447F-AC92-4844-8E32-E6D0ECFD5F1D"


@pytest.mark.parametrize(
    ("form", "names"),
    [
        ("ID_{}.tif", ["dapi", "GFP"]),
        ("ID {}.TIF", ["DAPI", "GFP"]),
        ("ID.{}.tif", ["DAPI", "GFP"]),
        ("{}-ID.tif", ["C1", "C2"]),  # ImageJ splits channels so
        ("ID-{}.tiff", ["ch1sk1fk1fl1", "ch2sk1fk1fl1"]),  # Opera, Operetta
        ("ID_{}.TIF", ["w1", "w2"]),  # MetaMorph
        (f"ID_{{}}{GUID}.tif", ["w1", "w2"]),
    ],
)
def test_files_of_channels_are_known_by_the_names_that_microscopes_give(
    tmp_path: Path, form: str, names: list[str]
) -> None:
    images = {"F1": planes(1)[:2], "F2": planes(2)[:2]}
    (tmp_path / "in").mkdir()
    for ID, image in images.items():
        for name, plane in zip([*names, "TRITC"], [*image, image[0]], strict=True):
            tifffile.imwrite(tmp_path / "in" / form.replace("ID", ID).format(name), plane)
    files = [form.replace("ID", ID).format(names[0]) for ID in images]
    (tmp_path / "labels.csv").write_text(f"ID,Label\n{files[0]},5\n{files[1]},6\n")
    more = ["--labels", str(tmp_path / "labels.csv"), "--folds", "2"]
    data = run(tmp_path / "in", tmp_path / "data", "--channels", f"DAPI={names[0]},GFP={names[1]}", *more)
    assert (data.ids, data.table.Label.tolist()) == (list(images), ["5", "6"]), "the third channel is no image"
    for i, image in enumerate(images.values()):
        np.testing.assert_array_equal(data.image(i), image)


def test_files_of_channels_that_are_not_named_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a-ch1sk1", "a-ch2sk1", "b-ch1sk1", "b-ch2sk1"):
        Image.fromarray(planes(len(name))[0]).save(tmp_path / f"in/{name}.png")
    run(tmp_path / "in", tmp_path / "data", "--channels", "DAPI")
    assert "differ in ch1sk1, ch2sk1 alone" in (told := capsys.readouterr().out)
    assert "--channels DAPI=ch1sk1." in told


@pytest.mark.parametrize(
    ("names", "marks"),
    [
        (["e_w1DAPI_s1", "e_w2GFP_s1", "e_w1DAPI_s2", "e_w2GFP_s2"], ["w1DAPI", "w2GFP"]),  # MetaMorph
        (["A(wv DAPI - DAPI)", "A(wv FITC - FITC)"], ["DAPI - DAPI)", "FITC - FITC)"]),  # InCell
        (["img_channel000_z0", "img_channel001_z0"], ["channel000_z0", "channel001_z0"]),  # Micro-Manager
        (["s_C001Z001", "s_C002Z001"], ["C001Z001", "C002Z001"]),  # Olympus
        (["xy1c1", "xy1c2", "xy2c1", "xy2c2"], ["c1", "c2"]),  # Nikon
        (["plate_C001", "plate_C002"], []),
    ],
)
def test_marks_of_channels_in_the_names_of_microscopes(names: list[str], marks: list[str]) -> None:
    assert unnamed_channels(names) == marks
    if marks and names[0].endswith(marks[0]):  # then it can be named
        assert [split_channel(name, marks)[1] for name in names[:2]] == marks


def test_rgb_pictures_and_dim_floats_are_told_where_that_may_be_a_surprise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in ("rgb", "dim"):
        (tmp_path / kind).mkdir()
    Image.fromarray(planes(1)[:3].transpose(1, 2, 0)).save(tmp_path / "rgb/a.png")
    run(tmp_path / "rgb", tmp_path / "one", "--channels", "DAPI,GFP,Actin")
    assert "(DAPI is red, GFP is green, Actin is blue): a." in capsys.readouterr().out
    run(tmp_path / "rgb", tmp_path / "two", "--channels", "DAPI=blue,GFP=green,Actin=red")
    assert "is green" not in capsys.readouterr().out
    tifffile.imwrite(tmp_path / "dim/a.tif", planes(1)[0] / np.float32(4095))
    run(tmp_path / "dim", tmp_path / "three", "--channels", "DAPI")
    assert (
        "the largest value of all float images is 0.063, so that of 255 levels 16 are used" in capsys.readouterr().out
    )


def test_channels_are_found_by_words_in_the_labels_of_slices(tmp_path: Path) -> None:
    image = planes(1)[:2]
    (tmp_path / "in").mkdir()
    for name, labels in (("a", ["s1_GFP.tif", "s1_DAPI.tif"]), ("b", ["c:1/2 - DAPI_1", "c:2/2 - DAPI_1"])):
        metadata = {"axes": "CYX", "Labels": labels}
        tifffile.imwrite(tmp_path / f"in/{name}.tif", image, imagej=True, metadata=metadata)
    data = run(tmp_path / "in", tmp_path / "data", "--channels", "DAPI,GFP")
    np.testing.assert_array_equal(data.image(0), image[::-1])
    np.testing.assert_array_equal(data.image(1), image)


def test_tinted_pictures_of_the_public_atlas_are_prepared(tmp_path: Path) -> None:
    image = planes(3)
    (tmp_path / "in").mkdir()
    for channel, plane in zip(CHANNELS, image, strict=True):
        samples = {"red": (0,), "green": (1,), "blue": (2,), "yellow": (0, 1)}[channel]
        picture = np.zeros((32, 32, 3), np.uint8)
        picture[..., samples] = plane[..., None]
        Image.fromarray(picture).save(tmp_path / f"in/10580_1610_C1_1_{channel}.png")
    np.testing.assert_array_equal(run(tmp_path / "in", tmp_path / "data").image(0), image)


@pytest.mark.parametrize("channels", ["red=A,green=A,blue=B,yellow=C", "r=A,r=B,g=C,b=D", "a,b,", "a_b,c"])
def test_channels_that_are_no_different_names_are_refused(tmp_path: Path, channels: str) -> None:
    with pytest.raises(ConfigError, match="--channels is"):
        prepare.main(["--images", "x", "--out", str(tmp_path), "--channels", channels])


def sized(folder: Path) -> None:
    """Write an OME-TIFF in nanometres, an ImageJ TIFF in microns and a PNG that knows no size."""
    folder.mkdir()
    size = {"PhysicalSizeX": 80, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 80, "PhysicalSizeYUnit": "nm"}
    tifffile.imwrite(folder / "a.ome.tif", planes(1), metadata={"axes": "CYX", **size})
    hyperstack = {"imagej": True, "resolution": (4, 4), "metadata": {"axes": "CYX", "unit": "um"}}
    tifffile.imwrite(folder / "b.tif", planes(2), **hyperstack)
    Image.fromarray(planes(3).transpose(1, 2, 0)).save(folder / "c.png")


def test_the_size_of_a_pixel_comes_from_the_files_and_stays_when_a_source_is_added(tmp_path: Path) -> None:
    sized(tmp_path / "in")
    (tmp_path / "in/c.png").unlink()
    (tmp_path / "more").mkdir()
    tifffile.imwrite(tmp_path / "more/d.tif", planes(4), photometric="minisblack")
    assert run(tmp_path / "in", tmp_path / "data").carried.pixel_size_um.tolist() == ["0.08", "0.25"]
    data = run(tmp_path / "more", tmp_path / "data", "--source", "more")
    assert dict(zip(data.ids, data.carried.pixel_size_um, strict=True)) == {"a": "0.08", "b": "0.25", "d": ""}
    tifffile.imwrite(tmp_path / "in/b.tif", planes(5), photometric="minisblack")
    data = run(tmp_path / "in", tmp_path / "data")
    assert dict(zip(data.ids, data.carried.pixel_size_um, strict=True)) == {"a": "0.08", "b": "", "d": ""}


def test_the_label_table_has_the_last_word_on_the_size_of_a_pixel(tmp_path: Path) -> None:
    sized(tmp_path / "in")
    (tmp_path / "in/c.png").unlink()
    table = tmp_path / "train.csv"
    given = [tmp_path / "in", tmp_path / "data", "--labels", str(table), "--folds", "2"]
    table.write_text("ID;Label;Pixel_Size_um\na;0;wide\nb;2;0,1\n")
    with pytest.raises(DataError, match=r"row 2: pixel_size_um is 'wide', expected a number"):
        run(*given)
    table.write_text("ID;Label;Pixel_Size_um\na;0;NA\nb;2;0,1\n")
    data = run(*given)
    assert list(data.carried) == ["pixel_size_um"]
    assert (data.pixel_um(0), data.pixel_um(1)) == (None, 0.1)


def test_an_image_counts_as_changed_where_the_file_that_describes_it_is(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.ome.tif", planes(1)[0])
    matched = match_labels([ImageFiles("a", ("a.ome.tif",))], None, allow_unlabelled=True)
    source = Source("main", tmp_path, "auto", matched, Shards(tmp_path, "main", 1, 1, 32))
    found = set()
    for text in ("", "<OME/>", "<OME></OME>"):
        (tmp_path / "set.companion.ome").write_text(text)
        found.add(stamps(source)["a"])
    assert len(found) == 3
