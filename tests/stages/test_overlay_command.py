"""The overlay stage: which images it draws, what it reads, what it writes, and how it refuses bad tables."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from wsss import overlay
from wsss.core.checks import ConfigError, DataError
from wsss.core.label_maps import Geometry, write_label_map
from wsss.core.labels import HPA, HPA_CHANNELS, HPA_NAMES, ClassList
from wsss.data.catalog import DataSet
from wsss.options.overlay import OverlayOptions
from wsss.reports.figures import colour
from wsss.reports.overlay import describe_truth
from wsss.segmenters.masks import open_cell_masks
from wsss.stages.overlay import choose_images, draw_image, read_predictions, read_truth

COLUMNS = [str(k) for k in range(19)]


class SmallSet:
    """Four 40 x 64 images stored at 64 px, the last without pixels; each has the cells 3 and 8."""

    ids = ["a", "b", "c", "d"]
    ok = np.array([True, True, True, False])
    has_labels = np.array([True, False, True, True])
    labels = np.stack([HPA.encode([0, 6])] * 4)
    channels = tints = HPA_CHANNELS
    cells, _label_map = DataSet.cells, DataSet._label_map
    classes = HPA
    table = pd.DataFrame({"crc32": [1, 2, 3, 4]})

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        label_map = np.zeros((40, 64), np.int32)
        label_map[4:36, 2:30] = 3
        label_map[4:36, 30:62] = 8
        for name in self.ids:
            write_label_map(folder / "cells" / name, label_map)

    def image(self, i: int) -> np.ndarray:
        return np.random.default_rng(i).integers(0, 200, (4, 64, 64), np.uint8)

    def geometry(self, i: int) -> Geometry:
        return Geometry(40, 64, 64)

    def pixel_um(self, i: int) -> float | None:
        return 0.5 if i == 1 else None


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallSet:
    found = SmallSet(tmp_path / "data")
    monkeypatch.setattr(DataSet, "open", lambda folder: found)
    return found


def write_cells(path: Path, top: int = 6) -> Path:
    table = pd.DataFrame(0.1, index=range(6), columns=COLUMNS)
    table[str(top)] = 0.9
    table.insert(0, "ID", ["a", "a", "b", "b", "c", "c"])
    table.insert(1, "cell_id", [3, 8] * 3)
    path.mkdir(parents=True, exist_ok=True)
    table.to_parquet(path / "cells.parquet")
    return path


def options(tmp_path: Path, **more: object) -> OverlayOptions:
    return OverlayOptions(preds=tmp_path / "preds", out=tmp_path / "out", **more)


def test_one_picture_an_image_and_an_overview_are_written(tmp_path: Path, data: SmallSet) -> None:
    write_cells(tmp_path / "preds")
    (tmp_path / "truth.csv").write_text("ID,cell,Label\na,3,6\na,8,0|6\nb,3,18\nzz,1,2\n")
    words = f"--data {data.folder} --preds {tmp_path}/preds --out {tmp_path}/out --max-size 200"
    assert overlay.main([*words.split(), f"--truth={tmp_path}/truth.csv"]) == 0
    assert {p.name for p in (tmp_path / "out").glob("[!.]*")} == {"a.png", "b.png", "c.png", "overview.png"}
    page = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    assert page.shape[1] == 3 * 200 + 4 * 10, "image, predicted, truth"
    assert page.shape[0] > 125, "the padding below the image is not drawn"


def test_a_scale_bar_is_drawn_where_the_size_of_a_pixel_is_known(tmp_path: Path, data: SmallSet) -> None:
    """The second image is 64 px of 0.5 um wide: 5 um are 15.6 % of the width."""
    out, preds = tmp_path / "out", write_cells(tmp_path / "preds")
    overlay.main(["--preds", str(preds), "--data", str(data.folder), "--out", str(out)])
    white = {}
    for name in "ab":
        picture = np.asarray(Image.open(out / f"{name}.png"))
        white[name] = [int((line == 255).all(axis=1).sum()) for line in picture]
    bar = round(0.15625 * 768) + 1  # in panels of 768 px
    assert white["b"].count(2 * bar) == 4
    assert max(white["a"]) < bar
    given_out = tmp_path / "given"
    overlay.main(["--preds", str(preds), "--data", str(data.folder), "--out", str(given_out), "--pixel-size", "0.5"])
    given = np.asarray(Image.open(given_out / "a.png"))
    assert [int((line == 255).all(axis=1).sum()) for line in given].count(2 * bar) == 4


def test_images_are_spread_over_the_set_and_failed_ones_left_out(tmp_path: Path, data: SmallSet) -> None:
    assert choose_images(data, options(tmp_path)) == [0, 1, 2]
    assert choose_images(data, options(tmp_path, most=2)) == [0, 2]
    assert choose_images(data, options(tmp_path, ids="c, a,c")) == [2, 0]


@pytest.mark.parametrize(("ids", "word"), [("a,q", "q not in"), (" ,", "not in"), ("d", "d could not be prepared")])
def test_an_id_that_cannot_be_drawn_is_named(tmp_path: Path, data: SmallSet, ids: str, word: str) -> None:
    with pytest.raises(DataError, match=word):
        choose_images(data, options(tmp_path, ids=ids))


def test_only_the_wanted_images_are_read_and_the_top_class_is_noted(tmp_path: Path, data: SmallSet) -> None:
    notes = read_predictions(write_cells(tmp_path / "preds", top=14), data, ["b"], 0.5)
    assert set(notes) == {"b"}
    assert {cell: note.text for cell, note in notes["b"].items()} == {3: "Mito 0.90", 8: "Mito 0.90"}


@pytest.mark.parametrize("names", [HPA_NAMES[:18], (*HPA_NAMES, "More")])
def test_missing_or_unfitting_predictions_are_refused(tmp_path: Path, data: SmallSet, names: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match=r"wsss\.infer"):
        read_predictions(tmp_path, data, ["a"], 0.5)
    data.classes = ClassList(names, None)
    with pytest.raises(DataError, match=f"has 19 classes, .* has {len(names)}"):
        read_predictions(write_cells(tmp_path), data, ["a"], 0.5)


@pytest.mark.parametrize("label", ["", "19", "x", "-1"])
def test_a_true_label_that_is_no_class_is_named_with_its_cell(tmp_path: Path, label: str) -> None:
    path = tmp_path / "truth.csv"
    path.write_text(f"ID,cell,Label\na,4,{label}\n")
    with pytest.raises(DataError, match=r"row 2.*label"):
        read_truth(path, ["a"], HPA)


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="--most"):
        OverlayOptions(preds=Path("p"), out=Path("o"), most=0)


def test_true_classes_by_number_are_refused_for_cells_that_were_found(tmp_path: Path, data: SmallSet) -> None:
    write_cells(tmp_path / "preds")
    (data.folder / "segment.json").write_text('{"options": {"backend": "classical"}}')
    (tmp_path / "truth.csv").write_text("ID,cell,Label\na,1,6\n")
    words = f"--data {data.folder} --preds {tmp_path}/preds --out {tmp_path}/out --max-size 200".split()
    with pytest.raises(DataError, match=r"found by --backend classical.*--masks"):
        overlay.main([*words, f"--truth={tmp_path}/truth.csv"])


def test_with_true_masks_the_panel_shows_the_true_cells(tmp_path: Path, data: SmallSet) -> None:
    write_cells(tmp_path / "preds")
    (data.folder / "segment.json").write_text('{"options": {"backend": "classical"}}')
    true = np.zeros((40, 64), np.int32)
    true[20:36, 30:62] = 5
    for name in data.ids:
        write_label_map(tmp_path / "true" / name, true)
    table, masks = tmp_path / "truth.csv", tmp_path / "true"
    words = OverlayOptions(preds=tmp_path / "preds", out=tmp_path, truth=table, masks=masks, max_size=200)
    truth = {"a": {5: describe_truth([2], HPA_NAMES)}}
    page, _, shown = draw_image(
        data, 0, {"a": {3: describe_truth([6], HPA_NAMES)}}, truth, words, open_cell_masks(masks)
    )
    assert shown == {2, 6}
    right, middle = page[:, -210:].astype(int), page[:, 220:420].astype(int)
    red = [int((np.abs(part - colour(2)).sum(axis=-1) < 30).sum()) for part in (right, middle)]
    assert red[0] > 100
    assert red[1] == 0
    write_label_map(tmp_path / "true" / "a", true[:, :63])
    with pytest.raises(DataError, match=r"is 40 x 63, but a is 40 x 64"):
        draw_image(data, 0, {"a": {}}, truth, words, open_cell_masks(masks))
