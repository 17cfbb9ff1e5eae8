"""Small files from strangers through every reader: each refused in one line, within a second and 300 MB."""

import gzip
import io
import itertools
import json
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from forest_file import FEATURES, feature_classifier
from peak import at_most, soon
from PIL import Image
from roifile import ImagejRoi

from wsss.core import rasters
from wsss.core.checks import UserError
from wsss.core.csv_text import read_numbers, read_text
from wsss.core.files import read_json, read_lines, read_record
from wsss.core.label_maps import read_label_map
from wsss.core.labels import HPA, ClassList
from wsss.core.outlines import read_outlines
from wsss.core.parquet import read_parquet
from wsss.core.rasters import open_raster
from wsss.core.reading import parse_json, parse_yaml, read_npy
from wsss.data.augment import load_recipe
from wsss.data.build import ExistingSet, Spec, create_dataset, read_extra
from wsss.data.catalog import DataSet, read_manifest
from wsss.data.large import LargeImage, PolygonMask
from wsss.data.masks import read_mask, read_text_table, stack_objects
from wsss.data.pixels import read_image
from wsss.data.pseudo import PseudoSet
from wsss.data.tables import read_classes, read_labels
from wsss.feature_classifier.store import load_feature_classifier
from wsss.inference.hub import load_model, plain
from wsss.inference.tables import iter_cells, iter_submission, read_cells, read_images
from wsss.metrics.calibration import load_calibration
from wsss.models.cam_net import build_cam_net
from wsss.models.device import choose_device
from wsss.models.weights import load_weights
from wsss.options import infer as infer_options
from wsss.options.command_line import make_parser
from wsss.options.download import DownloadOptions
from wsss.options.infer import run_config
from wsss.options.parsing import parse, read_options
from wsss.options.recipe import ClassifyRecipe
from wsss.runs.run_folder import load_checkpoint, read_tensors
from wsss.segmenters.annotations import CocoMasks, TableMasks, paint, paint_outlines, read_regions
from wsss.segmenters.cell_unet import load_cell_unet
from wsss.stages.overlay import read_predictions

MORE_MEMORY = 300
Read = Callable[[Path], object]
"""Reads a file."""


def refuse(path: Path, read: Read) -> None:
    """Expect one line that names the file or its folder, soon, with little memory."""
    began = time.process_time()
    with at_most(MORE_MEMORY), pytest.raises(UserError) as caught:
        read(path)
    assert soon(began), path.name
    told = str(caught.value)
    assert "\n" not in told
    assert len(told) < 1500
    assert path.name in told or path.parent.name in told, told


def all_refused(folder: Path, name: str, read: Read, contents: dict[str, bytes]) -> None:
    """Put one content after the other into a file and expect that it is refused."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    for what, content in contents.items():
        path.write_bytes(content)
        try:
            refuse(path, read)
        except BaseException as error:
            error.add_note(f"the file was: {what}")
            raise


@pytest.fixture(autouse=True, scope="module")
def loaded() -> None:
    """Import what the readers import when first used, and build the first network: that is not theirs to answer for."""
    import pyarrow.compute
    import pyarrow.parquet  # noqa: F401
    import safetensors.torch  # noqa: F401

    build_cam_net(ClassifyRecipe(backbone="test_resnet", weights="none"), channels=4, classes=2, pretrained=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    images = {f"i{k}": np.full((4, 16, 16), k, np.uint8) for k in range(4)}
    folder = tmp_path_factory.mktemp("data") / "set"
    create_dataset(folder, images, {ID: [k % 2] for k, ID in enumerate(images)}, Spec(size=16, folds=2))
    return DataSet.open(folder)


JSON = {
    "nested": b"[" * 100_000,
    "nested and closed": b"[" * 100_000 + b"]" * 100_000,
    "nested names": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "a number of 5,000 digits": b'{"format": ' + b"1" * 5000 + b"}",
    "a name twice": b'{"format": 1, "format": 1, "images": [{"id": 1, "id": 1}], "type": "Point", "type": "Point"}',
    "half a character": b'{"library_name": "\\ud800"}',
    "no UTF-8": b'{"a": "\xff\xfe"}',
    "cut": b'{"format": 1, "ids": [',
    "nothing": b"",
    "zeros": bytes(1000),
    "a number": b"3",
    "null": b"null",
    "a word": b'"wsss"',
    "other names": b'{"format": "other", "networks": 3, "images": 3, "features": 3}',
    "of a later format": b'{"format": 99, "library_name": "wsss", "networks": [], "annotations": 1}',
    "a wrong digest": b'{"format": 1, "wsss_digest": "0123456789abcdef"}',
}
JSON_READERS: dict[str, tuple[str, Read]] = {
    "calibration": ("calibration.json", lambda path: load_calibration(path, 3)),
    "data set": ("dataset.json", lambda path: DataSet.open(path.parent)),
    "prepare": ("dataset.json", lambda path: ExistingSet.read(path.parent)),
    "manifest": ("dataset.json", lambda path: read_manifest(path.parent)),
    "COCO": ("masks.json", CocoMasks),
    "polygons": ("a.geojson", lambda path: PolygonMask(path, (10, 10))),
    "record": ("provenance.json", lambda path: read_record(path, "options")),
}


@pytest.mark.parametrize("reader", JSON_READERS)
def test_hostile_json(reader: str, tmp_path: Path) -> None:
    name, read = JSON_READERS[reader]
    all_refused(tmp_path, name, read, JSON)


def test_hostile_records_of_models_and_pseudo_masks(tmp_path: Path, data: DataSet) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    all_refused(tmp_path, "config.json", lambda path: load_model(path.parent, choose_device("cpu")), JSON)
    all_refused(tmp_path, "pseudo.json", lambda path: PseudoSet.open(path.parent, data), JSON)


YAML = {
    "anchors that blow up": b"a: &a [x,x,x,x,x,x,x,x,x]\n"
    + b"".join(b"%c: &%c [%s]\n" % (98 + k, 98 + k, b",".join([b"*%c" % (97 + k)] * 9)) for k in range(9)),
    "one anchor": b"names: &a [x, y]\nmore: *a\n",
    "an anchor within itself": b"&a [*a]\n",
    "merged": b"names: &a {x: 1}\nmore: {<<: *a}\n",
    "nested": b"[" * 100_000,
    "nested and closed": b"a: " + b"[" * 100_000 + b"]" * 100_000,
    "nested blocks": b"- " * 100_000 + b"a",
    "a number of 5,000 digits": b"epochs: " + b"1" * 5000,
    "a number to the base of 60": b"epochs: 1" + b":1" * 200_000,
    "no date": b"epochs: !!timestamp x",
    "no number": b"epochs: !!int ''",
    "no truth": b"epochs: !!bool maybe",
    "a date that is none": b"epochs: 2001-99-99",
    "a tag of Python": b"epochs: !!python/object/apply:os.getcwd []",
    "more than a megabyte": b"# " + b"x" * 2**20,
    "a quarter of a megabyte of items": b"- a\n" * 2**16 + b"- a",
    "no UTF-8": b"a: \xff\xfe",
    "zeros": bytes(100),
    "keys that are lists": b"? [a, b]\n: 1\n",
}
train_parser = cache(lambda: make_parser("train", "", "", ClassifyRecipe))
YAML_READERS: dict[str, tuple[str, Read]] = {
    "classes": ("classes.yaml", read_classes),
    "augmentation": ("augment.yaml", load_recipe),
    "run": ("config.yaml", lambda path: run_config(path.parent)),
    "options": (
        "options.yaml",
        lambda path: parse(train_parser(), ["--config", str(path)], ClassifyRecipe),
    ),
}


@pytest.mark.parametrize("reader", YAML_READERS)
def test_hostile_yaml(reader: str, tmp_path: Path) -> None:
    name, read = YAML_READERS[reader]
    all_refused(tmp_path, name, read, YAML)


CSV = {
    "a million columns": b"ID," + b",".join(b"%d" % k for k in range(1_000_000)),
    "a first line of 3 MB": b"ID" + b"x" * 3_000_000,
    "no UTF-8": b"ID,Label\n\xff\xfe,\x80\n",
    "nothing": b"",
    "an open quote": b'ID,"Label\n' + b"a,1\n" * 1000,
    "one name twice": b"ID,ID,ID\na,b,c\n",
    "a wrong header": b"x,y\n1,2\n",
}
CSV_READERS: dict[str, tuple[str, Read]] = {
    "text": ("t.csv", lambda path: read_text(path, ["ID", "Label"])),
    "label table": ("train.csv", lambda path: read_labels(path, HPA)),
    "cells": ("cells.csv", lambda path: read_cells(path.parent)),
    "images": ("images.csv", lambda path: read_images(path.parent)),
    "masks": ("masks.csv", TableMasks),
    "mask set": ("train.csv", lambda path: read_text_table(path, ("id", "rle_mask"))),
    "submission": ("submission.csv", lambda path: list(iter_submission(path, 3))),
}


@pytest.mark.parametrize("reader", CSV_READERS)
def test_hostile_csv(reader: str, tmp_path: Path) -> None:
    name, read = CSV_READERS[reader]
    all_refused(tmp_path, name, read, CSV)


def header(text: str) -> bytes:
    """Return an .npy file with any header."""
    padded = text.encode().ljust(118 - 10) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded + bytes(64)


def shaped(shape: str, kind: str = "|u1") -> bytes:
    return header(f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}")


NPY = {
    "a shape of 10**12": shaped("(1000000, 1000000)"),
    "a shape of 10**30": shaped("(1000000000000000, 1000000000000000)"),
    "a negative shape": shaped("(-1, 4)"),
    "a shape that is no number": shaped("('a', 4)"),
    "a shape of one more than there is": shaped("(65, 1)"),
    "objects": shaped("(2, 2)", "|O"),
    "an unknown type": shaped("(2, 2)", "|?99"),
    "an open bracket": header("{'descr': '|u1', 'shape': ((((((("),
    "brackets": header("(" * 100),
    "nothing in the header": header(""),
    "another version": b"\x93NUMPY\x09\x00" + bytes(100),
    "nothing": b"",
    "zeros": bytes(300),
}
NPY_READERS: dict[str, tuple[str, Read]] = {
    "label map": ("a.npy", read_label_map),
    "array": ("a.npy", lambda path: read_npy(path, "Again.")),
    "mapped": ("a.npy", lambda path: read_npy(path, "Again.", mapped=True)),
    "large image": ("a.npy", LargeImage),
    "thumbnails": ("sources/main/thumbnails.npy", lambda path: read_extra(path.parents[2], "main", "thumbnails")),
}


@pytest.mark.parametrize("reader", NPY_READERS)
def test_hostile_npy(reader: str, tmp_path: Path) -> None:
    name, read = NPY_READERS[reader]
    all_refused(tmp_path, name, read, NPY)


def zipped(member: str, content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr(member, content)
    return stream.getvalue()


def test_hostile_npz(tmp_path: Path, data: DataSet) -> None:
    contents = {what: zipped("cells.npy", content) for what, content in NPY.items()}
    all_refused(tmp_path, "a.npz", read_label_map, contents)
    manifest = {"size": 16, "classes": ["a", "b"]}
    contents = {what: zipped("classes.npy", content) for what, content in NPY.items()}
    contents["300 MB in 1 MB"] = zipped("classes.npy", shaped("(300000000,)") + bytes(300_000_000))
    read = partial(_masks, PseudoSet(tmp_path, manifest))
    all_refused(tmp_path / "masks", "i0.npz", read, contents)


def _masks(masks: PseudoSet, path: Path) -> object:
    return masks.masks(path.stem)


def crowded(rows: int, content: dict[str, Any]) -> bytes:
    """Return Parquet of very many equal rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    stream = io.BytesIO()
    part = pa.table({name: pa.array([value] * 500_000) for name, value in content.items()})
    with pq.ParquetWriter(stream, part.schema) as writer:
        for _ in range(rows // 500_000):
            writer.write_table(part)
    return stream.getvalue()


def test_hostile_parquet(tmp_path: Path) -> None:
    geometry = dict.fromkeys(("cell_id", "fold", "ImageHeight", "ImageWidth", "center_y", "center_x"), 1)
    geometry |= dict.fromkeys(("y0", "x0", "y1", "x1", "area_px"), 1)
    many = crowded(5_000_000, {"ID": "a", "0": 0.5, "1": 0.5, "rle": "0", **geometry})
    assert len(many) < 1_000_000
    contents = {
        "five million rows in less than a megabyte": many,
        "cut": many[:-1000],
        "only the end": many[-1000:],
        "nothing": b"",
        "the mark alone": b"PAR1PAR1",
        "a footer longer than the file": b"PAR1" + b"\xff\xff\xff\x7fPAR1",
        "zeros": b"PAR1" + bytes(1000) + b"\x10\x00\x00\x00PAR1",
    }
    all_refused(tmp_path, "cells.parquet", read_parquet, contents)
    all_refused(tmp_path, "cells.parquet", lambda path: read_cells(path.parent), contents)
    all_refused(tmp_path, "cells.parquet", lambda path: list(iter_cells(path.parent)), contents)
    data: Any = SimpleNamespace(folder=tmp_path, classes=ClassList(("x", "y"), None))
    all_refused(tmp_path, "cells.parquet", lambda path: read_predictions(path.parent, data, ["a"], 0.5), contents)
    all_refused(tmp_path, "masks.parquet", TableMasks, contents)


def coco(segmentation: Any, size: tuple[Any, Any] = (100, 100), **more: Any) -> bytes:
    image = {"id": 1, "file_name": "a.png", "height": size[0], "width": size[1]} | more.pop("image", {})
    annotation = {"id": 1, "image_id": 1, "segmentation": segmentation} | more
    return json.dumps({"images": [image], "annotations": [annotation]}).encode()


def test_hostile_polygons(tmp_path: Path) -> None:
    far = [float(k % 3 * 400_000 - 400_000 * (k % 2)) for k in range(100)]
    square = [1.0, 1.0, 5.0, 1.0, 5.0, 5.0, 1.0, 5.0]
    contents = {
        "far outside": coco([far]),
        "just within the numbers": coco([[999_999.0, 0.0, 0.0, 999_999.0, 999_999.0, 999_999.0]]),
        "an image of 10**18 pixels": coco([square], (10**9, 10**9)),
        "an image of no pixels": coco([square], (0, 100)),
        "an image of infinite height": coco([square], (float("inf"), 100)),
        "run lengths beyond the image": coco({"size": [100, 100], "counts": [2**40, 10_000 - 2**40]}),
        "run lengths below zero": coco({"size": [100, 100], "counts": [-5, 10_005]}),
        "broken run-length text": coco({"size": [100, 100], "counts": "\x7f" * 50}),
        "an id that is a list": coco([square], image_id=[1]),
        "an image whose id is a list": coco([square], image={"id": [1]}),
        "an id below one": coco([square], id=-3),
    }
    strays = {
        "not a number": coco([[float("nan"), 1.0, 5.0, 1.0, 5.0, 5.0]]),
        "infinite": coco([[float("inf"), 1.0, 5.0, 1.0, 5.0, 5.0]]),
        "too large a number": coco([[1e308, 1.0, 5.0, 1.0, 5.0, 5.0]]),
        "a number of 300 digits": coco([[10**300, 1, 5, 1, 5, 5]]),
        "two corners": coco([[1.0, 1.0, 5.0, 5.0]]),
        "half a corner": coco([[*square, 1.0]]),
        "no polygon": coco([]),
        "an empty polygon": coco([[]]),
        "words": coco([["a"] * 8]),
    }
    good = json.loads(coco([square], id=2))["annotations"]
    for what, content in strays.items():  # cost themselves, not the image
        file = json.loads(content)
        (tmp_path / "strays.json").write_text(json.dumps(file | {"annotations": file["annotations"] + good}))
        painted = paint(CocoMasks(tmp_path / "strays.json").masks("a", (100, 100)))
        assert np.unique(painted).tolist() == [0, 2], what
    all_refused(tmp_path, "masks.json", CocoMasks, strays)
    all_refused(tmp_path, "masks.json", lambda path: paint(CocoMasks(path).masks("a", (100, 100))), contents)
    rings = {
        "far": [[0, 0], [1e300, 0], [1, 1]],
        "nan": [[0, float("nan")], [1, 0], [1, 1]],
        "words": [["a", "b"], [1, 0], [1, 1]],
        "two": [[0, 0], [1, 1]],
        "ragged": [[0], [1, 0, 0, 0], [1]],
    }
    geo = {
        what: json.dumps([{"geometry": {"type": "Polygon", "coordinates": [ring]}}]).encode()
        for what, ring in rings.items()
    }
    all_refused(tmp_path, "a.geojson", lambda path: PolygonMask(path, (10, 10)), geo)


@cache
def png(size: int, height: int | None = None) -> bytes:
    """Return a black PNG that is large and packed small, square if no height is given."""
    height = height or size

    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    pack = zlib.compressobj(6)
    rows = b"".join(pack.compress(bytes(size + 1)) for _ in range(height)) + pack.flush()
    head = size.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def progressive(scans: int) -> bytes:
    """Return a JPEG that passes over its pixels again and again."""
    stream = io.BytesIO()
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(stream, "JPEG", progressive=True)
    content = stream.getvalue()
    return content[:-2] + content[content.rindex(b"\xff\xda") : -2] * scans + content[-2:]


def jpeg_in_tiff(content: bytes) -> bytes:
    """Return a TIFF of 16 x 16 px whose only strip is a JPEG."""
    stream = io.BytesIO()
    where = {"shape": (16, 16), "dtype": np.uint8, "compression": "jpeg", "photometric": "minisblack"}
    tifffile.imwrite(stream, iter([content]), rowsperstrip=16, metadata=None, **where)
    return stream.getvalue()


def ome_tiff(xml: str) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, np.zeros((16, 16), np.uint8), description=xml, metadata=None)
    return stream.getvalue()


@cache
def tiff(**options: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, np.zeros((9000, 9000), np.uint8), metadata=None, **options)
    return stream.getvalue()


def test_hostile_pictures(tmp_path: Path) -> None:
    pixels = '<Pixels SizeX="16" SizeY="16" SizeC="1" SizeT="1" SizeZ="{}">{}</Pixels>'
    part = bytes(4) + b"tEXt" + zlib.crc32(b"tEXt").to_bytes(4, "big")
    laughs = "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in itertools.pairwise("abcdefghij"))
    contents = {
        "81 MB in a few hundred kB": png(9000),
        "a line of 200,000 pixels": png(1, 200_000),
        "a PNG of 200,000 parts": png(16)[:-12] + 200_000 * part + png(16)[-12:],
        "a JPEG of 2,000 scans": progressive(2000),
        "the same in a TIFF": jpeg_in_tiff(progressive(2000)),
        "a million planes": ome_tiff(f"<OME><Image>{pixels.format(2**20, '')}</Image></OME>"),
        "a million planes, over and over": ome_tiff(
            f"<OME><Image>{pixels.format(2**16, '<TiffData/>' * 5000)}</Image></OME>"
        ),
        "a hundred images of many planes": ome_tiff(
            "<OME>" + f"<Image>{pixels.format(2**16, '')}</Image>" * 100 + "</OME>"
        ),
        "a million tags": ome_tiff(f"<OME>{'<a/>' * 1_000_000}</OME>"),
        "entities that blow up": ome_tiff(f'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">{laughs}]><OME>&j;</OME>'),
        "an entity of another file": ome_tiff('<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><OME>&a;</OME>'),
        "zstd": tiff(compression="zstd"),
        "deflate": tiff(compression="zlib"),
    }
    for name in ("a.png", "a.ome.tif"):  # told by their content
        all_refused(tmp_path, name, shown, contents)


def shown(path: Path) -> np.ndarray:
    with open_raster(path) as raster:
        return raster.shown()


def test_hostile_masks(tmp_path: Path) -> None:
    size = (4000, 4000)
    full = [0.0, 0.0, 3999.0, 0.0, 3999.0, 3999.0, 0.0, 3999.0]
    image = {"id": 1, "file_name": "a.png", "height": size[0], "width": size[1]}

    def of(segmentation: Any, count: int) -> bytes:
        found = [{"id": k + 1, "image_id": 1, "segmentation": segmentation} for k in range(count)]
        return json.dumps({"images": [image], "annotations": found}).encode()

    contents = {
        "polygons of 48 million pixels round": of([full], 3000),
        "polygons that cover the image 300 times": of([full], 300),
        "run lengths that cover the image 300 times": of({"size": list(size), "counts": [0, 16_000_000]}, 300),
    }
    all_refused(tmp_path, "masks.json", lambda path: paint(CocoMasks(path).masks("a", size)), contents)
    ring = [[float(k % 2 * 3999), k / 3] for k in range(9_990)]
    geo = {
        "a comb": json.dumps([{"geometry": {"type": "Polygon", "coordinates": [ring]}}] * 2).encode(),
    }

    def outlines(path: Path) -> object:
        found = read_outlines(path)
        return paint_outlines(found.ids, found.cells, size, path)

    (tmp_path / "a.geojson").write_bytes(geo["a comb"])
    for read in (outlines, lambda path: PolygonMask(path, size).read(0, size[0], 0, size[1])):
        with at_most(MORE_MEMORY):
            assert read(tmp_path / "a.geojson") is not None  # painted row by row, at once
    packed = {
        "20 MB of empty lists": gzip.compress(b"[" + b"[]," * 7_000_000 + b"[]]"),
        "70 MB of blanks": gzip.compress(b"[" + b" " * 70_000_000 + b"]", 1),
        "cut": gzip.compress(b"[1, 2, 3]")[:-6],
        "no gzip": b"\x1f\x8b" + bytes(30),
    }
    all_refused(tmp_path, "a.json", read_json, packed)
    arrays = {"72 MB": zipped("x.npy", shaped("(3000, 3000)", "<i8") + bytes(3000 * 3000 * 8))}
    all_refused(tmp_path, "a.npz", read_label_map, arrays)


def test_parquet_texts_that_are_stored_once_are_counted(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = pa.array(["x" * 10_000] * 20_000)
    kinds = {
        "text": texts,
        "large text": texts.cast(pa.large_string()),
        "bytes": texts.cast(pa.binary()),
        "categories": texts.dictionary_encode(),
        "lists": pa.array([["x"]]),
        "records": pa.array([{"a": "x"}]),
    }
    for what, values in kinds.items():
        pq.write_table(pa.table({"ID": values}), tmp_path / "cells.parquet", compression="zstd")
        assert (tmp_path / "cells.parquet").stat().st_size < 10_000, what
        refuse(tmp_path / "cells.parquet", read_parquet)
    pq.write_table(pa.table({"ID": texts, "rle": texts}), tmp_path / "cells.parquet", compression="zstd")
    refuse(tmp_path / "cells.parquet", lambda path: list(iter_cells(path.parent)))
    pq.write_table(pa.table({f"c{k}": pa.nulls(200_000) for k in range(90)}), tmp_path / "cells.parquet")
    refuse(tmp_path / "cells.parquet", read_parquet)
    good = pa.table({"ID": ["a", "b", None], "Label": pa.array(["x", "y", "x"]).dictionary_encode(), "n": [1, 2, 3]})
    pq.write_table(good, tmp_path / "good.parquet")
    found = read_parquet(tmp_path / "good.parquet")
    assert found.ID.tolist()[:2] == ["a", "b"]
    assert found.Label.tolist() == ["x", "y", "x"]


def test_large_blank_maps_are_read_at_the_size_of_their_image_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blank = {"PNG": png(8200), "deflate": tiff(compression="zlib")}
    all_refused(tmp_path, "a.png", lambda path: read_label_map(path, (64, 64)), blank)
    all_refused(tmp_path, "a.png", lambda path: read_mask(path, (64, 64), path), blank)
    monkeypatch.setattr(rasters, "MOST_BLANK", rasters.MOST_BLANK // 16)  # as large, but quicker to read
    monkeypatch.setattr(rasters, "MOST_BLOWN_UP", rasters.MOST_BLOWN_UP // 16)
    blank = {"PNG": png(2050)}
    all_refused(tmp_path, "a.png", lambda path: read_label_map(path, (64, 64)), blank)
    assert read_label_map(tmp_path / "a.png", (64, 64), (2050, 2050)).shape == (2050, 2050)
    assert not read_mask(tmp_path / "a.png", (2050, 2050), tmp_path).any()
    (tmp_path / "a.png").write_bytes(png(1425))  # needs no size
    assert read_label_map(tmp_path / "a.png").shape == (1425, 1425)


def network(**changes: Any) -> dict[str, Any]:
    recipe = {"backbone": "test_resnet", "weights": "none"} | changes.pop("recipe", {})
    facts = {"name": "fold0", "recipe": recipe, "classes": ["a"], "negative": None, "channels": ["r"], "size": 64}
    return {**facts, "fold": 0, "versions": {"wsss": "1"}, **changes}


def test_coco_files_of_odd_values_are_refused_or_lose_the_annotation(tmp_path: Path) -> None:
    image = {"id": 1, "file_name": "A.png", "height": 64, "width": 64}
    whole = {"id": 1, "image_id": 1, "segmentation": [[1, 1, 40, 1, 40, 40]]}

    def file(*others: Any, **more: Any) -> bytes:
        return json.dumps({"images": [image], "annotations": [whole | more, *others]}).encode()

    contents = {name: file(**{name: {"a": 1}}) for name in ("image_id", "category_id")}
    all_refused(tmp_path, "c.json", CocoMasks, contents)
    strays: list[Any] = [[[1e308] * 8], [["1", "2", "30", "4", "9", "20"]], [[True, False, True, True, 9, 9]]]
    for stray in strays:
        (tmp_path / "c.json").write_bytes(file(whole | {"id": 2}, segmentation=stray))
        coco = CocoMasks(tmp_path / "c.json")
        assert coco.masks("A", (64, 64)).ids == [2]
        assert "are left out" in coco.notes[0]


def test_large_coco_files_cost_in_proportion(tmp_path: Path) -> None:
    corners = np.array([0, 0, 8, 0, 8, 8, 0, 8]) + np.repeat(np.arange(10_000) // 100 * 10, 8).reshape(-1, 8)
    corners[:, 1::2] += (np.arange(10_000) % 100 * 10)[:, None] - corners[:, :1]
    image = {"id": 1, "file_name": "A.png", "height": 1000, "width": 1000}
    every = [{"id": k + 1, "image_id": 1, "segmentation": [ring]} for k, ring in enumerate(corners.tolist())]
    (tmp_path / "c.json").write_text(json.dumps({"images": [image], "annotations": every}))
    began = time.process_time()
    with at_most(MORE_MEMORY):
        cells = paint(CocoMasks(tmp_path / "c.json").masks("A", (1000, 1000)))
    assert soon(began)
    np.testing.assert_array_equal(np.unique(cells, return_counts=True)[1][1:], np.full(10_000, 64))


def test_hostile_metadata_of_pictures(tmp_path: Path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "plain.png")
    plain, xmp = (tmp_path / "plain.png").read_bytes(), b"XML:com.adobe.xmp\0"
    loop = b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIII", 0x8769, 4, 1, 8, 8)
    read: dict[str, bytes] = {
        "an EXIF that points at itself": chunk(b"eXIf", loop),
        "an EXIF in text that does": chunk(b"tEXt", b"Raw profile type exif\0\nexif\n 26\n" + loop.hex().encode()),
        "blanks": chunk(b"iTXt", xmp + b"\0\0\0\0tiff:Orientation" + b" " * 900_000),
    }
    for what, more in read.items():
        (tmp_path / "a.png").write_bytes(plain[:33] + more + plain[33:])
        began = time.process_time()
        with at_most(MORE_MEMORY), open_raster(tmp_path / "a.png") as raster:
            assert raster.orientation == 1, what
        assert soon(began), what
    refused = {
        "texts": chunk(b"iTXt", xmp + b"\0\0\0\0tiff:Orientation") * 60_000,
        "packed texts": chunk(b"zTXt", xmp + b"\0" + zlib.compress(bytes(10**6))) * 1500,
    }
    files = {what: plain[:33] + more + plain[33:] for what, more in refused.items()}
    all_refused(tmp_path, "a.png", lambda path: read_image([path], 1), files)


def test_hostile_label_texts(tmp_path: Path) -> None:
    def table(label: str) -> bytes:
        return f'ID;Label\na;"{label}"\n'.encode()

    contents = {
        "commas": table("," * 500_000),
        "names and one that is none": table("Cytosol," * 30_000 + "nothing"),
        "words between": table("Cytosol and " * 30_000 + "nothing"),
        "signs": table("".join(chr(0x2000 + k % 5000) + "0" for k in range(100_000))),
    }
    all_refused(tmp_path, "a.csv", lambda path: read_labels(path, HPA), contents)


def test_a_label_map_of_32_bits_is_not_copied(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.ones((6000, 6000), np.uint32), photometric="minisblack")
    with at_most(250):
        assert read_label_map(tmp_path / "a.tif").sum() == 6000 * 6000


def test_hostile_models(tmp_path: Path) -> None:
    def config(*networks: Any, **more: Any) -> bytes:
        return json.dumps({"library_name": "wsss", "format": 1, "networks": list(networks)} | more).encode()

    contents = {
        "a million classes": config(network(classes=[f"c{k}" for k in range(1_000_000)])),
        "a million channels": config(network(channels=[f"c{k}" for k in range(1_000_000)])),
        "a class of a megabyte": config(network(classes=["x" * 2**20])),
        "a million networks": config(*[1] * 1_000_000),
        "no network": config(),
        "networks that are none": config(3, None),
        "a name that is a path": config(network(name="../../x")),
        "classes that are numbers": config(network(classes=[1, 2])),
        "one class twice": config(network(classes=["a", "a"])),
        "a negative class beyond": config(network(negative=1)),
        "a fold that is a word": config(network(fold="x")),
        "an image of 10**9": config(network(size=10**9)),
        "options that are a list": config(network(recipe={"score": [1, 2]})),
        "an unknown option": config(network(recipe={"newer": 1})),
        "an option that is a word": config(network(recipe={"epochs": "many"})),
        "an option out of range": config(network(recipe={"crop": -7})),
        "an unknown network": config(network(recipe={"backbone": "../../etc"})),
        "a network of the hub": config(network(recipe={"backbone": "hf-hub:me/it"})),
        "a network of a folder": config(network(recipe={"backbone": "local-dir:/tmp"})),
        "files that lie elsewhere": config(network(), files={"model.safetensors": "0", "../x": "1"}),
        "files that are no list": config(network(), files=3),
        "a wrong digest of its weights": config(network(), files={"model.safetensors": "0"}),
    }
    (tmp_path / "model.safetensors").write_bytes(b"")
    all_refused(tmp_path, "config.json", lambda path: load_model(path.parent, choose_device("cpu")), contents)


def test_hostile_forests(tmp_path: Path) -> None:
    (tmp_path / "good").write_bytes(feature_classifier())
    assert load_feature_classifier(tmp_path / "good", FEATURES).predict(np.zeros((2, len(FEATURES)))).shape == (2, 3)
    (tmp_path / "good").write_bytes(
        feature_classifier(linear_intercept=np.array([0, -np.inf]))
    )  # a class that no cell had
    assert np.isfinite(load_feature_classifier(tmp_path / "good", FEATURES).predict(np.zeros((2, len(FEATURES))))).all()
    inner = np.array([0, 0, -1], np.int16)
    contents = {
        "a node that is its own child": feature_classifier(forest_left=np.array([0, 1, 2], np.int32)),
        "a node below itself": feature_classifier(forest_feature=inner, forest_left=np.array([1, 0, 2], np.int32)),
        "a child beyond": feature_classifier(forest_right=np.array([9, 1, 2], np.int32)),
        "a child below zero": feature_classifier(forest_left=np.array([-1, 1, 2], np.int32)),
        "a root beyond": feature_classifier(forest_roots=np.array([7], np.int32)),
        "no root": feature_classifier(forest_roots=np.zeros(0, np.int32)),
        "a feature beyond": feature_classifier(forest_feature=np.array([30_000, -1, -1], np.int16)),
        "an unknown leaf": feature_classifier(forest_feature=np.array([0, -2, -1], np.int16)),
        "values of another shape": feature_classifier(forest_value=np.ones((3, 5), np.float32)),
        "values that are no numbers": feature_classifier(forest_value=np.full((3, 2), np.nan, np.float32)),
        "a class beyond": feature_classifier(classes=np.array([0, 7])),
        "no class": feature_classifier(classes=np.zeros(0, np.int64)),
        "quantiles of another shape": feature_classifier(linear_quantiles=np.zeros((5, 1))),
        "weights that are infinite": feature_classifier(linear_weights=np.full((2, len(FEATURES)), np.inf)),
        "intercepts that are no numbers": feature_classifier(linear_intercept=np.array([0, np.nan])),
        "no class that is ever likely": feature_classifier(linear_intercept=np.full(2, -np.inf)),
        "more arrays": feature_classifier(forest_more=np.zeros(1)),
    }
    all_refused(
        tmp_path, "feature_classifier.safetensors", lambda path: load_feature_classifier(path, FEATURES), contents
    )


def test_hostile_checkpoints(tmp_path: Path) -> None:
    from safetensors.torch import save

    heads = {
        "nested": "[" * 100_000,
        "a number of 5,000 digits": '{"format": ' + "1" * 5000 + "}",
        "a list": "[1]",
        "a number": "3",
        "of a later format": '{"format": "wsss-7"}',
        "without digest": '{"format": "wsss-1", "meta": "{}"}',
        "a record that is a number": '{"format": "wsss-1", "meta": 3, "digest": "0"}',
    }
    contents = {what: save({"w": torch.ones(2)}, {"wsss": head}) for what, head in heads.items()}
    all_refused(tmp_path, "last.safetensors", load_checkpoint, contents)
    all_refused(tmp_path, "unet.safetensors", load_cell_unet, contents)


def test_weights_that_are_no_numbers_are_named() -> None:
    net = torch.nn.Linear(2, 1)
    for value in (float("nan"), float("inf")):
        with pytest.raises(UserError, match=r"no numbers \(NaN or infinite\) in bias: train again"):
            load_weights(net, {"weight": torch.zeros(1, 2), "bias": torch.tensor([value])})


def test_hostile_lists_of_ids(tmp_path: Path) -> None:
    all_refused(tmp_path, "ids.txt", read_lines, {"no UTF-8": b"\xff\xfe\x00", "half a character": b"a\nb\xc3"})


@pytest.mark.parametrize(
    "base", ["http://[::1", "http://", "ftp://a", "http://a:99999999", "http://a:x", "https://[x]"]
)
def test_addresses_that_are_none_are_refused_before_work(base: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--base is"):
        DownloadOptions(out=tmp_path, ids="1/1_A1_1", base=base)


def test_a_name_that_comes_twice_in_json_is_named() -> None:
    with pytest.raises(UserError, match=r"a\.json gives 'id' twice: keep one"):
        parse_json('{"images": [{"id": 1, "file_name": "a", "id": 2}]}', "a.json")


def test_plain_files_of_all_kinds_are_still_read() -> None:
    assert parse_json('{"a": "\\ud83d\\ude00", "b": 1e5}', "a") == {"a": "\U0001f600", "b": 1e5}
    assert parse_yaml("a: [1, 2.5, x]\nb: {c: null, d: true}\n", "a") == {
        "a": [1, 2.5, "x"],
        "b": {"c": None, "d": True},
    }


def stretched(path: Path, start: bytes, end: bytes = b"", size: int = 2**31 + 2**20) -> None:
    """Write a file of two gigabytes that holds its two ends, and takes no room for the zeros between them."""
    with path.open("wb") as stream:
        stream.write(start)
        stream.truncate(size)
        stream.seek(0, io.SEEK_END)
        stream.write(end)


def parquet() -> bytes:
    stream = io.BytesIO()
    pd.DataFrame({"ID": ["a"], "rle": ["1"]}).to_parquet(stream)
    return stream.getvalue()


def zip_end(listed: int) -> bytes:
    """Return the end of an archive whose list of files has so many bytes."""
    return struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, listed, 0, 0)


STRETCHED: dict[str, tuple[Read, bytes, bytes]] = {
    "empty.json": (CocoMasks, b"", b""),
    "a.json": (CocoMasks, b'{"images": [', b"]}"),
    "b.json": (CocoMasks, '{"images": ['.encode("utf-16"), b""),
    "c.json.gz": (CocoMasks, gzip.compress(b'{"images": [1, 2'), b""),
    "d.json.gz": (CocoMasks, gzip.compress(b'{"images": [1, 2')[:-12], b""),
    "a.geojson": (lambda path: read_outlines(path), b"[", b"]"),
    "empty.parquet": (TableMasks, b"", b""),
    "a.parquet": (TableMasks, b"PAR1", b"PAR1"),
    "b.parquet": (TableMasks, b"PAR1", struct.pack("<I4s", 2**31 - 1, b"PAR1")),
    "c.parquet": (TableMasks, b"PAR1", parquet()[4:]),
    "a.csv": (TableMasks, b"ID,rle\n", b"\n"),
    "b.csv": (lambda path: read_labels(path, HPA), b"ID,Label\na,1\nb,", b""),
    "skip.txt": (read_lines, b"a\nb\n", b"c"),
    "a.yaml": (read_classes, b"names: [a, b]\n", b""),
    "a.npz": (read_label_map, b"PK\3\4", zip_end(2**31 - 1)),
    "a.zip": (lambda path: read_regions(path), b"PK\3\4", zip_end(2**31 - 1)),
    "a.png": (read_label_map, png(16), b""),
    "b.png": (read_label_map, png(16)[:33] + struct.pack(">I4s", 2**31 - 1, b"tEXt"), png(16)[33:]),
    "a.pth": (read_tensors, b"PK\3\4", zip_end(2**31 - 1)),
}


@pytest.mark.parametrize("name", STRETCHED)
def test_files_of_zeros_are_refused_before_they_are_read(name: str, tmp_path: Path) -> None:
    read, start, end = STRETCHED[name]
    stretched(tmp_path / name, start, end)
    refuse(tmp_path / name, read)


@pytest.mark.parametrize("kind", ["json", "csv", "utf-16"])
def test_zeros_beyond_the_first_block_are_noticed_and_texts_without_them_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind}"
    rows = "".join(f"i{k},{k}\n" for k in range(100_000))
    text = json.dumps(list(range(180_000))) if kind == "json" else f"ID,n\n{rows}"
    read: Read = read_json if kind == "json" else lambda path: read_text(path).n.astype(int).tolist()
    path.write_text(text, encoding="utf-16" if kind == "utf-16" else "utf-8")
    assert read(path) == list(range(180_000 if kind == "json" else 100_000))
    content = path.read_bytes()
    path.write_bytes(content[: 2**20] + bytes(64) + content[2**20 :])
    with pytest.raises(UserError, match="zeros where text is expected"):
        read(path)


def test_json_in_several_parts_of_gzip_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json.gz"
    path.write_bytes(gzip.compress(b"[1, ") + gzip.compress(b"2]") + bytes(600))
    assert read_json(path) == [1, 2]


def test_jpegs_whose_passes_cover_many_pixels_are_refused(tmp_path: Path) -> None:
    """Forty passes would be few for a small picture."""
    content = progressive(40).replace(struct.pack(">HH", 16, 16), struct.pack(">HH", 4000, 4000), 1)
    filled = content.replace(b"\xff\xc2", b"filling\xff\xff\xc2", 1)
    tiff = jpeg_in_tiff(content)
    for name, given in {"a.jpg": content, "b.jpg": filled, "c.tif": tiff}.items():
        (tmp_path / name).write_bytes(given)
        with (
            pytest.raises(UserError, match=rf"{name} passes over \d+ pixels in \d+ bytes"),
            open_raster(tmp_path / name) as raster,
        ):
            raster.decode()
    with open_raster(progressive(40)) as raster:
        assert raster.decode().shape == (16, 16, 1)


def test_a_log_of_words_is_no_number(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("epoch,val_loss\n0,0.5\n1,oops\n")
    assert read_numbers(tmp_path / "log.csv")["val_loss"].isna().tolist() == [False, True]


def test_options_of_a_newer_version_are_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("epochs: 3\nnewer: 1\n")
    with pytest.raises(UserError, match=r"newer.*If it stands in a file of a newer wsss, update wsss or take it out"):
        parse(train_parser(), ["--config", str(path)], ClassifyRecipe)
    for text, name in (("score: {newer: 1}\n", "newer"), ("crops: 3\n", "crops"), ("score: {weight: x}\n", "weight")):
        path.write_text(text)
        with pytest.raises(UserError, match=rf"config\.yaml.*{name}"):
            read_options("infer", infer_options, ["--run", str(tmp_path), "--data", str(tmp_path)])


def test_names_of_classes_are_plain_text_in_the_card_of_a_model() -> None:
    assert plain("<img src=x onerror=alert(1)>") == "&lt;img src=x onerror=alert\\(1\\)&gt;"
    assert plain("a\n\n# [b](http://c) `d`") == "a \\# \\[b\\]\\(http://c\\) \\`d\\`"


@pytest.mark.parametrize("codec", ["zlib", "gzip", "bz2", "lzma", "zstd", "lz4", "blosc"])
def test_chunks_of_an_ome_zarr_unpack_to_what_its_array_says(codec: str, tmp_path: Path) -> None:
    numcodecs = pytest.importorskip("numcodecs")
    pack = numcodecs.registry.codec_registry[codec]()
    size, about = (64, 64), {"zarr_format": 2, "dtype": "|u1", "fill_value": 0, "order": "C", "filters": None}
    attributes = {"multiscales": [{"axes": ["c", "y", "x"], "datasets": [{"path": "0"}]}]}
    chunks = {"right": np.full(size, 7, np.uint8).tobytes(), "bomb": bytes(2**25), "cut": b""}
    for what, content in chunks.items():
        folder = tmp_path / f"{what}.zarr"
        (folder / "0").mkdir(parents=True)
        (folder / ".zgroup").write_text('{"zarr_format": 2}')
        (folder / ".zattrs").write_text(json.dumps(attributes))
        array = about | {"shape": [1, *size], "chunks": [1, *size], "compressor": pack.get_config()}
        (folder / "0" / ".zarray").write_text(json.dumps(array))
        (folder / "0" / "0.0.0").write_bytes(bytes(pack.encode(content)) if content else b"")
    assert (read_image([tmp_path / "right.zarr"], 1)[0] == 7).all()
    for what, words in (("bomb", "unpacks to more than the 69632 bytes"), ("cut", "cut.zarr cannot be read")):
        refuse(tmp_path / f"{what}.zarr", lambda path: read_image([path], 1))
        with pytest.raises(UserError, match=words):
            read_image([tmp_path / f"{what}.zarr"], 1)


def test_zarr_arrays_that_are_mostly_missing_or_have_no_end_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    arrays = {
        "400 MB without a chunk": ([1, 20_000, 20_000], [1, 20_000, 20_000]),
        "a chunk of 400 MB": ([1, 64, 64], [1, 20_000, 20_000]),
        "2^29 planes": ([2**29, 1, 1], [2**29, 1, 1]),
        "2^60 pixels": ([1, 2**30, 2**30], [1, 64, 64]),
        "chunks of nothing": ([1, 64, 64], [0, 0, 0]),
        "fewer than no pixels": ([1, -64, 64], [1, 64, 64]),
        "40 axes": ([1] * 40, [1] * 40),
    }
    (tmp_path / "a.zarr/0").mkdir(parents=True)
    (tmp_path / "a.zarr/.zgroup").write_text('{"zarr_format": 2}')
    attributes = {"multiscales": [{"axes": ["c", "y", "x"], "datasets": [{"path": "0"}]}]}
    (tmp_path / "a.zarr/.zattrs").write_text(json.dumps(attributes))
    about = {"zarr_format": 2, "dtype": "|u1", "fill_value": 0, "order": "C", "filters": None, "compressor": None}
    for shape, chunks in arrays.values():
        (tmp_path / "a.zarr/0/.zarray").write_text(json.dumps(about | {"shape": shape, "chunks": chunks}))
        refuse(tmp_path / "a.zarr", lambda path: read_image([path], 1))


def test_outlines_that_cover_or_cross_an_image_over_and_over_are_refused(tmp_path: Path) -> None:
    size = (4000, 4000)
    full = [[0, 0], [4000, 0], [4000, 4000], [0, 4000]]

    def of(*rings: Any) -> bytes:
        return json.dumps([{"geometry": {"type": "Polygon", "coordinates": [ring]}} for ring in rings]).encode()

    def paint_them(path: Path) -> np.ndarray:
        found = read_outlines(path)
        return paint_outlines(found.ids, found.cells, size, path)

    contents = {
        "100 outlines of all pixels": of(*[full] * 100),
        "a zigzag of 20,000 corners": of([[k % 4000, k % 2 * 4000] for k in range(20_000)]),
    }
    all_refused(tmp_path, "a.geojson", paint_them, contents)
    all_refused(tmp_path, "b.geojson", lambda path: PolygonMask(path, size), {"100": of(*[full] * 100)})
    (tmp_path / "a.geojson").write_bytes(
        of(full, [[1e300, 0], [0, 0], [0, 1e300]], [[-1e18, -1e18], [1e18, 0], [0, 9]])
    )
    with at_most(MORE_MEMORY):
        assert paint_them(tmp_path / "a.geojson").any()
    for number in ("NaN", "Infinity", "1.5", "true"):
        text = (
            of(full)
            .decode()
            .replace('{"geometry"', f'{{"properties": {{"measurements": {{"cell_id": {number}}}}}, "geometry"')
        )
        (tmp_path / "a.geojson").write_text(text)
        assert read_outlines(tmp_path / "a.geojson").ids == [1], number
    for mode in (zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(tmp_path / "a.zip", "w", mode) as archive:
            archive.writestr("a.roi", b"Iout" + bytes(2**25))
        refuse(tmp_path / "a.zip", read_regions)


def test_parts_of_large_images_that_are_damaged_or_unpack_to_much_are_refused(tmp_path: Path) -> None:
    path, pixels = tmp_path / "a.tif", np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)

    def read(path: Path) -> np.ndarray:
        image = LargeImage(path)
        return image.read(0, min(64, image.size[0]), 0, min(64, image.size[1]))

    for compression in ("zlib", "lzma", "zstd", "jpeg", "png"):
        tifffile.imwrite(path, pixels, compression=compression, tile=(32, 32))
        content = path.read_bytes()
        assert read(path).shape == (1, 64, 64)
        with tifffile.TiffFile(path) as opened:
            at = opened.pages.first.dataoffsets[1]
        path.write_bytes(content[:at] + bytes(40) + content[at + 40 :])
        refuse(path, read)
    contents = {
        "a strip of 81 MB": tiff(compression="zlib", rowsperstrip=9000),
        "2^62 pixels": blank_tiff(2**31, 2**31),
        "no pixels": blank_tiff(0, 16),
        "tiles of nothing": blank_tiff(64, 64, tile=0),
    }
    all_refused(tmp_path, "a.tif", read, contents)


def blank_tiff(height: int, width: int, tile: int = 16) -> bytes:
    """Return a TIFF all of whose tiles are left out."""
    tags = {256: width, 257: height, 258: 8, 259: 8, 262: 1, 277: 1, 322: tile, 323: tile, 324: 0, 325: 0}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)


def test_what_a_tiff_says_of_itself_is_read_within_limits(tmp_path: Path) -> None:
    def saying(words: str) -> bytes:
        stream = io.BytesIO()
        tifffile.imwrite(stream, np.zeros((16, 16), np.uint8), description=words, metadata=None)
        return stream.getvalue()

    contents = {
        "a billion planes": saying('{"shape": [1000000000, 16, 16]}'),
        "half a million lines of ImageJ": saying("ImageJ=1\n" + "a=b\n" * 500_000),
        "2 MB of a scanner's words": saying("Aperio Image Library" + "|a = b" * 400_000),
    }
    for read in (shown, read_label_map, LargeImage):
        all_refused(tmp_path, "a.tif", read, contents)


def circle_of_pages(count: int) -> bytes:
    """Return a TIFF whose last page is followed by its first."""
    start = bytearray(blank_tiff(16, 16))
    (at,) = struct.unpack_from("<I", start, 4)
    end = at + 2 + 12 * struct.unpack_from("<H", start, at)[0]
    page, first = bytes(start[at:end]), len(start)
    struct.pack_into("<I", start, 4, first)
    places = (first + k * (len(page) + 4) for k in [*range(1, count), 0])
    return bytes(start) + b"".join(page + struct.pack("<I", place) for place in places)


def test_pages_of_a_tiff_that_run_in_a_circle_are_refused(tmp_path: Path) -> None:
    contents = {f"{count} pages": circle_of_pages(count) for count in (1, 120, 3000)}
    for read in (shown, read_label_map, LargeImage):
        all_refused(tmp_path, "a.tif", read, contents)


def test_a_set_of_regions_that_lists_one_region_over_and_over_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.roi", ImagejRoi.frompoints(np.array([[1, 1], [9, 1], [9, 9]])).tobytes() + bytes(200))
    content = (tmp_path / "a.zip").read_bytes()
    at, end = content.index(b"PK\1\2"), content.index(b"PK\5\6")
    for count in (1_000, 60_000):
        listed = content[at:end] * count
        end_of_list = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(listed), at, 0)
        (tmp_path / "a.zip").write_bytes(content[:at] + listed + end_of_list)
        refuse(tmp_path / "a.zip", read_regions)


def test_masks_of_many_objects_are_held_one_by_one() -> None:
    def blank() -> Iterator[np.ndarray]:
        for k in range(100):
            mask = np.zeros((2500, 2500), bool)
            mask[k] = True
            yield mask

    began = time.process_time()
    with at_most(150):
        assert stack_objects(blank(), (2500, 2500)).max() == 100
    assert soon(began)
