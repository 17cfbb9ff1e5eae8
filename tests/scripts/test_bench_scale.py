"""The benchmark of growing catalogues goes on where it was stopped."""

from pathlib import Path

import bench_scale
import pytest


def test_a_stage_whose_figures_are_there_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def child(stage: str, home: Path) -> tuple[float, float]:
        asked.append(stage)
        return 1.5, 20.0

    monkeypatch.setattr(bench_scale, "child", child)
    assert [bench_scale.measured(stage, tmp_path, 4) for stage in ("open", "folds", "open")] == [(1.5, 20.0)] * 3
    assert asked == ["open", "folds"]
    bench_scale.measured("folds", tmp_path, 4, again=True)
    assert asked == ["open", "folds", "folds"]


def test_what_a_stage_left_is_removed_before_it_is_measured(tmp_path: Path) -> None:
    (tmp_path / "blend").mkdir()
    (tmp_path / "blend/cells.csv").touch()
    (tmp_path / "cells.csv").touch()
    for name in ("blend", "cells.csv", "never"):
        bench_scale.remove(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_growth_leaves_out_what_a_small_catalogue_takes() -> None:
    assert bench_scale.line("open", 1000, [(1.0, 100.0), (2.0, 110.0), (11.0, 200.0)]).split()[-2:] == ["10.0", "10.0"]
