"""The report stage: what the page tells, how bad input is refused, and that the page works in a browser."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from browsing import requests, wait_for

from wsss import prepare, report
from wsss.cells.regions import describe_cells
from wsss.core import rle
from wsss.core.checks import ConfigError, DataError
from wsss.core.labels import ClassList
from wsss.data.build import Spec, create_dataset
from wsss.inference import tables
from wsss.reports.figures import colour
from wsss.reports.overlay import scale_bar
from wsss.reports.page import ClassMap

EVIL = "<img src=x onerror=\"document.title='broken'\">"
TRICK = "</script><script>document.title='broken'</script>"
CLASSES = ClassList(("Nucleoplasm", TRICK, "Negative"), 2)
SIZES = {"a b": (40, 64), EVIL: (50, 30), "empty": (20, 20), "failed": (20, 20)}


def label_map(name: str) -> np.ndarray:
    """Return three cells with gaps in their numbers, the last in two pieces."""
    out = np.zeros(SIZES[name], np.int32)
    if name in ("a b", EVIL):
        out[2:20, 1:14] = 3
        out[2:20, 15:28] = 70_000
        out[25:30, 2:10] = out[33:38, 4:14] = 9
    return out


def cells_of(name: str, rng: np.random.Generator) -> pd.DataFrame:
    table = describe_cells(label_map(name))
    masks = rle.encode_label_map(label_map(name), table.cell_id.to_numpy())
    return tables.cells_frame(
        name,
        fold=0,
        size=SIZES[name],
        cell_ids=table.cell_id.to_numpy(),
        geometry={column: table[column] for column in table.columns},
        scores=rng.random((len(table), 3)),
        rle=list(masks.values()),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 255, (4, *size), np.uint8) for name, size in SIZES.items()}
    labels = {"a b": [0], EVIL: [1], "empty": [2]}
    create_dataset(tmp_path / "data", images, labels, Spec(size=64, classes=CLASSES, folds=2))
    preds = tmp_path / "preds"
    tables.write_cells(preds, [cells_of(name, rng) for name in sorted(SIZES)])
    rows = pd.DataFrame({"ID": list(SIZES), "fold": 0, "n_cells": [3, 3, 0, 0]})
    rows["status"] = ["ok", "ok", "ok", "no cells: the map is gone"]
    rows[["0", "1", "2"]] = rng.random((4, 3))
    tables.write_images(preds, rows)
    (preds / "provenance.json").write_text(json.dumps({"data": str(tmp_path / "data"), "run": "runs/<b>gone"}))
    run = tmp_path / "run/fold0"
    run.mkdir(parents=True)
    (run / "log.csv").write_text("epoch,lr,train_loss,val_loss,val_map\n1,0.001,1.0,0.9,0.2\n2,0.001,0.5,0.6,0.4\n")
    (run / "config.yaml").write_text("backbone: tiny\n")
    pd.DataFrame({"ID": ["a b"] * 3, "cell": [3, 9, 70_000], "Label": ["0", "1", "0|1"]}).to_csv(
        tmp_path / "truth.csv", index=False
    )
    return tmp_path


def write(folder: Path, *more: str) -> str:
    words = ["--preds", str(folder / "preds"), "--out", str(folder / "page.html"), *more]
    assert report.main(words) == 0
    return (folder / "page.html").read_text()


def with_all(folder: Path) -> str:
    return write(folder, "--truth", str(folder / "truth.csv"), "--run", str(folder / "run"))


def test_the_page_tells_run_figures_fields_cells_and_failures(folder: Path) -> None:
    page = with_all(folder)
    assert "6 cells in 3 images. Scores from 0.5 on say:" in page
    assert "Against 3 true cells the mean average precision is" in page
    for text in ("mean AP of cells", "backbone: tiny", "Most wrong", "expected calibration error"):
        assert text in page
    assert "2 epochs; at the end training loss 0.5, validation loss 0.6, validation mean average precision 0.4" in page
    assert page.count('class="field"') == 4
    assert 'data-width="64" data-height="40"' in page, "all stored pixels, and no more"
    assert "no cells: the map is gone" in page
    assert page.count('src="data:image/svg+xml') == 4, "training, mistakes, calibration of cells and of images"
    assert "In several pieces <small>2 cells</small>" in page


def test_a_threshold_that_leaves_most_cells_without_a_class_is_named(folder: Path) -> None:
    assert "scores are low rather than cells empty" not in write(folder, "--threshold", "0.01")
    page = write(folder, "--threshold", "1", "--overwrite", "true")
    assert "100% none. Where so many cells show none, scores are low rather than cells empty" in page


def test_without_truth_and_run_those_parts_are_left_out_and_the_way_to_them_is_told(folder: Path) -> None:
    page = write(folder)
    assert "python -m wsss.evaluate" in page
    assert "How far to trust this is not known yet" in page
    assert "wsss review --preds" in page
    assert 'id="wrong"' not in page
    assert 'id="mistakes"' not in page
    assert 'id="training"' not in page
    assert "AP of images" in page, "image labels are enough for these"


def test_figures_that_evaluate_wrote_are_shown(folder: Path) -> None:
    from wsss import evaluate

    assert evaluate.main(["--preds", f"{folder}/preds", "--truth", f"{folder}/truth.csv"]) == 0
    page = write(folder)
    assert "mean AP of cells" in page
    assert "Which classes are mistaken for which" in page


def test_figures_of_other_predictions_are_not_shown(folder: Path) -> None:
    from wsss import evaluate

    assert evaluate.main(["--preds", f"{folder}/preds", "--truth", f"{folder}/truth.csv"]) == 0
    rng = np.random.default_rng(1)
    tables.write_cells(folder / "preds", [cells_of(name, rng) for name in sorted(SIZES)])
    page = write(folder)
    assert "mean AP of cells" not in page
    assert "scores.json is of other predictions than these: run python -m wsss.evaluate again" in page


def test_fields_have_a_scale_bar_where_the_size_of_a_pixel_is_known(folder: Path) -> None:
    assert 'class="scale"' not in write(folder)
    page = write(folder, "--pixel-size", "0.65", "--overwrite")  # fields of 64, 30, 20 and 20 px
    assert page.count('<span class="scale" style="width:24.04%">10 µm</span>') == 1
    assert page.count('<span class="scale" style="width:15.38%">2 µm</span>') == 2
    assert page.count('class="scale"') == 4


def test_the_size_of_a_pixel_of_the_data_set_needs_no_option(tmp_path: Path) -> None:
    files, data, preds = (str(tmp_path / name) for name in ("in", "data", "preds"))
    Path(files).mkdir()
    pixels = np.full((4, 40, 64), 9, np.uint8)
    metadata = {"axes": "CYX", "PhysicalSizeX": 0.65, "PhysicalSizeXUnit": "µm"}
    tifffile.imwrite(f"{files}/a b.ome.tif", pixels, metadata=metadata)
    classes = tmp_path / "classes.yaml"
    classes.write_text("names: [Nucleoplasm, Cytosol, Negative]\nnegative: 2\n")
    words = ["--images", files, "--out", data, "--size", "64", "--workers", "0", "--classes", str(classes)]
    assert prepare.main(words) == 0
    tables.write_cells(Path(preds), [cells_of("a b", np.random.default_rng(0))])
    rows = pd.DataFrame({"ID": ["a b"], "fold": 0, "n_cells": 3, "status": "ok", "0": 0.5, "1": 0.5, "2": 0.5})
    tables.write_images(Path(preds), rows)
    Path(preds, "provenance.json").write_text(json.dumps({"data": data, "run": "gone"}))
    page = write(tmp_path)
    assert '<span class="scale" style="width:24.04%">10 µm</span>' in page


@pytest.mark.parametrize(("width", "bar"), [(0, None), (4, (25, "1 µm")), (41.6, (10 / 0.416, "10 µm"))])
def test_a_scale_bar_is_a_round_length_of_a_quarter_at_most(width: float, bar: tuple[float, str] | None) -> None:
    assert scale_bar(width) == (None if bar is None else (pytest.approx(bar[0]), bar[1]))


def test_paths_within_the_working_directory_are_shown_from_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    page = with_all(folder)
    assert f">{folder}" not in page
    assert "<dd>preds</dd>" in page
    assert "<summary>run/fold0</summary>" in page
    assert "wsss review --preds preds" in page


def test_maps_without_the_run_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="pass its folder as --run"):
        write(folder, "--maps")


def test_nothing_that_comes_from_outside_is_html_or_an_address(folder: Path) -> None:
    page = with_all(folder)
    for text in (EVIL, TRICK, "<b>gone"):
        assert text not in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")


def test_the_gallery_is_limited_to_most_and_says_so(folder: Path) -> None:
    page = write(folder, "--most", "2")
    assert page.count('class="field"') == 2
    assert "2 of 4 images, spread evenly over the set" in page


def test_predictions_of_another_data_set_are_refused(folder: Path) -> None:
    create_dataset(folder / "other", {"x": np.zeros((4, 20, 20), np.uint8)}, None, Spec(size=64, classes=CLASSES))
    with pytest.raises(DataError, match="pass its --data"):
        write(folder, "--data", str(folder / "other"))


def test_a_run_without_a_log_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"expected a run .* with a log"):
        write(folder, "--run", str(folder / "data"))


def test_truth_by_number_is_refused_where_overlap_was_used_before(folder: Path) -> None:
    (folder / "preds/scores.json").write_text(json.dumps({"truth": "t.csv", "cells": {"joined_by": "iou"}}))
    with pytest.raises(DataError, match="--masks"):
        write(folder, "--truth", str(folder / "truth.csv"))


@pytest.mark.parametrize("word", ["--quality=0", "--edge=10", "--most=-1", "--threshold=0"])
def test_options_out_of_range_are_refused(folder: Path, word: str) -> None:
    with pytest.raises(ConfigError, match=word.split("=")[0]):
        write(folder, word)


def colours(browser: Any, number: int) -> int:
    """Return how many pixels of a field's picture are clearly not grey: WebP turns grey by a level or two."""
    script = """const shown = document.querySelector("#field-%d canvas");
        const copy = Object.assign(document.createElement("canvas"), { width: shown.width, height: shown.height });
        const pen = copy.getContext("2d", { willReadFrequently: true });
        pen.drawImage(shown, 0, 0);
        const d = pen.getImageData(0, 0, copy.width, copy.height).data;
        let n = 0;
        for (let i = 0; i < d.length; i += 4) n += Math.abs(d[i] - d[i + 1]) + Math.abs(d[i] - d[i + 2]) > 12;
        return n"""
    return int(browser.execute_script(script % number))


class TwoMaps:
    """Stands in for the networks: Nucleoplasm on the left half, the second class nowhere."""

    def __init__(self, run: Path, data: object, provenance: object) -> None:
        assert run.name == "run"

    def maps(self, i: int) -> list[ClassMap]:
        return [ClassMap(0, 0.75, np.tile([1.0] * 16 + [0.0] * 16, (20, 1)))]


def test_class_maps_are_drawn_over_the_channels(folder: Path, browser: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsss.stages.report.Mapper", TwoMaps)
    write(folder, "--maps", "--run", str(folder / "run"))
    browser.get(f"file://{folder}/page.html")
    find = browser.find_element
    browser.execute_script('document.getElementById("field-0").scrollIntoView()')
    wait_for(browser, 'document.querySelectorAll("#field-0 path").length === 3')
    for name in ("0", "2", "3"):
        find("css selector", f'[name=channel][value="{name}"]').click()
    assert colours(browser, 0) == 0
    find("css selector", '[name=map] option[value="0"]').click()
    half = 64 * 40 // 2
    assert 0.8 * half < colours(browser, 0) < 1.1 * half
    assert (
        "map of Nucleoplasm: the network by itself gives the image 0.75" in find("css selector", "#field-0 .told").text
    )
    find("css selector", '[name=map] option[value="1"]').click()
    assert colours(browser, 0) == 0
    assert "the network sees it nowhere in the image" in find("css selector", "#field-0 .told").text
    assert browser.get_log("browser") == []


def test_the_page_works_in_a_browser_and_asks_for_nothing(folder: Path, browser: Any) -> None:
    with_all(folder)
    browser.get(f"file://{folder}/page.html")
    find = browser.find_element
    assert not find("css selector", "#field-0 svg").find_elements("tag name", "path"), "unpacked only when scrolled to"
    browser.execute_script('document.getElementById("field-0").scrollIntoView()')
    wait_for(browser, 'document.querySelectorAll("#field-0 path").length === 3')
    first = find("css selector", '#field-0 path[data-number="0"]')
    first.click()
    told = find("css selector", "#field-0 .told")
    assert told.text.startswith("cell 3, 234 px²")
    assert "true: Nucleoplasm" in told.text
    find("css selector", "#field-0 svg").send_keys("\ue014")  # arrow right
    assert told.text.startswith("cell 9")

    assert colours(browser, 0) > 0
    for name in ("0", "2", "3"):
        find("css selector", f'[name=channel][value="{name}"]').click()
    assert colours(browser, 0) == 0, "one channel alone is grey"

    find("css selector", '[name=by] option[value="1"]').click()
    assert f"rgb{colour(1)}" in first.get_attribute("style")
    set_value = """const slider = document.querySelector("[name=threshold]");
        slider.value = arguments[0];
        slider.dispatchEvent(new Event("input"))"""
    browser.execute_script(set_value, 1)
    assert f"rgb{colour(1)}" not in first.get_attribute("style"), "no score reaches the threshold"
    browser.execute_script(set_value, 0)
    browser.execute_script(set_value.replace("threshold", "gain"), 2.5)
    canvas = find("css selector", "#field-0 canvas")
    assert canvas.value_of_css_property("filter") == "brightness(2.5)"
    find("css selector", "#field-0 svg").send_keys(" ")
    assert find("id", "save").text == "save 1 selected cell as CSV"
    assert "Negative" in find("id", "legend").text
    find("css selector", "[name=search]").send_keys("onerror")
    assert find("id", "matches").text == "1 of 4"
    assert not find("id", "field-0").is_displayed()

    find("css selector", "#wrong a.to").click()
    assert find("id", "field-0").is_displayed(), "a link to a field shows it"
    assert EVIL in find("css selector", "#field-1 b").text
    assert browser.title == "Report of preds"
    assert requests(browser) == [f"file://{folder}/page.html"]
    assert browser.get_log("browser") == []


def test_the_page_is_no_wider_than_the_screen(folder: Path, browser: Any) -> None:
    with_all(folder)
    for width in (1400, 420):
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        browser.get(f"file://{folder}/page.html")
        widest = 'Math.max(...[...document.querySelectorAll("section, .tools, .tools *, .field")]'
        assert browser.execute_script(f"return {widest}.map((e) => e.getBoundingClientRect().right))") <= width
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
