from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from wsss.core import rle
from wsss.core.checks import DataError
from wsss.inference import tables
from wsss.inference.tables import iter_submission, parse_row, write_submission

LABEL_MAP = np.zeros((6, 9), np.int32)
LABEL_MAP[:2, :3], LABEL_MAP[3:, 5:] = 1, 4
MASKS = rle.encode_label_map(LABEL_MAP)
SCORES = np.array([[0.5, 0.001, 1.0], [0.0, 0.25, 0.02]])
IMAGES = pd.DataFrame({"ID": ["empty", "full", "broken"], "ImageHeight": [5, 6, np.nan], "ImageWidth": [4, 9, np.nan]})


def cells(size: tuple[int, int] = (6, 9)) -> pd.DataFrame:
    return tables.cells_frame(
        "full",
        fold=0,
        size=size,
        cell_ids=np.array(list(MASKS)),
        geometry={name: np.zeros(2) for name in tables.GEOMETRY_COLUMNS},
        scores=SCORES,
        rle=list(MASKS.values()),
    )


def test_a_submission_comes_back_mask_by_mask(tmp_path: Path) -> None:
    path = tmp_path / "submission.csv"
    written = write_submission(path, IMAGES, [("full", cells())])
    assert (written.images, written.empty, written.predictions) == (3, 2, 4)
    empty, full, broken = iter_submission(path, 3)
    assert (full.image_id, full.size) == ("full", (6, 9))
    assert full.class_ids.tolist() == [0, 2, 1, 2]
    np.testing.assert_allclose(full.scores, [0.5, 1, 0.25, 0.02], rtol=1e-6)
    assert [full.masks[i] for i in full.mask_index] == [MASKS[1], MASKS[1], MASKS[4], MASKS[4]]
    assert (len(empty.scores), empty.size, broken.size) == (0, (5, 4), (0, 0))


def test_the_file_has_the_form_of_the_competition(tmp_path: Path) -> None:
    path = tmp_path / "submission.csv"
    write_submission(path, IMAGES, [("full", cells())], min_score=0.5)
    text = rle.to_submission(MASKS[1])
    assert path.read_text().splitlines() == [
        "ID,ImageWidth,ImageHeight,PredictionString",
        "empty,4,5,",
        f"full,9,6,0 0.5 {text} 2 1 {text}",
        "broken,0,0,",
    ]


def test_low_scores_are_kept_when_asked(tmp_path: Path) -> None:
    assert write_submission(tmp_path / "s.csv", IMAGES, [("full", cells())], min_score=0).predictions == 5


def test_a_mask_of_another_size_is_refused_before_the_file_appears(tmp_path: Path) -> None:
    images = IMAGES.assign(ImageHeight=7)
    with pytest.raises(DataError, match=r"full.*54 pixels, expected 7 x 9"):
        write_submission(tmp_path / "submission.csv", images, [("full", cells())])
    assert list(tmp_path.iterdir()) == []


def test_cells_of_an_unknown_image_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the cells of other are not in the order"):
        write_submission(tmp_path / "submission.csv", IMAGES, [("other", cells())])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 0.5", "2 words"),
        ("x 0.5 abcd", "invalid literal"),
        (f"{10**30} 0.5 abcd", "expected class, confidence, mask"),
        ("3 0.5 abcd", "class 3 is outside 0..2"),
        ("0 1.5 abcd", "confidence 1.5 is outside 0..1"),
        ("0 nan abcd", "confidence nan"),
        ("0 0.5 abcd", "not base64 of zlib"),
    ],
)
def test_a_bad_prediction_is_named(text: str, message: str) -> None:
    with pytest.raises(DataError, match=f"row 7: .*{message}"):
        parse_row("row 7", "a", (6, 9), text, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ID,ImageWidth\na,1\n", "lacks the column"),
        ("ID,ImageWidth,ImageHeight,PredictionString\na,4,5,\na,4,5,\n", r"row 3 \(a\): the image comes twice"),
        ("ID,ImageWidth,ImageHeight,PredictionString\na,4,,\n", "row 2 .*'4' x ''"),
    ],
)
def test_a_bad_file_is_refused_with_its_row(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "s.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=f"s.csv {message}"):
        list(iter_submission(path, 3))
