"""Masks through the commands: train, go on, infer, evaluate, on squares drawn here."""

from pathlib import Path
from shutil import copytree

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from wsss import evaluate, infer, train
from wsss.core.checks import ConfigError, DataError
from wsss.core.files import read_json
from wsss.core.rle import decode_pairs, encode_pairs
from wsss.inference.semantic import MaskPredictor
from wsss.runs.run_folder import load_checkpoint, save_checkpoint
from wsss.training import watch

SIZE = 33
SLIM = ["--unet.channels", "[8,8,8,4,4]"]


@pytest.fixture(scope="module")
def salt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve grey images of 33 x 33, every fourth without its bright square."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("data") / "salt"
    (folder / "images").mkdir(parents=True)
    rows = ["id,rle_mask"]
    for i in range(12):
        image, mask = rng.integers(0, 60, (SIZE, SIZE)), np.zeros((SIZE, SIZE), bool)
        if i % 4:
            y, x = rng.integers(0, SIZE - 14, 2)
            mask[y : y + 12, x : x + 12] = True
        image[mask] += 150
        Image.fromarray(image.astype(np.uint8)).save(folder / "images" / f"im{i:02}.png")
        rows.append(f"im{i:02},{encode_pairs(mask)}")
    (folder / "train.csv").write_text("\n".join(rows) + "\n")
    return folder


def words(data: Path, run: Path, *more: str) -> list[str]:
    config = Path(__file__).parents[2] / "configs" / "unet_salt.yaml"
    plain = ["--config", str(config), "--data", str(data), "--run", str(run), "--backbone", "test_resnet"]
    plain += ["--weights", "none", "--batch", "3", "--workers", "0", "--device", "cpu", "--masks.folds", "3", *SLIM]
    plain += ["--mask_loss.terms", "{bce: 1}", "--mask_loss.later", "{lovasz: 1}", "--mask_loss.switch", "1"]
    plain += ["--epochs", "2", "--optim.warmup", "0", "--optim.lr", "3e-3"]
    return [*plain, *more]


@pytest.fixture(scope="module")
def run(salt: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "salt"
    assert train.main(words(salt, path, "--fold", "all")) == 0
    return path


@pytest.fixture(scope="module")
def preds(salt: Path, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("preds") / "oof"
    flags = ["--oof", "--segmentation.objects", "false", "--device", "cpu"]
    assert infer.main(["--run", str(run), "--data", str(salt), "--out", str(out), *flags]) == 0
    return out


@pytest.mark.parametrize("flags", [["--score.unet_share", "0.3"], ["--tta.scales", "[1.0,0.5]"], ["--parts"]])
def test_options_of_cell_scores_are_refused_by_name(salt: Path, run: Path, flags: list[str]) -> None:
    with pytest.raises(ConfigError, match=rf"finds masks, to which {flags[0]} means nothing: leave it out"):
        infer.main(["--run", str(run), "--data", str(salt), *flags])


def test_a_run_has_the_files_of_every_run_and_both_losses(run: Path) -> None:
    names = {path.name for path in (run / "fold0").iterdir()}
    assert {"config.yaml", "train_ids.txt", "log.csv", "last.safetensors", "best.safetensors", "curves.png"} <= names
    log = pd.read_csv(run / "fold0" / "log.csv")
    assert log.train_bce.notna().tolist() == [True, False]
    assert log.train_lovasz.notna().tolist() == [False, True]
    assert {"val_loss", "val_dice", "val_iou", "val_threshold_mean", "val_instance_ap"} <= set(log.columns)


def test_a_run_stopped_within_an_epoch_goes_on_to_the_same_weights(
    salt: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wsss.training.tasks.masks import MaskLearner

    plain, count = MaskLearner.step, [0]

    def step(self: MaskLearner, *args: object) -> object:
        count[0] += 1
        if count[0] == 2:
            self.stopped.append(15)
        return plain(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(MaskLearner, "step", step)
    with pytest.raises(KeyboardInterrupt):
        train.main(words(salt, tmp_path / "broken"))
    assert train.main(words(salt, tmp_path / "broken")) == 0
    first, second = (load_checkpoint(path / "fold0" / "last.safetensors")[0] for path in (run, tmp_path / "broken"))
    assert set(first) == set(second)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_another_option_is_refused_when_going_on(salt: Path, run: Path) -> None:
    with pytest.raises(DataError, match=r"unet was attention was scse, now cbam"):
        train.main(words(salt, run, "--unet.attention", "cbam"))


def test_predictions_are_masks_of_the_images_size_with_a_submission(salt: Path, preds: Path) -> None:
    table = pd.read_csv(preds / "submission.csv", keep_default_na=False)
    assert list(table.columns) == ["id", "rle_mask"]
    assert len(table) == 12
    for name, text in zip(table.id, table.rle_mask, strict=True):
        mask = np.asarray(Image.open(preds / "masks" / f"{name}.png"))
        assert mask.shape == (SIZE, SIZE)
        assert np.array_equal(decode_pairs(text, (SIZE, SIZE)), mask == 255)
    images = pd.read_csv(preds / "images.csv")
    assert sorted(images.fold.unique()) == [0, 1, 2]
    assert (images.status == "ok").all()


def test_an_image_is_predicted_by_the_network_that_never_saw_it(run: Path, preds: Path) -> None:
    for name, fold in pd.read_csv(preds / "images.csv")[["ID", "fold"]].itertuples(index=False):
        assert name not in (run / f"fold{fold}" / "train_ids.txt").read_text().split()


def test_the_same_command_again_does_nothing_and_another_is_refused(
    salt: Path, run: Path, preds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = ["--run", str(run), "--data", str(salt), "--out", str(preds), "--oof", "--device", "cpu"]
    assert infer.main([*again, "--segmentation.objects", "false"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="holds another result"):
        infer.main(again)
    with pytest.raises(ConfigError, match=r"holds another result \(precision was None, now bf16\)"):
        infer.main([*again, "--segmentation.objects", "false", "--precision", "bf16"])


def test_evaluation_gives_figures_a_choice_of_threshold_and_a_picture(salt: Path, preds: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.json"
    assert evaluate.main(["--preds", str(preds), "--truth", str(salt), "--out", str(out), "--search"]) == 0
    report = read_json(out)
    assert report["images"] == 12
    assert 0 <= report["threshold_mean"] <= report["iou"] + 0.5
    assert report["search"][0]["score"] >= report["threshold_mean"]
    assert len(pd.read_csv(tmp_path / "image_scores.csv")) == 12
    assert Image.open(tmp_path / "sheet.png").width > 4 * 256


def test_the_settings_of_the_predictions_are_among_those_tried(
    salt: Path, preds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsss.stages.evaluate_masks.THRESHOLDS", (0.9,))
    monkeypatch.setattr("wsss.stages.evaluate_masks.MIN_SIZES", (10,))
    out = tmp_path / "scores.json"
    assert evaluate.main(["--preds", str(preds), "--truth", str(salt), "--out", str(out), "--search"]) == 0
    tried = {(choice["threshold"], choice["min_size"]) for choice in read_json(out)["search"]}
    assert tried == {(0.5, 0), (0.5, 10), (0.9, 0), (0.9, 10)}


def test_a_threshold_is_never_chosen_on_images_a_network_has_learnt(salt: Path, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "seen"
    infer.main(["--run", str(run / "fold0"), "--data", str(salt), "--out", str(out), "--device", "cpu"])
    assert list(pd.read_csv(out / "submission.csv").columns) == ["ImageId", "EncodedPixels"]
    with pytest.raises(ConfigError, match="not out of fold"):
        evaluate.main(["--preds", str(out), "--truth", str(salt), "--search"])


def test_weights_of_a_run_that_saw_the_held_out_images_are_refused(salt: Path, run: Path, tmp_path: Path) -> None:
    flags = words(salt, tmp_path / "next", "--init_from", str(run / "fold1"))
    with pytest.raises(DataError, match="held out in this run"):
        train.main(flags)
    assert (
        train.main(words(salt, tmp_path / "next", "--init_from", str(run), "--epochs", "1", "--mask_loss.switch", "1"))
        == 0
    )


def test_masks_need_a_folder_and_a_known_fold(salt: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pass --data FOLDER"):
        train.main(["--task", "masks"])
    with pytest.raises(ConfigError, match=r"fold is 3, but .* has folds 0 to 2"):
        train.main(words(salt, tmp_path / "none", "--fold", "3"))


def test_the_range_test_suggests_a_rate(
    salt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "RATES", np.geomspace(1e-6, 1, 10).tolist())
    assert train.main(words(salt, tmp_path / "find", "--lr_find")) == 0
    assert "suggestion --optim.lr" in capsys.readouterr().out
    assert (tmp_path / "find" / "fold0" / "lr_find.png").exists()


def test_an_image_that_holds_nothing_for_the_empty_head_has_an_empty_mask(salt: Path, tmp_path: Path) -> None:
    flags = ["--unet.empty_head", "true", "--masks.target", "distance", "--fold", "none"]
    assert train.main(words(salt, tmp_path / "run", *flags)) == 0
    log = pd.read_csv(tmp_path / "run" / "full" / "log.csv")
    assert {"train_empty", "train_distance"} <= set(log.columns)
    common = ["--run", str(tmp_path / "run"), "--data", str(salt), "--device", "cpu", "--segmentation.threshold", "0"]
    for below, share in (("0", 1.0), ("1", 0.0)):
        assert infer.main([*common, "--out", str(tmp_path / below), "--segmentation.empty_below", below]) == 0
        probs = [np.load(path) for path in (tmp_path / below / "probs").iterdir()]
        assert np.mean([own.any() for own in probs]) == share


def test_the_snapshots_of_a_cyclic_run_predict_together(salt: Path, run: Path, tmp_path: Path) -> None:
    cyclic = ["--optim.schedule", "cyclic", "--optim.cycles", "2"]
    assert train.main(words(salt, tmp_path / "cyclic", *cyclic)) == 0
    common = ["--data", str(salt), "--device", "cpu", "--segmentation.objects", "false"]
    for name, flags in (("both", ["--snapshots"]), ("best", [])):
        out = str(tmp_path / name)
        assert infer.main(["--run", str(tmp_path / "cyclic"), "--out", out, *common, *flags]) == 0
    both, best = (read_json(tmp_path / name / "provenance.json")["members"] for name in ("both", "best"))
    assert len({own["weights"] for own in both}) == 2
    assert len(best) == 1
    with pytest.raises(ConfigError, match="holds no snapshots"):
        infer.main(["--run", str(run), "--out", str(tmp_path / "none"), *common, "--snapshots"])


def test_a_network_of_stretched_images_finds_the_same_in_inverted_ones(salt: Path, tmp_path: Path) -> None:
    flags = ["--fold", "none", "--epochs", "1", "--mask_loss.later", "{}", "--mask_loss.switch", "0"]
    assert train.main(words(salt, tmp_path / "run", *flags, "--masks.contrast", "stretched")) == 0
    (tmp_path / "inverted/images").mkdir(parents=True)
    for path in (salt / "images").iterdir():
        Image.fromarray(255 - np.array(Image.open(path, formats=["PNG"]))).save(
            tmp_path / "inverted/images" / path.name
        )
    for name, data in (("a", salt), ("b", tmp_path / "inverted")):
        common = ["--run", f"{tmp_path}/run", "--data", str(data), "--out", f"{tmp_path}/{name}", "--device", "cpu"]
        assert infer.main([*common, "--segmentation.threshold", "0.3"]) == 0
    texts = [(tmp_path / name / "submission.csv").read_text() for name in ("a", "b")]
    assert texts[0] == texts[1]
    assert len({line.partition(",")[2] for line in texts[0].splitlines()}) > 2


def test_objects_smaller_than_those_it_learnt_from_are_dropped(salt: Path, run: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(3):
        label_map = np.zeros((SIZE, SIZE), np.uint8)
        label_map[2:12, 2 : 12 + i], label_map[18:30, 18:30] = 1, 2
        for kind, pixels in (("images", label_map * 90 + rng.integers(0, 60, label_map.shape)), ("objects", label_map)):
            (tmp_path / "data" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "data" / kind / f"{i}.png")
    flags = ["--fold", "none", "--epochs", "1", "--mask_loss.later", "{}", "--mask_loss.switch", "0"]
    assert train.main(words(tmp_path / "data", tmp_path / "run", *flags)) == 0
    common = ["--device", "cpu", "--segmentation.threshold", "0.1", "--data", str(tmp_path / "data")]
    for name, flags in (("least", []), ("all", ["--segmentation.min_size", "0"])):
        assert infer.main([*common, "--run", f"{tmp_path}/run", "--out", f"{tmp_path}/{name}", *flags]) == 0
    flags = ["--run", f"{tmp_path}/run", "--segmentation.objects", "false"]
    assert infer.main([*common, *flags, "--out", f"{tmp_path}/whole"]) == 0
    assert infer.main([*common, "--run", str(run), "--out", f"{tmp_path}/of_areas"]) == 0
    sizes = {"least": 100, "all": 0, "whole": 0, "of_areas": 0}
    for name, size in sizes.items():
        assert read_json(tmp_path / name / "provenance.json")["segmentation"]["min_size"] == size


def test_small_objects_that_are_dropped_are_counted(
    salt: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    probs = np.zeros((1, SIZE, SIZE), np.float32)
    probs[0, 1:4, 1:4] = probs[0, 10:22, 10:22] = 1
    monkeypatch.setattr(MaskPredictor, "__call__", lambda self, image: probs)
    flags = ["--run", str(run), "--data", str(salt), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert infer.main([*flags, "--segmentation.min_size", "20"]) == 0
    assert "12 of fewer than 20 px are left out: --segmentation.min_size 0 keeps them." in capsys.readouterr().out
    assert (pd.read_csv(tmp_path / "out" / "images.csv").n_objects == 1).all()


SHORT = ["--epochs", "1", "--mask_loss.later", "{}", "--mask_loss.switch", "0"]


def test_what_leaves_nothing_to_learn_from_is_said(salt: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    copytree(salt / "images", tmp_path / "data" / "images")
    (tmp_path / "data" / "train.csv").write_text("id,rle_mask\n" + "".join(f"im{i:02},\n" for i in range(12)))
    with pytest.raises(ConfigError, match=r"masks of all 8 images .* are empty, and masks.empty_share 0 leaves none"):
        train.main(words(tmp_path / "data", tmp_path / "empty", *SHORT, "--masks.empty_share", "0"))
    alone = ["--crop", "32", "--batch", "7", "--mask_loss.terms", "{bce: 1}"]
    with pytest.raises(ConfigError, match=r"a batch of one image of 32 px .*: use larger images \(--crop\)"):
        train.main(words(salt, tmp_path / "alone", *SHORT, *alone))


def test_one_image_alone_can_be_learnt_from_without_folds(salt: Path, tmp_path: Path) -> None:
    for kind in ("images", "objects"):
        (tmp_path / "data" / kind).mkdir(parents=True)
        Image.fromarray(np.eye(SIZE, dtype=np.uint8)).save(tmp_path / "data" / kind / "a.png")
    assert train.main(words(tmp_path / "data", tmp_path / "run", *SHORT, "--fold", "none")) == 0
    with pytest.raises(ConfigError, match="needs at least 3 images with masks, got 1"):
        train.main(words(tmp_path / "data", tmp_path / "run", *SHORT, "--fold", "0"))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("versions", None, "does not say its network's versions"),
        ("channels", 5, "gives '5' as its network's channels, expected 1 to 64 different names"),
        ("roles", {"a": 1}, "as its network's roles, expected a list of names"),
        ("least_object", -1, "gives '-1' as its network's least_object, expected a number of pixels"),
        ("least_object", True, "gives 'True' as its network's least_object"),
    ],
)
def test_a_record_of_other_kinds_is_refused(
    salt: Path, run: Path, tmp_path: Path, name: str, value: object, message: str
) -> None:
    copytree(run / "fold0", tmp_path / "fold0")
    path = tmp_path / "fold0" / "best.safetensors"
    tensors, meta = load_checkpoint(path)
    meta = {key: own for key, own in {**meta, name: value}.items() if own is not None}
    save_checkpoint(path, tensors, meta)
    with pytest.raises(DataError, match=message):
        infer.main(["--run", str(tmp_path / "fold0"), "--data", str(salt), "--device", "cpu"])


def test_an_image_that_fails_is_not_counted_as_empty(
    salt: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copytree(salt / "images", tmp_path / "data" / "images")
    (tmp_path / "data" / "images" / "im03.png").write_bytes(b"nothing")
    common = ["--run", str(run), "--data", str(tmp_path / "data"), "--device", "cpu", "--segmentation.threshold", "0"]
    assert infer.main([*common, "--out", str(tmp_path / "preds")]) == 1
    assert "masks of 12 images, 0 of them empty, 1 failed" in capsys.readouterr().out
