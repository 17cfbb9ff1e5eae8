"""Files from strangers: none runs code, each is refused in one line, within a second, before memory is asked for."""

import io
import json
import pickle
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from peak import at_most, soon

from wsss.core.checks import UserError
from wsss.core.files import read_json
from wsss.core.label_maps import read_label_map
from wsss.options.command_line import make_parser
from wsss.options.parsing import parse
from wsss.runs.journal import Journal
from wsss.runs.run_folder import load_checkpoint, read_tensors

MORE_MEMORY = 300
"""What refusing a file may cost, in MB."""


class Evil:
    """Touches `mark` when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """The file that appears if anything hostile is run."""
    return tmp_path / "ran"


@contextmanager
def refused(mark: Path, words: str | None = None) -> Iterator[None]:
    """Expect a UserError of one line, soon, with little memory, and nothing run."""
    began = time.process_time()
    with at_most(MORE_MEMORY), pytest.raises(UserError, match=words) as caught:
        yield
    assert soon(began)
    assert "\n" not in str(caught.value)
    assert not mark.exists()


@pytest.fixture(autouse=True)
def loaded() -> None:
    """Import what the readers import when first used: that is not theirs to answer for."""
    import pyarrow.parquet  # noqa: F401
    import safetensors.torch  # noqa: F401
    import tifffile  # noqa: F401
    from PIL import Image  # noqa: F401


def pickled(mark: Path, protocol: int) -> bytes:
    return pickle.dumps({"net.weight": Evil(mark)}, protocol)


def torch_zip(mark: Path) -> bytes:
    stream = io.BytesIO()
    torch.save({"weight": torch.zeros(2), "x": Evil(mark)}, stream)
    return stream.getvalue()


def torch_old(mark: Path) -> bytes:
    stream = io.BytesIO()
    torch.save({"x": Evil(mark)}, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


PICKLES: dict[str, Callable[[Path], bytes]] = {
    "text": lambda mark: pickled(mark, 0),
    "binary": lambda mark: pickled(mark, 2),
    "torch": torch_zip,
    "old torch": torch_old,
}


@pytest.mark.parametrize("form", PICKLES)
@pytest.mark.parametrize("name", ["w.pth", "w.bin", "w.safetensors"])
def test_pickles_dressed_as_weights_are_refused(form: str, name: str, tmp_path: Path, mark: Path) -> None:
    (tmp_path / name).write_bytes(PICKLES[form](mark))
    with refused(mark, name):
        read_tensors(tmp_path / name)
    with refused(mark, name):
        load_checkpoint(tmp_path / name)


@pytest.mark.parametrize("form", PICKLES)
@pytest.mark.parametrize("suffix", ["png", "tif", "npy", "npz"])
def test_pickles_dressed_as_label_maps_are_refused(form: str, suffix: str, tmp_path: Path, mark: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(PICKLES[form](mark))
    with refused(mark, path.name):
        read_label_map(path)


@pytest.mark.parametrize("form", PICKLES)
def test_pickles_dressed_as_tables_are_refused(form: str, tmp_path: Path, mark: Path) -> None:
    from wsss.core.labels import HPA
    from wsss.data.tables import read_labels
    from wsss.inference.tables import read_cells, read_images
    from wsss.segmenters.annotations import TableMasks

    names = ("cells.parquet", "cells.csv", "images.csv", "train.csv", "masks.parquet", "masks.csv")
    for name in names:
        (tmp_path / name).write_bytes(PICKLES[form](mark))
    with refused(mark, "cells.parquet"):
        read_cells(tmp_path)
    (tmp_path / "cells.parquet").unlink()
    with refused(mark, "cells.csv"):
        read_cells(tmp_path)
    with refused(mark, "images.csv"):
        read_images(tmp_path)
    with refused(mark, "train.csv"):
        read_labels(tmp_path / "train.csv", HPA)
    for name in ("masks.parquet", "masks.csv"):
        with refused(mark, name):
            TableMasks(tmp_path / name)


@pytest.mark.parametrize("form", PICKLES)
def test_pickles_dressed_as_json_and_journals_are_refused(form: str, tmp_path: Path, mark: Path) -> None:
    (tmp_path / "x").write_bytes(PICKLES[form](mark))
    with refused(mark):
        read_json(tmp_path / "x")
    with refused(mark):
        Journal(tmp_path / "x", "f")


def test_arrays_of_objects_are_refused(tmp_path: Path, mark: Path) -> None:
    objects = np.array([[Evil(mark)]], object)
    np.save(tmp_path / "a.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "a.npz", cells=objects)
    for name in ("a.npy", "a.npz"):
        with refused(mark, f"{name} holds pickled Python objects"):
            read_label_map(tmp_path / name)


def tagged(mark: Path) -> list[str]:
    return [
        f"!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{mark}']]\n",
        f"epochs: !!python/object/apply:os.system ['touch {mark}']\n",
        f"!!python/object/new:subprocess.Popen [['touch', '{mark}']]\n",
    ]


@pytest.mark.parametrize("which", range(3))
def test_yaml_with_tags_runs_nothing_wherever_yaml_is_read(which: int, tmp_path: Path, mark: Path) -> None:
    from wsss.data.augment import load_recipe
    from wsss.data.tables import read_classes
    from wsss.options.infer import run_config
    from wsss.options.recipe import ClassifyRecipe

    path = tmp_path / "config.yaml"
    path.write_text(tagged(mark)[which])
    with refused(mark):
        read_classes(path)
    with refused(mark):
        load_recipe(path)
    with refused(mark):
        run_config(tmp_path)
    parser = make_parser("train", "", "", ClassifyRecipe)
    with refused(mark):
        parse(parser, ["--config", str(path)], ClassifyRecipe)


def absurd(header: dict[str, object] | None, length: int | None = None) -> bytes:
    text = json.dumps(header).encode() if header is not None else b"{" * 64
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(16)


def entry(shape: list[int], offsets: list[int]) -> dict[str, object]:
    return {"w": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}


HEADERS = {
    "longer than the file": absurd({}, 2**62),
    "no JSON": absurd(None),
    "nested": absurd(None, 64),
    "a shape of 2**60": absurd(entry([2**30, 2**30], [0, 16])),
    "a shape that overflows": absurd(entry([2**40, 2**40], [0, 0])),
    "offsets beyond the end": absurd(entry([2], [2**40, 2**40 + 8])),
    "offsets backwards": absurd(entry([2], [8, 0])),
    "negative offsets": absurd(entry([2], [-8, 0])),
    "two tensors in one place": absurd(
        {**entry([4], [0, 16]), "v": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}
    ),
    "an unknown type": absurd({"w": {"dtype": "EVIL", "shape": [4], "data_offsets": [0, 16]}}),
    "nothing": b"",
}


@pytest.mark.parametrize("header", HEADERS)
def test_safetensors_with_absurd_headers_are_refused(header: str, tmp_path: Path, mark: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(HEADERS[header])
    with refused(mark, "w.safetensors"):
        read_tensors(path)
    with refused(mark, "w.safetensors"):
        load_checkpoint(path)


def png_bomb(edge: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", edge, edge, 16, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b"")


def npy(shape: tuple[int, ...], kind: str = "<i4") -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": kind, "fortran_order": False, "shape": shape})
    return stream.getvalue() + bytes(64)


def npz_bomb() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cells.npy", npy((10**6, 10**6)) + bytes(10**6))
    return stream.getvalue()


def tiff_bomb(edge: int) -> bytes:
    tags = [
        (256, 4, edge),
        (257, 4, edge),
        (258, 3, 16),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 8),
        (277, 3, 1),
        (278, 4, edge),
    ]
    tags.append((279, 4, 100))
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return struct.pack("<2sHI", b"II", 42, 8) + struct.pack("<H", len(tags)) + entries + bytes(4)


BOMBS = {
    "a.png": png_bomb(100_000),
    "b.png": png_bomb(17_000),
    "a.tif": tiff_bomb(100_000),
    "a.npy": npy((10**6, 10**6)),
    "b.npy": npy((10**15, 10**15)),
    "a.npz": npz_bomb(),
    "eps.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(ran) (w) file closefile\nshowpage\n",
}


@pytest.mark.parametrize("name", BOMBS)
def test_label_maps_that_promise_too_much_are_refused_from_the_header(name: str, tmp_path: Path, mark: Path) -> None:
    (tmp_path / name).write_bytes(BOMBS[name])
    with refused(mark, name):
        read_label_map(tmp_path / name)


@dataclass(frozen=True)
class Mutant:
    """A way to spoil a file."""

    cut: float = 1.0
    flips: int = 0


@pytest.mark.parametrize("mutant", [Mutant(cut=0.5), Mutant(cut=0.99), Mutant(flips=1), Mutant(flips=40)])
@pytest.mark.parametrize("suffix", ["png", "tif", "npy", "npz"])
def test_spoilt_label_maps_are_read_or_refused_but_never_crash(suffix: str, mutant: Mutant, tmp_path: Path) -> None:
    import tifffile
    from PIL import Image

    rng = np.random.default_rng(0)
    cells = rng.integers(0, 9, (40, 40)).astype(np.uint16)
    whole = tmp_path / f"whole.{suffix}"
    save: dict[str, Callable[[], object]] = {
        "png": lambda: Image.fromarray(cells).save(whole),
        "tif": lambda: tifffile.imwrite(whole, cells, compression="zlib"),
        "npy": lambda: np.save(whole, cells),
        "npz": lambda: np.savez_compressed(whole, cells=cells),
    }
    save[suffix]()
    content = whole.read_bytes()
    for _ in range(40):
        spoilt = bytearray(content[: int(len(content) * mutant.cut)])
        for at in rng.integers(0, len(spoilt), mutant.flips):
            spoilt[at] ^= 1 << rng.integers(8)
        path = tmp_path / f"spoilt.{suffix}"
        path.write_bytes(spoilt)
        text = ""
        try:
            assert read_label_map(path).dtype == np.int32
        except UserError as error:
            text = str(error)
        assert "\n" not in text
        assert not text or path.name in text
