"""Broken, disguised and enormous image files through prepare: each is listed, the others are finished."""

import functools
import io
import struct
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from peak import at_most
from PIL import Image

from wsss import prepare
from wsss.core.checks import ConfigError
from wsss.data.catalog import DataSet

GOOD, SIZE = 8, 32
SUFFIXES = ("png", "tif", "jpg")


def encoded(suffix: str, seed: int) -> bytes:
    """Return an image of four channels as a TIFF; as PNG or JPEG, which have no four, of one."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (SIZE, SIZE, 4)).astype(np.uint8)
    stream = io.BytesIO()
    if suffix == "png":
        Image.fromarray(pixels[..., 0]).save(stream, "PNG")
    elif suffix == "tif":
        tifffile.imwrite(stream, np.moveaxis(pixels, -1, 0), compression="zlib", photometric="minisblack")
    else:
        Image.fromarray(pixels[..., 0]).save(stream, "JPEG")
    return stream.getvalue()


def mutant(content: bytes, how: str, rng: np.random.Generator) -> bytes:
    """Return a file that is spoilt in one of four ways."""
    if how == "empty":
        return b""
    if how == "cut":
        return content[: int(rng.integers(1, len(content)))]
    if how == "text":
        return rng.bytes(int(rng.integers(1, 400))) if rng.integers(2) else b"ID,Label\na,1\n"
    changed = bytearray(content)
    for at in rng.integers(0, len(content), rng.integers(1, 20)):
        changed[at] ^= 1 << rng.integers(8)
    return bytes(changed)


def write_image(folder: Path, name: str, suffix: str, content: bytes, others: bytes) -> None:
    """Write an image as one TIFF, or its yellow file and three others beside it."""
    if suffix == "tif":
        (folder / f"{name}.tif").write_bytes(content)
        return
    for channel in ("red", "green", "blue"):
        (folder / f"{name}_{channel}.{suffix}").write_bytes(others)
    (folder / f"{name}_yellow.{suffix}").write_bytes(content)


def write_mutants(folder: Path, count: int) -> Counter[str]:
    """Write so many spoilt images, as one file or as four; return how many of each kind."""
    rng = np.random.default_rng(0)
    kinds: Counter[str] = Counter()
    for k in range(count):
        suffix, how = SUFFIXES[k % 3], ("cut", "flips", "flips", "text", "empty")[k % 5]
        content = mutant(encoded(suffix, k), how, rng)
        write_image(folder, f"{how}-{suffix}{k}", suffix, content, encoded(suffix, k))
        kinds[f"{how}-{suffix}"] += 1
    return kinds


def prepared(images: Path, out: Path) -> pd.DataFrame:
    """Prepare a folder in which some images are broken; return the catalogue."""
    words = ["--images", str(images), "--out", str(out), "--size", str(SIZE), "--workers", "0"]
    assert prepare.main(words) == 1
    return DataSet.open(out).table.set_index("ID")


def test_every_mutated_image_is_listed_and_the_others_are_finished(tmp_path: Path, examples: int) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for k in range(GOOD):
        write_image(images, f"good{k}", "png", encoded("png", k), encoded("png", k))
    kinds = write_mutants(images, examples)
    table = prepared(images, tmp_path / "data")
    assert len(table) == GOOD + examples
    good = table.index.str.startswith("good")
    assert (table.status[good] == "ok").all()
    failed = table[table.status == "failed"]
    assert (failed.reason != "").all()
    assert not failed.reason.str.contains("\n").any()
    unseen = Counter(name.rstrip("0123456789") for name in table.index[(table.status == "ok") & ~good])
    print(f"mutants {dict(kinds)}, not to be told from good files {dict(unseen)}")
    # JPEG has no checksum, and of a TIFF's zlib stream tags may change that mean nothing.
    assert not {kind for kind in unseen if kind not in ("flips-jpg", "cut-jpg", "flips-tif")}


@functools.cache
def zeros(megabytes: int) -> bytes:
    """Return so many zeros, compressed without ever holding them."""
    packer = zlib.compressobj(1)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(megabytes)) + packer.flush()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(edge: int, *more: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", edge, edge, 8, 0, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(bytes(10**6)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + body + chunk(b"IEND", b"")


def jpeg(edge: int) -> bytes:
    content = bytearray(encoded("jpg", 0))
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 4] = struct.pack(">HH", edge, edge)
    return bytes(content)


def tiff(edge: int, samples: int = 4) -> bytes:
    """A TIFF of so many pixels whose strip, some bytes long, unpacks to far more."""
    body = zeros(400)
    tags = [(256, 4, edge), (257, 4, edge), (258, 3, 8), (259, 3, 8), (262, 3, 1), (273, 4, 8), (277, 3, samples)]
    tags += [(278, 4, edge), (279, 4, len(body))]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    place = 8 + len(body)
    return struct.pack("<2sHI", b"II", 42, place) + body + struct.pack("<H", len(tags)) + entries + bytes(4)


def test_decompression_bombs_are_refused_with_little_memory(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    blown = zeros(400)
    bombs = {
        "header.png": png(100_000),
        "text.png": png(SIZE, chunk(b"zTXt", b"a\0\0" + blown)),
        "profile.png": png(SIZE, chunk(b"iCCP", b"a\0\0" + blown)),
        "header.jpg": jpeg(65_000),
        "header.tif": tiff(100_000),
        "strip.tif": tiff(SIZE),
        "samples.tif": tiff(1000, 60_000),
    }
    for name, content in bombs.items():
        write_image(images, name.replace(".", "-"), name[-3:], content, encoded(name[-3:], 0))
    write_image(images, "good", "png", encoded("png", 0), encoded("png", 0))
    with at_most(300):
        table = prepared(images, tmp_path / "data")
    assert table.status["good"] == "ok"
    refused = table.index[table.status == "failed"]
    # A blown-up text or profile beside good pixels may also be passed over unread.
    assert {"header-png", "header-jpg", "header-tif", "samples-tif"} <= set(refused)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_under_another_forms_name_is_read_by_its_content(suffix: str, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for other in SUFFIXES:
        for channel in ("red", "green", "blue", "yellow") if suffix != "tif" else ("",):
            name = f"as-{other}_{channel}".rstrip("_")
            (images / f"{name}.{other}").write_bytes(encoded(suffix, 1))
    words = ["--images", str(images), "--out", str(tmp_path / "data"), "--size", str(SIZE), "--workers", "0"]
    assert prepare.main(words) == 0
    table = DataSet.open(tmp_path / "data").table.set_index("ID")
    assert len(table) == 3
    assert (table.status == "ok").all()


def test_broken_images_are_named_even_if_another_error_ends_the_run(tmp_path: Path) -> None:
    for k in range(4):
        write_image(tmp_path, f"i{k}", "png", encoded("png", k)[: 60 if k < 2 else None], encoded("png", k))
    (tmp_path / "train.csv").write_text("ID,Label\n" + "".join(f"i{k},{k}\n" for k in range(4)))
    words = ["--images", str(tmp_path), "--labels", str(tmp_path / "train.csv"), "--out", str(tmp_path / "data")]
    with pytest.raises(ConfigError, match=r"--folds 4 needs .* 2 of 4 images could not be prepared: i0 \(.*, i1 \("):
        prepare.main([*words, "--size", "32", "--workers", "0"])
