"""Inputs that users reported as read wrongly, one test for each kind, through every reader that can meet it."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from wsss import prepare, segment
from wsss.cells.instances import doubts_of
from wsss.core import rle
from wsss.core.checks import ConfigError, DataError
from wsss.core.label_maps import read_label_map
from wsss.core.labels import HPA
from wsss.core.rasters import turn
from wsss.core.tiff import parse_choice
from wsss.data.catalog import DataSet
from wsss.data.large import LargeImage, open_set
from wsss.data.masks import open_masks, read_mask, read_objects, read_picture, survey
from wsss.data.pixels import read_image
from wsss.data.tables import read_labels
from wsss.metrics.cells import read_cell_truth
from wsss.segmenters import BackendOptions, CellMaps, Field, NetworkBackend, make_backend
from wsss.segmenters.annotations import TableMasks
from wsss.segmenters.masks import open_cell_masks
from wsss.stages.doctor import examine_cells

SIZE = (40, 56)
OBJECT = np.zeros(SIZE, bool)
OBJECT[3:12, 5:30] = True
CELLS = np.zeros(SIZE, np.int32)
for number, (y, x) in enumerate(((2, 3), (2, 30), (20, 3), (20, 30), (30, 44)), 1):
    CELLS[y : y + 8, x : x + 9] = number
FIELD = Field("A", np.zeros((1, *SIZE), np.uint8), *SIZE, max(SIZE))


def prepared(folder: Path, out: Path, *more: str) -> DataSet:
    words = ["--images", str(folder), "--out", str(out), "--channels", "DAPI", "--size", "56", "--workers", "0"]
    assert prepare.main([*words, *more]) == 0
    return DataSet.open(out)


def masks(path: Path, **more: Any) -> CellMaps:
    backend = make_backend("masks", BackendOptions(path, channels=("DAPI",), **more))
    assert not isinstance(backend, NetworkBackend)
    return backend(FIELD)


def mask_set(home: Path, write: Callable[[Path], None], suffix: str = ".png") -> np.ndarray:
    """Write a picture and its mask as `train --task masks` takes them; return the mask that is read."""
    for name in ("images", "masks"):
        (home / name).mkdir(parents=True)
    Image.fromarray(OBJECT.astype(np.uint8) * 200).save(home / "images/a.png")
    write(home / f"masks/a{suffix}")
    return open_masks(home).label_map(0) > 0


@pytest.mark.parametrize("kind", ["ImageJ Z", "OME Z", "OME T"])
def test_zstack_as_channels(kind: str, tmp_path: Path) -> None:
    pixels = np.stack([np.full(SIZE, 10 * k, np.uint8) for k in (1, 4, 2, 3)])
    path = tmp_path / "in" / ("a.ome.tif" if "OME" in kind else "a.tif")
    path.parent.mkdir()
    tifffile.imwrite(path, pixels, imagej=kind == "ImageJ Z", metadata={"axes": f"{kind[-1]}YX"})
    readers: list[Callable[[], object]] = [
        lambda: read_image([path], 4),
        lambda: read_image([path], 1),
        lambda: read_picture(path, 1),
        lambda: read_label_map(path),
        lambda: read_mask(path, SIZE, path),
        lambda: LargeImage(path),
        lambda: prepared(path.parent, tmp_path / "none"),
    ]
    for reader in readers:
        with pytest.raises(DataError, match=rf"is a stack.*{kind[-1]}.*(--plane N|save one)"):
            reader()
    assert prepared(path.parent, tmp_path / "max", "--project", "max").image(0).max() == 40
    assert prepared(path.parent, tmp_path / "third", "--plane", "3").image(0).max() == 20
    assert read_image([path], 1, None, (), parse_choice(f"{kind[-1]}=1", ""))[0].max() == 10


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_dim_16bit(bits: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    for n, top in enumerate((2**bits - 1, 2**bits - 90, 2**bits // 2, 199)):
        plane = np.linspace(0, top, SIZE[0] * SIZE[1]).reshape(SIZE).astype(np.uint16)
        Image.fromarray(plane).save(tmp_path / f"in/i{n}_DAPI.png")
    data = prepared(tmp_path / "in", tmp_path / "out")
    assert data.bits == bits
    assert [int(data.image(k).max()) for k in (0, 2, 3)] == [255, 128, 199 >> (bits - 8)]
    assert "i3 (largest value 199)" in capsys.readouterr().out


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_exif(orientation: int, suffix: str, tmp_path: Path) -> None:
    stored = OBJECT.astype(np.uint8) * 255
    shown = turn(OBJECT, orientation)

    def write(path: Path) -> Path:
        if suffix == ".tif":
            tifffile.imwrite(path, stored, extratags=[(274, 3, 1, orientation, True)])
        else:
            exif = Image.Exif()
            exif[0x0112] = orientation
            Image.fromarray(stored).save(path, exif=exif, quality=100)
        return path

    image = write(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(read_picture(image, 1)[0] > 127, shown)
    np.testing.assert_array_equal(read_image([image], 1, None, ("DAPI",))[0][0] > 127, shown)
    Image.fromarray(shown).save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png", read_picture(image, 1).shape[1:], image), shown)
    if suffix != ".jpg":
        np.testing.assert_array_equal(read_label_map(image) > 0, shown)
        np.testing.assert_array_equal(read_mask(image, shown.shape, image), shown)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_imagej_inverted_mask(dtype: type, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    top = np.iinfo(dtype).max

    def write(path: Path) -> None:
        tifffile.imwrite(path, OBJECT.astype(dtype) * dtype(top), photometric="miniswhite")

    np.testing.assert_array_equal(mask_set(tmp_path / "set", write, ".tif"), OBJECT)
    (tmp_path / "maps").mkdir()
    write(tmp_path / "maps/A.tif")
    np.testing.assert_array_equal(masks(tmp_path / "maps").cells > 0, OBJECT)
    data = prepared(tmp_path / "maps", tmp_path / "out")  # an image is stored as it is shown, and the user is told
    np.testing.assert_array_equal(data.image(0)[0, : SIZE[0]] == 0, OBJECT)
    assert "1 images are saved with 0 as white" in capsys.readouterr().out


@pytest.mark.parametrize("top", [1, 255, 65535])
def test_salt_16bit_mask(top: int, tmp_path: Path) -> None:
    def write(path: Path) -> None:
        Image.fromarray(OBJECT.astype(np.uint16) * np.uint16(top)).save(path)
        (path.parent.parent / "train.csv").write_text("id;rle_mask\na;1 2\n")

    np.testing.assert_array_equal(mask_set(tmp_path, write), OBJECT)
    np.testing.assert_array_equal(read_label_map(tmp_path / "masks/a.png") > 0, OBJECT)


def test_coco(tmp_path: Path) -> None:
    counts = rle.encode_label_map(CELLS)
    runs = {k: {"size": list(SIZE), "counts": text.decode()} for k, text in counts.items()}
    cells = [{"id": k, "image_id": 1, "category_id": 1, "segmentation": mask} for k, mask in runs.items()]
    inner = [np.argwhere(np.equal(CELLS, k)).mean(axis=0).round().astype(int) for k in runs]
    squares = [[[int(x), int(y), int(x) + 3, int(y), int(x) + 3, int(y) + 3, int(x), int(y) + 3]] for y, x in inner]
    nuclei = [
        {"id": 10 + k, "image_id": 1, "category_id": 2, "segmentation": square} for k, square in enumerate(squares)
    ]
    crowd = [{"id": 99, "image_id": 1, "category_id": 1, "iscrowd": 1, "segmentation": runs[1]}]
    kinds = [{"id": 1, "name": "cell"}, {"id": 2, "name": "nucleus"}]
    for name, annotations in (("crowd", cells + crowd), ("nuclei", cells + nuclei)):
        images = [{"id": 1, "file_name": "A_DAPI.png", "height": SIZE[0], "width": SIZE[1]}]
        content = {"images": images, "annotations": annotations, "categories": kinds}
        (tmp_path / f"{name}.json").write_text(json.dumps(content), "utf-8-sig")
        maps = masks(tmp_path / f"{name}.json")
        np.testing.assert_array_equal(maps.cells, CELLS)
    assert maps.nuclei is not None
    assert (maps.nuclei[maps.nuclei > 0] == CELLS[maps.nuclei > 0]).all()
    assert np.unique(maps.nuclei).tolist() == np.unique(CELLS).tolist()


def test_label_maps_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kinds = {"m_binary": ("A.png", (CELLS > 0) * 255), "m_bg1": ("A.png", CELLS + 1), "m_upper": ("A.TIF", CELLS)}
    for kind, (name, pixels) in kinds.items():
        (tmp_path / kind).mkdir()
        Image.fromarray(pixels.astype(np.uint16)).save(tmp_path / kind / name)
    assert masks(tmp_path / "m_upper").doubts == ()
    np.testing.assert_array_equal(masks(tmp_path / "m_upper").cells, CELLS)
    assert masks(tmp_path / "m_binary", split=True).cells.max() == 5
    np.testing.assert_array_equal(masks(tmp_path / "m_bg1", background=1).cells, np.where(CELLS > 0, CELLS + 1, 0))
    np.testing.assert_array_equal(
        open_cell_masks(tmp_path / "m_upper").cells("A", SIZE), CELLS
    )  # of evaluate and others
    (tmp_path / "in").mkdir()
    Image.fromarray(CELLS.astype(np.uint8)).save(tmp_path / "in/A_DAPI.png")
    prepared(tmp_path / "in", tmp_path / "out")
    for kind, words in (("m_binary", "one label is many pieces"), ("m_bg1", "it looks like background")):
        given = ["--data", str(tmp_path / "out"), "--backend", "masks", "--masks", str(tmp_path / kind)]
        assert segment.main([*given, "--workers", "0", "--overwrite"]) == 0
        printed = capsys.readouterr().out
        assert "note: label maps of 1 images (A)" in printed
        assert words in printed
        assert any(words in finding.text for finding in examine_cells(tmp_path / "out"))


def test_two_columns_of_labels_of_cells_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.csv").write_text("ID,cell,Label,class\na,1,0,5\n")
    assert read_cell_truth(tmp_path / "t.csv", HPA).labels.argmax() == 0
    assert "has the columns Label, class, which differ: Label is read" in capsys.readouterr().out


def test_excel_tables(tmp_path: Path) -> None:
    text = "ID,cell,Label\na,1,18\na,2,0|16\n"
    forms = {
        "semi": text.replace(",", ";"),
        "tab": text.replace(",", "\t"),
        "lower": text.lower(),
        "trail": text.replace("\n", ",,\n"),
        "trailrows": text + ",,\n,,\n",
        "files": text.replace("a,", "a.png,"),
    }
    runs = rle.encode_label_map(CELLS)[1].decode()
    merged = tmp_path / "merged.csv"  # of cells that a spreadsheet merged, the first alone has the text
    for column, value, read in (
        ("Label", "18", lambda: read_cell_truth(merged, HPA)),
        ("rle", runs, lambda: TableMasks(merged)),
    ):
        merged.write_text(f"ID,cell,{column}\na,1,{value}\n,2,{value}\n")
        with pytest.raises(DataError, match="names no image in row 2 below the header"):
            read()
    for name, form in forms.items():
        path = tmp_path / f"{name}.csv"
        path.write_text(form)
        assert read_cell_truth(path, HPA).rows()["a"].tolist() == [0, 1], name
        path.write_text(re.sub(r"a(\S*[,;\t]2)", r"b\1", form.replace("cell", "x")))
        assert read_labels(path, HPA).labels == {"a": (18,), "b": (0, 16)}, name
        path.write_text(form.replace("Label", "rle").replace("label", "rle").replace("18", runs).replace("0|16", runs))
        assert TableMasks(path).masks("a", SIZE).ids == [1, 2], name


@pytest.mark.parametrize("kind", ["pages", "reduced first", "thumbnail first", "two stacks"])
def test_several_images_in_a_tiff(kind: str, tmp_path: Path) -> None:
    path, planes = tmp_path / "a.tif", [(OBJECT * n).astype(np.uint8) for n in (50, 90)]
    with tifffile.TiffWriter(path) as tiff:
        small = [planes[0][::2, ::2].copy()] if "first" in kind else []
        stacks = [np.stack(planes)] * 2 if kind == "two stacks" else planes
        for page in [*small, *stacks]:  # a series each, as programs write that append page after page
            tiff.write(page, photometric="minisblack", subfiletype=int(kind == "reduced first" and page is small[0]))
    readers: list[Callable[[], object]] = [lambda: read_label_map(path), lambda: read_mask(path, SIZE, path)]
    if kind in ("pages", "reduced first"):
        np.testing.assert_array_equal(read_image([path], 2)[0], planes)
    else:
        readers.append(lambda: read_image([path], 2))
    for reader in [*readers, lambda: LargeImage(path)]:
        with pytest.raises(DataError, match=r"2 channels|several (images|pages)|2 stacks"):
            reader()


def outline(y: int, x: int, kind: str, said: str = "objectType", size: int = 8, **plane: int) -> dict[str, Any]:
    ring = [[x, y], [x + size, y], [x + size, y + size], [x, y + size], [x, y]]
    geometry = {"type": "Polygon", "coordinates": [ring]} | ({"plane": plane} if plane else {})
    feature = {"type": "Feature", "geometry": geometry, "properties": {} if said == "id" else {said: kind}}
    return feature | ({"id": f"Path{kind.title()}Object"} if said == "id" else {})


@pytest.mark.parametrize("said", ["objectType", "object_type", "id"])
def test_objects_of_qupath_that_are_no_cells(said: str, tmp_path: Path) -> None:
    cells = [outline(2, 3, "cell", said), outline(20, 30, "cell", said)]
    others = [
        outline(0, 0, "annotation", said, 39),
        outline(4, 5, "detection", said, 2),
        outline(0, 0, "tile", said, 30),
    ]

    def sizes(*features: dict[str, Any]) -> list[int]:
        (tmp_path / "A.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
        return np.bincount(masks(tmp_path).cells.ravel())[1:].tolist()

    assert sizes(*others, *cells) == [64, 64]
    assert sizes(*others) == [4]  # a detection within a region and a tile
    with pytest.raises(DataError, match="outlines of 2 planes of a stack"):
        sizes(outline(2, 3, "cell", said, z=0), outline(20, 30, "cell", said, z=1))
    with pytest.raises(DataError, match="has 1 features, but no Polygon"):
        sizes({"type": "Feature", "geometry": {"type": "Point", "coordinates": [3, 4]}, "properties": {}})
    assert sizes() == []


def test_coco_of_other_writers(tmp_path: Path) -> None:
    box = [[3, 2], [12, 2], [12, 10], [3, 10]]
    flat = [3, 2, 12, 2, 12, 10, 3, 10]
    one = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [3, 2, 9, 8]}
    images = [{"id": 1, "file_name": "A.png", "height": SIZE[0], "width": SIZE[1]}]

    def area(segmentation: Any, **more: Any) -> int:
        content = {"images": images, "annotations": [one | {"segmentation": segmentation} | more], "categories": []}
        (tmp_path / "c.json").write_text(json.dumps(content))
        return int((masks(tmp_path / "c.json").cells > 0).sum())

    assert [area(form) for form in ([flat], flat, [box], box, [[], flat])] == [72] * 5
    for none in ([], [[str(n) for n in flat]], [[{"x": 3, "y": 2}] * 4], [[0.1, 0.1, 0.4, 0.1, 0.4, 0.4]]):
        with pytest.raises(DataError, match="no annotation outlines anything"):
            area(none)
    assert area([flat], image_id="1", id="7") == 72
    for name in ("iscrowd", "ignore"):
        with pytest.raises(DataError, match="all 1 annotations are crowds"):
            area([flat], **{name: 1})
    counts = list(rle.encode_label_map(CELLS).values())
    pd.DataFrame({"ID": "A", "cell_id": range(1, 6), "rle": counts}).to_parquet(tmp_path / "t.parquet")  # of bytes
    np.testing.assert_array_equal(masks(tmp_path / "t.parquet").cells, CELLS)


@pytest.mark.parametrize("colour", [0, 255])
def test_shapes_in_transparency_alone(colour: int, tmp_path: Path) -> None:
    def write(path: Path) -> None:
        planes = [np.full(SIZE, colour)] * 3 + [OBJECT * 255]
        Image.fromarray(np.stack(planes, -1).astype(np.uint8)).save(path)

    write(tmp_path / "A.png")
    for reader in (lambda: read_label_map(tmp_path / "A.png"), lambda: mask_set(tmp_path / "set", write)):
        with pytest.raises(DataError, match="its shapes are in its transparency"):
            reader()


def test_pictures_of_forms_that_are_not_read_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("images", "masks"):
        (tmp_path / "a" / folder).mkdir(parents=True)
        Image.fromarray(OBJECT.astype(np.uint8) * 255).save(tmp_path / "a" / folder / "a.png")
    (tmp_path / "a/images/b.czi").write_bytes(b"x")
    prepared(tmp_path / "a/images", tmp_path / "out")
    open_masks(tmp_path / "a")
    assert capsys.readouterr().out.count("1 files are of forms that are not read, and left out: b.czi") == 2
    (tmp_path / "a/images/b.czi").unlink()
    for name in ("b.gif", "b.npy"):
        (tmp_path / "a/masks" / name).write_bytes(b"x")
        for folder in (tmp_path / "a", tmp_path):  # an object a file, in the second
            with pytest.raises(DataError, match=f"masks holds {name}, which is no form"):
                open_masks(folder)
        (tmp_path / "a/masks" / name).unlink()


def labelme(*shapes: tuple[str, list[list[float]]], **more: Any) -> str:
    every = [
        {"label": "cell", "shape_type": kind, "points": points, "group_id": None} | more for kind, points in shapes
    ]
    return json.dumps({"version": "5.0", "shapes": every, "imageHeight": SIZE[0], "imageWidth": SIZE[1]})


def test_files_of_labelme(tmp_path: Path) -> None:
    box = [[3.0, 2.0], [12.0, 2.0], [12.0, 10.0], [3.0, 10.0]]
    right = [[x + 20, y] for x, y in box]
    Image.fromarray(np.full(SIZE, 99, np.uint8)).save(tmp_path / "A.png")  # labelme writes beside the image

    def sizes(text: str) -> list[int]:
        (tmp_path / "A.json").write_text(text)
        return np.bincount(masks(tmp_path).cells.ravel())[1:].tolist()

    assert sizes(labelme(("polygon", box), ("rectangle", [right[0], right[2]]), ("line", box[:2]))) == [72, 72]
    assert sizes(labelme(("polygon", box), ("polygon", right), group_id=1)) == [144]
    assert sizes(labelme(("circle", [[20, 20], [24, 20]])))[0] == pytest.approx(50, abs=3)
    assert sizes(labelme()) == []
    sorted_keys = {"imageData": "x" * 9000} | json.loads(labelme(("polygon", box), ("polygon", right)))
    assert sizes(json.dumps(sorted_keys)) == [72, 72]
    faults = {
        "the labels cell, nucleus": labelme(("polygon", box)).replace(
            "}]", '}, {"label": "nucleus", "points": [[0, 0], [9, 0], [9, 9]]}]'
        ),
        "a shape of the type mask": labelme(("mask", box)),
        "but no polygon": labelme(("line", box)),
        "whose points are no list": labelme(("polygon", [[1.0], [2.0]] * 4)).replace("2.0", '"x"'),
        "of an image of 41 x 56": labelme(("polygon", box)).replace("40", "41"),
    }
    for words, text in faults.items():
        with pytest.raises(DataError, match=words):
            sizes(text)
    with pytest.raises(ConfigError, match="outlines of one image: pass the folder"):
        masks(tmp_path / "A.json")
    large = tmp_path / "large"
    large.mkdir()
    tifffile.imwrite(large / "a.tif", np.zeros(SIZE, np.uint8))
    features = json.dumps([outline(0, 0, "annotation", size=39), outline(2, 3, "cell")])
    for text in (
        labelme(("polygon", [[3, 2], [11, 2], [11, 10], [3, 10]])),
        features,
    ):  # without what lies around cells
        (large / "a.json").write_text(text)
        label_map = open_set(large, 1, 64).label_map(0)
        assert (int(label_map[2:10, 3:11].min()) > 0, int((label_map > 0).sum())) == (True, 64)


def test_outlines_of_other_units(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros(SIZE, np.uint8))
    (tmp_path / "maps").mkdir()

    def doubts(scale: float) -> tuple[str, ...]:
        places = [(2, 3), (2, 40), (18, 20), (30, 3), (30, 46)]
        features = [outline(y, x, "detection") for y, x in places]
        for feature in features:
            feature["geometry"]["coordinates"] = (np.array(feature["geometry"]["coordinates"]) * scale).tolist()
        for name in ("maps/A.ome.tif.geojson", "a.geojson"):  # named after the file of the image
            (tmp_path / name).write_text(json.dumps(features))
        open_set(tmp_path, 1, 64)
        return tuple(masks(tmp_path / "maps").doubts)

    assert doubts(1) == ()
    assert "upper left" not in capsys.readouterr().out
    for scale in (0.32, 0.5):
        assert doubts(scale) == ("corner",)
        assert "outlines of 1 images (a): all cells lie in the upper left" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["wrapped", "cut off", "as many as there are numbers"])
def test_more_cells_than_numbers(kind: str, tmp_path: Path) -> None:
    squares = np.kron(np.arange(1, 301).reshape(15, 20), np.pad(np.ones((2, 2), int), 1))
    numbers = {"wrapped": squares % 256, "cut off": np.minimum(squares, 255)}.get(kind, squares * (squares < 256))
    assert doubts_of(numbers.astype(np.int32)) == ([] if kind[0] == "a" else ["wrapped=255"])
    Image.fromarray(numbers.astype(np.uint8)).save(tmp_path / "a.png")
    if kind[0] != "a":
        with pytest.raises(DataError, match=r"all labels from 1 to 255 are there .* numbers of 16 or 32 bits"):
            read_objects(tmp_path / "a.png", squares.shape, tmp_path / "a.png")


def test_numbers_that_a_label_map_cannot_hold(tmp_path: Path) -> None:
    kinds = {"add 1 to all if -1": CELLS - 1, "tells numbers apart up to 16777216": (CELLS + 2**24).astype(np.float32)}
    for words, pixels in kinds.items():
        tifffile.imwrite(tmp_path / "a.tif", pixels)
        with pytest.raises(DataError, match=words):
            read_label_map(tmp_path / "a.tif")


@pytest.mark.parametrize("column", ["rle", "rle_mask", "EncodedPixels"])
def test_pairs_of_start_and_length_say_no_order(column: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"ImageId,{column}\nA,1 5 41 5\n")
    with pytest.raises(DataError, match=f"{column} holds pairs of start and length"):
        masks(tmp_path / "t.csv")


def test_colours_of_a_large_image_that_are_not_decoded_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((*SIZE, 3), np.uint8), photometric="ycbcr")
    with pytest.raises(DataError, match="kind YCBCR"):
        LargeImage(tmp_path / "a.tif")


@pytest.mark.parametrize("inverted", [True, False])
def test_masks_that_are_inverted(inverted: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        for folder, pixels in (("images", OBJECT), ("masks", inverted != OBJECT)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8) * 255).save(tmp_path / folder / f"{name}.png")
    survey(open_masks(tmp_path))
    assert ("all masks cover the borders of their images" in capsys.readouterr().out) == inverted


def test_pages_without_description_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in/a.tif", np.stack([CELLS, CELLS]).astype(np.uint8), photometric="minisblack")
    prepared(tmp_path / "in", tmp_path / "out", "--channels", "DAPI,GFP")
    assert "1 images have pages without a description" in capsys.readouterr().out
    prepared(tmp_path / "in", tmp_path / "one", "--plane", "2")
    assert "pages without" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("attribute", "names", "order"),
    [
        ("Fluor", ("GFP", "DAPI"), [1, 0]),  # some microscopes say the dye alone
        ("Name", ("Channel:0:0", "Channel:0:1"), [0, 1]),
        ("Name", ("488", "405"), None),  # wavelengths are no places
    ],
)
def test_names_of_channels_in_ome(
    attribute: str, names: tuple[str, ...], order: list[int] | None, tmp_path: Path
) -> None:
    pixels = np.stack([np.full(SIZE, k, np.uint8) for k in (0, 1)])
    channels = "".join(f'<Channel {attribute}="{name}"/>' for name in names)
    sizes = f'SizeX="{SIZE[1]}" SizeY="{SIZE[0]}" SizeC="2" SizeZ="1" SizeT="1"'
    text = (
        f'<OME><Image><Pixels DimensionOrder="XYCZT" Type="uint8" {sizes}>{channels}<TiffData/></Pixels></Image></OME>'
    )
    tifffile.imwrite(
        tmp_path / "a.tif", pixels, photometric="minisblack", description=f"<?xml version='1.0'?>{text}", metadata=None
    )
    if order is None:
        with pytest.raises(DataError, match="calls its channels 488, 405, expected DAPI, GFP"):
            read_image([tmp_path / "a.tif"], 2, None, ("DAPI", "GFP"))
    else:
        assert read_image([tmp_path / "a.tif"], 2, None, ("DAPI", "GFP"))[0][:, 0, 0].tolist() == order
