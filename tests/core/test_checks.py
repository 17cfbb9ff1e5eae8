"""What messages say of names that do not meet, and exit codes."""

import numpy as np
import pytest

from wsss.core.checks import exit_code, unlike


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
