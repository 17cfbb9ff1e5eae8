import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from sklearn.metrics import average_precision_score

from wsss.core import rle
from wsss.core.checks import DataError
from wsss.core.files import write_json
from wsss.core.labels import ClassList
from wsss.data.build import Spec, create_dataset
from wsss.evaluate import main
from wsss.inference import tables

K, SIZE = 3, (40, 50)
OTHER_NUMBER = {1: 4, 2: 3, 3: 2, 4: 1}


def true_map(shift: int = 0) -> np.ndarray:
    out = np.zeros(SIZE, np.int32)
    for k, (y, x) in enumerate([(2, 2), (2, 27), (22, 2), (22, 27)], 1):
        out[y : y + 14, x + shift : x + shift + 18] = k
    return out


def predicted_map(image: int) -> np.ndarray:
    """Return cells that overlap the true ones by more than .5, some by less than .6, with other numbers."""
    shifted = true_map(shift=image)
    return np.vectorize(lambda k: OTHER_NUMBER.get(k, 0))(shifted).astype(np.int32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make predictions of five images, four with cells, next to masks and a truth table."""
    rng = np.random.default_rng(3)
    (tmp_path / "masks").mkdir()
    truth, frames, images = [], [], []
    for i in range(5):
        Image.fromarray(true_map().astype(np.uint16)).save(tmp_path / f"masks/i{i}.png")
        truth += [(f"i{i}", k, "|".join({str(rng.integers(K)), str(rng.integers(K))})) for k in range(1, 5)]
        found = rle.encode_label_map(predicted_map(i)) if i < 4 else {}
        frames.append(
            tables.cells_frame(
                f"i{i}",
                fold=0,
                size=SIZE,
                cell_ids=np.array(list(found), int),
                geometry={name: np.zeros(len(found)) for name in tables.GEOMETRY_COLUMNS},
                scores=rng.random((len(found), K)),
                rle=list(found.values()),
            )
        )
        images.append((f"i{i}", 0, len(found), "ok" if i < 4 else "failed"))
    table = pd.DataFrame(images, columns=tables.IMAGE_COLUMNS)
    for k in range(K):
        table[str(k)] = np.where(table.status == "ok", rng.random(5), np.nan)
    preds = tmp_path / "preds"
    tables.write_cells(preds, frames)
    tables.write_images(preds, table)
    sizes = table.assign(ImageHeight=SIZE[0], ImageWidth=SIZE[1])
    tables.write_submission(preds / "submission.csv", sizes, tables.iter_cells(preds), min_score=0)
    pd.DataFrame(truth, columns=["ID", "cell", "Label"]).to_csv(tmp_path / "truth.csv", index=False)
    return tmp_path


def run(folder: Path, *more: str) -> dict:
    assert main(["--preds", str(folder / "preds"), "--truth", str(folder / "truth.csv"), *more]) == 0
    return json.loads((folder / "preds/scores.json").read_text())


def coco_ap(folder: Path) -> list[float]:
    truth, cells = pd.read_csv(folder / "truth.csv"), tables.read_cells(folder / "preds")
    size = list(SIZE)
    true_masks = rle.encode_label_map(true_map())
    annotations, detections = [], []
    for row in truth.itertuples():
        for k in row.Label.split("|"):
            mask = {"size": size, "counts": true_masks[row.cell]}
            own = {"id": len(annotations) + 1, "image_id": int(row.ID[1:]) + 1, "category_id": int(k) + 1}
            annotations.append(own | {"segmentation": mask, "area": 252, "iscrowd": 0})
    for row in cells.to_dict("records"):
        image = int(row["ID"][1:])
        mask = {"size": size, "counts": rle.encode_label_map(predicted_map(image) == row["cell_id"])[1]}
        own = {"image_id": image + 1, "segmentation": mask}
        detections += [own | {"category_id": k + 1, "score": float(f"{row[str(k)]:.6g}")} for k in range(K)]
    with contextlib.redirect_stdout(io.StringIO()):
        true_set = COCO()
        true_set.dataset = {
            "info": {},
            "images": [{"id": i + 1, "height": SIZE[0], "width": SIZE[1]} for i in range(5)],
            "annotations": annotations,
            "categories": [{"id": k + 1} for k in range(K)],
        }
        true_set.createIndex()
        scorer = COCOeval(true_set, true_set.loadRes(detections), "segm")
        scorer.params.iouThrs, scorer.params.maxDets = np.array([0.6]), [1000]
        scorer.params.areaRng, scorer.params.areaRngLbl = [[0, 1e10]], ["all"]
        scorer.evaluate()
        scorer.accumulate()
    return scorer.eval["precision"][0, :, :, 0, 0].mean(axis=0).tolist()


def test_mask_ap_is_that_of_cocoeval(folder: Path) -> None:
    found = run(folder, "--masks", str(folder / "masks"))["instances"]
    wanted = coco_ap(folder)
    assert 0 < min(wanted) < max(wanted) < 1
    assert [row["coco"] for row in found["per_class"]] == pytest.approx(wanted, abs=1e-9)


def test_cell_ap_of_overlapping_cells_is_that_of_sklearn(folder: Path) -> None:
    found = run(folder, "--masks", str(folder / "masks"))["cells"]
    assert (found["joined_by"], found["missing"], found["unknown"]) == ("iou", 4, 0)
    truth = pd.read_csv(folder / "truth.csv")
    cells = tables.read_cells(folder / "preds")
    cells["cell"] = cells.cell_id.map({other: k for k, other in OTHER_NUMBER.items()})
    joined = truth.merge(cells, on=["ID", "cell"], how="left").fillna(0)
    for k in range(K):
        right = joined.Label.str.split("|").map(lambda labels, k=k: str(k) in labels)
        wanted = average_precision_score(right, joined[str(k)])
        assert found["per_class"][k]["ap"] == pytest.approx(wanted, abs=1e-9)


def test_without_masks_cells_are_joined_by_number(folder: Path) -> None:
    found = run(folder)
    assert found["cells"]["joined_by"] == "number"
    assert found["instances"] is None
    assert found["cells"]["count"] == 20


def test_a_note_says_that_the_answers_of_a_review_are_no_random_sample(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = pd.read_csv(folder / "truth.csv")
    for last, note in ((1.4, False), (9.0, True)):
        truth.assign(weight=[1.0] * 19 + [last], image_mark="m").to_csv(folder / "truth.csv", index=False)
        run(folder, "--overwrite", "true")
        assert ("is no random sample" in capsys.readouterr().out) == note


def test_copied_labels_and_image_scores_stand_next_to_the_cells(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(folder)
    assert "image labels: the labels of the cells together" in capsys.readouterr().out
    (folder / "labels.csv").write_text("ID,Label\n" + "".join(f"i{i},0|1|2\n" for i in range(5)))
    found = run(folder, "--labels", str(folder / "labels.csv"), "--overwrite", "true")
    assert f"image labels: {folder}/labels.csv" in capsys.readouterr().out
    assert found["baselines"]["image_labels_copied"]["recall"] == 1
    assert found["baselines"]["image_scores_copied"]["count"] == 20
    assert (found["images"]["count"], found["images"]["without_scores"]) == (4, 1)


def test_a_class_that_does_not_occur_is_null_and_the_table_is_printed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (folder / "truth.csv").read_text().replace("0|2", "0").replace("2|0", "0").replace("1|2", "1")
    lines = [line if not line.endswith(("2", "2|1")) else line.rsplit(",", 1)[0] + ",1" for line in text.splitlines()]
    (folder / "truth.csv").write_text("\n".join(lines) + "\n")
    found = run(folder, "--masks", str(folder / "masks"))
    assert found["cells"]["per_class"][2]["ap"] is None
    assert found["cells"]["classes"] == 2
    printed = capsys.readouterr().out
    assert "masks, mAP at IoU 0.6" in printed
    assert "image labels copied to all cells" in printed
    assert "Negative" not in printed  # none of the three classes is


def test_the_same_figures_are_told_again_where_there_is_nothing_to_do(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = Spec(classes=ClassList(("one", "two", "three"), 1))
    create_dataset(folder / "data", {"i0": np.zeros((4, *SIZE), np.uint8)}, spec=own)
    write_json(folder / "preds/provenance.json", {"data": str(folder / "data"), "seen_and_predicted": 3})
    told = []
    for _ in range(2):
        run(folder)
        told.append([line for line in capsys.readouterr().out.splitlines() if ": nothing to do" not in line])
    assert told[1] == [line for line in told[0] if not line.startswith("written to")]
    assert any("without Negative" in line for line in told[1])
    assert any(
        "note: 3 of the predicted images" in line and "figures measured on these flatter" in line for line in told[1]
    )


def test_scores_of_images_of_other_classes_are_refused(folder: Path) -> None:
    path = folder / "preds/images.csv"
    pd.read_csv(path).drop(columns="2").to_csv(path, index=False)
    with pytest.raises(DataError, match=r"images.csv has 2 classes, the table of cells beside it has 3"):
        run(folder)


def test_true_masks_of_another_size_are_refused(folder: Path) -> None:
    Image.fromarray(np.zeros((20, 25), np.uint16)).save(folder / "masks/i0.png")
    with pytest.raises(DataError, match=r"i0.png is 20 x 25, but i0 is 40 x 50: give it at that size"):
        run(folder, "--masks", str(folder / "masks"))


def test_predictions_of_other_images_are_refused(folder: Path) -> None:
    (folder / "truth.csv").write_text("ID,cell,Label\nother,1,0\n")
    with pytest.raises(DataError, match=r"no cell of .*begins with other, the predictions with i0"):
        run(folder)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("i0\u200b,1,0", r"the table begins with 'i0\\u200b', the nearest of the predictions is 'i0'"),
        ("i0,7,0\ni0,9,1", r"of i0, the table has the cells 7, 9, the predictions 1, 2, 3 and 1 more"),
        ("I0,1,0", r"the table begins with I0, the predictions with i0"),
    ],
)
def test_a_join_without_any_cell_shows_the_difference(folder: Path, row: str, message: str) -> None:
    (folder / "truth.csv").write_text(f"ID,cell,Label\n{row}\n")
    with pytest.raises(DataError, match=rf"no cell of .*: {message}"):
        run(folder)


def squares(label_map: np.ndarray) -> list[tuple[int, list[list[int]]]]:
    """Return the number and the corners x, y of each cell of `true_map`."""
    out = []
    for k in range(1, 5):
        rows, columns = np.nonzero(label_map == k)
        (y0, y1), (x0, x1) = ((axis.min(), axis.max() + 1) for axis in (rows, columns))
        out.append((k, [[int(x0), int(y0)], [int(x1), int(y0)], [int(x1), int(y1)], [int(x0), int(y1)]]))
    return out


def write_form(path: Path, form: str) -> Path:
    """Write the true cells of the five images in a form of other tools; return what is given as --masks."""
    path.mkdir()
    if form == "COCO":
        images = [{"id": i, "file_name": f"i{i}.png", "height": SIZE[0], "width": SIZE[1]} for i in range(5)]
        cells = [
            {"id": k, "image_id": 0, "category_id": 1, "segmentation": [np.ravel(ring).tolist()]}
            for k, ring in squares(true_map())
        ]
        cells += [dict(cell, id=cell["id"] + 10 * i, image_id=i) for i in range(1, 5) for cell in cells[:4]]
        (path / "c.json").write_text(json.dumps({"images": images, "annotations": cells, "categories": []}))
        return path / "c.json"
    if form == "table":
        masks = rle.encode_label_map(true_map())
        rows = [(f"i{i}", k, text.decode()) for i in range(5) for k, text in masks.items()]
        pd.DataFrame(rows, columns=["ID", "cell_id", "rle"]).to_csv(path / "t.csv", index=False)
        return path / "t.csv"
    for i in range(5):
        if form == "GeoJSON":
            features = [
                {
                    "type": "Feature",
                    "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]]]},
                    "properties": {"measurements": {"cell_id": k}},
                }
                for k, ring in squares(true_map())
            ]
            (path / f"i{i}.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
        else:
            Image.fromarray(true_map().astype(np.uint16)).save(path / f"i{i}_cp_masks.png")
    return path


@pytest.mark.parametrize("form", ["COCO", "table", "GeoJSON", "Cellpose"])
def test_true_masks_are_read_in_every_form_that_segment_takes(folder: Path, form: str) -> None:
    wanted = run(folder, "--masks", str(folder / "masks"))
    if form == "COCO":  # numbers of annotations are unique in the file
        truth = pd.read_csv(folder / "truth.csv")
        truth["cell"] += 10 * truth.ID.str[1:].astype(int)
        truth.to_csv(folder / "truth.csv", index=False)
    found = run(folder, "--masks", str(write_form(folder / "other", form)), "--overwrite")
    assert found["cells"] == wanted["cells"]
    assert found["instances"] == wanted["instances"]


def test_true_masks_are_checked_and_the_way_out_is_none_of_segment(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(5):
        Image.fromarray((true_map() > 0).astype(np.uint8) * 255).save(folder / f"masks/i{i}.png")
    Image.fromarray(true_map().astype(np.uint16)).save(folder / "masks/i1.tif")
    with pytest.raises(DataError, match="none overlaps one by an IoU"):
        run(folder, "--masks", str(folder / "masks"))
    told = capsys.readouterr().out
    assert "several files of 1 images; read are i1.png, not i1.tif" in told
    assert "label maps of 4 images (i0, i1, i2, i3): one label is many pieces" in told
    assert "--" not in told.split("many pieces")[1].split("\n")[0]


def test_joining_by_overlap_needs_masks(folder: Path) -> None:
    with pytest.raises(DataError, match="pass --masks DIR"):
        run(folder, "--join", "iou")
