"""What messages say of names that do not meet, and exit codes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wsss.core.checks import ConfigError, exit_code, unlike
from wsss.options.calibrate import CalibrateOptions
from wsss.options.evaluate import EvaluateOptions
from wsss.options.report import ReportOptions


@pytest.mark.parametrize(
    ("ours", "theirs", "text"),
    [
        (["a"], ["b", "c"], "the table begins with a, the folder with b"),
        (["x1"], ["b", "x1\u00a0"], r"the table begins with 'x1', the nearest of the folder is 'x1\xa0'"),
        (
            ["plate_A01"],
            ["b", "A01_plate_A01"],
            "begins with 'plate_A01', the nearest of the folder is 'A01_plate_A01'",
        ),
        ([7], ["7"], "begins with '7' (int), the nearest of the folder is '7' (str)"),
        ([], ["b"], "the table begins with nothing, the folder with b"),
    ],
)
def test_names_that_look_alike_are_shown_with_what_differs(ours: list[object], theirs: list[object], text: str) -> None:
    assert text in unlike(ours, theirs, "the table", "the folder")
    assert text in unlike(np.array(ours, object), np.array(theirs, object), "the table", "the folder")


def test_a_stage_of_whose_images_none_is_done_has_failed() -> None:
    assert [exit_code(failed, 3) for failed in (0, 1, 3)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("options", "right"), [(CalibrateOptions, "json"), (EvaluateOptions, "json"), (ReportOptions, "html")]
)
def test_files_are_named_by_their_form_so_that_a_picture_beside_them_does_not_replace_them(
    options: type[Any], right: str
) -> None:
    needed = {"truth": Path("t.csv")} if options is EvaluateOptions else {}
    options(preds=Path("p"), out=Path(f"x.{right}"), **needed)
    for wrong in ("x", "x.png"):
        with pytest.raises(ConfigError, match=f"--out is {wrong}, expected a file name that ends with .{right}"):
            options(preds=Path("p"), out=Path(wrong), **needed)
