"""The ensemble stage: the tables it writes, what it refuses, and what it says of each member."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from wsss import ensemble
from wsss.core import rle
from wsss.core.checks import ConfigError, DataError
from wsss.core.files import write_json
from wsss.core.label_maps import write_label_map
from wsss.core.labels import ClassList
from wsss.data.build import Spec, create_dataset
from wsss.data.catalog import DataSet
from wsss.data.origin import SEEN
from wsss.inference import tables

N, SIZE, SCORES = 24, (12, 16), [str(k) for k in range(19)]
LABEL_MAP = np.zeros(SIZE, np.int32)
LABEL_MAP[1:5, 1:6], LABEL_MAP[6:10, 2:9], LABEL_MAP[1:9, 10:15] = 1, 2, 5


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Write two out-of-fold predictions, each knowing one of two classes, of images that all but one have cells."""
    rng = np.random.default_rng(0)
    labels = {f"im{n:02}": [k for k in (0, 1) if (n + k) % 3] for n in range(N)}
    images = {name: rng.integers(0, 255, (4, *SIZE), np.uint8) for name in labels}
    create_dataset(tmp_path / "data", images, labels, Spec(size=16, folds=3))
    folds = dict(zip(labels, DataSet.open(tmp_path / "data").folds().tolist(), strict=True))
    write(tmp_path, "a", labels, folds, knows=0)
    write(tmp_path, "b", labels, folds, knows=1)
    return tmp_path


def write(home: Path, name: str, labels: dict[str, list[int]], folds: dict[str, int], knows: int) -> None:
    rng = np.random.default_rng(knows)
    frames, rows = [], []
    for image, own in labels.items():
        found = rle.encode_label_map(LABEL_MAP) if image != "im00" else {}
        scores = rng.random((len(found), 19)) * 0.5
        scores[:, knows] += 0.4 * (knows in own)
        frames.append(
            tables.cells_frame(
                image,
                fold=folds[image],
                size=SIZE,
                cell_ids=np.array(list(found), int),
                geometry={column: np.zeros(len(found)) for column in tables.GEOMETRY_COLUMNS},
                scores=scores,
                rle=list(found.values()),
            )
        )
        failed = image == "im23"
        values = [np.nan] * 19 if failed else rng.random(19)
        rows.append([image, folds[image], len(found), "failed: x" if failed else "ok", *values])
    table = pd.DataFrame(rows, columns=[*tables.IMAGE_COLUMNS, *SCORES])
    tables.write_cells(home / name, frames)
    tables.write_images(home / name, table)
    sizes = table.assign(ImageHeight=SIZE[0], ImageWidth=SIZE[1])
    tables.write_submission(home / name / "submission.csv", sizes, tables.iter_cells(home / name))
    (home / name / "provenance.json").write_text(json.dumps({"oof": True, "data": str(home / "data"), "table": "t"}))


def run(home: Path, *more: str, preds: str = "a b") -> dict:
    words = ["--preds", *(str(home / name) for name in preds.split()), "--out", str(home / "blend"), *more]
    assert ensemble.main(words) == 0
    return json.loads((home / "blend/provenance.json").read_text())


def change(home: Path, file: str, **changes: object) -> None:
    path = home / "b" / file
    table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    if path.suffix == ".parquet":
        table.assign(**changes).to_parquet(path)
    else:
        table.assign(**changes).to_csv(path, index=False)


def test_given_weights_blend_cells_and_images_and_write_all_tables(home: Path) -> None:
    run(home, "--weights", "3,1")
    a, b, found = (tables.read_cells(home / name) for name in ("a", "b", "blend"))
    np.testing.assert_allclose(found[SCORES], 0.75 * a[SCORES] + 0.25 * b[SCORES], atol=1e-6)
    pd.testing.assert_frame_equal(found.drop(columns=SCORES), a.drop(columns=SCORES))
    a, b, found = (tables.read_images(home / name) for name in ("a", "b", "blend"))
    np.testing.assert_allclose(found[SCORES], 0.75 * a[SCORES] + 0.25 * b[SCORES], atol=1e-5)
    assert found.status.tolist() == a.status.tolist()
    masks = pd.read_parquet(home / "blend/cells.parquet").rle
    assert masks.tolist() == pd.read_parquet(home / "a/cells.parquet").rle.tolist()
    rows = list(tables.iter_submission(home / "blend/submission.csv", 19))
    assert [row.image_id for row in rows] == a.ID.tolist()
    assert {row.size for row in rows} == {SIZE}


def test_members_in_another_order_of_rows_are_joined_by_image_and_cell(home: Path) -> None:
    run(home)
    wanted = tables.read_cells(home / "blend")
    table = pd.read_parquet(home / "b/cells.parquet").sample(frac=1, random_state=0)
    table.to_parquet(home / "b/cells.parquet")
    run(home)
    pd.testing.assert_frame_equal(tables.read_cells(home / "blend"), wanted)


def test_auto_weights_beat_each_member_and_the_report_says_what_each_adds(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = run(home, "--weights", "auto")
    report = facts["report"]
    assert report["blend"] > max(row["alone"] for row in report["members"])
    for row, other in zip(report["members"], report["members"][::-1], strict=True):
        assert row["adds"] == pytest.approx(report["blend"] - other["alone"], abs=1e-9)
    assert facts["fitted_on"].startswith("image labels of")
    assert sum(facts["weights"]) == pytest.approx(1)
    printed = capsys.readouterr().out
    assert "weights fitted on the image labels" in printed
    assert "--weights " in printed
    found, folds = tables.read_cells(home / "blend"), facts["by_fold"]
    a, b = (tables.read_cells(home / name) for name in ("a", "b"))
    for fold, (x, y) in folds.items():
        own = found.fold == int(fold)
        np.testing.assert_allclose(found[own][SCORES], x * a[own][SCORES] + y * b[own][SCORES], atol=1e-6)


def test_late_images_are_left_out_of_the_fit_and_get_the_final_weights(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    late = {"im01", "im05"}
    for name in ("a", "b"):
        cells, images = tables.read_cells(home / name), tables.read_images(home / name)
        masks = pd.read_parquet(home / name / "cells.parquet").rle
        cells = cells.assign(fold=cells.fold.where(~cells.ID.isin(late), -1))
        tables.write_cells(home / name, [cells.assign(rle=masks)])
        tables.write_images(home / name, images.assign(fold=images.fold.where(~images.ID.isin(late), -1)))
    record = run(home, "--weights", "auto")
    assert sorted(record["by_fold"]) == ["0", "1", "2"]
    assert "2 images are in no fold: they are left out of the fit" in capsys.readouterr().out
    blended, a, b = (tables.read_cells(home / name) for name in ("blend", "a", "b"))
    of_late = blended.ID.isin(late)
    x, y = record["weights"]
    np.testing.assert_allclose(blended[of_late][SCORES], x * a[of_late][SCORES] + y * b[of_late][SCORES], atol=1e-6)
    changed = tables.read_cells(home / "a")
    changed.loc[of_late, SCORES] = 0.5  # what late images score changes no weight
    tables.write_cells(home / "a", [changed.assign(rle=pd.read_parquet(home / "a/cells.parquet").rle)])
    assert run(home, "--weights", "auto")["by_fold"] == record["by_fold"]


def test_auto_weights_may_be_fitted_on_true_cells(home: Path) -> None:
    rows = [f"im{n:02},{cell},{0 if n % 2 else 1}" for n in range(1, N) for cell in (1, 2, 5)]
    (home / "truth.csv").write_text("ID,cell_id,Label\n" + "\n".join(rows) + "\n")
    facts = run(home, "--weights", "auto", "--truth", str(home / "truth.csv"))
    assert facts["fitted_on"] == f"cells of {home / 'truth.csv'}: mean AP of {3 * (N - 1)} cells, joined by number"


def test_true_cells_of_other_numbers_are_joined_by_overlap_or_refused(home: Path) -> None:
    rows = [f"im{n:02},{9 - cell},{0 if n % 2 else 1}" for n in range(1, N) for cell in (1, 2, 5)]
    (home / "truth.csv").write_text("ID,cell_id,Label\n" + "\n".join(rows) + "\n")
    words = ["--weights", "auto", "--truth", str(home / "truth.csv")]
    write_json(home / "data/segment.json", {"options": {"backend": "masks", "split": True}})
    with pytest.raises(DataError, match=r"as parts of masks.*pass the folder of the true label maps"):
        run(home, *words)
    for n in range(1, N):
        write_label_map(home / f"masks/im{n:02}", np.where(LABEL_MAP > 0, 9 - LABEL_MAP, 0))
    facts = run(home, *words, "--masks", str(home / "masks"))
    assert facts["fitted_on"].endswith(f"mean AP of {3 * (N - 1)} cells, joined by iou")


@pytest.mark.parametrize("how", ["geometric", "rank"])
def test_other_rules_write_valid_tables(home: Path, how: str) -> None:
    run(home, "--how", how)
    scores = tables.read_cells(home / "blend")[SCORES].to_numpy()
    assert 0 <= scores.min() < scores.max() <= 1


def test_tables_of_other_cells_or_images_are_refused(home: Path) -> None:
    table = pd.read_parquet(home / "b/cells.parquet")
    table[table.cell_id != 5].to_parquet(home / "b/cells.parquet")
    with pytest.raises(DataError, match=r"b lacks 23 cells of .*a and has 0 it has not \(im01 cell 5\)"):
        run(home)
    table.assign(area_px=table.area_px + (table.ID == "im03")).to_parquet(home / "b/cells.parquet")
    with pytest.raises(DataError, match=r"cell 1 of im03 has area_px 1, in .*a it is 0"):
        run(home)
    table.to_parquet(home / "b/cells.parquet")
    images = pd.read_csv(home / "b/images.csv")
    images.iloc[1:].to_csv(home / "b/images.csv", index=False)
    with pytest.raises(DataError, match=r"b lacks 1 images of .*a .*\(im00\)"):
        run(home)


def test_predictions_out_of_other_folds_are_refused_as_a_leak(home: Path) -> None:
    change(home, "cells.parquet", fold=lambda t: (t.fold + 1) % 3)
    with pytest.raises(DataError, match=r"has fold .*leak into each other"):
        run(home)


def test_out_of_fold_and_other_predictions_do_not_mix(home: Path) -> None:
    (home / "b/provenance.json").write_text(json.dumps({"oof": False, "table": "t"}))
    with pytest.raises(DataError, match="one is out of fold, the other is not"):
        run(home)


def test_a_blend_is_as_honest_as_the_least_honest_of_its_members(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(home)["oof"] is True
    record = {"oof": True, "table": "t", "published": {"net": {"digest": "d"}}}
    (home / "b/provenance.json").write_text(json.dumps(record))
    assert run(home, "--overwrite")["published"] == record["published"]
    for name, more in (("a", {}), ("b", {SEEN: 3})):
        (home / name / "provenance.json").write_text(json.dumps({"oof": False, "table": "t"} | more))
    assert run(home, "--overwrite")[SEEN] == 3
    (home / "a/provenance.json").write_text(json.dumps({"oof": True, "table": "t"}))
    (home / "b/provenance.json").unlink()
    assert run(home, "--overwrite")["oof"] is False
    assert "b has no record of what it was trained on" in capsys.readouterr().out


def test_weights_are_not_fitted_on_what_the_networks_have_seen(home: Path) -> None:
    for name in ("a", "b"):
        (home / name / "provenance.json").write_text(json.dumps({"oof": False, "table": "t"}))
    with pytest.raises(DataError, match="is not out of fold"):
        run(home, "--weights", "auto", "--data", str(home / "data"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--weights", "1,2,3"], "expected 2 numbers"),
        (["--weights", "0,0"], "not all 0"),
        (["--weights", "a,b"], "expected auto, equal or 2 numbers"),
        (["--how", "median"], "--how is 'median'"),
        (["--out", "p1"], "is one of --preds"),
    ],
)
def test_options_that_make_no_sense_are_refused(words: list[str], message: str) -> None:
    out = [] if "--out" in words else ["--out", "x"]
    with pytest.raises(ConfigError, match=message):
        ensemble.main(["--preds", "p1", "p2", *out, *words])
    with pytest.raises(ConfigError, match="two or more"):
        ensemble.main(["--preds", "p1", "--out", "x"])


def test_true_cells_may_bear_the_names_of_the_data_sets_classes(home: Path) -> None:
    own = Spec(size=16, classes=ClassList(tuple(f"kind {k}" for k in range(19)), None))
    create_dataset(home / "own", {"im01": np.zeros((4, *SIZE), np.uint8)}, spec=own)
    for name in "ab":
        write_json(home / name / "provenance.json", {"oof": True, "data": str(home / "own"), "table": "t"})
    rows = [f"im{n:02},{cell},kind {n % 2}\n" for n in range(1, N) for cell in (1, 2, 5)]
    (home / "truth.csv").write_text("ID,cell,Label\n" + "".join(rows))
    facts = run(home, "--weights", "auto", "--truth", str(home / "truth.csv"))
    assert "mean AP of 69 cells" in facts["fitted_on"]


def test_image_labels_of_other_classes_are_refused(home: Path) -> None:
    create_dataset(home / "own", {"im01": np.zeros((4, *SIZE), np.uint8)}, spec=Spec(classes=ClassList(("a",), None)))
    with pytest.raises(DataError, match=r"has 19 classes, .* has 1:"):
        run(home, "--weights", "auto", "--data", str(home / "own"))


def test_predictions_whose_classes_stand_in_another_order_are_neither_blended_nor_named(home: Path) -> None:
    names = [f"kind {k}" for k in range(19)]
    other = [*names[:-2], *names[:-3:-1]]
    for name, classes in (("a", names), ("b", other)):
        write_json(home / name / "provenance.json", {"oof": True, "table": "t", "classes": classes})
    with pytest.raises(DataError, match=r"of other classes than .* \(kind \d+ instead of kind \d+"):
        run(home)
    tables.check_classes(home / "a", SCORES, ClassList(tuple(names), None), home / "data")
    with pytest.raises(DataError, match="kind 17 instead of kind 18, kind 18 instead of kind 17"):
        tables.check_classes(home / "b", SCORES, ClassList(tuple(names), None), home / "data")
