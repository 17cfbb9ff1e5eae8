import contextlib
import multiprocessing
import os
import shutil
import signal
import sqlite3
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from wsss.core.checks import ConfigError, DataError
from wsss.data.catalog import DataSet
from wsss.data.image_files import find_images
from wsss.prepare import main
from wsss.runs.result_record import STATE

CHANNELS = ("red", "green", "blue", "yellow")
FORK = multiprocessing.get_context("fork")
"""Processes that are copies of this one have nothing to import before they work."""


def draw(folder: Path, ID: str, seed: int, shape: tuple[int, int] = (40, 50), suffix: str = "png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    planes = np.random.default_rng(seed).integers(0, 256, (4, *shape), dtype=np.uint8)
    for channel, plane in zip(CHANNELS, planes, strict=True):
        Image.fromarray(plane).save(folder / f"{ID}_{channel}.{suffix}")


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """Twelve images with labels."""
    for k in range(12):
        draw(tmp_path / "images", f"i{k:02d}", k, (30 + k, 50))
    rows = "".join(f"i{k:02d},{k % 3}|18\n" for k in range(12))
    (tmp_path / "train.csv").write_text("ID,Label\n" + rows)
    return tmp_path


def run(inputs: Path, *more: str, out: str = "set", workers: int = 0) -> int:
    words = ["--images", str(inputs / "images"), "--out", str(inputs / out), "--size", "32"]
    return main([*words, "--workers", str(workers), *more])


def labelled(inputs: Path, *more: str, **options: object) -> int:
    return run(inputs, "--labels", str(inputs / "train.csv"), *more, **options)  # type: ignore[arg-type]


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.parent.name != STATE
    }


def test_a_set_that_found_no_room_is_made_once_there_is_some(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
        with pytest.raises(DataError, match=r"needs \S+ GB for .*, the disk has 1e-08 GB free: make room"):
            labelled(inputs)
    assert labelled(inputs) == 0


def test_images_and_labels_become_a_data_set(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert labelled(inputs) == 0
    data = DataSet.open(inputs / "set")
    assert len(data) == 12
    assert data.geometry(3).height == 33
    assert data.labels[4, [1, 18]].tolist() == [1, 1]
    assert np.bincount(data.folds()).tolist() == [3, 3, 3, 3]
    pixels = np.stack([np.asarray(Image.open(inputs / "images" / f"i03_{c}.png")) for c in CHANNELS])
    assert (data.image(3) == data.geometry(3).image_to_store(pixels)).all()
    printed = capsys.readouterr().out
    assert "12 images, 0 failed, 12 with labels." in printed
    assert "Nucleoplasm" in printed


def test_without_labels_images_are_there_to_be_predicted(inputs: Path) -> None:
    assert run(inputs) == 0
    data = DataSet.open(inputs / "set")
    assert not data.has_labels.any()
    assert not (inputs / "set" / "folds.csv").exists()


def test_a_second_run_has_nothing_to_do(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labelled(inputs)
    before = content(inputs / "set")
    assert labelled(inputs) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert content(inputs / "set") == before


def test_what_killed_writers_left_is_cleared_away(inputs: Path) -> None:
    assert labelled(inputs) == 0
    before = content(inputs / "set")
    for folder in ("", "shards", "sources/main"):
        (inputs / "set" / folder / ".thumbnails.npy.abcdef01.part").write_text("of a writer that was killed")
    assert labelled(inputs) == 0
    assert content(inputs / "set") == before


def test_the_number_of_workers_does_not_change_a_byte(inputs: Path) -> None:
    labelled(inputs, out="one")
    labelled(inputs, out="two", workers=2)
    assert content(inputs / "one") == content(inputs / "two")


def test_broken_images_are_recorded_and_the_others_finished(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = inputs / "images"
    (images / "i00_yellow.png").unlink()
    (images / "i01_red.png").write_bytes((images / "i01_red.png").read_bytes()[:200])
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(images / "i02_blue.png")
    (images / "i04_green.png").write_bytes(b"")
    assert labelled(inputs) == 1
    data = DataSet.open(inputs / "set")
    reasons = data.table.set_index("ID")["reason"]
    assert data.table.loc[~data.ok, "ID"].tolist() == ["i00", "i01", "i02", "i04"]
    assert "channel yellow is missing" in reasons["i00"]
    assert "i01_red.png is cut short" in reasons["i01"]
    assert "i02_blue.png is 9 x 9" in reasons["i02"]
    assert "i04_green.png" in reasons["i04"]
    assert (data.folds()[~data.ok] == -1).all()
    assert "12 images, 4 failed" in capsys.readouterr().out
    with pytest.raises(DataError, match="i00 has no pixels"):
        data.image(0)


def test_only_mended_images_are_read_again(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = content(inputs / "images")
    (inputs / "images" / "i01_red.png").write_bytes(b"rubbish")
    assert labelled(inputs) == 1
    (inputs / "images" / "i01_red.png").write_bytes(whole["i01_red.png"])
    assert labelled(inputs) == 0
    assert "11 of 12 images are prepared already; 1 are left" in capsys.readouterr().out
    labelled(inputs, out="fresh")
    assert content(inputs / "set" / "shards") == content(inputs / "fresh" / "shards")


def test_an_image_that_is_read_again_changes_no_other(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert labelled(inputs, "--bits", "12") == 0
    (inputs / "images" / "i01_red.png").touch()
    assert labelled(inputs, "--bits", "12") == 0
    assert DataSet.open(inputs / "set").bits is None
    assert "note:" not in capsys.readouterr().out


def test_changed_labels_make_new_folds_without_reading_pixels(inputs: Path) -> None:
    labelled(inputs)
    pixels = content(inputs / "set" / "shards")
    before = DataSet.open(inputs / "set").folds_digest
    table = inputs / "train.csv"
    table.write_text(table.read_text().replace("i00,0|18", "i00,7"))
    assert labelled(inputs) == 0
    data = DataSet.open(inputs / "set")
    assert data.labels[0, 7] == 1
    assert data.folds_digest != before
    assert content(inputs / "set" / "shards") == pixels


def test_other_images_under_one_source_are_refused_until_overwritten(inputs: Path) -> None:
    labelled(inputs)
    draw(inputs / "images", "i99", 99)
    with pytest.raises(DataError, match="1 images came or went: i99"):
        labelled(inputs, "--allow-unlabelled")
    assert labelled(inputs, "--allow-unlabelled", "--overwrite") == 0
    assert len(DataSet.open(inputs / "set")) == 13


def test_options_of_labels_and_folds_are_refused_where_there_are_none(inputs: Path) -> None:
    with pytest.raises(ConfigError, match="--group changes nothing without --labels"):
        run(inputs, "--group", "plate")
    labelled(inputs)
    draw(inputs / "more" / "images", "new", 99)
    words = [
        "--images",
        str(inputs / "more" / "images"),
        "--out",
        str(inputs / "set"),
        "--size",
        "32",
        "--workers",
        "0",
    ]
    assert main([*words, "--source", "more", "--folds", "3"]) == 0
    assert DataSet.open(inputs / "set").manifest["folds"]["n"] == 3


def test_another_size_is_refused(inputs: Path) -> None:
    labelled(inputs)
    with pytest.raises(DataError, match="--size 32, now it is 64"):
        labelled(inputs, "--size", "64")


def test_a_second_source_is_appended_and_old_shards_stay(inputs: Path) -> None:
    labelled(inputs)
    shards = content(inputs / "set" / "shards")
    for k in range(4):
        draw(inputs / "more" / "images", f"e{k}", 100 + k, suffix="jpg")
    (inputs / "more" / "train.csv").write_text("ID,Label\n" + "".join(f"e{k},{k}\n" for k in range(4)))
    words = ["--images", str(inputs / "more/images"), "--labels", str(inputs / "more/train.csv"), "--size", "32"]
    assert main([*words, "--out", str(inputs / "set"), "--source", "external", "--workers", "0"]) == 0
    data = DataSet.open(inputs / "set")
    assert data.ids == [f"i{k:02d}" for k in range(12)] + [f"e{k}" for k in range(4)]
    assert (data.folds() >= 0).all()
    now = content(inputs / "set" / "shards")
    assert {name: now[name] for name in shards} == shards
    with pytest.raises(DataError, match=r"are in .* already: e0"):
        main([*words, "--out", str(inputs / "set"), "--source", "third", "--workers", "0"])


def test_near_duplicates_share_a_fold_and_are_reported(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for channel in CHANNELS:
        plane = np.asarray(Image.open(inputs / "images" / f"i05_{channel}.png"))
        Image.fromarray((plane * 0.7).astype(np.uint8)).save(inputs / "images" / f"x_{channel}.png")
    with (inputs / "train.csv").open("a") as stream:
        stream.write("x,2|18\n")
    assert labelled(inputs) == 0
    assert "x is like i05" in capsys.readouterr().out
    data = DataSet.open(inputs / "set")
    assert data.folds()[5] == data.folds()[12]
    assert pd.read_csv(inputs / "set" / "duplicates.csv")["ID"].tolist() == ["x"]


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ("i00,19\n", "row 2: label 19 is outside the classes 0..18"),
        ("i00,1\ni00,2\n", "other labels in row 2"),
        ("../i00,1\n", "has a path in it"),
        ("i00,1\n", "has no row for 11 of 12 images: i01"),
    ],
)
def test_a_bad_table_stops_before_anything_is_written(inputs: Path, rows: str, fault: str) -> None:
    (inputs / "train.csv").write_text("ID,Label\n" + rows)
    with pytest.raises(DataError) as error:
        labelled(inputs)
    assert fault in str(error.value)
    assert not (inputs / "set").exists()


def test_only_broken_images_are_an_error(inputs: Path) -> None:
    for path in (inputs / "images").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match="none of the 12 images can be used"):
        labelled(inputs)


def test_images_of_which_none_can_be_decoded_are_an_error_and_nothing_is_prepared(inputs: Path) -> None:
    for path in (inputs / "images").iterdir():
        path.write_bytes(path.read_bytes()[:-40])  # the header is whole
    with pytest.raises(DataError, match="none of the 12 images could be prepared: ") as error:
        labelled(inputs)
    assert "\n" not in str(error.value)
    assert not (inputs / "set/dataset.json").exists()


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["--plane", "1", "--project", "max"], "two ways to make one plane: leave one out, or name the axis"),
        (["--channels", "a,b,a"], "different names"),
        (["--channels", "a,b", "--roles", "nucleus=c"], "names the channel 'c', expected one of a, b"),
        (["--roles", "kernel=blue"], "ROLE=CHANNEL"),
        (["--source", "../x"], "letters, digits"),
        (["--bits", "11"], "expected one of"),
        (["--plane", "Z"], "expected a number from 1"),
        (["--project", "sum"], "expected one of max, mean"),
        (["--folds", "1"], "from 2"),
        (["--sise", "32"], "Did you mean 'size'"),
    ],
)
def test_a_wrong_option_is_named(inputs: Path, words: list[str], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        run(inputs, *words)


def journalled(path: Path) -> int:
    """Return how many images a running prepare has finished, -1 before it has begun."""
    if not path.exists():
        return -1
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        try:
            return int(database.execute("SELECT COUNT(*) FROM items").fetchone()[0])
        except sqlite3.OperationalError:
            return -1


def test_killed_at_any_moment_it_ends_with_the_same_bytes(inputs: Path) -> None:
    for k in range(12, 32):
        draw(inputs / "images", f"i{k:02d}", k, (300, 300))
    labelled(inputs, "--allow-unlabelled", out="whole")
    journal = inputs / "killed" / "prepare-main.journal"
    kills = 0
    for wanted, workers in ((0, 0), (1, 1), (12, 0)):
        more = {"out": "killed", "workers": workers}
        process = FORK.Process(target=lambda more=more: os.setsid() or labelled(inputs, "--allow-unlabelled", **more))
        process.start()
        while process.is_alive() and journalled(journal) < wanted:
            time.sleep(0.002)
        if process.is_alive():
            kills += 1
            os.killpg(process.pid or 0, signal.SIGKILL)
        process.join()
    assert kills
    assert labelled(inputs, "--allow-unlabelled", out="killed") == 0
    assert content(inputs / "killed") == content(inputs / "whole")


def test_adding_a_source_leaves_old_images_in_their_folds(inputs: Path) -> None:
    assert labelled(inputs) == 0
    before = DataSet.open(inputs / "set")
    first = before.folds().tolist()
    for k in range(6):
        draw(inputs / "more", f"n{k}", 100 + k)
    (inputs / "more.csv").write_text("ID,Label\n" + "".join(f"n{k},{k % 3}\n" for k in range(6)))
    words = ["--images", str(inputs / "more"), "--labels", str(inputs / "more.csv"), "--source", "more"]
    assert main([*words, "--out", str(inputs / "set"), "--size", "32", "--workers", "0"]) == 0
    after = DataSet.open(inputs / "set")
    folds = dict(zip(after.ids, after.folds().tolist(), strict=True))
    assert [folds[ID] for ID in before.ids] == first
    assert {folds[f"n{k}"] for k in range(6)} <= {0, 1, 2, 3}


def test_an_old_image_that_must_move_is_told(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert labelled(inputs) == 0
    before = DataSet.open(inputs / "set")
    first = before.folds()
    other = next(ID for ID, fold in zip(before.ids, first, strict=True) if fold != first[0])
    header, *lines = (inputs / "train.csv").read_text().splitlines()
    rows = [f"{line},{'P' if line[:3] in (before.ids[0], other) else ''}" for line in lines]
    (inputs / "train.csv").write_text("\n".join([f"{header},plate", *rows]))
    capsys.readouterr()
    assert labelled(inputs, "--group", "plate") == 0
    assert "note: 1 images are in another fold than before" in capsys.readouterr().out
    after = DataSet.open(inputs / "set")
    folds = dict(zip(after.ids, after.folds().tolist(), strict=True))
    assert folds[before.ids[0]] == folds[other]
    assert sum(folds[ID] != fold for ID, fold in zip(before.ids, first, strict=True)) == 1


def test_one_antibody_is_never_on_both_sides_of_a_fold_and_stays_in_the_tables(inputs: Path) -> None:
    (inputs / "train.csv").write_text(
        "ID;Label;antibody;source\n" + "".join(f"i{k:02d};Nucleoli;HPA{k // 2};x\n" for k in range(12))
    )
    assert labelled(inputs, "--group", "Antibody") == 0, "in any case"
    data = DataSet.open(inputs / "set")
    assert data.carried.columns.tolist() == ["antibody", "given_source"]
    assert (data.table.groupby("antibody")["fold"].nunique() == 1).all()
    assert labelled(inputs) == 0, "the second time nothing is left to do, and the group is known"
    assert DataSet.open(inputs / "set").manifest["folds"]["group"] == "Antibody"


def test_columns_of_two_sources_that_differ_in_case_are_one(inputs: Path) -> None:
    (inputs / "train.csv").write_text("ID,Label,antibody\n" + "".join(f"i{k:02d},{k % 3},H{k}\n" for k in range(12)))
    assert labelled(inputs, "--group", "antibody") == 0
    for k in range(4):
        draw(inputs / "more", f"n{k}", 100 + k)
    (inputs / "more.csv").write_text("ID,Label,Antibody\n" + "".join(f"n{k},{k % 3},H{k}\n" for k in range(4)))
    words = ["--images", str(inputs / "more"), "--labels", str(inputs / "more.csv"), "--source", "more"]
    words += ["--out", str(inputs / "set"), "--size", "32", "--workers", "0"]
    assert main(words) == 0
    data = DataSet.open(inputs / "set")
    assert list(data.carried) == ["antibody"]
    assert (data.table.groupby("antibody")["fold"].nunique() == 1).all()
    before = content(inputs / "set")
    assert main(words) == 0
    assert content(inputs / "set") == before, "the second time nothing is left to do"


def test_images_without_a_group_are_told_and_stand_alone(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = ["NA"] * 6 + ["", "nan"] + ["P"] * 4
    rows = [f"i{k:02d},1,{value}\n" for k, value in enumerate(values)]
    (inputs / "train.csv").write_text("ID,Label,plate\n" + "".join(rows))
    assert labelled(inputs, "--group", "plate") == 0
    assert "note: 8 images have no plate and are in any fold, each by itself: i00, " in capsys.readouterr().out
    assert np.bincount(DataSet.open(inputs / "set").folds()).max() == 4, "NA is no plate"


def test_too_few_groups_are_counted_as_groups(inputs: Path) -> None:
    (inputs / "train.csv").write_text("ID,Label,plate\n" + "".join(f"i{k:02d},1,P{k % 2}\n" for k in range(12)))
    with pytest.raises(ConfigError, match="--folds 4 needs at least 4 groups of labelled images of one plate, got 2"):
        labelled(inputs, "--group", "plate")


def test_columns_that_both_hold_labels_are_told(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (inputs / "train.csv").write_text("ID,Labels,Label\n" + "".join(f"i{k:02d},2,1\n" for k in range(12)))
    assert labelled(inputs) == 0
    assert "has the columns Label, Labels, which differ: Label is read" in capsys.readouterr().out
    assert DataSet.open(inputs / "set").carried.Labels.tolist() == ["2"] * 12


@pytest.mark.parametrize(
    "beside", ["a_cp_masks", "a_flows_cp_masks", "a_outlines_cp_masks", "a_flows", "a_masks", "a-labelled"]
)
def test_results_of_programs_that_segment_are_no_images(
    tmp_path: Path, beside: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images").mkdir()
    for name in ("a", "b", beside, beside.replace("a", "b", 1), "c_1"):
        Image.fromarray(np.random.default_rng(len(name)).integers(0, 255, (20, 20), np.uint8)).save(
            tmp_path / f"images/{name}.png"
        )
    np.save(tmp_path / "images/a_seg.npy", np.zeros(1))
    assert run(tmp_path, "--channels", "DAPI") == 0
    assert DataSet.open(tmp_path / "set").ids == ["a", "b", "c_1"]
    assert "note: 2 files are results of programs that segment" in capsys.readouterr().out
    for name in ("a", "b"):
        (tmp_path / "images" / f"{name}.png").unlink()
    if "_cp_" not in beside:  # a name that may be an image's own, if no other has it
        assert run(tmp_path, "--channels", "DAPI", out="other") == 0
        assert len(DataSet.open(tmp_path / "other").ids) == 3


def test_images_of_the_label_table_are_no_results_whatever_their_names(tmp_path: Path) -> None:
    for name in ("a", "a_mask", "a_pred"):
        (tmp_path / f"{name}.png").touch()
    assert [image.ID for image in find_images(tmp_path, ("DAPI",)).images] == ["a"]
    assert [image.ID for image in find_images(tmp_path, ("DAPI",), {"a", "a_mask"}).images] == ["a", "a_mask"]


def test_a_channel_may_be_called_outline(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in ("a_DAPI", "a_outline", "a_masks"):
        Image.fromarray(np.eye(20, dtype=np.uint8) * 99).save(tmp_path / f"images/{name}.png")
    assert run(tmp_path, "--channels", "DAPI,outline") == 0
    assert DataSet.open(tmp_path / "set").ids == ["a"]


def test_a_plane_chosen_of_images_that_are_no_stacks_is_told(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(inputs, "--plane", "3") == 0
    assert "note: --plane and --project change nothing: no image is a stack." in capsys.readouterr().out


def test_a_group_that_no_table_has_is_refused(inputs: Path) -> None:
    with pytest.raises(DataError, match="--group is 'antibody', but the label tables bring along no other column"):
        labelled(inputs, "--group", "antibody")


def test_names_that_macos_writes_apart_join_with_composed_ids(tmp_path: Path) -> None:
    for k in range(4):
        draw(tmp_path / "images", f"u\u0308{k}", k)
    (tmp_path / "train.csv").write_text("ID,Label\n" + "".join(f"\u00fc{k},1\n" for k in range(4)))
    assert labelled(tmp_path, "--folds", "2") == 0
    assert DataSet.open(tmp_path / "set").ids == [f"\u00fc{k}" for k in range(4)]
