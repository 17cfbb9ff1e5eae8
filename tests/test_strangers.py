"""Folders and files of strangers: pipes, devices, links and names that lead elsewhere, in the place of inputs."""

import json
import os
import sqlite3
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from wsss.core.checks import DataError, UserError
from wsss.core.console import in_one_line, printable
from wsss.core.csv_text import read_text
from wsss.core.files import digest_file, read_json, read_lines, write_json
from wsss.core.label_maps import read_label_map
from wsss.core.parquet import read_parquet, write_parquet
from wsss.core.rasters import open_raster
from wsss.core.reading import read_npy, read_yaml
from wsss.data.build import Spec, create_dataset
from wsss.data.catalog import DataSet, Shards
from wsss.data.large import LargeImage
from wsss.data.origin import read_provenance
from wsss.inference.tables import read_cells, read_images
from wsss.options import ensemble, prepare
from wsss.options.parsing import read_options
from wsss.runs.inputs import Digests
from wsss.runs.journal import Journal
from wsss.runs.output import hold, in_folder
from wsss.runs.result_record import STATE
from wsss.runs.run_folder import load_checkpoint, read_tensors


def opened(path: Path) -> None:
    with open_raster(path):
        pass


READERS: dict[str, Callable[[Path], object]] = {
    "CSV": read_text,
    "JSON": read_json,
    "YAML": read_yaml,
    "lines": read_lines,
    "digest": digest_file,
    "array": lambda path: read_npy(path, "Again."),
    "Parquet": read_parquet,
    "picture": opened,
    "label map": lambda path: read_label_map(path.rename(path.with_name("x.png"))),
    "large image": lambda path: LargeImage(path.rename(path.with_name("x.tif"))),
    "checkpoint": load_checkpoint,
    "weights": read_tensors,
    "journal": lambda path: Journal(path, "f"),
}


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_ordinary_file_is_refused_and_never_waited_for(reader: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    with pytest.raises(UserError) as caught:
        READERS[reader](path)
    assert "\n" not in str(caught.value)
    assert Digests().of(path) is None or kind == "folder"


def test_locks_journals_stores_and_work_follow_no_link(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("mine")
    folder = tmp_path / "out"
    (folder / "links").mkdir(parents=True)
    (folder / ".lock").symlink_to(mine)
    with pytest.raises(UserError, match="is a link"), hold(folder):
        pass
    (folder / ".lock").unlink()
    (folder / "journal.sqlite").symlink_to(mine)
    with pytest.raises(UserError, match="is a link"):
        Journal(folder / "journal.sqlite", "f")
    (folder / "main-00000.npy").symlink_to(mine)
    with pytest.raises(UserError, match="is a link"):
        Shards(folder, "main", 1, 4, 16).allocate()
    for place in (STATE, f"{STATE}/result.work", f"{STATE}/result.work/files", f"{STATE}/result.work/files/a.csv"):
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(mine if path.suffix == ".csv" else tmp_path)
        with pytest.raises(UserError, match="is a link"), in_folder(folder, "ensemble"):
            pass
        path.unlink(missing_ok=True)
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("name", ["../../mine", "/etc/passwd", "a/b", ".hidden", "a\nb", "a\u202eb", "x" * 300])
def test_ids_of_tables_lead_nowhere(name: str, tmp_path: Path) -> None:
    row = dict.fromkeys(("cell_id", "fold", "ImageHeight", "ImageWidth", "center_y", "center_x", "area_px"), 1)
    row |= dict.fromkeys(("y0", "x0", "y1", "x1"), 1)
    table = pd.DataFrame([{"ID": name, **row, "touches_border": False, "0": 0.5}])
    write_parquet(tmp_path / "cells.parquet", table)
    with pytest.raises(UserError, match=r"cells\.parquet: the ID .* which no image has"):
        read_cells(tmp_path)
    images = {"ID": [name], "fold": [0], "ImageHeight": [1], "ImageWidth": [1], "n_cells": [0], "status": ["ok"]}
    pd.DataFrame(images | {"reason": [""], "0": [0.5]}).to_csv(tmp_path / "images.csv", index=False)
    with pytest.raises(UserError, match=r"images\.csv: the ID .* which no image has"):
        read_images(tmp_path)


def test_names_in_a_data_set_lead_nowhere(tmp_path: Path) -> None:
    images = {f"i{k}": np.zeros((4, 16, 16), np.uint8) for k in range(2)}
    create_dataset(tmp_path, images, {name: [0] for name in images}, Spec(size=16, folds=2))
    manifest = json.loads((tmp_path / "dataset.json").read_text())
    table = read_parquet(tmp_path / "images.parquet")
    for column, value, words in (("ID", "../x", "has a path in it"), ("shard", "../main-00000.npy", "which is a path")):
        write_parquet(tmp_path / "images.parquet", table.assign(**{column: [value, *table[column][1:]]}))
        facts = {k: v for k, v in manifest.items() if k not in ("wsss_digest", "digest")}
        facts["table"] = digest_file(tmp_path / "images.parquet")
        (tmp_path / "dataset.json").write_text(json.dumps(facts))
        with pytest.raises(UserError, match=words):
            DataSet.open(tmp_path).image(0)


META = "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT); INSERT INTO meta VALUES ('fingerprint', '\"f\"');"
ITEMS = "CREATE TABLE items (key TEXT PRIMARY KEY, record TEXT, payload BLOB, crc32 INTEGER);"
ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x AS key FROM c"


@pytest.mark.parametrize(
    "text",
    [
        f"CREATE VIEW items AS {ENDLESS};",
        "CREATE VIEW items AS SELECT 'k' AS key, '{}' AS record, zeroblob(900000000) AS payload, 0 AS crc32;",
        f"{ITEMS} CREATE TRIGGER t BEFORE INSERT ON items BEGIN DELETE FROM meta; END;",
        "CREATE TABLE items (key TEXT, record TEXT AS (hex(zeroblob(500000000))), payload BLOB, crc32 INTEGER);",
        f"{ITEMS} CREATE TABLE more (x);",
    ],
)
def test_a_journal_that_computes_is_refused(text: str, tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "journal.sqlite")
    database.executescript(META + text)
    database.close()
    with pytest.raises(UserError, match="which no journal has"):
        Journal(tmp_path / "journal.sqlite", "f")


def test_a_packed_torch_file_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1 << 20)}, tmp_path / "plain.pth")
    assert read_tensors(tmp_path / "plain.pth")["w"].shape == (1 << 20,)
    with zipfile.ZipFile(tmp_path / "plain.pth") as plain, zipfile.ZipFile(tmp_path / "w.pth", "w", 8) as packed:
        for member in plain.infolist():
            packed.writestr(member.filename, plain.read(member))
    with pytest.raises(UserError, match="made to do harm"):
        read_tensors(tmp_path / "w.pth")


def test_paths_that_are_empty_or_hold_a_nul_are_refused(tmp_path: Path) -> None:
    for words in (["--out", "", "--images", "x"], ["--out=", "--images", "x"], ["--images", "", "--out", "x"]):
        with pytest.raises(UserError, match=r"is empty: pass a path"):
            read_options("prepare", prepare, words)
    (tmp_path / "c.yaml").write_text('out: "a\\0b"\npreds: [x, y]\n')
    with pytest.raises(UserError, match="NUL character"):
        read_options("ensemble", ensemble, ["--config", str(tmp_path / "c.yaml")])


def test_messages_show_no_control_characters() -> None:
    assert printable("a\x1b[31m\u202eb\udcff\nü") == "a\\x1b[31m\\u202eb\\udcff\nü"
    assert in_one_line("a\nb\tc") == "a\\nb\\tc"


@pytest.mark.parametrize("entry", [{"data": "a\0b"}, {"run": None}, {"run": ["a"]}, {"members": [{"path": "\0"}]}])
def test_a_record_of_a_prediction_that_names_no_path_is_damaged(entry: dict[str, Any], tmp_path: Path) -> None:
    write_json(tmp_path / "provenance.json", entry)
    with pytest.raises(DataError, match=r"provenance\.json is damaged: it names what is no path"):
        read_provenance(tmp_path)
