"""The report of predicted masks: what the page tells, how bad input is refused, and that it works in a browser."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from browsing import requests, wait_for
from PIL import Image

from wsss import evaluate, report
from wsss.core.checks import ConfigError, DataError
from wsss.options.infer import InferOptions
from wsss.options.masks import MaskInferConfig
from wsss.stages.infer_masks import write_image
from wsss.stages.mask_predictions import expected_iou

EVIL = "<img src=x onerror=\"document.title='broken'\">"
SIZES = {"a b": (60, 96), EVIL: (50, 30), "empty": (20, 20), "failed": (20, 20)}
TRUE = {
    "a b": [(2, 14, 2, 14), (2, 14, 20, 32), (2, 14, 32, 44), (20, 50, 2, 14), (40, 52, 70, 82)],
    EVIL: [(5, 25, 5, 25)],
}
"""y0, y1, x0, x1 of the objects; in the first image the second and third touch."""
FOUND = {
    "a b": [(2, 14, 2, 14), (2, 14, 20, 44), (20, 33, 2, 14), (36, 50, 2, 14), (20, 30, 60, 70)],
    EVIL: [(5, 25, 5, 23)],
}
"""A hit, a merge, two parts of one, one invented; and a hit."""


def boxes(name: str, kind: dict[str, list[tuple[int, int, int, int]]]) -> list[np.ndarray]:
    out = []
    for y0, y1, x0, x1 in kind.get(name, []):
        mask = np.zeros(SIZES[name], bool)
        mask[y0:y1, x0:x1] = True
        out.append(mask)
    return out


def write_preds(folder: Path, *, objects: bool) -> None:
    """Write predictions as infer writes them, of networks that never saw the images."""
    preds = folder / "preds"
    options = InferOptions(folder / "run", segmentation=MaskInferConfig(objects=objects))
    rows = []
    for name, size in SIZES.items():
        probs = np.full((1, *size), 0.1, np.float32)
        for mask in boxes(name, FOUND):
            probs[0, mask] = 0.9
        row = write_image(preds, name, probs, "binary", options)
        rows.append([name, row["n_objects"], "failed: it is cut off" if name == "failed" else "ok"])
    pd.DataFrame(rows, columns=["ID", "n_objects", "status"]).to_csv(preds / "images.csv", index=False)
    record = {"task": "masks", "data": str(folder / "data"), "run": "runs/<b>gone", "oof": True, "target": "binary"}
    record |= {"channels": 3, "members": [1, 2], "versions": {"wsss": "0"}}
    record |= {"segmentation": {"objects": objects, "threshold": 0.5, "min_size": 0, "tta": "none"}}
    (preds / "provenance.json").write_text(json.dumps(record))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, size in SIZES.items():
        shape = (*size, 3) if name == EVIL else size
        pixels = rng.integers(0, 60, shape, np.uint8)
        for sub in ("images", "masks"):
            (tmp_path / "data" / name / sub).mkdir(parents=True)
        for k, mask in enumerate(boxes(name, TRUE)):
            pixels[mask] += 120
            Image.fromarray(np.uint8(255) * mask).save(tmp_path / "data" / name / "masks" / f"{k}.png")
        Image.fromarray(pixels).save(tmp_path / "data" / name / "images" / "own.png")
    write_preds(tmp_path, objects=True)
    run = tmp_path / "run/fold0"
    run.mkdir(parents=True)
    (run / "log.csv").write_text("epoch,lr,train_loss,val_loss,val_dice\n1,0.001,1.0,0.9,0.2\n2,0.001,0.5,0.6,0.4\n")
    return tmp_path


def write(folder: Path, *more: str) -> str:
    words = ["--preds", str(folder / "preds"), "--out", str(folder / "page.html"), *more]
    assert report.main(words) == 0
    return (folder / "page.html").read_text()


def with_truth(folder: Path, *more: str) -> str:
    return write(folder, "--truth", str(folder / "data"), *more)


def test_the_page_tells_what_was_found_how_good_it_is_and_what_is_wrong(folder: Path) -> None:
    page = with_truth(folder, "--run", str(folder / "run"))
    assert "6 objects in 3 images, 1 of them empty, 1 more failed; the median area is 162 px²." in page
    # AP of the first image: 1 / 9 at any threshold; of the second, IoU .9: found at 8 of 10; the third is rightly empty
    assert (
        "the mean AP over IoU .5 to .95 is 0.64, and F1 at IoU .5 is 0.33: 2 hit, 1 missed, 2 merged, 1 split;" in page
    )
    assert "1 invented" in page
    assert "Next: most of the loss is merged" in page
    assert "Figures: out of fold, against the masks of" in page
    assert page.count('src="data:image/svg+xml') == 3, "thresholds, sizes, training"
    assert "2 epochs; at the end training loss 0.5, validation loss 0.6, validation Dice 0.4" in page
    assert page.count('class="field"') == 3
    assert page.index('data-name="a b"') < page.index('data-name="&lt;img') < page.index('data-name="empty"'), (
        "worst first"
    )
    assert 'data-kinds="hit invented merged missed split"' in page
    assert "failed: it is cut off" in page


def test_without_truth_the_way_to_it_is_told_and_the_least_sure_comes_first(folder: Path) -> None:
    page = write(folder)
    assert "How good this is is not known yet" in page
    assert f"pass --truth {folder}/data" in page
    assert 'id="errors"' not in page
    assert 'id="training"' not in page
    assert page.index('data-name="a b"') < page.index('data-name="empty"')
    assert 'data-kinds="found"' in page
    assert "IoU expected 0.90" in page, "the empty one"


def test_the_truth_that_evaluate_used_is_used_again(folder: Path) -> None:
    assert evaluate.main(["--preds", f"{folder}/preds", "--truth", f"{folder}/data"]) == 0
    assert "the mean AP over IoU .5 to .95 is 0.64" in write(folder)
    scores = json.loads((folder / "preds/scores.json").read_text())
    assert scores["instance_ap"] == pytest.approx((1 / 9 + 0.8 + 1) / 3)


def test_masks_that_are_not_parted_are_compared_as_a_whole(folder: Path) -> None:
    write_preds(folder, objects=False)
    page = with_truth(folder)
    assert "2 masks in 3 images, 1 of them empty" in page
    assert "2 hit, 0 missed; 0 invented" in page
    assert "what higher thresholds lose is outlines" in page
    assert "mean over IoU .5 to .95</span>" in page
    assert "50 × 30 px, a mask found; Dice 0.95, IoU 0.90" in page
    assert "20 × 20 px, truly empty, nothing found" in page
    assert "merged" not in page.partition("<script")[0]
    assert 'name="truths" checked' in page


def test_a_mask_that_is_empty_against_the_truth_counts(folder: Path) -> None:
    shutil.rmtree(folder / "data" / EVIL / "masks")
    (folder / "data" / EVIL / "masks").mkdir()
    page = with_truth(folder)
    assert "1 hit, 1 missed, 2 merged, 1 split; 2 invented" in page


def test_images_without_a_true_mask_are_left_out_of_the_figures_and_come_last(folder: Path) -> None:
    shutil.rmtree(folder / "data" / "empty" / "masks")
    page = with_truth(folder)
    assert "1 images without a true mask are left out" in page
    assert page.index('data-name="&lt;img') < page.index('data-name="empty"')
    assert "Against 6 true objects in 2 images" in page


def test_large_images_are_shrunk_and_the_gallery_is_limited(folder: Path) -> None:
    page = with_truth(folder, "--edge", "64", "--most", "2", "--pixel-size", "1")
    assert 'data-width="64" data-height="40"' in page
    assert page.count('class="field"') == 2
    assert "2 of 3 images, spread evenly over the set, lowest AP first" in page
    assert '<span class="scale" style="width:20.83%">20 µm</span>' in page


def test_nothing_that_comes_from_outside_is_html_or_an_address(folder: Path) -> None:
    page = with_truth(folder)
    for text in (EVIL, "<b>gone"):
        assert text not in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")


def test_the_page_is_made_again_only_when_something_has_changed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_truth(folder)
    with_truth(folder)
    assert "nothing to do" in capsys.readouterr().out
    (folder / "data" / "a b" / "masks" / "4.png").unlink()
    assert "1 missed" not in with_truth(folder)
    assert "out of date" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [["--threshold", "0.3"], ["--maps"], ["--join", "iou", "--truth", "data"]])
def test_options_of_cells_are_refused_by_name(folder: Path, flags: list[str]) -> None:
    with pytest.raises(ConfigError, match=rf"holds masks, to which {flags[0]} means nothing"):
        write(folder, *flags)


def test_images_and_truth_of_others_are_refused(folder: Path) -> None:
    other = folder / "other"
    shutil.copytree(folder / "data" / "a b", other / "x")
    with pytest.raises(DataError, match="pass the right --data"):
        write(folder, "--data", str(other))
    with pytest.raises(DataError, match="pass the right --truth"):
        write(folder, "--truth", str(other))
    shutil.copytree(folder / "data" / "a b", other / "empty")
    with pytest.raises(DataError, match=r"the mask of empty is \(60, 96\), its prediction \(20, 20\)"):
        write(folder, "--truth", str(other))


def test_without_the_folder_of_the_images_it_is_asked_for(folder: Path) -> None:
    (folder / "data").rename(folder / "moved")
    with pytest.raises(ConfigError, match="as --data"):
        write(folder)
    assert "6 objects in 3 images" in write(folder, "--data", str(folder / "moved"))
    assert "Against 6 true objects" in write(folder, "--truth", str(folder / "moved"))


def test_the_expected_iou_is_that_of_the_probabilities() -> None:
    probs = np.array([[0.9, 0.8, 0.2, 0.1]])
    assert expected_iou(probs, probs > 0.5) == pytest.approx(1.7 / 2.3)
    assert expected_iou(probs[:, 2:], probs[:, 2:] > 0.5) == pytest.approx(0.8)


def test_the_page_works_in_a_browser_and_asks_for_nothing(folder: Path, browser: Any) -> None:
    with_truth(folder)
    browser.get(f"file://{folder}/page.html")
    find = browser.find_element
    browser.execute_script('document.getElementById("field-0").scrollIntoView()')
    wait_for(browser, 'document.querySelectorAll("#field-0 path").length === 10')
    seen = 'return [...document.querySelectorAll("#field-0 path")].filter((p) => p.style.display !== "none").length'
    assert browser.execute_script(seen) == 9, "the true outline of the hit waits to be asked for"
    find("css selector", "[name=truths]").click()
    assert browser.execute_script(seen) == 10
    find("css selector", '[name=fate][value="split"]').click()
    assert browser.execute_script(seen) == 7

    svg = find("css selector", "#field-0 svg")
    svg.send_keys("\ue014")  # arrow right
    told = find("css selector", "#field-0 .told")
    assert told.text == "true object 1, 144 px²: hit\nbest IoU 1.00, with the found object 1"
    svg.send_keys("\ue012")  # arrow left: the last one found
    assert told.text == "found object 5, 168 px²: split\nbest IoU 0.47, with the true object 4"
    svg.send_keys("\ue012\ue012")
    assert told.text == "found object 3, 100 px²: invented\nno true object there"

    find("css selector", '[name=sorted] option[value="-place"]').click()
    first = 'return document.querySelector(".field").dataset.name'
    assert browser.execute_script(first) == "empty"
    find("css selector", '[name=with] option[value="merged"]').click()
    assert find("id", "matches").text == "1 of 3"
    assert not find("id", "field-1").is_displayed()
    find("css selector", '#table a[href="#field-1"]').click()
    assert find("id", "field-1").is_displayed(), "a link to an image shows it"
    assert browser.title == "Report of preds"
    assert requests(browser) == [f"file://{folder}/page.html"]
    assert browser.get_log("browser") == []
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 420, "height": 900, "deviceScaleFactor": 1, "mobile": True}
    )
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 420
