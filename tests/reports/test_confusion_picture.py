from pathlib import Path

import numpy as np
import pandas as pd

from wsss.core.labels import HPA
from wsss.metrics.cells import confusion_rows
from wsss.reports.figures import write_confusion


def test_table_and_picture_hold_the_classes_that_occur(tmp_path: Path) -> None:
    truth, scores = np.zeros((30, 19)), np.full((30, 19), 0.1)
    truth[:20, 0] = truth[20:, 5] = 1
    scores[:15, 0] = scores[15:29, 7] = 1
    scores[29] = 0
    write_confusion(confusion_rows(truth, scores, HPA), tmp_path / "c.csv", tmp_path / "c.png")
    table = pd.read_csv(tmp_path / "c.csv")
    assert table.columns.tolist() == ["true class", "Nucleoplasm", "Nuclear bodies", "Golgi apparatus", "no score"]
    assert table.to_numpy()[:, 1:].tolist() == [[15, 0, 5, 0], [0, 0, 9, 1]]
    assert (tmp_path / "c.png").stat().st_size > 1000
