"""The picture of masks."""

from pathlib import Path

import numpy as np
from PIL import Image

from wsss.reports.masks import BLUE, GAP, LINE, SHEET_EDGE, YELLOW, SheetRow, draw_sheet


def test_rows_of_any_size_show_image_truth_prediction_and_error(tmp_path: Path) -> None:
    truth = np.zeros((50, 80), np.int32)
    truth[5:25, 5:25], truth[30:45, 50:75] = 1, 2
    found = np.where(truth == 1, 1, 0)
    wide = SheetRow("wide", np.full((3, 50, 80), 3, np.uint8), truth, found, "Dice 1", np.array([2]))
    tall = SheetRow(
        "tall" * 20, np.full((1, 90, 30), 3, np.uint8), np.zeros((90, 30), np.int32), np.zeros((90, 30), np.int32)
    )
    draw_sheet([wide, tall], tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape[1] == 4 * (SHEET_EDGE + GAP)
    top = 2 * LINE + GAP + LINE
    errors = sheet[top : top + 50 * SHEET_EDGE // 80, 3 * (SHEET_EDGE + GAP) :]
    middle = tuple(errors[37 * SHEET_EDGE // 80, 62 * SHEET_EDGE // 80])
    assert middle == BLUE
    assert (errors == YELLOW).all(axis=-1).any()


def test_dim_images_are_stretched(tmp_path: Path) -> None:
    image = np.zeros((1, 40, 40), np.uint8)
    image[0, 10:30, 10:30] = 6
    empty = np.zeros((40, 40), np.int32)
    draw_sheet([SheetRow("dim", image, empty, empty)], tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet[3 * LINE + GAP + SHEET_EDGE // 2, SHEET_EDGE // 2].tolist() == [255, 255, 255]
