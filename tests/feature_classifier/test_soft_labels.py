"""The table of soft labels."""

from pathlib import Path

import numpy as np
import pytest

from wsss.core.checks import DataError
from wsss.feature_classifier.soft_labels import SoftLabels, load_soft_labels, save_soft_labels


def test_what_was_saved_is_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ids, soft = np.array(["a", "a", "007"], object), rng.random((3, 12)).astype(np.float32)
    save_soft_labels(tmp_path / "soft.parquet", SoftLabels(ids, np.array([2, 5, 1]), soft))
    found = load_soft_labels(tmp_path / "soft.parquet")
    assert found.image_ids.tolist() == ["a", "a", "007"]
    assert found.cell_ids.tolist() == [2, 5, 1]
    np.testing.assert_array_equal(found.soft, soft)


def test_a_damaged_table_is_told(tmp_path: Path) -> None:
    (tmp_path / "soft.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match=r"soft\.parquet is no Parquet file.*same train command"):
        load_soft_labels(tmp_path / "soft.parquet")
    with pytest.raises(DataError, match=r"none\.parquet does not exist\. Remove"):
        load_soft_labels(tmp_path / "none.parquet")
