from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from wsss.core import parquet
from wsss.core.checks import DataError
from wsss.inference import tables


def frame(image_id: str, cells: int, *, fold: int = 0, first: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(cells)
    geometry = {name: np.arange(cells) for name in tables.GEOMETRY_COLUMNS}
    return tables.cells_frame(
        image_id,
        fold=fold,
        size=(20, 30),
        cell_ids=np.arange(first, first + cells),
        geometry=geometry | {"touches_border": np.arange(cells) % 2 == 0, "center_y": np.arange(cells) + 0.25},
        scores=rng.random((cells, 3)),
        rle=[b"03="] * cells,
    )


def spoil(folder: Path, name: str, old: str, new: str) -> None:
    path = folder / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_cells_come_back_from_parquet_and_from_csv(tmp_path: Path) -> None:
    frames = [frame("b", 3), frame("a", 2, fold=1)]
    assert tables.write_cells(tmp_path, iter(frames)) == 5
    wanted = pd.concat(frames, ignore_index=True).drop(columns="rle")
    pd.testing.assert_frame_equal(tables.read_cells(tmp_path), wanted)
    (tmp_path / "cells.parquet").unlink()
    pd.testing.assert_frame_equal(tables.read_cells(tmp_path), wanted, rtol=1e-5)


def test_cells_are_read_image_by_image_with_masks_across_batches(tmp_path: Path) -> None:
    sizes = {"c": 3000, "a": 2000, "b": 1, "d": 5000}
    tables.write_cells(tmp_path, (frame(name, count) for name, count in sizes.items()))
    found = dict(tables.iter_cells(tmp_path))
    assert {name: len(own) for name, own in found.items()} == sizes
    assert set(found["a"].rle) == {"03="}
    assert (found["d"].cell_id == np.arange(1, 5001)).all()


def test_a_last_image_may_fill_a_group_and_many_small_ones_are_put_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "ROWS_PER_GROUP", 12)
    monkeypatch.setattr(parquet, "FEW_TABLES", 2)
    monkeypatch.setattr(tables, "TOGETHER", 50)
    frames = [frame(f"i{k}", 2) for k in range(12)]
    assert tables.write_cells(tmp_path, iter(frames)) == 24
    wanted = pd.concat(frames, ignore_index=True).drop(columns="rle")
    pd.testing.assert_frame_equal(tables.read_cells(tmp_path), wanted)
    (tmp_path / "cells.parquet").unlink()
    pd.testing.assert_frame_equal(tables.read_cells(tmp_path), wanted, rtol=1e-5)


def test_vectors_come_back_row_for_row_and_others_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "VALUES_PER_GROUP", 12)  # three rows of a group
    monkeypatch.setattr(tables, "TOGETHER", 1)
    cells = pd.concat([frame("b", 3), frame("a", 2)], ignore_index=True)
    assert tables.read_embeddings(tmp_path, cells) is None
    vectors = pd.DataFrame(np.random.default_rng(0).random((5, 2), np.float32), columns=["edge_1", "crop_0"])
    vectors.iloc[1] = np.nan
    frames = pd.concat([cells[["ID", "cell_id"]], vectors], axis=1)
    assert tables.write_embeddings(tmp_path, (frames[k : k + 1] for k in range(5))) == 2
    assert parquet.open_parquet(tmp_path / tables.EMBEDDINGS).num_row_groups == 2
    same = tables.read_embeddings(tmp_path, cells)
    assert same is not None
    pd.testing.assert_frame_equal(same, vectors)
    for wrong in (cells[1:], cells.assign(cell_id=cells.cell_id + 1)):
        with pytest.raises(DataError, match="not of the cells in"):
            tables.read_embeddings(tmp_path, wrong)
    tables.write_embeddings(tmp_path, [frames.assign(edge_1="much")])
    with pytest.raises(DataError, match="edge_1 holds no numbers"):
        tables.read_embeddings(tmp_path, cells)


def test_without_cells_the_tables_have_only_their_columns(tmp_path: Path) -> None:
    tables.write_cells(tmp_path, [frame("a", 0)])
    assert len(tables.read_cells(tmp_path)) == 0
    assert list(tables.iter_cells(tmp_path)) == []


def test_images_without_cells_between_others_change_nothing(tmp_path: Path) -> None:
    tables.write_cells(tmp_path, [frame("a", 0), frame("b", 2)])
    assert [name for name, _ in tables.iter_cells(tmp_path)] == ["b"]


def test_an_id_that_looks_like_a_formula_is_harmless_in_csv_and_comes_back(tmp_path: Path) -> None:
    tables.write_cells(tmp_path, [frame("=cmd()", 1)])
    assert "\n'=cmd()," in (tmp_path / "cells.csv").read_text()
    (tmp_path / "cells.parquet").unlink()
    assert tables.read_cells(tmp_path).ID.tolist() == ["=cmd()"]


def test_an_error_while_writing_leaves_no_files(tmp_path: Path) -> None:
    def broken():
        yield frame("a", 2)
        raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        tables.write_cells(tmp_path, broken())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",area_px", ",area", "lacks the column.*area_px"),
        ("b,2,0", "b,1,0", "row 3: 1 of b comes twice"),
        ("b,2,0", "b,x,0", "row 3: cell_id is 'x', expected a whole number"),
        ("1.25", "", "row 3: center_y is '', expected a number"),
        (",touches_border,0,1,2", ",touches_border,0,1,3", "score columns 0, 1, 3"),
    ],
)
def test_a_bad_cell_table_is_refused_with_its_row(tmp_path: Path, old: str, new: str, message: str) -> None:
    tables.write_cells(tmp_path, [frame("b", 2)])
    (tmp_path / "cells.parquet").unlink()
    spoil(tmp_path, "cells.csv", old, new)
    with pytest.raises(DataError, match=f"cells.csv.*{message}"):
        tables.read_cells(tmp_path)


@pytest.mark.parametrize("value", [1.5, -0.1, float("nan")])
def test_a_score_that_is_none_is_refused_with_its_row(tmp_path: Path, value: float) -> None:
    bad = frame("b", 4)
    bad.loc[2, "1"] = value
    tables.write_cells(tmp_path, [bad])
    with pytest.raises(DataError, match=r"cells\.parquet row 3: the score of class 1"):
        tables.read_cells(tmp_path)


def test_an_image_whose_cells_are_scattered_is_refused(tmp_path: Path) -> None:
    tables.write_cells(tmp_path, [frame("a", 1), frame("b", 1), frame("a", 1, first=2)])
    with pytest.raises(DataError, match="the cells of a do not follow each other"):
        list(tables.iter_cells(tmp_path))


def test_failed_images_keep_a_row_without_scores(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"ID": ["a", "-b"], "fold": [0, -1], "n_cells": [3, 0], "status": ["ok", "failed"], "0": [0.5, np.nan]}
    )
    tables.write_images(tmp_path, table)
    found = tables.read_images(tmp_path)
    assert found.ID.tolist() == ["a", "-b"]
    assert np.isnan(found["0"]).tolist() == [False, True]
    spoil(tmp_path, "images.csv", "failed", "ok")
    with pytest.raises(DataError, match=r"images\.csv row 3: the score of class 0 is ''"):
        tables.read_images(tmp_path)


def test_a_missing_or_foreign_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cells\.csv does not exist"):
        tables.read_cells(tmp_path)
    (tmp_path / "cells.parquet").write_text("no")
    with pytest.raises(DataError, match=r"cells\.parquet is no Parquet file"):
        tables.read_cells(tmp_path)


def test_carried_columns_stand_before_the_scores_and_come_back_from_every_table(tmp_path: Path) -> None:
    own = tables.put_carried(frame("a", 2), {"antibody": "HPA1", "dose": "=1+1"})
    at = own.columns.get_loc("antibody")
    assert own.columns[at - 1 : at + 3].tolist() == ["touches_border", "antibody", "dose", "0"]
    tables.write_cells(tmp_path, [own])
    assert "'=1+1" in (tmp_path / "cells.csv").read_text()
    wanted = own.drop(columns="rle")
    pd.testing.assert_frame_equal(tables.read_cells(tmp_path), wanted)
    (tmp_path / "cells.parquet").unlink()
    pd.testing.assert_frame_equal(tables.read_cells(tmp_path), wanted, rtol=1e-5)
