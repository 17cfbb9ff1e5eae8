"""Time the pixel store: bytes an image, random reads against PNG and HDF5 files, opening a large data set.

python scripts/bench_store.py [--images 256] [--size 512] [--open 100000] [--repeats 5] [--folder FOLDER]

The pictures are synthetic fields, every image with other pixels. A read ends with the pixels copied into an array
of the reader's own, as the first step of any use would; every file is in the page cache. HDF5 is measured where
h5py is installed.
"""

import argparse
import importlib.util
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from wsss import cli
from wsss.core.console import say
from wsss.core.labels import HPA_CHANNELS
from wsss.data.build import Spec, create_dataset, finish
from wsss.data.catalog import SHARDS, DataSet, Shards
from wsss.data.synthetic import Look, draw_field

Read = Callable[[int], np.ndarray]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--open", type=int, default=100_000, help="images of the data set that is opened")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to write (default: the folder for temporary files)")
    args = parser.parse_args(argv)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        time_reads(Path(folder), draw_images(args.images, args.size), args.repeats)
        time_open(Path(folder), args.open, args.size, args.repeats)
    return 0


def draw_images(count: int, size: int) -> dict[str, np.ndarray]:
    """Draw a few fields and make `count` images of them by shifts, turns and own noise."""
    rng = np.random.default_rng(0)
    fields = [draw_field(rng, size, [k], Look()).image for k in (0, 9, 13, 17)]
    out = {}
    for k in range(count):
        moved = np.roll(np.rot90(fields[k % 4], k // 4 % 4, (1, 2)), rng.integers(size), axis=2)
        noise = rng.integers(0, 3, moved.shape, np.uint8)
        out[f"im{k:06}"] = np.minimum(moved, 252).astype(np.uint8) + noise
    return out


def time_reads(folder: Path, images: dict[str, np.ndarray], repeats: int) -> None:
    """Print bytes an image and the time of a random read for every form of store."""
    size = next(iter(images.values())).shape[1]
    create_dataset(folder / "data", images, spec=Spec(size=size))
    raw = len(HPA_CHANNELS) * size**2
    order = np.random.default_rng(1).permutation(len(images))
    say(f"{len(images)} images of {size} x {size} x 4, raw {raw:,} bytes an image; ms a random read, warm")
    say(f"{'':24}{'ms':>24}{'ratio':>8}{'bytes/raw':>12}")
    truth = list(images.values())
    base = 0.0
    for name, opened in forms(folder, images).items():
        with opened as (read, stored):
            for k in order[:8]:
                assert np.array_equal(read(k), truth[k]), name
            spent = [1000 * timed(read, order) for _ in range(repeats)]
        base = base or float(np.median(spent))
        spread = f"{np.median(spent):.3f} ({min(spent):.3f}-{max(spent):.3f})"
        say(f"{name:24}{spread:>24}{np.median(spent) / base:8.1f}{stored / len(images) / raw:12.3f}")


def timed(read: Read, order: np.ndarray) -> float:
    begin = time.perf_counter()
    for k in order:
        read(k)
    return (time.perf_counter() - begin) / len(order)


@contextmanager
def ours(folder: Path) -> Iterator[tuple[Read, int]]:
    data = DataSet.open(folder)
    yield lambda k: np.array(data.image(k)), total(folder)


@contextmanager
def png(folder: Path, images: dict[str, np.ndarray]) -> Iterator[tuple[Read, int]]:
    folder.mkdir()
    names = list(images)
    for name, image in images.items():
        for channel, plane in zip(HPA_CHANNELS, image, strict=True):
            cv2.imwrite(str(folder / f"{name}_{channel}.png"), plane)

    def read(k: int) -> np.ndarray:
        planes = [cv2.imread(str(folder / f"{names[k]}_{c}.png"), cv2.IMREAD_GRAYSCALE) for c in HPA_CHANNELS]
        return np.stack([plane for plane in planes if plane is not None])

    yield read, total(folder)


@contextmanager
def hdf5(path: Path, images: dict[str, np.ndarray], compression: str) -> Iterator[tuple[Read, int]]:
    h5py = importlib.import_module("h5py")
    shape = next(iter(images.values())).shape
    with h5py.File(path, "w") as file:
        kept = file.create_dataset("x", (len(images), *shape), np.uint8, chunks=(1, *shape), compression=compression)
        for k, image in enumerate(images.values()):
            kept[k] = image
    with h5py.File(path) as file:
        kept = file["x"]
        yield lambda k: np.asarray(kept[k]), path.stat().st_size


def forms(folder: Path, images: dict[str, np.ndarray]) -> dict[str, AbstractContextManager[tuple[Read, int]]]:
    """Return the stores to compare, ours first."""
    readers: dict[str, AbstractContextManager[tuple[Read, int]]] = {
        "ours": ours(folder / "data"),
        "four PNG files": png(folder / "png", images),
    }
    if importlib.util.find_spec("h5py") is None:
        say("h5py is not installed: HDF5 is left out.")
        return readers
    return readers | {f"HDF5, {name}": hdf5(folder / f"{name}.h5", images, name) for name in ("lzf", "gzip")}


def total(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def time_open(folder: Path, count: int, size: int, repeats: int) -> None:
    """Print how long a data set of `count` images takes to open, its first image included."""
    make_large(folder / "large", count, size)
    spent, first = [], []
    for _ in range(repeats):
        begin = time.perf_counter()
        data = DataSet.open(folder / "large")
        spent.append(time.perf_counter() - begin)
        data.image(count // 2)
        first.append(time.perf_counter() - begin)
    held = total(folder / "large") - sum(path.stat().st_size for path in (folder / "large" / SHARDS).iterdir())
    say(
        f"opening {count} images: {np.median(spent):.3f} s ({min(spent):.3f}-{max(spent):.3f}), to the first pixel "
        f"{np.median(first):.3f} s; {held / count:.0f} bytes an image beside the pixels"
    )


def make_large(folder: Path, count: int, size: int) -> None:
    """Write a data set whose shards are holes in the disk: all of a large one but its pixels."""
    shards = Shards(folder / SHARDS, "main", count, len(HPA_CHANNELS), size)
    shards.folder.mkdir(parents=True)
    for path, images in shards.files():
        with path.open("wb") as stream:
            shape = (images, len(HPA_CHANNELS), size, size)
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(stream, header)
            stream.truncate(stream.tell() + int(np.prod(shape)))
    rng = np.random.default_rng(0)
    places = [shards.place(k) for k in range(count)]
    columns: dict[str, str | int] = {
        "source": "main",
        "status": "ok",
        "reason": "",
        "depth": "8",
        "ImageHeight": 2048,
        "ImageWidth": 2048,
    }
    table = pd.DataFrame({"ID": [f"{k:032x}" for k in range(count)]}).assign(**columns)
    table["shard"], table["slot"] = zip(*places, strict=True)
    table["crc32"] = rng.integers(0, 2**32, count)
    table.loc[count // 2, "crc32"] = zlib.crc32(bytes(len(HPA_CHANNELS) * size**2))  # of the image that is read
    table["Label"] = None
    finish(folder, Spec(size=size), table, [{"name": "main"}], group_duplicates=False)


if __name__ == "__main__":
    cli.run(main)
