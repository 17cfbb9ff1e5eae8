import pickle
import zlib
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from wsss.core.checks import DataError
from wsss.data import catalog as store
from wsss.data.catalog import ShardReader, Shards, is_whole

RNG = np.random.default_rng(0)


def shards(tmp_path: Path, images: int = 600) -> Shards:
    made = Shards(tmp_path, "main", images, 4, 8)
    made.allocate()
    return made


def image() -> np.ndarray:
    return RNG.integers(0, 256, (4, 8, 8), dtype=np.uint8)


def test_images_come_back_from_their_places_in_any_order(tmp_path: Path) -> None:
    made, reader = shards(tmp_path), ShardReader(tmp_path, 4, 8)
    images = {k: image() for k in (599, 0, 256, 255, 300)}
    for k, pixels in images.items():
        assert made.write(k, pixels) == zlib.crc32(pixels.tobytes()) == made.crc32(k)
    for k, pixels in images.items():
        assert (reader.image(*made.place(k)) == pixels).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"main-0000{k}.npy" for k in range(3)]


def test_shards_are_plain_npy_files_within_5_percent_of_raw(tmp_path: Path) -> None:
    made = shards(tmp_path, 300)
    assert np.load(tmp_path / "main-00001.npy").shape == (44, 4, 8, 8)
    assert sum(path.stat().st_size for path, _ in made.files()) <= 1.05 * 300 * 4 * 8 * 8


def test_allocating_again_keeps_what_is_written(tmp_path: Path) -> None:
    made, pixels = shards(tmp_path), image()
    made.write(3, pixels)
    made.allocate()
    assert made.crc32(3) == zlib.crc32(pixels.tobytes())


def test_a_cut_shard_is_made_anew(tmp_path: Path) -> None:
    made = shards(tmp_path)
    (tmp_path / "main-00001.npy").write_bytes(b"\x93NUMPY")
    made.allocate()
    assert all(is_whole(path, count, 4, 8) for path, count in made.files())


def test_views_are_read_only_and_the_reader_pickles_small(tmp_path: Path) -> None:
    made, reader = shards(tmp_path), ShardReader(tmp_path, 4, 8)
    view = reader.image(*made.place(0))
    assert not view.flags.writeable
    copy = pickle.loads(pickle.dumps(reader))
    assert len(pickle.dumps(reader)) < 1000
    assert (copy.image(*made.place(0)) == view).all()


def test_open_maps_stay_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "OPEN_SHARDS", 2)
    made, reader = shards(tmp_path, 256 * 5), ShardReader(tmp_path, 4, 8)
    for k in range(0, 256 * 5, 256):
        reader.image(*made.place(k))
    assert len(reader._maps) == 2


class ClosedByAnotherThread(OrderedDict[str, np.ndarray]):
    """Loses what it hands out at once."""

    def get(self, name: str) -> np.ndarray | None:
        return self.pop(name, None)


def test_a_map_may_be_closed_by_another_thread_while_it_is_read(tmp_path: Path) -> None:
    made, reader = shards(tmp_path), ShardReader(tmp_path, 4, 8)
    wanted = reader.image(*made.place(3))
    reader._maps = ClosedByAnotherThread(reader._maps)
    assert (reader.image(*made.place(3)) == wanted).all()


def test_too_little_room_is_said_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="make room"):
        Shards(tmp_path, "main", 10**5, 4, 16384).allocate()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00", b"\x80\x04\x95"])
def test_a_damaged_shard_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "main-00000.npy").write_bytes(content)
    with pytest.raises(DataError, match="main-00000"):
        ShardReader(tmp_path, 4, 8).image("main-00000.npy", 0)
