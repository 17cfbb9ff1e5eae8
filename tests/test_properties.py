"""What must hold for any input: tables, masks as run lengths, tiles, geometry, folds, sampler.

`--examples N` draws N of each; scripts/stress.sh draws 10,000.
"""

import contextlib
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from wsss.core import rle
from wsss.core.checks import DataError
from wsss.core.csv_text import guard_text, unguard_text
from wsss.core.label_maps import Geometry
from wsss.core.labels import HPA, HPA_CHANNELS, ClassList
from wsss.data import ids
from wsss.data.folds import make_folds
from wsss.data.tables import read_classes, read_labels
from wsss.inference.semantic import predict_tiles, tile_starts
from wsss.models.cam_net import merge, split
from wsss.training.loading import draw_epoch, image_weights
from wsss.training.state import World

CLASSES = ClassList(("a", "b", "c"), 2)
CELLS = st.one_of(
    st.text("ab,;|\t\"'=+-@ 0123456789.e_\n\r\0", max_size=8),
    st.text(max_size=6),
    st.sampled_from(
        ["1", "0", "a", "nan", "inf", "-inf", "1e400", "9" * 30, "9" * 5000, "١", "1_0", "True", "8|5", ""]
    ),
)
HEADERS = st.sampled_from(
    ["ID,Label", "Id,Target", "ID;0;1;2", "ID,cell_id,label", "ID,fold,n_cells,status,0,1", "ID,rle,cell_id", "ID,0,1"]
)


@contextlib.contextmanager
def written(content: bytes, name: str = "table.csv") -> Iterator[Path]:
    """Write a file for as long as the block lasts."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        yield path


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Allow a DataError of one line."""
    try:
        yield
    except DataError as error:
        text = str(error)
    else:
        text = ""
    assert "\n" not in text, text


@st.composite
def tables(draw: st.DrawFn) -> bytes:
    """A header that is known, and rows that are not."""
    header = draw(HEADERS)
    separator = ";" if ";" in header else ","
    rows = draw(st.lists(st.lists(CELLS, min_size=1, max_size=header.count(separator) + 2), max_size=5))
    text = "\n".join([header, *(separator.join(row) for row in rows)])
    mark = draw(st.sampled_from([b"", b"\xef\xbb\xbf", b"\xff\xfe"]))
    return mark + text.encode("utf-8", "surrogatepass").replace(b"\n", draw(st.sampled_from([b"\n", b"\r\n", b"\r"])))


@given(tables())
def test_any_label_table_is_read_or_refused_in_one_line(content: bytes) -> None:
    with written(content) as path, told():
        found = read_labels(path, CLASSES)
        assert all(not ids.fault(ID) and set(labels) <= {0, 1, 2} for ID, labels in found.labels.items())


@given(tables())
def test_any_other_table_is_read_or_refused_in_one_line(content: bytes) -> None:
    from wsss.data.image_files import read_path_list
    from wsss.inference.tables import read_cells, read_images
    from wsss.metrics.cells import read_cell_truth
    from wsss.segmenters.annotations import TableMasks

    with written(content) as path:
        with told():
            read_cell_truth(path, HPA)
        with told():
            read_path_list(path, HPA_CHANNELS)
        with told():
            TableMasks(path).masks("a", (9, 9))
        for name, read in (("cells.csv", read_cells), ("images.csv", read_images)):
            path.rename(path.with_name(name))
            path = path.with_name(name)
            with told():
                read(path.parent)


@given(st.one_of(st.binary(max_size=60), st.text("names: [ab]-\n&*!{}'\"negative0", max_size=60).map(str.encode)))
def test_any_class_list_is_read_or_refused_in_one_line(content: bytes) -> None:
    with written(content, "classes.yaml") as path, told():
        assert len(read_classes(path))


@given(st.lists(st.text(max_size=9), max_size=5))
def test_any_text_comes_back_from_a_csv_made_harmless(texts: list[str]) -> None:
    import pandas as pd

    table = pd.DataFrame({"ID": pd.Series(texts, dtype="str")})
    safe = guard_text(table)
    assert not safe.ID.str.match(r"[=+\-@]").any()
    assert unguard_text(safe).ID.tolist() == texts


MAPS = arrays(
    np.int32, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.sampled_from([0, 1, 2, 7, 70_000])
)


@given(MAPS)
def test_any_label_map_comes_back_from_its_run_lengths(label_map: np.ndarray) -> None:
    size = label_map.shape
    for cell, counts in rle.encode_label_map(label_map).items():
        assert (rle.decode(rle.from_submission(rle.to_submission(counts)), size) == (label_map == cell)).all()
        for order in ("columns", "rows"):
            text = rle.encode_pairs(label_map == cell, order)
            assert (rle.decode_pairs(text, size, order) == (label_map == cell)).all()


@given(st.one_of(st.binary(max_size=30), st.text("0123456789abcdefPNMm;: -", max_size=30).map(str.encode)))
def test_any_other_text_is_decoded_or_refused_as_a_mask(counts: bytes) -> None:
    text = counts.decode("latin-1")
    for size in ((5, 7), (1, 1)):
        with told():
            assert rle.decode(counts, size).shape == size
        with told():
            assert rle.decode_pairs(text, size).shape == size
    with told():
        rle.from_submission(text)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 20), st.floats(0, 0.9), st.integers(0, 99))
def test_tiles_put_together_are_the_image(height: int, width: int, tile: int, overlap: float, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (2, height, width)).astype(np.uint8)
    for length in (height, width):
        edge = min(tile, length)
        starts = tile_starts(length, edge, overlap)
        assert starts[0] == 0
        assert starts[-1] == length - edge
        assert all(0 < b - a <= edge for a, b in itertools.pairwise(starts))

    def read(y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        return image[:, y0:y1, x0:x1]

    bands = list(predict_tiles(read, lambda part: part.astype(np.float32), (height, width), tile=tile, overlap=overlap))
    assert [y for y, _ in bands] == list(np.cumsum([0, *(band.shape[1] for _, band in bands[:-1])]))
    np.testing.assert_allclose(np.concatenate([band for _, band in bands], axis=1), image, rtol=1e-4, atol=1e-2)


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
def test_puzzle_tiles_merged_are_the_image(side: int, batch: int, rows: int, columns: int, channels: int) -> None:
    shape = (batch, channels, rows * side, columns * side)
    image = torch.arange(float(np.prod(shape))).reshape(shape)
    assert torch.equal(merge(split(image, side), side), image)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(8, 64), st.integers(0, 99))
def test_cells_come_back_from_the_store_at_the_images_size(height: int, width: int, size: int, seed: int) -> None:
    geometry = Geometry(height, width, size)
    assert 1 <= geometry.content_height <= size
    assert 1 <= geometry.content_width <= size
    label_map = np.random.default_rng(seed).integers(0, 5, (height, width)).astype(np.int32)
    stored = geometry.labels_to_store(label_map)
    assert stored.shape == (size, size)
    back = geometry.labels_to_native(stored)
    assert back.shape == (height, width)
    assert set(np.unique(back)) <= set(np.unique(label_map)) | {0}
    if size >= max(height, width):
        assert (back == label_map).all()  # nothing is lost where the store is finer
    assert not geometry.image_to_store(np.full((1, height, width), 9, np.uint8))[0, geometry.content_height :].any()


@given(
    st.integers(2, 4).flatmap(
        lambda n: st.tuples(st.just(n), st.integers(n, 20), st.integers(1, 4), st.integers(0, 10**6), st.booleans())
    )
)
def test_folds_hold_every_image_once_and_groups_together(drawn: tuple[int, int, int, int, bool]) -> None:
    n, count, classes, seed, grouped = drawn
    rng = np.random.default_rng(seed)
    labels = rng.random((count, classes)) < rng.random(classes)
    groups = rng.integers(0, count, count) if grouped else np.arange(count)
    assume(len(np.unique(groups)) >= n)
    fold = make_folds(labels, groups, n, seed % 7)
    assert fold.shape == (count,)
    assert set(fold.tolist()) <= set(range(n))
    assert all(len(set(fold[groups == group].tolist())) == 1 for group in groups)
    assert (fold == make_folds(labels, groups, n, seed % 7)).all()
    if not grouped:
        assert np.ptp(np.bincount(fold, minlength=n)) <= 1


@given(st.integers(1, 30), st.integers(1, 5), st.integers(0, 10**6), st.integers(1, 4))
def test_any_labels_can_be_sampled(count: int, classes: int, seed: int, world: int) -> None:
    rng = np.random.default_rng(seed)
    labels = (rng.random((count, classes)) < rng.random(classes)).astype(np.float32)
    for clip in ("none", "rank:1", "rank:3"):
        with told():
            weights = image_weights(labels, clip)
            assert np.isfinite(weights).all()
            assert (weights > 0).all()
            drawn = draw_epoch(weights, count, seed=seed, epoch=1)
            assert set(drawn.tolist()) <= set(range(count))
            assert (drawn == draw_epoch(weights, count, seed=seed, epoch=1)).all()
    drawn = draw_epoch(None, count, seed=seed, epoch=0)
    parts = [World(rank, world).share(drawn).tolist() for rank in range(world)]
    assert sorted(itertools.chain(*parts)) == list(range(count))


@pytest.mark.parametrize(
    "name", ["con/../x", "/etc/passwd", "a\0b", "..", ".hidden", "é" * 101, "a\u202eb", "a\nb", " a"]
)
def test_an_id_that_could_leave_the_folder_or_a_line_is_no_id(name: str) -> None:
    assert ids.fault(name)
    assert "\n" not in ids.shown(name)
