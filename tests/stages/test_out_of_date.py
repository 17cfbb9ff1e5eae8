"""No result is older than what it was made from: what has changed is named, or the result is made again."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from wsss import calibrate, evaluate, export, infer, overlay, pseudo, report, train
from wsss.core.checks import ConfigError, DataError
from wsss.core.label_maps import read_label_map, write_label_map
from wsss.data.build import Spec, create_dataset
from wsss.runs.journal import Journal
from wsss.runs.result_record import STATE
from wsss.runs.run_folder import RunFolder, load_checkpoint, save_checkpoint

SIZE = 64
NAMES = [f"im{k}" for k in range(6)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six noisy images without cells, and a run of one epoch."""
    home = tmp_path_factory.mktemp("stale")
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 200, (4, SIZE, SIZE), np.uint8) for name in NAMES}
    create_dataset(home / "data", images, {name: [k % 2] for k, name in enumerate(NAMES)}, Spec(size=SIZE, folds=2))
    words = f"--data {home}/data --run {home}/run --fold 0 --backbone test_resnet --weights none --crop 64 --batch 3"
    train.main(f"{words} --epochs 1 --workers 0 --device cpu".split())
    return home


@pytest.fixture
def cells(home: Path) -> Iterator[Path]:
    """The folder of label maps, two cells each; as it was after the test."""
    for name in NAMES:
        label_map = np.zeros((SIZE, SIZE), np.int32)
        label_map[4:28, 4:28], label_map[36:60, 8:40] = 1, 2
        write_label_map(home / "data/cells" / name, label_map)
    yield home / "data/cells"
    for path in (home / "data/cells").iterdir():
        path.unlink()


def correct(cells: Path, name: str) -> None:
    """Let a cell grow by a row; the file keeps its times."""
    path = cells / f"{name}.png"
    before, label_map = path.stat(), read_label_map(path)
    label_map[28, 4:28] = 1
    write_label_map(cells / name, label_map)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def predict(home: Path, out: Path, *more: str) -> int:
    words = f"--data {home}/data --run {home}/run --out {out} --device cpu --crops.mode none --batch 1"
    return infer.main([*words.split(), *more])


def test_cells_that_are_missing_altogether_are_named_with_the_command_that_finds_them(
    home: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"has no cells: run python -m wsss\.segment"):
        predict(home, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_corrected_cells_are_noticed_by_all_that_show_scores(
    home: Path, cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, pictures = tmp_path / "out", tmp_path / "pictures"
    assert predict(home, out) == predict(home, out) == 0
    assert "nothing to do" in capsys.readouterr().out
    draw = f"--data {home}/data --preds {out} --out {pictures} --max-size 80".split()
    page = f"--data {home}/data --preds {out} --out {tmp_path}/report.html --most 2 --crops 2".split()
    assert overlay.main(draw) == report.main(page) == 0
    correct(cells, "im1")
    with pytest.raises(ConfigError, match=r"pixels or label maps of im1 have changed\): choose another --out"):
        predict(home, out)
    with pytest.raises(DataError, match=r"of im1 in .* have changed since .* run python -m wsss\.infer again"):
        overlay.main([*draw, "--ids", "im1", "--overwrite", "true"])
    with pytest.raises(DataError, match=r"of im1 in .* have changed since"):
        report.main(page)
    assert predict(home, out, "--overwrite", "true") == 0
    assert overlay.main(draw) == report.main(page) == 0
    assert [path.name for path in (out / STATE).iterdir()] == ["result.json"]


def test_a_prediction_cut_short_never_mixes_two_sets_of_cells(
    home: Path, cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, left = Journal.add, [3]

    def stopping(*arguments: object, **more: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        add(*arguments, **more)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", stopping)
        with pytest.raises(KeyboardInterrupt):
            predict(home, tmp_path / "cut")
    for name in NAMES:
        correct(cells, name)
    assert predict(home, tmp_path / "cut") == predict(home, tmp_path / "whole") == 0
    one, other = (pd.read_parquet(tmp_path / name / "cells.parquet") for name in ("cut", "whole"))
    pd.testing.assert_frame_equal(one, other)


def test_an_image_that_failed_is_tried_again_by_the_same_command(home: Path, cells: Path, tmp_path: Path) -> None:
    kept = (cells / "im2.png").read_bytes()
    (cells / "im2.png").unlink()
    assert predict(home, tmp_path / "out") == 1
    assert predict(home, tmp_path / "out") == 1
    (cells / "im2.png").write_bytes(kept)
    assert predict(home, tmp_path / "out") == 0
    assert len(pd.read_parquet(tmp_path / "out/cells.parquet")) == 2 * len(NAMES)


def test_figures_of_a_corrected_truth_are_made_again_and_old_ones_not_shown(
    home: Path, cells: Path, tmp_path: Path
) -> None:
    out, truth = tmp_path / "out", tmp_path / "truth.csv"
    predict(home, out)
    truth.write_text("ID,cell_id,Label\n" + "".join(f"{name},{k},{k - 1}\n" for name in NAMES for k in (1, 2)))
    words = f"--preds {out} --truth {truth} --data {home}/data".split()
    page = f"--data {home}/data --preds {out} --out {tmp_path}/report.html --most 1 --crops 1".split()
    evaluate.main(words)
    report.main(page)
    before = (out / "scores.json").read_text()
    truth.write_text(truth.read_text().replace("im0,1,0", "im0,1,1"))
    report.main(page)
    assert "scores.json is out of date" in (tmp_path / "report.html").read_text()
    evaluate.main(words)
    assert (out / "scores.json").read_text() != before


def test_other_pixels_and_other_cells_are_no_training_to_go_on_with(home: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 200, (4, SIZE, SIZE), np.uint8) for name in NAMES}
    labels = {name: [k % 2] for k, name in enumerate(NAMES)}
    create_dataset(tmp_path / "data", images, labels, Spec(size=SIZE, folds=2))
    words = f"--data {tmp_path}/data --run {tmp_path}/run --fold 0 --backbone test_resnet --weights none --crop 64"
    train.main(f"{words} --batch 3 --epochs 1 --workers 0 --device cpu".split())
    images["im3"][0, 0, 0] += 1
    create_dataset(tmp_path / "data", images, labels, Spec(size=SIZE, folds=2))
    with pytest.raises(DataError, match="begun with another pixels: what was read has changed"):
        train.main(f"{words} --batch 3 --epochs 1 --workers 0 --device cpu".split())


NET = "--fold 0 --backbone test_resnet --weights none --crop 64 --batch 3 --epochs 1 --workers 0 --device cpu"


def perturb(path: Path) -> None:
    """Give a checkpoint other weights, as a longer training does."""
    tensors, meta = load_checkpoint(path)
    tensors["net.classifier.weight"] += 0.01
    save_checkpoint(path, tensors, meta)


def test_a_network_that_another_one_started_from_has_changed(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(home / "run", tmp_path / "first")
    words = f"--data {home}/data --run {tmp_path}/run --init_from {tmp_path}/first {NET}".split()
    assert train.main(words) == train.main(words) == 0
    monkeypatch.chdir(tmp_path / "run")
    assert train.main([*words, "--init_from", "../first"]) == 0  # the same by another way
    with pytest.raises(DataError, match=r"init_from was .*, now \.\./gone"):
        train.main([*words, "--init_from", "../gone"])
    perturb(tmp_path / "first/fold0/best.safetensors")
    with pytest.raises(DataError, match="begun with another starting_weights: what was read has changed"):
        train.main(words)
    shutil.rmtree(tmp_path / "first")  # what it started from is not needed any more
    assert train.main(words) == 0


def test_pseudo_masks_that_were_exchanged_are_noticed(home: Path, cells: Path, tmp_path: Path) -> None:
    assert pseudo.main(f"--data {home}/data --run {home}/run --out {tmp_path}/pseudo --device cpu".split()) == 0
    words = f"--task maps --data {home}/data --pseudo {tmp_path}/pseudo --run {tmp_path}/run {NET}"
    words += " --unet.channels [8,8,8,4,4]"
    assert train.main(words.split()) == 0
    one, other = sorted((tmp_path / "pseudo/fold0/masks").iterdir())[:2]
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    with pytest.raises(DataError, match="begun with another pseudo_masks"):
        train.main(words.split())
    with pytest.raises(DataError, match=r"npz is damaged, or was changed since it was written"):
        train.main([*words.split(), "--resume", "never"])


def test_networks_that_were_trained_again_are_not_taken_for_those_that_predicted(
    home: Path, cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(home / "run", tmp_path / "run")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")  # paths in provenance.json lead there from any working directory
    words = f"--data {home}/data --run ../run --out {tmp_path}/out --device cpu --crops.mode none"
    assert infer.main(words.split()) == 0
    page = f"--data {home}/data --preds {tmp_path}/out --out {tmp_path}/report.html --most 1 --crops 1".split()
    perturb(tmp_path / "run/fold0/best.safetensors")
    with pytest.raises(DataError, match=r"does not hold the networks that predicted"):
        report.main([*page, "--maps", "true"])
    monkeypatch.chdir(tmp_path)
    assert report.main(page) == 0
    assert "was trained again since: the curves are not of these scores" in (tmp_path / "report.html").read_text()
    with pytest.raises(DataError, match=r"was trained again since .* predict again"):
        calibrate.main(f"--preds {tmp_path}/out --data {home}/data --out {tmp_path}/curves.json".split())


def test_files_of_another_run_or_prediction_in_the_place_of_ours_are_refused(
    home: Path, cells: Path, tmp_path: Path
) -> None:
    words = f"--data {home}/data --run {tmp_path}/run --seed 3 {NET}".split()
    assert (
        train.main(words)
        == predict(home, tmp_path / "one")
        == predict(home, tmp_path / "two", "--score.region", "topk")
    )
    draw = f"--data {home}/data --preds {tmp_path}/one --out {tmp_path}/pictures".split()
    table = f"--data {home}/data --preds {tmp_path}/one --to csv --out {tmp_path}/cells.csv".split()
    for name in ("cells.parquet", "provenance.json"):
        kept = (tmp_path / "one" / name).read_bytes()
        shutil.copyfile(tmp_path / "two" / name, tmp_path / "one" / name)
        for command, own in ((overlay, draw), (export, table)):
            with pytest.raises(DataError, match=rf"{name} is damaged, or was changed since it was written"):
                command.main(own)
        (tmp_path / "one" / name).write_bytes(kept)
    shutil.copytree(home / "run", tmp_path / "mixed")
    config = tmp_path / "mixed/fold0/config.yaml"
    shutil.copyfile(tmp_path / "run/fold0/config.yaml", config)
    more = f"--data {home}/data --run {tmp_path}/mixed --out {tmp_path}/three --device cpu --crops.mode none".split()
    with pytest.raises(DataError, match=r"config\.yaml is of another run than .*best\.safetensors: restore it"):
        infer.main(more)
    config.write_text(config.read_text().partition("\n")[2])  # changed on purpose
    assert infer.main(more) == 0


def test_the_log_of_a_run_is_that_of_its_last_state(home: Path, tmp_path: Path) -> None:
    run = RunFolder(Path(shutil.copytree(home / "run/fold0", tmp_path / "run")))
    right, text = run.read_log().to_dict("list"), (run.path / "log.csv").read_text()
    (run.path / "log.csv").write_text(text.replace("0.", "1."))
    assert run.read_log().to_dict("list") == right
    (run.path / "log.csv").write_text(text)
    run.last.unlink()
    assert run.read_log()["train_loss"].tolist() == pytest.approx(right["train_loss"], rel=1e-5)


def test_a_network_whose_values_are_no_numbers_ends_a_run_in_one_line(home: Path, cells: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "run", tmp_path / "run")
    best = tmp_path / "run/fold0/best.safetensors"
    tensors, meta = load_checkpoint(best)
    grown = {name: own * 1e30 if own.is_floating_point() else own for name, own in tensors.items()}
    save_checkpoint(best, grown, meta)
    words = f"--data {home}/data --run {tmp_path}/run --out {tmp_path}/out --device cpu --crops.mode none".split()
    with pytest.raises(DataError, match=r"the network gives values that are no numbers .* --precision fp32"):
        infer.main(words)
    save_checkpoint(best, tensors | {"net.classifier.weight": tensors["net.classifier.weight"] * float("nan")}, meta)
    with pytest.raises(DataError, match=r"run/fold0 holds weights that are no numbers .*classifier\.weight"):
        infer.main(words)
